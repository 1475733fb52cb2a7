//! Canonical JSON: one text for one value, so that equal values have equal bytes.
//!
//! Keys sorted by their UTF-8 bytes, no white space, the shortest escapes, numbers with the digits they came with.

use std::borrow::Cow;
use std::fmt;

use memchr::{memchr, memchr2};
use serde_json::Value;
use serde_json::value::RawValue;

/// Deepest nesting of arrays and objects that is taken.
pub const MAX_DEPTH: usize = 128;

/// Why a JSON text has no canonical form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotCanonical {
    /// It is nested deeper than it may be.
    TooDeep,
    /// A string in it is no Unicode text: it has half of a surrogate pair.
    HalfOfPair {
        /// The half, without its backslash.
        escape: String,
    },
}

impl fmt::Display for NotCanonical {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooDeep => formatter.write_str("nested too deep"),
            Self::HalfOfPair { escape } => {
                write!(formatter, "a string is no Unicode text, `\\{escape}` is half of a surrogate pair")
            }
        }
    }
}

impl std::error::Error for NotCanonical {}

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

/// The canonical text of a value that was not parsed; at most [`MAX_DEPTH`] deep. Of duplicate keys the last counts.
///
/// Unlike a way through [`Value`] it takes every key, also those that `serde_json` keeps for itself.
///
/// # Errors
/// When the value is nested deeper, or a string of it is no Unicode text.
///
/// # Example
/// ```
/// let value = serde_json::from_str(r#"{ "b": 1.50, "a": "\u0041", "b": [ ] }"#).unwrap();
/// assert_eq!(storage_plugin_api::json::canonical_raw(value).unwrap(), r#"{"a":"A","b":[]}"#);
/// ```
pub fn canonical_raw(raw: &RawValue) -> Result<String, NotCanonical> {
    let mut out = String::with_capacity(raw.get().len());
    push_raw(&mut out, raw, MAX_DEPTH)?;
    Ok(out)
}

/// Appends the canonical text of a value that was not parsed; see [`canonical_raw`].
///
/// # Errors
/// When the value is nested deeper than `levels`, or a string of it is no Unicode text. Then a part may be appended.
pub fn push_raw(out: &mut String, raw: &RawValue, levels: usize) -> Result<(), NotCanonical> {
    Rewriter { text: raw.get(), at: 0, out }.value(levels)
}

/// The text that a JSON string stands for. `quoted` is that string as it was sent, of correct syntax, quotes included.
///
/// # Errors
/// When it is no Unicode text.
pub fn unquote(quoted: &str) -> Result<Cow<'_, str>, NotCanonical> {
    let text = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default();
    if memchr(b'\\', text.as_bytes()).is_none() {
        return Ok(Cow::Borrowed(text));
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(place) = memchr(b'\\', rest.as_bytes()) {
        let (plain, escape) = (&rest[..place], &rest[place + 1..]);
        let (character, length) = read_escape(escape)?;
        out.push_str(plain);
        out.push(character);
        rest = escape.get(length..).unwrap_or_default();
    }
    out.push_str(rest);
    Ok(Cow::Owned(out))
}

/// The character of an escape, and how many bytes follow the backslash.
fn read_escape(escape: &str) -> Result<(char, usize), NotCanonical> {
    let plain = match escape.as_bytes().first() {
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'u') => return read_code(escape),
        Some(byte) => char::from(*byte),
        None => char::REPLACEMENT_CHARACTER,
    };
    Ok((plain, 1))
}

/// The character of `uXXXX`, or of `uXXXX\uXXXX` if that is a surrogate pair.
fn read_code(escape: &str) -> Result<(char, usize), NotCanonical> {
    let unit = |at: usize| u16::from_str_radix(escape.get(at..at + 4)?, 16).ok();
    let second = if escape.get(5..7) == Some("\\u") { unit(7) } else { None };
    match char::decode_utf16(unit(1).into_iter().chain(second)).next() {
        Some(Ok(character)) => Ok((character, if character.len_utf16() == 1 { 5 } else { 11 })),
        _ => Err(NotCanonical::HalfOfPair { escape: escape.get(..5).unwrap_or(escape).to_owned() }),
    }
}

/// Rewrites a text whose syntax serde_json has checked, so it looks only for where things begin and end.
struct Rewriter<'a, 'o> {
    text: &'a str,
    at: usize,
    out: &'o mut String,
}

impl<'a> Rewriter<'a, '_> {
    fn value(&mut self, levels: usize) -> Result<(), NotCanonical> {
        match self.next() {
            Some(b'{') => self.object(levels.checked_sub(1).ok_or(NotCanonical::TooDeep)?),
            Some(b'[') => self.array(levels.checked_sub(1).ok_or(NotCanonical::TooDeep)?),
            Some(b'"') => {
                let (quoted, is_canonical) = self.string();
                match is_canonical {
                    true => self.out.push_str(quoted),
                    false => push_string(self.out, &unquote(quoted)?),
                }
                Ok(())
            }
            _ => {
                let scalar = self.scalar();
                self.out.push_str(scalar);
                Ok(())
            }
        }
    }

    fn array(&mut self, levels: usize) -> Result<(), NotCanonical> {
        self.at += 1;
        self.out.push('[');
        let start = self.out.len();
        while !matches!(self.next(), Some(b']') | None) {
            if self.out.len() > start {
                self.out.push(',');
            }
            self.value(levels)?;
        }
        self.at += 1;
        self.out.push(']');
        Ok(())
    }

    /// Writes the entries as they come, and puts them in order afterwards if they were not.
    fn object(&mut self, levels: usize) -> Result<(), NotCanonical> {
        self.at += 1;
        self.out.push('{');
        let start = self.out.len();
        let mut entries = Vec::new();
        while !matches!(self.next(), Some(b'}') | None) {
            if self.out.len() > start {
                self.out.push(',');
            }
            let from = self.out.len();
            let key = unquote(self.string().0)?;
            push_string(self.out, &key);
            self.out.push(':');
            self.value(levels)?;
            entries.push((key, from..self.out.len()));
        }
        if !entries.is_sorted_by(|(a, _), (b, _)| a < b) {
            entries.sort_by(|(a, _), (b, _)| a.cmp(b));
            let mut sorted = String::with_capacity(self.out.len() - start);
            for (index, (key, range)) in entries.iter().enumerate() {
                if entries.get(index + 1).is_some_and(|(next, _)| next == key) {
                    continue;
                }
                if !sorted.is_empty() {
                    sorted.push(',');
                }
                sorted.push_str(&self.out[range.clone()]);
            }
            self.out.truncate(start);
            self.out.push_str(&sorted);
        }
        self.at += 1;
        self.out.push('}');
        Ok(())
    }

    /// The byte at which the next token begins. Commas and colons are where they must be, so they only part tokens.
    fn next(&mut self) -> Option<u8> {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += rest.iter().take_while(|byte| matches!(byte, b' ' | b'\n' | b'\r' | b'\t' | b',' | b':')).count();
        self.text.as_bytes().get(self.at).copied()
    }

    /// Takes the string that begins here, with its quotes, and says whether it is canonical as it stands.
    fn string(&mut self) -> (&'a str, bool) {
        self.next();
        let bytes = self.text.as_bytes();
        let from = self.at;
        let mut at = from + 1;
        let mut is_canonical = true;
        loop {
            at = at.min(bytes.len());
            at += memchr2(b'"', b'\\', &bytes[at..]).unwrap_or(bytes.len() - at);
            let Some(b'\\') = bytes.get(at) else { break };
            // Control characters come as the shortest escape; `\u` is looked at by the slow way.
            is_canonical &= matches!(bytes.get(at + 1), Some(b'"' | b'\\' | b'n' | b'r' | b't' | b'b' | b'f'));
            at += 2;
        }
        self.at = (at + 1).min(bytes.len());
        (&self.text[from..self.at], is_canonical)
    }

    /// Takes the number, `true`, `false` or `null` that begins here.
    fn scalar(&mut self) -> &'a str {
        let from = self.at;
        let is_end = |byte: &u8| matches!(byte, b',' | b']' | b'}' | b' ' | b'\n' | b'\r' | b'\t');
        let rest = &self.text.as_bytes()[from..];
        self.at = from + rest.iter().position(is_end).unwrap_or(rest.len());
        &self.text[from..self.at]
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
    let mut rest = text;
    loop {
        let (plain, special) = rest.split_at(plain_length(rest.as_bytes()));
        out.push_str(plain);
        let Some(byte) = special.bytes().next() else { break };
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            0x08 => out.push_str("\\b"),
            0x0c => out.push_str("\\f"),
            _ => {
                out.push_str("\\u00");
                out.push(char::from(DIGITS[usize::from(byte >> 4)]));
                out.push(char::from(DIGITS[usize::from(byte & 15)]));
            }
        }
        rest = &special[1..];
    }
    out.push('"');
}

/// The length of the beginning of a text that stands for itself in JSON.
fn plain_length(bytes: &[u8]) -> usize {
    let mut chunks = bytes.chunks_exact(8);
    let mut length = 0;
    for chunk in chunks.by_ref() {
        let special = special_bytes(u64::from_le_bytes(chunk.try_into().expect("a chunk has eight bytes")));
        if special != 0 {
            return length + special.trailing_zeros() as usize / 8;
        }
        length += 8;
    }
    let is_special = |byte: &u8| *byte < 0x20 || *byte == b'"' || *byte == b'\\';
    length + chunks.remainder().iter().position(is_special).unwrap_or(chunks.remainder().len())
}

/// The high bit of the first byte that is escaped in JSON, and of some behind it; 0 if none is.
///
/// As in "Determine if a word has a byte less than n", <https://graphics.stanford.edu/~seander/bithacks.html>: a borrow
/// reaches only bytes behind one that was found.
fn special_bytes(word: u64) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    let below = |word: u64, limit: u8| word.wrapping_sub(ONES * u64::from(limit)) & !word;
    let is = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    (below(word, 0x20) | is(b'"') | is(b'\\')) & (ONES << 7)
}

#[cfg(test)]
mod tests;
