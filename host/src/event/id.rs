//! The two ids of an event: the evaluation that it is about, and its own.
//!
//! An event without an id of its own gets one from its content, so that a repeated delivery is the same event.

use std::sync::Arc;

use sha2::{Digest, Sha256};
use storage_plugin_api::body::to_hex;

/// Most characters of an evaluation id.
pub const MAX_EVALUATION_ID_CHARACTERS: usize = 64;

/// Most characters of an event id.
pub const MAX_EVENT_ID_CHARACTERS: usize = 200;

/// True for `[A-Za-z0-9][A-Za-z0-9._:@~+-]{0,63}`: fit for a file name, a key and a URL.
#[must_use]
pub fn is_evaluation_id(text: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || b"._:@~+-".contains(&byte);
    match text.as_bytes() {
        [] => false,
        [first, inner @ ..] => {
            first.is_ascii_alphanumeric()
                && inner.len() < MAX_EVALUATION_ID_CHARACTERS
                && inner.iter().copied().all(is_inner)
        }
    }
}

/// True for 1 to [`MAX_EVENT_ID_CHARACTERS`] characters without a control character.
#[must_use]
pub fn is_event_id(text: &str) -> bool {
    let mut characters = text.chars();
    let is_short = characters.by_ref().take(MAX_EVENT_ID_CHARACTERS).all(|character| !character.is_control());
    !text.is_empty() && is_short && characters.next().is_none()
}

/// The id of an event that was sent without one: a hash of its channel and of its payload in canonical JSON.
#[must_use]
pub fn of_content(channel: &str, canonical_payload: &str) -> Arc<str> {
    let hash = Sha256::new().chain_update(channel).chain_update(b"\0").chain_update(canonical_payload).finalize();
    to_hex(&hash[..16]).into()
}

/// The id of what cannot be read as JSON: a hash of its channel and its bytes, which no event of content has.
#[must_use]
pub fn of_bytes(channel: &str, payload: &[u8]) -> Arc<str> {
    let hash = Sha256::new().chain_update(channel).chain_update(b"\0\0").chain_update(payload).finalize();
    to_hex(&hash[..16]).into()
}

/// An id that was refused, fit for a log line: at most 80 characters, control characters escaped.
#[must_use]
pub fn shown(text: &str) -> String {
    let mut characters = text.chars();
    let mut shown: String = characters.by_ref().take(80).flat_map(char::escape_debug).collect();
    if characters.next().is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evaluation_ids_keep_to_their_grammar() {
        let longest = "a".repeat(64);
        for id in ["20250101_120000_1a2b3c4d", "test-123", "0", "a._:@~+-", "test_eval_1700000000", &longest] {
            assert!(is_evaluation_id(id), "{id}");
        }
        let too_long = "a".repeat(65);
        for id in ["", "../escape", ".hidden", "-a", "_a", "a/b", "a b", "a\n", "a\0", "é", "a%2f", &too_long] {
            assert!(!is_evaluation_id(id), "{id:?}");
        }
    }

    #[test]
    fn event_ids_are_short_and_without_control_characters() {
        let (longest, too_long) = ("é".repeat(200), "é".repeat(201));
        for id in ["e", "a/b c", "…", &longest] {
            assert!(is_event_id(id), "{id}");
        }
        for id in ["", "a\n", "\0", "a\u{7f}", "\u{85}", &too_long] {
            assert!(!is_event_id(id), "{id:?}");
        }
    }

    #[test]
    fn the_id_of_a_content_depends_on_channel_and_payload() {
        let id = of_content("evaluation:queued", r#"{"eval_id":"a"}"#);

        assert_eq!(id.len(), 32);
        assert_eq!(id, of_content("evaluation:queued", r#"{"eval_id":"a"}"#));
        assert_ne!(id, of_content("evaluation:running", r#"{"eval_id":"a"}"#));
        assert_ne!(id, of_content("evaluation:queued", r#"{"eval_id":"b"}"#));
    }

    #[test]
    fn a_refused_id_is_shown_short_and_escaped() {
        assert_eq!(shown("a\n\0"), r"a\n\0");
        assert_eq!(shown(&"x".repeat(100)), format!("{}…", "x".repeat(80)));
    }
}
