//! `[events."<channel>"]`: what an event on a channel means. An event kind is a row, not code.
//!
//! Six rows are built in; the file adds rows, changes keys of built-in ones, and drops rows with `enabled = false`.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use storage_plugin_api::Status;

use crate::suggest::{list, suggest};

/// What an event on a channel means.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EventRow {
    /// Where the events come from.
    #[serde(skip)]
    pub channel: String,
    /// The status that such an event gives the evaluation.
    #[serde(serialize_with = "as_name")]
    pub status: Status,
    /// What must be there and not empty; an event without is rejected. `eval_id` is always among them.
    pub require: Vec<RequiredField>,
    /// The channel of the confirmation.
    pub confirm: String,
    /// The field that holds the event's time, instead of the status's own; `timestamp` comes first in any case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
}

#[cfg(test)]
impl EventRow {
    /// A row of the channel `evaluation:<status>` that requires some fields, for the tests of decoding.
    pub(crate) fn for_test(status: Status, require: &[&str]) -> Self {
        let require = serde_json::from_value(serde_json::json!(require)).expect("these are names of fields");
        let confirm = "storage:evaluation:updated".to_owned();
        Self { channel: format!("evaluation:{status}"), status, require, confirm, time: None }
    }
}

/// The rows of all channels that are listened to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct EventRows(BTreeMap<String, EventRow>);

impl EventRows {
    /// The row of a channel.
    #[must_use]
    pub fn get(&self, channel: &str) -> Option<&EventRow> {
        self.0.get(channel)
    }

    /// The rows, by channel.
    pub fn iter(&self) -> impl Iterator<Item = &EventRow> {
        self.0.values()
    }

    /// The channels.
    pub fn channels(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// True if nothing is listened to.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What does not fit together: the channel and key, and what to do.
    pub(crate) fn problems(&self) -> Vec<(String, &'static str, String)> {
        let mut problems = Vec::new();
        for row in self.iter().filter(|row| self.0.contains_key(&row.confirm)) {
            let message = format!(
                "`events.{:?}.confirm` is `{}`, which has an event row itself, so that the worker would take its own confirmations for events; confirm elsewhere",
                row.channel, row.confirm
            );
            problems.push((row.channel.clone(), "confirm", message));
        }
        problems
    }
}

impl Default for EventRows {
    /// The six built-in rows.
    fn default() -> Self {
        const CREATED: &str = "storage:evaluation:created";
        const UPDATED: &str = "storage:evaluation:updated";
        let rows = [
            (Status::Submitted, CREATED),
            (Status::Queued, CREATED),
            (Status::Running, UPDATED),
            (Status::Completed, UPDATED),
            (Status::Failed, UPDATED),
            (Status::Cancelled, UPDATED),
        ];
        let row = |(status, confirm): (Status, &str)| {
            let channel = format!("evaluation:{status}");
            let mut require = vec![RequiredField::EvalId];
            if confirm == CREATED {
                require.push(RequiredField::Code);
            }
            (channel.clone(), EventRow { channel, status, require, confirm: confirm.to_owned(), time: None })
        };
        Self(rows.into_iter().map(row).collect())
    }
}

/// A field that a row can require.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequiredField {
    /// The evaluation's id.
    EvalId,
    /// The event's own id.
    EventId,
    /// The event's time.
    Timestamp,
    /// The source code.
    Code,
    /// The language of the code.
    Language,
    /// What runs the code.
    Engine,
    /// Who runs it.
    ExecutorId,
    /// Where it runs.
    ContainerId,
    /// What it wrote.
    Output,
    /// What went wrong.
    Error,
    /// Why it was cancelled.
    Reason,
    /// How it ended.
    ExitCode,
    /// How long it ran, in milliseconds.
    RuntimeMs,
    /// How much memory it took, in megabytes.
    MemoryUsedMb,
    /// Anything else.
    Metadata,
}

impl RequiredField {
    /// The field's name in a payload.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EvalId => "eval_id",
            Self::EventId => "event_id",
            Self::Timestamp => "timestamp",
            Self::Code => "code",
            Self::Language => "language",
            Self::Engine => "engine",
            Self::ExecutorId => "executor_id",
            Self::ContainerId => "container_id",
            Self::Output => "output",
            Self::Error => "error",
            Self::Reason => "reason",
            Self::ExitCode => "exit_code",
            Self::RuntimeMs => "runtime_ms",
            Self::MemoryUsedMb => "memory_used_mb",
            Self::Metadata => "metadata",
        }
    }
}

impl fmt::Display for RequiredField {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

fn as_name<S: Serializer>(status: &Status, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(status.as_str())
}

impl<'de> Deserialize<'de> for EventRows {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(RowsVisitor)
    }
}

struct RowsVisitor;

impl<'de> Visitor<'de> for RowsVisitor {
    type Value = EventRows;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a table of event rows by channel")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<EventRows, A::Error> {
        let mut rows = EventRows::default();
        while let Some(channel) = map.next_key::<String>()? {
            let built_in = rows.0.remove(&channel);
            if let Some(row) = map.next_value_seed(RowSeed { channel: channel.clone(), built_in })? {
                rows.0.insert(channel, row);
            }
        }
        Ok(rows)
    }
}

/// A row as the file has it; what it leaves out a built-in row knows.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RowConfig {
    #[serde(default, deserialize_with = "status")]
    status: Option<Status>,
    #[serde(default)]
    require: Option<Vec<RequiredField>>,
    #[serde(default)]
    confirm: Option<String>,
    #[serde(default)]
    time: Option<String>,
    #[serde(default = "yes")]
    enabled: bool,
}

fn yes() -> bool {
    true
}

fn status<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Status>, D::Error> {
    let name = String::deserialize(deserializer)?;
    let names = Status::ALL.map(Status::as_str);
    let unknown = || de::Error::custom(format_args!("cannot be `{name}`; {}", suggest(&name, names, "the statuses")));
    Status::parse(&name).map(Some).ok_or_else(unknown)
}

/// Reads the row of a channel; none if it is not enabled.
struct RowSeed {
    channel: String,
    built_in: Option<EventRow>,
}

impl<'de> DeserializeSeed<'de> for RowSeed {
    type Value = Option<EventRow>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<EventRow>, D::Error> {
        let Self { channel, built_in } = self;
        let row = RowConfig::deserialize(deserializer)?;
        if !row.enabled {
            return Ok(None);
        }
        check_channel(&channel).map_err(de::Error::custom)?;
        let missing = || -> D::Error {
            let names = Status::ALL.map(Status::as_str);
            de::Error::custom(format_args!(
                "needs a `status`, one of {}, and the channel to `confirm` on",
                list(&names)
            ))
        };
        let (status, confirm, mut require, time) = match built_in {
            Some(built_in) => (
                row.status.unwrap_or(built_in.status),
                row.confirm.unwrap_or(built_in.confirm),
                row.require.unwrap_or(built_in.require),
                row.time.or(built_in.time),
            ),
            None => (
                row.status.ok_or_else(missing)?,
                row.confirm.ok_or_else(missing)?,
                row.require.unwrap_or_default(),
                row.time,
            ),
        };
        check_channel(&confirm)
            .map_err(|message| de::Error::custom(format_args!("confirms on a channel that {message}")))?;
        if time.as_deref() == Some("") {
            return Err(de::Error::custom("names no field in `time`; leave the key out for the status's own field"));
        }
        if !require.contains(&RequiredField::EvalId) {
            require.insert(0, RequiredField::EvalId);
        }
        Ok(Some(EventRow { channel, status, require, confirm, time }))
    }
}

/// Says what keeps a text from being a channel, as the end of a sentence.
fn check_channel(channel: &str) -> Result<(), &'static str> {
    if channel.is_empty() {
        return Err("is empty; write the whole name of a channel");
    }
    if channel.contains(['*', '?', '[']) {
        return Err("is a pattern, and patterns are not listened to; give every channel a row of its own");
    }
    if channel.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err("has white space or control characters in its name; write the whole name of a channel");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(toml: &str) -> Result<EventRows, String> {
        toml::from_str(toml).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn six_rows_are_built_in() {
        let rows = EventRows::default();

        let channels: Vec<_> = rows.channels().collect();
        assert_eq!(
            channels,
            ["cancelled", "completed", "failed", "queued", "running", "submitted"]
                .map(|name| format!("evaluation:{name}"))
        );
        let queued = rows.get("evaluation:queued").expect("built in");
        assert_eq!(queued.require, [RequiredField::EvalId, RequiredField::Code]);
        assert_eq!(queued.confirm, "storage:evaluation:created");
        assert_eq!(rows.get("evaluation:failed").map(|row| row.require.clone()), Some(vec![RequiredField::EvalId]));
    }

    #[test]
    fn a_file_adds_changes_and_drops_rows() {
        let rows = read(
            "'evaluation:queued' = { confirm = 'x' }\n'evaluation:running' = { enabled = false }\n\
             'job:done' = { status = 'completed', require = ['output'], confirm = 'y', time = 'done_at' }",
        )
        .expect("valid rows");

        assert_eq!(rows.iter().count(), 6);
        let queued = rows.get("evaluation:queued").expect("kept");
        assert_eq!((queued.status, queued.confirm.as_str(), queued.require.len()), (Status::Queued, "x", 2));
        assert_eq!(rows.get("evaluation:running"), None);
        let done = rows.get("job:done").expect("added");
        assert_eq!(done.require, [RequiredField::EvalId, RequiredField::Output]);
        assert_eq!(done.time.as_deref(), Some("done_at"));
    }

    #[test]
    fn a_bad_row_says_why() {
        let cases = [
            ("a = { status = 'complete', confirm = 'x' }", "cannot be `complete`; did you mean `completed`?"),
            ("a = { confirm = 'x' }", "needs a `status`"),
            ("a = { status = 'failed' }", "the channel to `confirm` on"),
            ("'a:*' = { status = 'failed', confirm = 'x' }", "is a pattern"),
            ("a = { status = 'failed', confirm = '' }", "confirms on a channel that is empty"),
            ("a = { status = 'failed', confirm = 'x', time = '' }", "names no field"),
        ];
        for (toml, expected) in cases {
            let error = read(toml).expect_err(toml);
            assert!(error.contains(expected), "{toml}: {error}");
        }
    }

    #[test]
    fn a_row_must_not_confirm_on_a_channel_of_events() {
        let rows = read("'evaluation:queued' = { confirm = 'evaluation:running' }").expect("each row alone is valid");

        assert_eq!(rows.problems().len(), 1);
        assert!(EventRows::default().problems().is_empty());
    }

    #[test]
    fn names_of_fields_are_those_of_serde() {
        for field in [RequiredField::EvalId, RequiredField::ExecutorId, RequiredField::MemoryUsedMb] {
            assert_eq!(serde_json::to_value(field).expect("a name"), field.as_str());
        }
    }
}
