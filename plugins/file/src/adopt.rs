//! Reads the files of a store that knew no states: what they say becomes one event, `adopted`.
//!
//! Until something is merged into the evaluation the files stay as they are. What becomes of which key is decided in
//! plugin-api, for every backend alike.

use serde_json::Value as Json;
use storage_plugin_api::State;

/// The state of a record that has none, and of its history; none if it is no record.
pub(crate) fn adopt(record: &[u8], events: Option<&[u8]>) -> Result<State, String> {
    let record: Json = serde_json::from_slice(record).map_err(|error| error.to_string())?;
    let Json::Object(record) = record else { return Err("it is no JSON object".to_owned()) };
    let events: Vec<Json> = events.and_then(|events| serde_json::from_slice(events).ok()).unwrap_or_default();
    Ok(storage_plugin_api::adopt(&record, &events))
}
