//! The family *blobs*: bytes under a key, where a backend offers them.

use super::trial::{Trial, Unmet, call, call_ok, expect, open};
use super::{Behavior, Level, Need};

pub(super) const BEHAVIORS: &[Behavior] = &[
    behavior("blobs.kept_and_listed", "keeps blobs, and lists them in key order", kept_and_listed),
    behavior(
        "blobs.kept_when_reopened",
        "has its blobs, if it is durable, when it is opened again",
        kept_when_reopened,
    ),
    behavior("blobs.delete_if_untouched", "deletes a blob only if it was not stored again since", delete_if_untouched),
];

const fn behavior(name: &'static str, asks: &'static str, run: fn(&Trial<'_>) -> Result<(), Unmet>) -> Behavior {
    Behavior { name, asks, level: Level::Complete, needs: Need::Blobs, run }
}

/// Keys are the SHA-256 of the bytes, as layers name them.
fn key_of(bytes: &[u8]) -> String {
    crate::body::to_hex(&crate::body::sha256(bytes))
}

fn kept_and_listed(trial: &Trial<'_>) -> Result<(), Unmet> {
    let backend = trial.open()?;
    let mut contents: Vec<Vec<u8>> =
        (0..5_u8).map(|number| [trial.prefix.as_bytes(), &[0, number, 255]].concat()).collect();
    contents.push([trial.prefix.as_bytes(), &vec![7; 1 << 20]].concat());
    for bytes in &contents {
        call_ok("put_blob", backend.put_blob(&call(), &key_of(bytes), bytes))?;
        call_ok("put_blob", backend.put_blob(&call(), &key_of(bytes), bytes))?;
    }
    for bytes in &contents {
        let found = call_ok("get_blob", backend.get_blob(&call(), &key_of(bytes)))?;
        let is_same = found.as_ref() == Some(bytes);
        expect(is_same, &format!("the {} bytes that were put", bytes.len()), || match &found {
            Some(found) => format!("{} other bytes", found.len()),
            None => "none".to_owned(),
        })?;
    }
    let absent = call_ok("get_blob", backend.get_blob(&call(), &key_of(b"never put")))?;
    expect(absent.is_none(), "no blob under a key that was never put", || "one".to_owned())?;
    let mut expected: Vec<(String, u64)> = contents.iter().map(|bytes| (key_of(bytes), bytes.len() as u64)).collect();
    expected.sort();
    let (mut after, mut listed) = (String::new(), Vec::new());
    loop {
        let page = call_ok("scan_blobs", backend.scan_blobs(&call(), &after, 2))?;
        expect(page.blobs.len() <= 2, "at most 2 blobs a page", || format!("{}", page.blobs.len()))?;
        listed.extend(page.blobs.iter().map(|blob| (blob.key.clone(), blob.size)));
        let Some(last) = page.blobs.last().filter(|_| page.more) else { break };
        after.clone_from(&last.key);
    }
    expect(listed.is_sorted(), "blobs in key order", || format!("{listed:?}"))?;
    listed.retain(|blob| expected.contains(blob));
    expect(listed == expected, &format!("each of the {} blobs once, with its size", expected.len()), || {
        format!("{listed:?}")
    })
}

fn kept_when_reopened(trial: &Trial<'_>) -> Result<(), Unmet> {
    let place = trial.place()?;
    let bytes = trial.prefix.as_bytes();
    let key = key_of(bytes);
    let backend = open(&*place)?;
    call_ok("put_blob", backend.put_blob(&call(), &key, bytes))?;
    backend.end()?;

    let backend = open(&*place)?;
    let found = call_ok("get_blob", backend.get_blob(&call(), &key))?;
    let is_right = found.as_deref() == Some(bytes) || (found.is_none() && !trial.capabilities.durable);
    expect(is_right, "the blob that was put", || if found.is_some() { "another one" } else { "none" }.to_owned())?;
    backend.end()
}

fn delete_if_untouched(trial: &Trial<'_>) -> Result<(), Unmet> {
    let backend = trial.open()?;
    let bytes = trial.prefix.as_bytes();
    let key = key_of(bytes);
    call_ok("put_blob", backend.put_blob(&call(), &key, bytes))?;
    let deleted = call_ok("delete_blob", backend.delete_blob(&call(), &key, 1))?;
    let found = call_ok("get_blob", backend.get_blob(&call(), &key))?;
    expect(!deleted && found.is_some(), "a blob that was stored since stays", || format!("deleted: {deleted}"))?;
    let deleted = call_ok("delete_blob", backend.delete_blob(&call(), &key, i64::MAX / 2))?;
    let found = call_ok("get_blob", backend.get_blob(&call(), &key))?;
    expect(deleted && found.is_none(), "a blob that was not stored since is deleted", || format!("deleted: {deleted}"))
}
