//! Whole calls over a directory. Buckets of real servers are in `tests/tests/conformance/buckets.rs` and
//! `tests/tests/system/buckets/`.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use storage_plugin_api::plugin_host::Host;
use storage_plugin_api::{Backend as _, BlobEntry, Call, ErrorKind, OpenBackend, Opening, Result};
use tempfile::TempDir;

use crate::{Backend, Options};

/// A name that nobody writes any more.
const OLD_HOUR: &str = "2020-02-29T23";
const KEY: &str = "00ff.zst";

fn call() -> Call {
    Call::with_budget(Duration::from_secs(30))
}

fn open(directory: &Path, read_only: bool) -> Result<Backend> {
    let options = Options { url: format!("file://{}", directory.display()), ..Options::default() };
    let deadline = Instant::now() + Duration::from_secs(30);
    let (instance, host) = ("bucket".to_owned(), Host::detached("bucket"));
    Backend::open(options, Opening { instance, children: Vec::new(), deadline, read_only, host })
}

fn opened() -> (TempDir, Backend) {
    let directory = tempfile::tempdir().expect("make a temporary directory");
    let backend = open(directory.path(), false).expect("opened");
    (directory, backend)
}

/// A copy of a blob as it was stored years ago.
fn store_long_ago(directory: &Path, key: &str, bytes: &[u8]) {
    std::fs::create_dir_all(directory.join(key)).expect("make a directory");
    let path = directory.join(key).join(OLD_HOUR);
    std::fs::write(&path, bytes).expect("write a file");
    let file = File::options().append(true).open(path).expect("open it");
    file.set_modified(UNIX_EPOCH + Duration::from_secs(1_583_017_200)).expect("set its time");
}

/// So long ago, in microseconds.
fn ago(time: Duration) -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970") - time;
    i64::try_from(since.as_micros()).expect("a time of this age")
}

fn copies(directory: &Path, key: &str) -> Vec<String> {
    let entries = std::fs::read_dir(directory.join(key)).expect("the directory is there");
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("a name")).collect()
}

fn scan(backend: &Backend, limit: usize) -> Vec<BlobEntry> {
    let (mut after, mut listed) = (String::new(), Vec::new());
    loop {
        let page = backend.scan_blobs(&call(), &after, limit).expect("listed");
        assert!(page.blobs.len() <= limit);
        listed.extend(page.blobs);
        match listed.last() {
            Some(last) if page.more => after.clone_from(&last.key),
            _ => return listed,
        }
    }
}

#[test]
fn a_put_makes_an_old_blob_young_and_stays_one_copy() {
    let (directory, backend) = opened();
    store_long_ago(directory.path(), KEY, b"the bytes");
    assert_eq!(backend.get_blob(&call(), KEY).expect("read").as_deref(), Some(&b"the bytes"[..]));
    assert_eq!(scan(&backend, 5)[0].touched_at, 1_583_017_200_000_000);
    let before = ago(Duration::from_secs(60));

    backend.put_blob(&call(), KEY, b"the bytes").expect("stored");
    backend.put_blob(&call(), KEY, b"the bytes").expect("stored again");

    let blobs = scan(&backend, 5);
    assert_eq!((blobs.len(), blobs[0].size), (1, 9));
    assert!(blobs[0].touched_at > before, "{blobs:?}");
    // Of two hours, if one ended between the two.
    let copies = copies(directory.path(), KEY);
    assert!(copies.len() <= 2 && !copies.iter().any(|name| name == OLD_HOUR), "{copies:?}");
    assert_eq!(backend.get_blob(&call(), KEY).expect("read").as_deref(), Some(&b"the bytes"[..]));
}

#[test]
fn only_what_nobody_can_be_writing_is_deleted() {
    let (directory, backend) = opened();
    backend.put_blob(&call(), KEY, b"young").expect("stored");
    let delete = |untouched_since| backend.delete_blob(&call(), KEY, untouched_since).expect("an answer");

    // The hour is not over, so that somebody may be about to write the same name.
    assert!(!delete(ago(Duration::ZERO)));
    assert!(!delete(ago(Duration::from_secs(3600))));
    assert!(delete(i64::MAX / 2));
    assert_eq!(backend.get_blob(&call(), KEY).expect("read"), None);
    assert!(delete(ago(Duration::from_secs(3600))), "it is gone already");

    store_long_ago(directory.path(), KEY, b"old");
    assert!(delete(ago(Duration::from_secs(3600))));
    assert!(!directory.path().join(KEY).exists(), "nothing is left behind");
}

/// With one name for a blob, a delete that has seen the old one would hit the new one.
#[test]
fn a_delete_never_hits_a_put_that_comes_at_the_same_moment() {
    let (directory, backend) = opened();

    for round in 0..200 {
        store_long_ago(directory.path(), KEY, b"old");
        std::thread::scope(|scope| {
            scope.spawn(|| backend.delete_blob(&call(), KEY, ago(Duration::from_secs(3600))).expect("an answer"));
            backend.put_blob(&call(), KEY, b"new").expect("stored");
        });

        let found = backend.get_blob(&call(), KEY).expect("read");
        assert_eq!(found.as_deref(), Some(&b"new"[..]), "round {round}");
        assert!(backend.delete_blob(&call(), KEY, i64::MAX / 2).expect("deleted"));
    }
}

#[test]
fn a_read_finds_the_blob_whatever_is_put_meanwhile() {
    let (directory, backend) = opened();
    store_long_ago(directory.path(), KEY, b"the bytes");

    std::thread::scope(|scope| {
        let puts = scope.spawn(|| {
            for _ in 0..100 {
                backend.put_blob(&call(), KEY, b"the bytes").expect("stored");
            }
        });
        while !puts.is_finished() {
            assert!(backend.get_blob(&call(), KEY).expect("read").is_some());
        }
    });
}

#[test]
fn blobs_are_listed_in_pages_and_other_files_are_not() {
    let (directory, backend) = opened();
    let keys: Vec<String> = (0..7).map(|number| format!("{number:04}.zst")).collect();
    for key in keys.iter().rev() {
        store_long_ago(directory.path(), key, b"old and long");
        // Another copy, as a put leaves it that is killed halfway.
        std::fs::write(directory.path().join(key).join("2021-01-01T00"), key).expect("write a file");
    }
    std::fs::write(directory.path().join("notes.txt"), "of somebody else").expect("write a file");
    std::fs::write(directory.path().join(&keys[0]).join("notes.txt"), "of somebody else").expect("write a file");

    for limit in [1, 2, 3, 7, 100] {
        let listed = scan(&backend, limit);
        assert_eq!(listed.iter().map(|blob| &blob.key).collect::<Vec<_>>(), keys.iter().collect::<Vec<_>>());
        assert!(listed.iter().all(|blob| blob.size == 8), "the newest copy counts: {listed:?}");
    }
    assert_eq!(backend.get_blob(&call(), &keys[0]).expect("read").as_deref(), Some(keys[0].as_bytes()));
}

#[test]
fn what_is_no_key_is_refused() {
    let (_directory, backend) = opened();

    for key in ["", "../escape", ".hidden", "a/b"] {
        assert_eq!(backend.put_blob(&call(), key, b"").expect_err("refused").kind, ErrorKind::InvalidItem);
    }
    assert!(backend.scan_blobs(&call(), "../\0ü", 5).expect("an answer").blobs.is_empty());
}

#[test]
fn what_is_opened_to_read_makes_nothing() {
    let directory = tempfile::tempdir().expect("make a temporary directory");
    let missing = directory.path().join("missing");

    let error = open(&missing, true).map(drop).expect_err("refused");

    assert_eq!(error.kind, ErrorKind::Configuration);
    assert!(!missing.exists());
    drop(open(&missing, false).expect("made"));
    assert!(missing.is_dir());
}

#[test]
fn a_directory_that_goes_is_told_and_comes_back_by_itself() {
    let (directory, backend) = opened();
    assert!(backend.health().healthy);
    let moved = directory.path().with_extension("moved");
    std::fs::rename(directory.path(), &moved).expect("rename the directory");
    std::fs::write(directory.path(), "no directory").expect("write a file");

    let error = backend.put_blob(&call(), KEY, b"the bytes").expect_err("there is no directory");

    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert!(!backend.health().healthy);
    std::fs::remove_file(directory.path()).expect("remove the file");
    std::fs::rename(&moved, directory.path()).expect("rename the directory");
    backend.put_blob(&call(), KEY, b"the bytes").expect("stored");
    assert!(backend.health().healthy);
}
