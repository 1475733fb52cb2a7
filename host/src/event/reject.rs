//! Why a payload is no event. Each reason has a class, under which it is counted and which never changes.

use storage_plugin_api::json::MAX_DEPTH;

/// Why a payload is no event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    /// It is larger than is accepted.
    #[error("the payload has {bytes} bytes, accepted are {limit}; raise `max_payload_bytes` if it is to be stored")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The most that is accepted.
        limit: usize,
    },
    /// It is no UTF-8.
    #[error("the payload is not UTF-8 from byte {offset} on; send JSON in UTF-8")]
    InvalidUtf8 {
        /// Where the first wrong byte is.
        offset: usize,
    },
    /// It is no JSON.
    #[error("the payload is not JSON: {reason}")]
    InvalidJson {
        /// What is wrong, and where.
        reason: String,
    },
    /// It is JSON, but no object.
    #[error("the payload is {found}, an event is a JSON object")]
    NotAnObject {
        /// What it is.
        found: &'static str,
    },
    /// A value is nested too deep.
    #[error("field `{field}` is nested too deep, a payload may be {MAX_DEPTH} levels deep")]
    TooDeep {
        /// The top-level field.
        field: String,
    },
    /// A field that the channel requires is missing or empty.
    #[error("field `{field}` is missing or empty, and every event of `{channel}` must have it")]
    MissingField {
        /// The field.
        field: String,
        /// The channel.
        channel: String,
    },
    /// The evaluation's id is outside of its grammar.
    #[error(
        "field `eval_id` is `{shown}`, but an evaluation id has 1 to 64 characters, letters, digits and `._:@~+-`, and \
         begins with a letter or digit"
    )]
    InvalidId {
        /// What was sent, made fit for a log.
        shown: String,
    },
    /// A required field has the wrong type.
    #[error("field `{field}` is {found}, but must be {expected}")]
    WrongType {
        /// The field.
        field: &'static str,
        /// What was sent.
        found: &'static str,
        /// What it must be.
        expected: &'static str,
    },
    /// A required field is beyond its limit.
    #[error("field `{field}` is beyond its limit, {limit}")]
    BeyondLimit {
        /// The field.
        field: &'static str,
        /// The limit, for people.
        limit: String,
    },
    /// The metadata, with the fields that are kept there, is larger than is accepted.
    #[error("the metadata has more than {limit} bytes as JSON; send large texts as `output`, `error` or `code`")]
    MetadataTooLarge {
        /// The most that is accepted.
        limit: usize,
    },
}

impl Reject {
    /// The classes of all reasons, for metrics.
    pub const CLASSES: [&str; 10] = [
        "too_large",
        "invalid_utf8",
        "invalid_json",
        "not_an_object",
        "too_deep",
        "missing_field",
        "invalid_id",
        "wrong_type",
        "beyond_limit",
        "metadata_too_large",
    ];

    /// The name under which the reason is counted.
    #[must_use]
    pub fn class(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::InvalidUtf8 { .. } => "invalid_utf8",
            Self::InvalidJson { .. } => "invalid_json",
            Self::NotAnObject { .. } => "not_an_object",
            Self::TooDeep { .. } => "too_deep",
            Self::MissingField { .. } => "missing_field",
            Self::InvalidId { .. } => "invalid_id",
            Self::WrongType { .. } => "wrong_type",
            Self::BeyondLimit { .. } => "beyond_limit",
            Self::MetadataTooLarge { .. } => "metadata_too_large",
        }
    }
}
