//! Event kinds as rows of the configuration: what an event of a channel means, needs and is answered on.

use std::collections::BTreeMap;

use storage_plugin_api::Status;

/// The rows in force, by channel.
pub type EventRows = BTreeMap<String, EventRow>;

/// What an event of one channel means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRow {
    /// The status that such an event tells.
    pub status: Status,
    /// The fields that must be there and not empty. `eval_id` is needed always.
    pub require: Vec<String>,
    /// The channel of the confirmation.
    pub confirm: String,
    /// The field that holds the event's time, if it is not the one usual for the status.
    pub time: Option<String>,
}
