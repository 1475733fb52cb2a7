//! Canonical JSON: one text for one value, so that equal values have equal bytes.
//!
//! Keys sorted by their UTF-8 bytes, no white space, the shortest escapes, numbers with the digits they came with.

use serde_json::Value;

/// The canonical text of a value.
///
/// # Example
/// ```
/// let value: serde_json::Value = serde_json::from_str(r#"{ "b": 1.50, "a": "\u0041" }"#).unwrap();
/// assert_eq!(storage_plugin_api::json::canonical(&value), r#"{"a":"A","b":1.50}"#);
/// ```
#[must_use]
pub fn canonical(value: &Value) -> String {
    let mut out = String::new();
    push_value(&mut out, value);
    out
}

/// Appends the canonical text of a value.
pub fn push_value(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(number) => out.push_str(number.as_str()),
        Value::String(text) => push_string(out, text),
        Value::Array(values) => {
            out.push('[');
            for (index, value) in values.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                push_value(out, value);
            }
            out.push(']');
        }
        Value::Object(map) => {
            // Sorted here and not by the map: a plugin's other dependencies may turn serde_json's `preserve_order` on.
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_unstable_by_key(|(key, _)| *key);
            out.push('{');
            for (index, (key, value)) in entries.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                push_string(out, key);
                out.push(':');
                push_value(out, value);
            }
            out.push('}');
        }
    }
}

/// The canonical text of a string, quotes included.
#[must_use]
pub fn canonical_string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    push_string(&mut out, text);
    out
}

/// Appends the canonical text of a string, quotes included.
pub fn push_string(out: &mut String, text: &str) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.push('"');
    let mut copied = 0;
    for (index, byte) in text.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0x08 => "\\b",
            0x0c => "\\f",
            0..0x20 => "",
            _ => continue,
        };
        out.push_str(&text[copied..index]);
        copied = index + 1;
        if escape.is_empty() {
            out.push_str("\\u00");
            out.push(char::from(DIGITS[usize::from(byte >> 4)]));
            out.push(char::from(DIGITS[usize::from(byte & 15)]));
        } else {
            out.push_str(escape);
        }
    }
    out.push_str(&text[copied..]);
    out.push('"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn strings_are_written_as_serde_json_writes_them(text in any::<String>()) {
            prop_assert_eq!(canonical_string(&text), canonical(&Value::String(text)));
        }
    }

    #[test]
    fn control_characters_are_escaped_as_serde_json_does() {
        let text: String = (0..=0x7f_u8).map(char::from).collect();

        assert_eq!(canonical_string(&text), canonical(&Value::String(text)));
    }
}
