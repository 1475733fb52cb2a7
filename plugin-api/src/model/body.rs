//! A text body (`code`, `output`, `error`): the text itself, or a reference to where it lives.
//!
//! Both have the same identity, the SHA-256 of the text's UTF-8 bytes, so a merge never reads a body again.

use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The SHA-256 of a value's canonical bytes; for a body, of its UTF-8 text.
pub type Hash = [u8; 32];

/// What is known of a text that is kept elsewhere, or was left out of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// Length of the text in characters (Unicode scalar values).
    pub characters: u64,
    /// Lines of the text: `\n`, `\r\n`, and a last line without an end.
    pub lines: u64,
    /// Where the whole text is; none if this answer only left it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// The beginning of the text, for people; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub preview: String,
    /// SHA-256 of the whole text in UTF-8, as 64 lower-case hex digits.
    #[serde(with = "hex_hash")]
    pub sha256: Hash,
}

/// A text, or a reference to it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Body {
    content: Content,
    /// Boxed, so that a register is small: most have no body.
    hash: OnceLock<Box<Hash>>,
}

#[derive(Clone, Debug)]
enum Content {
    Text(Arc<str>),
    /// The reference and its canonical JSON, which is how it is lent to a backend; made when it is first asked for.
    Reference(Arc<(Reference, OnceLock<String>)>),
}

impl Body {
    /// A body whose text is here.
    #[must_use]
    pub fn text(text: impl Into<Arc<str>>) -> Self {
        Self { content: Content::Text(text.into()), hash: OnceLock::new() }
    }

    /// A body whose text is here and whose hash is known already, say from where it was stored.
    #[must_use]
    pub fn text_with_hash(text: impl Into<Arc<str>>, hash: Hash) -> Self {
        Self { content: Content::Text(text.into()), hash: OnceLock::from(Box::new(hash)) }
    }

    /// A body whose text is elsewhere.
    #[must_use]
    pub fn reference(reference: Reference) -> Self {
        let hash = OnceLock::from(Box::new(reference.sha256));
        Self { content: Content::Reference(Arc::new((reference, OnceLock::new()))), hash }
    }

    /// The text, if it is here.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match &self.content {
            Content::Text(text) => Some(text),
            Content::Reference(_) => None,
        }
    }

    /// The reference, if the text is elsewhere.
    #[must_use]
    pub fn as_reference(&self) -> Option<&Reference> {
        match &self.content {
            Content::Text(_) => None,
            Content::Reference(reference) => Some(&reference.0),
        }
    }

    /// The canonical JSON of the reference, if the text is elsewhere.
    #[must_use]
    pub fn reference_json(&self) -> Option<&str> {
        match &self.content {
            Content::Text(_) => None,
            Content::Reference(reference) => {
                let (reference, json) = &**reference;
                // The fields are declared in the order of their names, so serde writes them sorted.
                let write = || serde_json::to_string(reference).expect("a reference has only text and numbers");
                Some(json.get_or_init(write))
            }
        }
    }

    /// SHA-256 of the text in UTF-8; computed at the first call and kept.
    #[must_use]
    pub fn hash(&self) -> &Hash {
        self.hash.get_or_init(|| {
            Box::new(match &self.content {
                Content::Text(text) => sha256(text.as_bytes()),
                Content::Reference(reference) => reference.0.sha256,
            })
        })
    }

    /// The hash if it is known without computing it.
    #[must_use]
    pub fn known_hash(&self) -> Option<&Hash> {
        self.hash.get().map(|hash| &**hash)
    }

    /// Length in characters (Unicode scalar values).
    #[must_use]
    pub fn characters(&self) -> u64 {
        match &self.content {
            Content::Text(text) => text.chars().count() as u64,
            Content::Reference(reference) => reference.0.characters,
        }
    }

    /// Lines: `\n`, `\r\n`, and a last line without an end.
    #[must_use]
    pub fn lines(&self) -> u64 {
        match &self.content {
            Content::Text(text) => text.lines().count() as u64,
            Content::Reference(reference) => reference.0.lines,
        }
    }

    /// The body without its text: what an answer carries that leaves bodies out.
    #[must_use]
    pub fn without_text(&self) -> Self {
        match &self.content {
            Content::Text(_) => Self::reference(Reference {
                characters: self.characters(),
                lines: self.lines(),
                location: None,
                preview: String::new(),
                sha256: *self.hash(),
            }),
            Content::Reference(_) => self.clone(),
        }
    }
}

/// SHA-256 of some bytes.
#[must_use]
pub fn sha256(bytes: &[u8]) -> Hash {
    Sha256::digest(bytes).into()
}

/// A hash as 64 lower-case hex digits.
#[must_use]
pub fn to_hex(hash: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = hash.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

/// The hash that 64 lower-case hex digits stand for.
#[must_use]
pub fn from_hex(text: &str) -> Option<Hash> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(hash)
}

mod hex_hash {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(hash: &super::Hash, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::to_hex(hash))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<super::Hash, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        super::from_hex(&text).ok_or_else(|| D::Error::custom("a hash is 64 lower-case hex digits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_count_a_last_line_without_an_end() {
        let lines = |text: &str| Body::text(text).lines();

        assert_eq!([lines(""), lines("a"), lines("a\n"), lines("a\r\nb"), lines("\n\n")], [0, 1, 1, 2, 2]);
    }

    #[test]
    fn a_hash_survives_hex() {
        let hash = sha256(b"abc");

        assert_eq!(from_hex(&to_hex(&hash)), Some(hash));
        assert_eq!(from_hex(&to_hex(&hash).to_uppercase()), None);
        assert!(to_hex(&hash).starts_with("ba7816bf"));
    }
}
