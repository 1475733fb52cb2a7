//! Reads the fields of a payload as the types they should have.
//!
//! A value of another type, or beyond its limit, is left where it is (`decode.rs` then keeps it under metadata), unless
//! the field is required: then the event is rejected.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::payload::{Fields, kind_of, string};
use super::reject::Reject;
use super::row::EventRow;

/// A payload on its way to an event.
pub(crate) struct Reader<'a> {
    pub(crate) channel: &'a str,
    pub(crate) row: &'a EventRow,
    pub(crate) fields: Fields<'a>,
}

impl<'a> Reader<'a> {
    /// Reads a payload in which every required field is present.
    pub(crate) fn new(channel: &'a str, row: &'a EventRow, payload: &'a [u8]) -> Result<Self, Reject> {
        let fields = Fields::read(payload)?;
        let mut required = row.require.iter().map(|field| field.as_str()).chain(["eval_id"]);
        match required.find(|field| fields.get(field).is_none()) {
            Some(field) => Err(Reject::MissingField { field: field.to_owned(), channel: channel.to_owned() }),
            None => Ok(Self { channel, row, fields }),
        }
    }

    /// Takes a text of any length.
    pub(crate) fn text(&mut self, field: &'static str) -> Result<Option<Cow<'a, str>>, Reject> {
        self.text_if(field, |_| true, "")
    }

    /// Takes a text that keeps to its limit; another value is left where it is, unless the field is required.
    pub(crate) fn text_if(
        &mut self,
        field: &'static str,
        keeps_to_limit: impl FnOnce(&str) -> bool,
        limit: &str,
    ) -> Result<Option<Cow<'a, str>>, Reject> {
        let Some(value) = self.fields.get(field) else { return Ok(None) };
        match string(field, value)? {
            Some(text) if keeps_to_limit(&text) => {
                self.fields.take(field);
                return Ok(Some(text));
            }
            Some(_) => {
                self.keep_unless_required(field, || Reject::BeyondLimit { field, limit: limit.to_owned() })?;
            }
            None => self.keep_unless_required(field, || wrong_type(field, value, "a string"))?,
        }
        Ok(None)
    }

    /// Takes a 32-bit integer, or a string of one; another value is left where it is, unless the field is required.
    pub(crate) fn integer(&mut self, field: &'static str) -> Result<Option<i32>, Reject> {
        let Some(value) = self.fields.get(field) else { return Ok(None) };
        let text = string(field, value)?.unwrap_or(Cow::Borrowed(value.get()));
        if let Ok(number) = text.parse() {
            self.fields.take(field);
            return Ok(Some(number));
        }
        let is_integer = text.strip_prefix('-').unwrap_or(&text).bytes().all(|byte| byte.is_ascii_digit());
        self.keep_unless_required(field, || match is_integer {
            true => Reject::BeyondLimit { field, limit: "-2147483648 to 2147483647".to_owned() },
            false => wrong_type(field, value, "an integer"),
        })?;
        Ok(None)
    }

    /// Rejects if the field is required; else it is left.
    pub(crate) fn keep_unless_required(&self, field: &str, reject: impl FnOnce() -> Reject) -> Result<(), Reject> {
        if self.row.require.iter().any(|required| required.as_str() == field) { Err(reject()) } else { Ok(()) }
    }
}

/// True if a text is not longer than so many characters.
pub(crate) fn has_at_most(text: &str, characters: usize) -> bool {
    text.len() <= characters || text.chars().nth(characters).is_none()
}

pub(crate) fn wrong_type(field: &'static str, value: &RawValue, expected: &'static str) -> Reject {
    Reject::WrongType { field, found: kind_of(value), expected }
}

#[cfg(test)]
mod tests {
    use storage_plugin_api::Status;

    use super::*;
    use crate::event::decode::{Arrival, Limits, decode};

    fn decode_requiring(require: &[&str], payload: &str) -> Result<(), Reject> {
        let row = EventRow::for_test(Status::Completed, require);
        let arrival = Arrival { received_at: 0, entry_time: None, event_id: None };
        decode("channel", &row, payload.as_bytes(), arrival, &Limits::default()).map(|_| ())
    }

    #[test]
    fn a_required_field_is_there_and_right() {
        for (required, fields, class) in [
            ("code", r#""x":1"#, "missing_field"),
            ("code", r#""code":"""#, "missing_field"),
            ("code", r#""code":7"#, "wrong_type"),
            ("metadata", r#""metadata":{}"#, "missing_field"),
            ("metadata", r#""metadata":[1]"#, "wrong_type"),
            ("exit_code", r#""exit_code":"one""#, "wrong_type"),
            ("exit_code", r#""exit_code":4294967296"#, "beyond_limit"),
            ("event_id", r#""event_id":"a\n""#, "beyond_limit"),
        ] {
            let payload = format!(r#"{{"eval_id":"a",{fields}}}"#);
            let reject = decode_requiring(&[required], &payload).expect_err("the field is wrong");
            assert_eq!(reject.class(), class, "{payload}");
        }
        let engine = format!(r#"{{"eval_id":"a","engine":"{}"}}"#, "x".repeat(51));
        let reject = decode_requiring(&["engine"], &engine).expect_err("the engine is too long");
        assert_eq!(reject.to_string(), "field `engine` is beyond its limit, 50 characters");
        assert!(decode_requiring(&["output"], r#"{"eval_id":"a","output":"x","failed_at":"submission"}"#).is_ok());
    }
}
