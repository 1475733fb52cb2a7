//! The names of the registers that this version knows, and the rule and order they follow.
//!
//! Registers under other names are kept and merged by the rule that they carry.

use std::borrow::Cow;

use super::status::Status;

/// The latest status that is not terminal.
pub const OPEN: &str = "open";
/// The source code, a body.
pub const CODE: &str = "code";
/// The language of the code.
pub const LANGUAGE: &str = "language";
/// What runs the code.
pub const ENGINE: &str = "engine";
/// Who runs it.
pub const EXECUTOR_ID: &str = "executor_id";
/// Where it runs.
pub const CONTAINER_ID: &str = "container_id";
/// The time of the earliest event.
pub const CREATED_AT: &str = "created_at";
/// Metadata: one register for each top-level key, behind this prefix.
pub const METADATA_PREFIX: &str = "metadata/";
/// History: one register for each event id, behind this prefix.
pub const HISTORY_PREFIX: &str = "history/";
/// The `end/<status>` registers, behind this prefix.
pub const END_PREFIX: &str = "end/";

/// Most history entries kept of one evaluation: those of the smallest ranks.
///
/// Keeping the smallest of a set is a join as well, so the laws of the merge hold with the limit.
pub const MAX_HISTORY: usize = 10_000;

/// What an outcome may carry, each in its register `<status>/<part>`.
pub const OUTCOME_PARTS: [&str; 5] = ["output", "error", "exit_code", "runtime_ms", "memory_used_mb"];

/// Lists every fixed name, so that a register of a known name costs no allocation.
macro_rules! known_names {
    ($($name:literal)*) => {
        /// The known name that equals a name. Compares lengths first, so hardly any other name is looked into.
        fn known(name: &str) -> Option<&'static str> {
            match name {
                $($name => Some($name),)*
                _ => None,
            }
        }
    };
}

known_names! {
    "cancelled/error"
    "cancelled/exit_code"
    "cancelled/memory_used_mb"
    "cancelled/output"
    "cancelled/runtime_ms"
    "code"
    "completed/error"
    "completed/exit_code"
    "completed/memory_used_mb"
    "completed/output"
    "completed/runtime_ms"
    "container_id"
    "created_at"
    "end/cancelled"
    "end/completed"
    "end/failed"
    "engine"
    "executor_id"
    "failed/error"
    "failed/exit_code"
    "failed/memory_used_mb"
    "failed/output"
    "failed/runtime_ms"
    "language"
    "open"
    "provisioning_at"
    "queued_at"
    "running_at"
    "submitted_at"
}

/// The name of a register; the known ones are borrowed for ever.
pub type Name = Cow<'static, str>;

/// The name as a [`Name`], without an allocation if it is a known one.
#[must_use]
pub fn intern(name: &str) -> Name {
    known(name).map_or_else(|| Cow::Owned(name.to_owned()), Cow::Borrowed)
}

/// The register that says that the evaluation ended in this terminal status.
#[must_use]
pub fn end(status: Status) -> Name {
    match status {
        Status::Completed => Cow::Borrowed("end/completed"),
        Status::Failed => Cow::Borrowed("end/failed"),
        Status::Cancelled => Cow::Borrowed("end/cancelled"),
        Status::Submitted | Status::Queued | Status::Provisioning | Status::Running => {
            Cow::Owned(format!("{END_PREFIX}{status}"))
        }
    }
}

/// The register of the time at which the evaluation reached a stage.
#[must_use]
pub fn stage_at(status: Status) -> Name {
    match status {
        Status::Submitted => Cow::Borrowed("submitted_at"),
        Status::Queued => Cow::Borrowed("queued_at"),
        Status::Provisioning => Cow::Borrowed("provisioning_at"),
        Status::Running => Cow::Borrowed("running_at"),
        Status::Completed | Status::Failed | Status::Cancelled => Cow::Owned(format!("{status}_at")),
    }
}

/// The register of what a terminal status carried, say `completed/output`.
#[must_use]
pub fn outcome(status: Status, part: &str) -> Name {
    Cow::Borrowed(match (status, part) {
        (Status::Completed, "output") => "completed/output",
        (Status::Completed, "error") => "completed/error",
        (Status::Completed, "exit_code") => "completed/exit_code",
        (Status::Completed, "runtime_ms") => "completed/runtime_ms",
        (Status::Completed, "memory_used_mb") => "completed/memory_used_mb",
        (Status::Failed, "output") => "failed/output",
        (Status::Failed, "error") => "failed/error",
        (Status::Failed, "exit_code") => "failed/exit_code",
        (Status::Failed, "runtime_ms") => "failed/runtime_ms",
        (Status::Failed, "memory_used_mb") => "failed/memory_used_mb",
        (Status::Cancelled, "output") => "cancelled/output",
        (Status::Cancelled, "error") => "cancelled/error",
        (Status::Cancelled, "exit_code") => "cancelled/exit_code",
        (Status::Cancelled, "runtime_ms") => "cancelled/runtime_ms",
        (Status::Cancelled, "memory_used_mb") => "cancelled/memory_used_mb",
        _ => return Cow::Owned(format!("{status}/{part}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_names_cost_no_allocation() {
        for status in Status::TERMINAL {
            assert!(matches!(intern(&end(status)), Cow::Borrowed(_)));
            for part in OUTCOME_PARTS {
                assert!(matches!(outcome(status, part), Cow::Borrowed(_)));
                assert_eq!(outcome(status, part), format!("{status}/{part}"));
            }
        }
        for name in [OPEN, CODE, LANGUAGE, ENGINE, EXECUTOR_ID, CONTAINER_ID, CREATED_AT] {
            assert!(matches!(intern(name), Cow::Borrowed(_)), "{name}");
        }
    }
}
