//! What a crash leaves: nothing that was answered as durable is missing.

use std::fs::File;

use storage_plugin_api::Delete;

use super::*;
use crate::caretaker::ScanNeed;
use crate::entry::FRAME_HEADER;
use crate::replay::replay;
use crate::segment::{HEADER_BYTES, OldSegment};

/// Opens a copy of the directory and compares it with what was answered.
fn assert_whole(path: &Path, expected: &[(&str, Option<&str>)], when: &str) {
    let copy = copy(path);
    let backend = open(copy.path());
    for (id, state) in expected {
        assert_eq!(canonical(&backend, id).as_deref(), *state, "{id} {when}");
    }
    let listed = ids(&backend, &Query { limit: 2, ..Query::default() });
    let stored: Vec<_> = expected.iter().filter(|(_, state)| state.is_some()).map(|(id, _)| *id).collect();
    assert_eq!(listed, stored, "{when}");
    let counted: u64 = backend.counts(&call()).expect("counted").by_status.values().sum();
    assert_eq!(counted, stored.len() as u64, "{when}");
}

#[test]
fn a_crash_between_any_two_steps_loses_nothing() {
    let directory = directory();
    let path = directory.path();
    let (store, _lock) = open_still(path);
    let (first, second) = (queued("q", START), ended("c", START + SECOND, Status::Completed));
    let (one, both) = (first.to_canonical_json(), joined(&[&first, &second]));

    for id in ["a", "b", "c"] {
        merge_into(&store, id, &first);
    }
    let mut expected = [("a", Some(&*one)), ("b", Some(&*one)), ("c", Some(&*one))];
    assert_whole(path, &expected, "after the merge");
    store.checkpoint(u64::MAX).expect("written");
    assert_whole(path, &expected, "after a checkpoint");

    merge_into(&store, "a", &second);
    store.delete(&call(), &[Delete { id: "b", digest: None }]).expect("deleted");
    expected[0].1 = Some(&both);
    expected[1].1 = None;
    assert_whole(path, &expected, "after an update and a delete");

    let mut checkpoint = store.begin_checkpoint(u64::MAX);
    // Merged while the checkpoint runs: it may or may not take them along.
    merge_into(&store, "c", &second);
    expected[2].1 = Some(&both);
    assert_whole(path, &expected, "after the beginning of a checkpoint");
    store.write_files(&mut checkpoint).expect("written");
    merge_into(&store, "b", &second);
    let again = second.to_canonical_json();
    expected[1].1 = Some(&again);
    assert_whole(path, &expected, "after the files");
    assert_eq!(
        record(path, "a")["status"],
        "queued",
        "what a file has and the log has not stays until its heir is synced"
    );
    store.put_in_place(&mut checkpoint).expect("put");
    assert_eq!(record(path, "a")["status"], "completed");
    assert_whole(path, &expected, "after the files are in their places");
    store.write_index(&checkpoint).expect("written");
    assert_whole(path, &expected, "after the index");
    store.sync_files(&checkpoint).expect("synced");
    assert_whole(path, &expected, "after the sync");
    store.end_checkpoint(&checkpoint);
    assert_whole(path, &expected, "after the end of the checkpoint");
    store.checkpoint(u64::MAX).expect("written");
    assert_whole(path, &expected, "after the next checkpoint");
    store.log.finish(store.log.end());
    assert_whole(path, &expected, "after the log is gone");
}

#[test]
fn a_crash_while_the_files_are_written_leaves_none_torn() {
    let directory = directory();
    let (store, _lock) = open_still(directory.path());
    merge_into(&store, "a", &queued("q", START));
    store.checkpoint(u64::MAX).expect("written");

    // The half of a file where files are before they take their place, and where another version had them.
    let halves = ["writing/.writing.tmp", "evaluations/.writing.tmp"];
    for half in halves {
        std::fs::write(directory.path().join(half), b"{\"id\":").expect("written");
    }

    let copy = copy(directory.path());
    let backend = open(copy.path());
    assert!(get(&backend, "a").is_some_and(|found| !found.incomplete));
    assert!(halves.iter().all(|half| !copy.path().join(half).exists()));
}

#[test]
fn a_long_log_does_not_hide_files_that_came_meanwhile() {
    let directory = directory();
    let path = directory.path();
    open(path).close(&call()).expect("closed");
    let (store, lock) = open_still(path);
    for number in 0..400 {
        merge_into(&store, &format!("e-{number}"), &queued("q", START));
    }
    assert!(store.pending.is_filling(), "long enough for a checkpoint within the replay");
    drop((store, lock));
    std::fs::write(path.join("evaluations/foreign.json"), br#"{"id":"foreign","status":"queued"}"#).expect("written");

    let (store, _lock) = open_still(path);

    assert_eq!(store.caretaker.scan_need(), ScanNeed::Wanted);
}

#[test]
fn a_log_torn_at_any_byte_gives_what_is_before_it() {
    let directory = directory();
    let (store, _lock) = open_still(directory.path());
    let states = [queued("q", START), ended("c", START + 1, Status::Completed), queued("late", START + 2)];
    let file = log_files(directory.path()).remove(0);
    // Behind the last frame stands the mark that none follows.
    let end = || std::fs::metadata(&file).expect("a file").len() - FRAME_HEADER as u64;
    let mut lengths = vec![end()];
    for state in &states {
        merge_into(&store, "a", state);
        lengths.push(end());
    }
    let bytes = std::fs::read(&file).expect("a log");

    // A damaged log leaves a copy beside it.
    let beside = tempfile::tempdir().expect("a temporary directory");
    let torn = beside.path().join("torn.log");
    for length in 0..=bytes.len() {
        let whole = lengths.iter().filter(|end| **end <= length as u64).count().saturating_sub(1);
        // Cut there, or with what stood in the file before it was used again.
        for rest in [&[][..], &[0xab; 300], &[0; 300], &bytes[HEADER_BYTES..]] {
            std::fs::write(&torn, [&bytes[..length], rest].concat()).expect("written");
            let segment = OldSegment { path: torn.clone(), number: 1, end: 0 };
            let mut entries = 0;
            let read = replay(&segment, |_| {
                entries += 1;
                Ok(())
            });
            let is_torn_header = length < HEADER_BYTES && !rest.is_empty();
            assert!(read.is_ok() || is_torn_header, "{length} bytes");
            // Old frames of the same segment cannot follow but where a test puts them: there they may be read again.
            let again = if rest.len() > 300 { states.len() } else { 0 };
            assert!((whole..=whole + again).contains(&entries), "{length} bytes: {entries} entries");
        }
    }

    // The whole backend, at the offsets that matter most: around the ends of entries.
    for end in &lengths {
        for length in [end - 1, *end, end + 1] {
            let copy = copy(directory.path());
            let copied = log_files(copy.path()).remove(0);
            File::options().write(true).open(&copied).expect("a file").set_len(length).expect("cut");
            let whole = lengths.iter().filter(|end| **end <= length).count().saturating_sub(1);
            let expected = (whole > 0).then(|| joined(&states[..whole].iter().collect::<Vec<_>>()));
            assert_eq!(canonical(&open(copy.path()), "a"), expected, "{length} bytes");
        }
    }
}

#[test]
fn segments_are_used_again_and_what_they_held_before_is_never_replayed() {
    let directory = directory();
    let (store, _lock) = open_still(directory.path());
    let body = "x".repeat(200_000);
    let mut merged = State::new();
    for number in 0..120 {
        let mut state = State::new();
        state.set_text(&EventStamp::new(1000 - number, "e"), names::CODE, format!("{number}{body}"));
        merge_into(&store, "a", &state);
        merged.merge(&state);
        store.log.prepare();
        if number % 10 == 0 {
            store.checkpoint(u64::MAX).expect("written");
        }
        if number % 40 == 39 {
            assert_whole(directory.path(), &[("a", Some(&merged.to_canonical_json()))], "while segments go round");
        }
    }

    // 24 MB went through no more files than are needed for 2 MB.
    assert!(log_files(directory.path()).len() <= 4, "{:?}", log_files(directory.path()));
    store.delete(&call(), &[Delete { id: "a", digest: None }]).expect("deleted");
    assert_whole(directory.path(), &[("a", None)], "after the delete");
}

#[test]
fn a_damaged_entry_in_the_middle_of_the_log_takes_nothing_else_along() {
    let directory = directory();
    let (store, _lock) = open_still(directory.path());
    let file = log_files(directory.path()).remove(0);
    for id in ["a", "b", "c"] {
        merge_into(&store, id, &queued("q", START));
    }
    let mut bytes = std::fs::read(&file).expect("a log");
    let used = bytes.iter().rposition(|byte| *byte != 0).expect("a log of three frames");
    bytes[used / 2] ^= 1;
    let copy = copy(directory.path());
    let copied = log_files(copy.path()).remove(0);
    std::fs::write(&copied, &bytes).expect("damaged");

    let backend = open(copy.path());

    assert_eq!(ids(&backend, &Query { limit: 9, ..Query::default() }), ["a", "c"]);
    assert_eq!(std::fs::read(copied.with_extension("log.damaged")).expect("set aside"), bytes);
}

#[test]
fn nothing_is_answered_as_stored_once_the_log_is_removed() {
    let directory = directory();
    let backend = open(directory.path());
    merge(&backend, "a", &queued("q", START));
    std::fs::remove_dir_all(directory.path()).expect("removed");

    let state = queued("q", START);
    let answered = with_items(&[("b", &state)], |batch| backend.merge(&call(), batch));
    let error = answered.expect_err("it is not stored");

    assert!(error.message.contains("removed"), "{error}");
}

#[test]
fn a_segment_whose_removal_was_lost_is_not_replayed() {
    let directory = directory();
    let backend = open(directory.path());
    merge(&backend, "a", &queued("q", START));
    backend.delete(&call(), &[Delete { id: "a", digest: None }]).expect("deleted");
    let old = log_files(directory.path()).remove(0);
    let bytes = std::fs::read(&old).expect("a log");
    backend.close(&call()).expect("closed");
    drop(backend);
    let backend = open(directory.path());
    merge(&backend, "a", &queued("again", START));
    backend.close(&call()).expect("closed");
    drop(backend);

    std::fs::write(&old, bytes).expect("the old segment is back");

    assert!(get(&open(directory.path()), "a").is_some());
}

#[test]
fn a_kill_at_any_moment_under_load_loses_nothing() {
    let directory = directory();
    let backend = open(directory.path());
    let answered = std::sync::Mutex::new(Vec::<(String, String)>::new());
    let stop = std::sync::atomic::AtomicBool::new(false);

    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0.. {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    return;
                }
                let (id, event_id) = (format!("e-{}", number % 50), format!("q-{number}"));
                merge(&backend, &id, &queued(&event_id, START + number));
                answered.lock().expect("a lock").push((id, event_id));
            }
        });
        for round in 0..8 {
            std::thread::sleep(Duration::from_millis(60 + 37 * round));
            let promised = answered.lock().expect("a lock").clone();
            // Copied file by file while all goes on: the log first, as it lets go only of what is in the files.
            let copied = copy_log_first(directory.path());
            let reopened = open(copied.path());
            for (id, event_id) in promised {
                let found = get(&reopened, &id).unwrap_or_else(|| panic!("{id} is missing in round {round}"));
                let name = format!("{}{event_id}", names::HISTORY_PREFIX);
                assert!(found.state.get(&name).is_some(), "{event_id} of {id} is missing in round {round}");
            }
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

/// A copy of a living directory: not one moment of it, but no later one of the log than of the files.
fn copy_log_first(path: &Path) -> TempDir {
    let target = directory();
    for name in ["log", "evaluations", "events"] {
        std::fs::create_dir(target.path().join(name)).expect("a directory");
        loop {
            let mut complete = true;
            for entry in std::fs::read_dir(path.join(name)).expect("a directory") {
                let entry = entry.expect("an entry");
                // Files come and go while they are copied.
                complete &= std::fs::copy(entry.path(), target.path().join(name).join(entry.file_name())).is_ok()
                    || name != "log";
            }
            if complete {
                break;
            }
        }
    }
    target
}
