//! The seven statuses of an evaluation. See `names.rs` for the registers they live in.

use std::fmt;

/// Where an evaluation stands. A terminal status is never left again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Status {
    /// Known, not yet handed to a queue.
    Submitted = 1,
    /// Waits for a place to run.
    Queued = 2,
    /// A place to run is being made.
    Provisioning = 3,
    /// Runs.
    Running = 4,
    /// Ended well; terminal.
    Completed = 5,
    /// Ended badly or timed out; terminal.
    Failed = 6,
    /// Stopped by somebody; terminal.
    Cancelled = 7,
}

impl Status {
    /// Every status, in the order of an evaluation's life.
    pub const ALL: [Self; 7] = [
        Self::Submitted,
        Self::Queued,
        Self::Provisioning,
        Self::Running,
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
    ];

    /// The terminal ones.
    pub const TERMINAL: [Self; 3] = [Self::Completed, Self::Failed, Self::Cancelled];

    /// The lower-case name used in events, records and configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Submitted => "submitted",
            Self::Queued => "queued",
            Self::Provisioning => "provisioning",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The status of that name; none for any other text.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }

    /// True for completed, failed and cancelled.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        Self::TERMINAL.contains(&self)
    }

    /// The number that crosses the plugin boundary; 0 stands for "unknown" there.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The status of a number that crossed the plugin boundary.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.code() == code)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}
