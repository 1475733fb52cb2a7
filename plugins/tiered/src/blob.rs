//! A body as a blob: its key, its compressed form, the reference that stands for it, and the way back.
//!
//! What comes back is compared with its SHA-256, and never takes more memory than the reference says that it has.

use std::io::Read;
use std::sync::Arc;

use storage_plugin_api::body::{from_hex, sha256, to_hex};
use storage_plugin_api::{Body, Error, Hash, Reference, Result};

/// What every location of this layer begins with.
const SCHEME: &str = "tiered:";
/// What a key ends with, so that people see what it is: `zstdcat KEY | sha256sum` gives the rest of it.
const ENDING: &str = ".zst";
/// The compression's own default: logs shrink to a fraction at some hundred megabytes a second.
const LEVEL: i32 = 3;
/// No character of UTF-8 has more bytes.
const LONGEST_CHARACTER: u64 = 4;

/// The key that the blob of a text has.
pub(crate) fn key(hash: &Hash) -> String {
    to_hex(hash) + ENDING
}

/// The hash of the text that a key stands for; none if this layer does not make such keys.
pub(crate) fn hash_of_key(key: &str) -> Option<Hash> {
    from_hex(key.strip_suffix(ENDING)?)
}

/// Where a body is, as its reference says it.
pub(crate) fn location(blobs: &str, hash: &Hash) -> String {
    format!("{SCHEME}{blobs}/{}", key(hash))
}

/// True if a layer such as this one has moved the body.
pub(crate) fn is_moved(reference: &Reference) -> bool {
    reference.location.as_deref().is_some_and(|location| location.starts_with(SCHEME))
}

/// Whose blobs have the body that a layer such as this one has moved.
pub(crate) fn place(reference: &Reference) -> Option<&str> {
    let (blobs, _) = reference.location.as_deref()?.strip_prefix(SCHEME)?.rsplit_once('/')?;
    Some(blobs)
}

/// What stands in a state for a text that is elsewhere.
pub(crate) fn reference(text: &str, hash: Hash, location: String, preview: usize) -> Body {
    let body = Body::text_with_hash(text, hash);
    Body::reference(Reference {
        characters: body.characters(),
        lines: body.lines(),
        location: Some(location),
        preview: text[..text.floor_char_boundary(preview)].to_owned(),
        sha256: hash,
    })
}

/// The blob of a text.
pub(crate) fn pack(text: &str) -> Result<Vec<u8>> {
    zstd::bulk::compress(text.as_bytes(), LEVEL)
        .map_err(|cause| Error::internal(format_args!("cannot compress {} bytes: {cause}", text.len())))
}

/// The text of a blob, or why it is not the one that a reference stands for.
pub(crate) fn unpack(blob: &[u8], reference: &Reference) -> std::result::Result<Arc<str>, String> {
    let limit = reference.characters.saturating_mul(LONGEST_CHARACTER);
    let mut bytes = Vec::new();
    let decoder = zstd::stream::Decoder::with_buffer(blob).map_err(|cause| format!("cannot decompress it: {cause}"))?;
    decoder
        .take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|cause| format!("cannot decompress it: {cause}"))?;
    if bytes.len() as u64 > limit {
        return Err(format!("it has more than the {} characters of the body", reference.characters));
    }
    if sha256(&bytes) != reference.sha256 {
        return Err("its text has another SHA-256".to_owned());
    }
    String::from_utf8(bytes).map(Into::into).map_err(|_| "its text is no UTF-8".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference_of(text: &str, preview: usize) -> Reference {
        let hash = sha256(text.as_bytes());
        let body = reference(text, hash, location("bucket", &hash), preview);
        body.as_reference().expect("a reference").clone()
    }

    #[test]
    fn a_text_comes_back_and_its_reference_tells_of_it() {
        let text = "ä\0\r\nzwei\n".repeat(1000);
        let reference = reference_of(&text, 4);

        let blob = pack(&text).expect("packed");

        assert!(blob.len() < 200, "{} bytes", blob.len());
        assert_eq!(unpack(&blob, &reference).as_deref(), Ok(&*text));
        assert_eq!((reference.characters, reference.lines), (9000, 2000));
        assert_eq!(reference.preview, "ä\0\r");
        assert_eq!(reference_of("ää", 3).preview, "ä", "characters stay whole");
        assert!(is_moved(&reference));
        assert_eq!(place(&reference), Some("bucket"));
    }

    #[test]
    fn what_is_not_the_text_is_refused() {
        let reference = reference_of("the text", 0);
        let refused = |blob: &[u8]| unpack(blob, &reference).expect_err("refused");

        assert!(!refused(b"").is_empty());
        assert!(refused(b"not compressed").contains("cannot decompress"));
        assert!(refused(&pack("the tent").expect("packed")).contains("another SHA-256"));
        let whole = pack("the text").expect("packed");
        assert!(refused(&whole[..whole.len() - 2]).contains("cannot decompress"));
        assert!(refused(&[&whole[..], b"more"].concat()).contains("cannot decompress"));
        // Some kilobytes that would be a gigabyte.
        assert!(refused(&pack(&"0".repeat(1 << 24)).expect("packed")).contains("more than the 8 characters"));
    }

    #[test]
    fn only_keys_of_this_layer_are_taken_for_some() {
        let hash = sha256(b"x");

        assert_eq!(hash_of_key(&key(&hash)), Some(hash));
        for other in ["", ".zst", "backup.zst", &to_hex(&hash), &key(&hash).to_uppercase()] {
            assert_eq!(hash_of_key(other), None, "{other}");
        }
    }
}
