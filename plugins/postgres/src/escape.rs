//! Keeps NUL characters, which PostgreSQL cannot have in a text.
//!
//! Only a text that has one is changed: NUL becomes U+001A `0`, and U+001A becomes U+001A U+001A. Which texts were changed
//! is known from the state (`state_form.rs`), so that no other text can be taken for a changed one.

use std::borrow::Cow;

use memchr::{memchr, memchr2};

/// SUBSTITUTE, which stands for what cannot be shown.
const SUBSTITUTE: char = '\u{1a}';

/// True if a text cannot be stored as it is.
pub(crate) fn needs_escape(text: &str) -> bool {
    memchr(0, text.as_bytes()).is_some()
}

/// The text as PostgreSQL can have it.
pub(crate) fn escape(text: &str) -> Cow<'_, str> {
    match needs_escape(text) {
        true => Cow::Owned(changed(text)),
        false => Cow::Borrowed(text),
    }
}

/// As [`escape`], of a text that is not needed any more.
pub(crate) fn escaped(text: String) -> String {
    match needs_escape(&text) {
        true => changed(&text),
        false => text,
    }
}

fn changed(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            '\0' => out.extend([SUBSTITUTE, '0']),
            SUBSTITUTE => out.extend([SUBSTITUTE, SUBSTITUTE]),
            other => out.push(other),
        }
    }
    out
}

/// A text that something is found by: of two different ones the results differ, which is not so for [`escape`].
pub(crate) fn escape_key(text: &str) -> Cow<'_, str> {
    match memchr2(0, SUBSTITUTE as u8, text.as_bytes()).is_some() {
        true => Cow::Owned(changed(text)),
        false => Cow::Borrowed(text),
    }
}

/// The text that was changed by [`escape`].
pub(crate) fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            SUBSTITUTE => out.push(if characters.next() == Some('0') { '\0' } else { SUBSTITUTE }),
            other => out.push(other),
        }
    }
    out
}

/// JSON text without `\u0000`, which PostgreSQL takes but cannot look into; strings are changed as by [`escape`].
///
/// For readers of the JSON column only: the state has the value itself.
pub(crate) fn escape_json(json: &str) -> Cow<'_, str> {
    // Most have no escape at all.
    if memchr(b'\\', json.as_bytes()).is_none() || !json.contains("\\u0000") {
        return Cow::Borrowed(json);
    }
    let mut out = String::with_capacity(json.len());
    let mut rest = json;
    // A backslash begins an escape, so what follows it is never looked at as a beginning.
    while let Some((plain, escaped)) = rest.split_once('\\') {
        out.push_str(plain);
        match escaped.strip_prefix("u0000") {
            Some(behind) => {
                out.push_str("\\u001a0");
                rest = behind;
            }
            None => {
                let length = escaped.chars().next().map_or(0, char::len_utf8);
                out.push('\\');
                out.push_str(&escaped[..length]);
                rest = &escaped[length..];
            }
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_a_text_with_nul_is_changed() {
        assert_eq!(escape("a\u{1a}0b"), "a\u{1a}0b");
        assert_eq!(escape("a\0\u{1a}"), "a\u{1a}0\u{1a}\u{1a}");
    }

    #[test]
    fn json_loses_its_nul_but_not_a_backslash_before_u0000() {
        assert_eq!(escape_json(r#"{"a\u0000":"\\u0000\n"}"#), r#"{"a\u001a0":"\\u0000\n"}"#);
    }

    proptest! {
        #[test]
        fn what_was_changed_comes_back(text in "[a\\x00\\x1a0é]{0,20}") {
            let kept = escape(&text);
            prop_assert_eq!(&*kept, escaped(text.clone()));

            prop_assert!(!needs_escape(&kept));
            prop_assert_eq!(unescape(&escape_key(&text)), text.clone());
            if needs_escape(&text) {
                prop_assert_eq!(unescape(&kept), text);
            }
        }
    }
}
