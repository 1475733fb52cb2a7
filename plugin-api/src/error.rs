//! What a backend says when it cannot do what it was asked: a kind that decides what happens next, and a text.

use std::fmt;
use std::time::Duration;

/// What happens after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The far side is away. The same call is tried again, however long it takes.
    Unavailable,
    /// Too much at once: tried again, after the hint if there is one.
    Overloaded,
    /// This item can never be stored; it becomes a dead letter.
    InvalidItem,
    /// The operator must change something. Stops a start; while running it is tried again and logged as an error.
    Configuration,
    /// A defect, a caught panic among them.
    Internal,
}

impl ErrorKind {
    /// Every kind.
    pub const ALL: [Self; 5] =
        [Self::Unavailable, Self::Overloaded, Self::InvalidItem, Self::Configuration, Self::Internal];

    /// The name used in logs, metrics and JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Overloaded => "overloaded",
            Self::InvalidItem => "invalid_item",
            Self::Configuration => "configuration",
            Self::Internal => "internal",
        }
    }

    /// The number that crosses the plugin boundary.
    #[must_use]
    pub fn code(self) -> u32 {
        match self {
            Self::Unavailable => 1,
            Self::Overloaded => 2,
            Self::InvalidItem => 3,
            Self::Configuration => 4,
            Self::Internal => 5,
        }
    }

    /// The kind of a number that crossed the plugin boundary; none for one from a newer version.
    #[must_use]
    pub fn from_code(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// True if the same call may be taken later.
    #[must_use]
    pub fn may_pass(self) -> bool {
        match self {
            Self::Unavailable | Self::Overloaded | Self::Configuration => true,
            Self::InvalidItem | Self::Internal => false,
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// Why a call, or one item of it, failed.
///
/// # Example
/// ```
/// use storage_plugin_api::{Error, ErrorKind};
///
/// let error = Error::unavailable("the disk is gone").with_retry_after(std::time::Duration::from_secs(1));
/// assert_eq!(error.kind, ErrorKind::Unavailable);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What happens next.
    pub kind: ErrorKind,
    /// What failed, on what, and what to do; no secrets.
    pub message: String,
    /// How long the far side asks to be left alone, if it does.
    pub retry_after: Option<Duration>,
}

/// The result of a call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of a kind.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl fmt::Display) -> Self {
        Self { kind, message: message.to_string(), retry_after: None }
    }

    /// See [`ErrorKind::Unavailable`].
    #[must_use]
    pub fn unavailable(message: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Unavailable, message)
    }

    /// See [`ErrorKind::Overloaded`].
    #[must_use]
    pub fn overloaded(message: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Overloaded, message)
    }

    /// See [`ErrorKind::InvalidItem`].
    #[must_use]
    pub fn invalid_item(message: impl fmt::Display) -> Self {
        Self::new(ErrorKind::InvalidItem, message)
    }

    /// See [`ErrorKind::Configuration`].
    #[must_use]
    pub fn configuration(message: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Configuration, message)
    }

    /// See [`ErrorKind::Internal`].
    #[must_use]
    pub fn internal(message: impl fmt::Display) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// The same error with a hint when to try again.
    #[must_use]
    pub fn with_retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    /// The answer of a call that this backend does not offer; its capabilities say so beforehand.
    #[must_use]
    pub fn not_offered(call: &str) -> Self {
        Self::configuration(format_args!("this backend does not offer `{call}`"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
