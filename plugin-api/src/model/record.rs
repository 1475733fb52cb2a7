//! What people see of an evaluation: a pure view of its state.
//!
//! The keys of the JSON form are those that readers of the evaluation store have always had, and further ones.

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

use super::body::{Body, sha256, to_hex};
use super::names::{self, HISTORY_PREFIX, METADATA_PREFIX};
use super::register::Register;
use super::state::State;
use super::status::Status;

/// A view of the state of one evaluation. Times are microseconds since 1970-01-01T00:00:00Z.
///
/// # Behavior
/// - The terminal status whose `end` has the smallest rank is the status: what is finished stays finished, first wins.
/// - Output, error and the rest of the outcome are those of that status; of other outcomes nothing is shown.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// The evaluation's id.
    pub id: String,
    /// Where it stands; none if nothing that is known says so.
    pub status: Option<Status>,
    /// The code; none if unknown or left out of the answer.
    pub code: Option<String>,
    /// SHA-256 of the code, 64 hex digits.
    pub code_hash: Option<String>,
    /// Lines of the code: `\n`, `\r\n` and a last line without an end.
    pub code_lines: Option<u64>,
    /// Characters of the code.
    pub code_size: Option<u64>,
    /// The language of the code.
    pub language: Option<String>,
    /// What runs it.
    pub engine: Option<String>,
    /// Who runs it.
    pub executor_id: Option<String>,
    /// Where it runs.
    pub container_id: Option<String>,
    /// The time of the earliest event.
    pub created_at: Option<i64>,
    /// The earliest time at which it was submitted.
    pub submitted_at: Option<i64>,
    /// The earliest time at which it was queued.
    pub queued_at: Option<i64>,
    /// The earliest time at which it was being provisioned.
    pub provisioning_at: Option<i64>,
    /// The earliest time at which it ran.
    pub started_at: Option<i64>,
    /// When it ended: the time of the winning `end`.
    pub completed_at: Option<i64>,
    /// What it printed; none if unknown, or left out of the answer.
    pub output: Option<String>,
    /// Characters of the output.
    pub output_size: Option<u64>,
    /// True if there is more output than is shown here.
    pub output_truncated: bool,
    /// What went wrong; none if unknown, or left out of the answer.
    pub error: Option<String>,
    /// Characters of the error.
    pub error_size: Option<u64>,
    /// True if there is more of the error than is shown here.
    pub error_truncated: bool,
    /// The exit code of the process.
    pub exit_code: Option<i64>,
    /// As sent, else completed − started, rounded down; none if that is negative or beyond 32 bits.
    pub runtime_ms: Option<i64>,
    /// The memory used.
    pub memory_used_mb: Option<i64>,
    /// True for completed, false for failed and cancelled, none while open.
    pub success: Option<bool>,
    /// The metadata: key and canonical JSON, sorted by key.
    pub metadata: Vec<(String, String)>,
    /// What happened, in rank order.
    pub history: Vec<HistoryEntry>,
}

/// One line of a record's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The event's id.
    pub event_id: String,
    /// The event's time in microseconds.
    pub timestamp: i64,
    /// What kind of entry it is.
    pub kind: String,
    /// The status that the event told.
    pub status: String,
    /// For people.
    pub message: String,
}

impl Record {
    /// The view of a state.
    #[must_use]
    pub fn of(id: &str, state: &State) -> Self {
        Self { history: history(state), ..Self::without_history(id, state) }
    }

    /// The view of a state, but for what happened, which grows with every event.
    #[must_use]
    pub fn without_history(id: &str, state: &State) -> Self {
        let end = winning_end(state);
        let status = end.map(|(status, _)| status).or_else(|| open_status(state));
        let completed_at = end.map(|(_, time)| time);
        let started_at = number(state.get("running_at"));
        let part = |name| end.and_then(|(status, _)| state.get(&names::outcome(status, name)));
        let code = Text::of(state.get(names::CODE));
        let output = Text::of(part("output"));
        let error = Text::of(part("error"));
        Self {
            id: id.to_owned(),
            status,
            code_hash: code.body.map(|body| to_hex(body.hash())),
            code_lines: code.body.map(Body::lines),
            code_size: code.characters(),
            code: code.shown(),
            language: string(state.get(names::LANGUAGE)),
            engine: string(state.get(names::ENGINE)),
            executor_id: string(state.get(names::EXECUTOR_ID)),
            container_id: string(state.get(names::CONTAINER_ID)),
            created_at: number(state.get(names::CREATED_AT)),
            submitted_at: number(state.get("submitted_at")),
            queued_at: number(state.get("queued_at")),
            provisioning_at: number(state.get("provisioning_at")),
            started_at,
            completed_at,
            output_size: output.characters(),
            output_truncated: output.is_truncated(),
            output: output.shown(),
            error_size: error.characters(),
            error_truncated: error.is_truncated(),
            error: error.shown(),
            exit_code: number(part("exit_code")),
            runtime_ms: number(part("runtime_ms")).or_else(|| runtime_ms(started_at?, completed_at?)),
            memory_used_mb: number(part("memory_used_mb")),
            success: status.filter(|status| status.is_terminal()).map(|status| status == Status::Completed),
            metadata: metadata(state),
            history: Vec::new(),
        }
    }

    /// The status of a state, without making the rest of the record.
    #[must_use]
    pub fn status_of(state: &State) -> Option<Status> {
        winning_end(state).map(|(status, _)| status).or_else(|| open_status(state))
    }

    /// The time of the earliest event of a state, in microseconds.
    #[must_use]
    pub fn created_at_of(state: &State) -> Option<i64> {
        number(state.get(names::CREATED_AT))
    }

    /// When a state ended, in microseconds: the time of the winning `end`.
    #[must_use]
    pub fn completed_at_of(state: &State) -> Option<i64> {
        winning_end(state).map(|(_, time)| time)
    }

    /// The language of a state.
    #[must_use]
    pub fn language_of(state: &State) -> Option<String> {
        string(state.get(names::LANGUAGE))
    }
}

fn winning_end(state: &State) -> Option<(Status, i64)> {
    let hash = |end: &Register| end.value.as_json().map(|json| sha256(json.as_bytes()));
    let first = state.with_prefix(names::END_PREFIX).iter().min_by(|a, b| {
        let ranks = a.stamp.time.cmp(&b.stamp.time).then_with(|| a.stamp.event_id.cmp(&b.stamp.event_id));
        // Hardly ever looked at, and this is asked for several times with each merge.
        ranks.then_with(|| hash(a).cmp(&hash(b)))
    })?;
    let status = Status::parse(&first.name[names::END_PREFIX.len()..])?;
    Some((status, first.stamp.time))
}

fn open_status(state: &State) -> Option<Status> {
    // As it is written, no name of a status has an escape.
    let json = state.get(names::OPEN)?.value.as_json()?;
    Status::parse(json.strip_prefix('"')?.strip_suffix('"')?)
}

fn runtime_ms(started_at: i64, completed_at: i64) -> Option<i64> {
    let runtime = completed_at.checked_sub(started_at)?.div_euclid(1000);
    i32::try_from(runtime).ok().filter(|runtime| *runtime >= 0).map(i64::from)
}

fn number(register: Option<&Register>) -> Option<i64> {
    register?.value.as_json()?.parse().ok()
}

fn string(register: Option<&Register>) -> Option<String> {
    serde_json::from_str(register?.value.as_json()?).ok()
}

fn metadata(state: &State) -> Vec<(String, String)> {
    let registers = state.with_prefix(METADATA_PREFIX).iter();
    let entry = |register: &Register| {
        Some((register.name[METADATA_PREFIX.len()..].to_owned(), register.value.as_json()?.to_owned()))
    };
    registers.filter_map(entry).collect()
}

fn history(state: &State) -> Vec<HistoryEntry> {
    #[derive(serde::Deserialize)]
    struct Stored {
        message: String,
        status: String,
        #[serde(rename = "type")]
        kind: String,
    }
    let read = |register: &Register| {
        let stored: Stored = serde_json::from_str(register.value.as_json()?).ok()?;
        Some(HistoryEntry {
            event_id: register.name[HISTORY_PREFIX.len()..].to_owned(),
            timestamp: register.stamp.time,
            kind: stored.kind,
            status: stored.status,
            message: stored.message,
        })
    };
    let mut entries: Vec<_> = state.with_prefix(HISTORY_PREFIX).iter().filter_map(read).collect();
    entries.sort_by(|a, b| (a.timestamp, &a.event_id).cmp(&(b.timestamp, &b.event_id)));
    entries
}

/// What a record shows of a body.
#[derive(Clone, Copy)]
struct Text<'a> {
    body: Option<&'a Body>,
}

impl<'a> Text<'a> {
    fn of(register: Option<&'a Register>) -> Self {
        Self { body: register.and_then(|register| register.value.as_body()) }
    }

    /// The text; of a reference its preview, if there is one.
    fn shown(self) -> Option<String> {
        let body = self.body?;
        let preview = || body.as_reference().map(|reference| &*reference.preview).filter(|preview| !preview.is_empty());
        body.as_text().or_else(preview).map(str::to_owned)
    }

    fn characters(self) -> Option<u64> {
        self.body.map(Body::characters)
    }

    fn is_truncated(self) -> bool {
        self.body.is_some_and(|body| body.as_text().is_none())
    }
}

impl Serialize for Record {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("id", &self.id)?;
        map.serialize_entry("status", self.status.map_or("unknown", Status::as_str))?;
        map.serialize_entry("code", &self.code)?;
        map.serialize_entry("code_hash", &self.code_hash)?;
        map.serialize_entry("code_lines", &self.code_lines)?;
        map.serialize_entry("code_size", &self.code_size)?;
        map.serialize_entry("language", &self.language)?;
        map.serialize_entry("engine", &self.engine)?;
        map.serialize_entry("executor_id", &self.executor_id)?;
        map.serialize_entry("container_id", &self.container_id)?;
        for (key, time) in [
            ("created_at", self.created_at),
            ("submitted_at", self.submitted_at),
            ("queued_at", self.queued_at),
            ("provisioning_at", self.provisioning_at),
            ("started_at", self.started_at),
            ("completed_at", self.completed_at),
        ] {
            map.serialize_entry(key, &time.map(format_time))?;
        }
        map.serialize_entry("output", &self.output)?;
        map.serialize_entry("output_size", &self.output_size)?;
        map.serialize_entry("output_truncated", &self.output_truncated)?;
        map.serialize_entry("error", &self.error)?;
        map.serialize_entry("error_size", &self.error_size)?;
        map.serialize_entry("error_truncated", &self.error_truncated)?;
        map.serialize_entry("exit_code", &self.exit_code)?;
        map.serialize_entry("runtime_ms", &self.runtime_ms)?;
        map.serialize_entry("memory_used_mb", &self.memory_used_mb)?;
        map.serialize_entry("success", &self.success)?;
        map.serialize_entry("metadata", &Metadata(&self.metadata))?;
        map.end()
    }
}

impl Serialize for HistoryEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("type", &self.kind)?;
        map.serialize_entry("timestamp", &format_time(self.timestamp))?;
        map.serialize_entry("message", &self.message)?;
        map.serialize_entry("status", &self.status)?;
        map.serialize_entry("event_id", &self.event_id)?;
        map.end()
    }
}

struct Metadata<'a>(&'a [(String, String)]);

impl Serialize for Metadata<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, json) in self.0 {
            let value: &RawValue = serde_json::from_str(json).map_err(serde::ser::Error::custom)?;
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

/// A time as `2025-01-01T00:00:00.123456+00:00`.
///
/// The calendar is Howard Hinnant's `civil_from_days`, <https://howardhinnant.github.io/date_algorithms.html>.
#[must_use]
pub fn format_time(microseconds: i64) -> String {
    let (days, rest) = (microseconds.div_euclid(86_400_000_000), microseconds.rem_euclid(86_400_000_000));
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (seconds, micros) = (rest / 1_000_000, rest % 1_000_000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if !(0..=9999).contains(&year) {
        return format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}+00:00");
    }
    // The common case without the machinery of `format!`, since this is done several times with each merge.
    let mut text = *b"0000-00-00T00:00:00.000000+00:00";
    for (number, digits) in [
        (year, 0..4),
        (month, 5..7),
        (day, 8..10),
        (hour, 11..13),
        (minute, 14..16),
        (second, 17..19),
        (micros, 20..26),
    ] {
        let mut rest = number;
        for digit in text[digits].iter_mut().rev() {
            *digit += (rest % 10) as u8;
            rest /= 10;
        }
    }
    str::from_utf8(&text).expect("digits were added to zeros").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc_with_microseconds() {
        assert_eq!(format_time(0), "1970-01-01T00:00:00.000000+00:00");
        assert_eq!(format_time(951_782_400_000_001), "2000-02-29T00:00:00.000001+00:00");
        assert_eq!(format_time(253_402_300_799_999_999), "9999-12-31T23:59:59.999999+00:00");
        assert_eq!(format_time(-1), "1969-12-31T23:59:59.999999+00:00");
        assert_eq!(format_time(253_402_300_800_000_000), "10000-01-01T00:00:00.000000+00:00");
    }

    #[test]
    fn runtime_is_rounded_down_and_null_where_it_makes_no_sense() {
        assert_eq!(runtime_ms(1_000, 2_999), Some(1));
        assert_eq!(runtime_ms(2_000, 1_000), None);
        assert_eq!(runtime_ms(0, i64::from(i32::MAX) * 1000 + 1000), None);
    }
}
