//! The journal through lives that end in the middle, and with files that somebody damaged.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tempfile::TempDir;

use super::archive::read_archive;
use super::config::{Config, Mode};
use super::{Journal, MOST_WAITING, Reader, Recorded, Writer};

/// A wait that no healthy machine needs.
const SOON: Duration = Duration::from_secs(20);

fn config(path: &Path) -> Config {
    Config { path: path.to_path_buf(), sync_interval: Duration::from_millis(1), ..Config::default() }
}

fn small(path: &Path) -> Config {
    Config { max_bytes: 1 << 20, ..config(path) }
}

fn open(config: &Config) -> (Arc<Journal>, Writer, Reader) {
    Journal::open(config).expect("the journal opens")
}

fn entry(number: usize) -> Recorded {
    let payload = format!("{{\"eval_id\":\"e-{number}\"}}").into_bytes();
    let received_at = i64::try_from(number).expect("few");
    Recorded { channel: "evaluation:queued".into(), payload, received_at, position: None }
}

fn entries(numbers: std::ops::Range<usize>) -> Vec<Recorded> {
    numbers.map(entry).collect()
}

/// What a reader hands over until it has all, in order.
fn read(reader: &mut Reader, count: usize) -> Vec<Recorded> {
    let mut all = Vec::new();
    while all.len() < count && reader.read(&mut all) {}
    all
}

/// The numbers of entries, by their time of arrival.
fn numbers(entries: &[Recorded]) -> Vec<i64> {
    entries.iter().map(|entry| entry.received_at).collect()
}

fn settle<'a>(journal: &Journal, entries: impl IntoIterator<Item = &'a Recorded>) {
    journal.settle(entries.into_iter().filter_map(|entry| entry.position));
}

/// Everything that a new life finds, as a kill leaves the files.
fn left(config: &Config) -> Vec<Recorded> {
    let (_journal, writer, mut reader) = open(config);
    drop(writer);
    read(&mut reader, usize::MAX)
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < SOON, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn segment_files(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(directory)
        .expect("the directory is there")
        .map(|entry| entry.expect("it is readable").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "segment"))
        .collect();
    files.sort();
    files
}

/// The files of a journal after a kill: the lock of the process is not copied.
fn as_left_by_a_kill(directory: &Path) -> TempDir {
    let copy = tempfile::tempdir().expect("a temporary directory");
    for file in segment_files(directory).into_iter().chain([directory.join("settled")]) {
        if let (Ok(bytes), Some(name)) = (std::fs::read(&file), file.file_name()) {
            std::fs::write(copy.path().join(name), bytes).expect("it is writable");
        }
    }
    copy
}

#[test]
fn what_is_not_settled_comes_again_after_a_kill_before_what_is_new() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (journal, mut writer, mut reader) = open(&config(directory.path()));
    writer.append(entries(0..10));
    let handed_over = read(&mut reader, 10);
    settle(&journal, handed_over.iter().filter(|entry| ![4, 6].contains(&entry.received_at)));
    wait_until("what is settled is written down", || {
        let directory = super::directory::settled(directory.path());
        directory.is_some_and(|settled| settled.values().any(|to| *to > 0))
    });

    let copy = as_left_by_a_kill(directory.path());

    let (_journal, mut writer, mut reader) = open(&config(copy.path()));
    writer.append(entries(10..12));
    assert_eq!(numbers(&read(&mut reader, 8)), [4, 5, 6, 7, 8, 9, 10, 11]);
}

#[test]
fn what_arrives_while_nobody_reads_waits_on_disk_beyond_what_memory_holds() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (journal, mut writer, mut reader) = open(&config(directory.path()));
    let count = 3 * MOST_WAITING;
    for start in (0..count).step_by(100) {
        writer.append(entries(start..count.min(start + 100)));
    }
    let in_memory = journal.lock().waiting.len();
    assert_eq!((in_memory, journal.status().entries), (MOST_WAITING, count as u64));

    let handed_over = read(&mut reader, count);

    assert_eq!(handed_over, {
        let mut expected = entries(0..count);
        expected.iter_mut().zip(&handed_over).for_each(|(entry, read)| entry.position = read.position);
        expected
    });
    settle(&journal, &handed_over);
    assert_eq!((journal.status().entries, journal.status().oldest), (0, None));
    writer.append(entries(0..5));
    assert_eq!(read(&mut reader, 5).len(), 5);
}

#[test]
fn segments_go_once_they_are_settled_and_a_full_journal_waits_for_that() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let config = small(directory.path());
    let (journal, mut writer, mut reader) = open(&config);
    let large = |number| Recorded { payload: vec![b'x'; 10_000], ..entry(number) };
    let count = 300;
    let writing = std::thread::spawn(move || {
        (0..count).for_each(|number| writer.append([large(number)]));
        writer
    });
    wait_until("it is full", || journal.status().problem.is_some());
    let status = journal.status();
    assert!(status.problem.is_some_and(|problem| problem.contains("it holds 1MiB")), "the operator is told");
    assert!(status.bytes <= config.max_bytes && status.entries < 110, "{} bytes", status.bytes);

    let mut seen = Vec::new();
    while seen.len() < count {
        let mut handed_over = Vec::new();
        assert!(reader.read(&mut handed_over));
        settle(&journal, &handed_over);
        seen.extend(numbers(&handed_over));
    }

    let writer = writing.join().expect("the writer goes on");
    assert_eq!(seen, (0..300).collect::<Vec<_>>());
    wait_until("segments go", || segment_files(directory.path()).len() <= 2);
    assert_eq!((journal.status().problem, journal.status().entries), (None, 0));
    drop(writer);
}

#[test]
fn an_entry_larger_than_the_journal_passes_when_it_is_alone() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (journal, mut writer, mut reader) = open(&small(directory.path()));
    let huge = || Recorded { payload: vec![b'x'; 3 << 20], ..entry(1) };

    writer.append([huge()]);
    let handed_over = read(&mut reader, 1);
    settle(&journal, &handed_over);
    writer.append([huge()]);

    assert_eq!(read(&mut reader, 1)[0].payload.len(), 3 << 20);
}

/// What arrived used to be left in memory, and so was lost unless storage came back in time.
#[test]
fn told_to_stop_a_full_journal_takes_what_arrived_before() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (journal, mut writer, mut reader) = open(&small(directory.path()));
    writer.append([Recorded { payload: vec![b'x'; 1 << 20], ..entry(0) }]);
    journal.stop();

    writer.append(entries(1..3));

    drop(writer);
    let all = read(&mut reader, usize::MAX);
    assert_eq!((numbers(&all), journal.status().entries, journal.status().unrecorded), (vec![0, 1, 2], 3, 0));
    assert!(all.iter().all(|entry| entry.position.is_some()));
}

#[test]
fn what_a_broken_disk_does_not_take_before_the_end_is_counted_as_lost_until_it_is_handed_over() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("journal");
    let (journal, mut writer, mut reader) = open(&config(&path));
    std::fs::remove_dir_all(&path).expect("it is there");
    std::fs::write(&path, "no directory").expect("it is writable");
    journal.lock().abandoned = true;
    journal.stop();

    writer.append(entries(0..3));

    assert_eq!(journal.status().unrecorded, 3);
    drop(writer);
    journal.finish(Instant::now());
    assert_eq!((read(&mut reader, usize::MAX).len(), journal.status().unrecorded), (3, 0));
}

/// The end used to go through everything on disk first, for as long as the drain may take.
#[test]
fn told_to_stop_the_reader_leaves_what_the_disk_has_to_the_next_start() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (journal, mut writer, mut reader) = open(&config(directory.path()));
    writer.append(entries(0..MOST_WAITING + 2000));
    assert_eq!(read(&mut reader, MOST_WAITING + 1).len(), MOST_WAITING + 512, "a part of what was loaded");

    journal.stop();
    drop(writer);

    assert!(read(&mut reader, usize::MAX).is_empty());
    assert_eq!(left(&config(as_left_by_a_kill(directory.path()).path())).len(), MOST_WAITING + 2000);
}

/// What was written there used to be counted to another segment, or to none, and was never read.
#[test]
fn a_segment_that_cannot_be_read_is_not_written_to_any_more() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (journal, mut writer, mut reader) = open(&config(directory.path()));
    writer.append(entries(0..MOST_WAITING + 10));
    let file = segment_files(directory.path()).remove(0);
    std::fs::rename(&file, directory.path().join("elsewhere")).expect("it is there");
    let in_memory = read(&mut reader, MOST_WAITING);
    let reading = std::thread::spawn(move || {
        let all = read(&mut reader, 5);
        (reader, all)
    });
    wait_until("it is given up", || journal.status().damages == 1);

    writer.append(entries(20..25));

    let (_reader, all) = reading.join().expect("it reads");
    assert_eq!((in_memory.len(), numbers(&all), journal.status().entries), (MOST_WAITING, (20..25).collect(), 5));
    assert_eq!(left(&config(as_left_by_a_kill(directory.path()).path())).len(), 5);
}

#[test]
fn in_spill_mode_only_what_memory_has_no_room_for_is_on_disk() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (journal, mut writer, mut reader) = open(&Config { mode: Mode::Spill, ..config(directory.path()) });
    writer.append(entries(0..10));
    assert_eq!(journal.status().entries, 0);
    writer.append(entries(10..MOST_WAITING + 50));
    assert_eq!(journal.status().entries, 50);
    writer.append(entries(MOST_WAITING + 50..MOST_WAITING + 60));

    let all = read(&mut reader, MOST_WAITING + 60);

    assert_eq!(numbers(&all), (0..4156).collect::<Vec<_>>());
    assert!(all.iter().all(|entry| entry.position.is_some() == (entry.received_at >= 4096)));
    settle(&journal, &all);
    let mut rest = Vec::new();
    // The reader sees that it has caught up when it comes again.
    let reading = std::thread::spawn(move || reader.read(&mut rest).then_some(rest));
    wait_until("it has caught up", || !journal.lock().spilled);
    writer.append(entries(0..1));
    assert_eq!(reading.join().expect("it reads").map(|rest| rest[0].position), Some(None));
}

#[test]
fn what_is_settled_is_archived_within_bounds_and_read_back_for_a_replay() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let archiving = Config { archive: true, archive_bytes: 300_000, ..small(directory.path()) };
    let (journal, mut writer, mut reader) = open(&archiving);
    let large = |number| Recorded { payload: vec![b'x'; 10_000], ..entry(number) };
    for number in 0..100 {
        writer.append([large(number)]);
        settle(&journal, &read(&mut reader, 1));
    }
    wait_until("what is settled is archived", || segment_files(&directory.path().join("archive")).len() > 5);
    drop(writer);
    journal.finish(Instant::now() + SOON);
    drop((journal, reader));

    let of_archive = |range| -> Vec<_> {
        let archive = read_archive(directory.path(), range).expect("it is readable");
        archive.map(|found| (found.position, found.entry.expect("nothing is damaged"))).collect()
    };

    let all = of_archive(i64::MIN..=i64::MAX);
    assert_eq!(all.last().map(|(_, entry)| (entry.received_at, entry.payload.len())), Some((99, 10_000)));
    assert!(all.is_sorted_by_key(|(position, _)| *position) && all.len() > 25, "{} entries", all.len());
    assert_eq!(of_archive(95..=97).len(), 3);
    let mut rest = read_archive(directory.path(), i64::MIN..=i64::MAX).expect("it is readable");
    rest.skip_to(all[all.len() - 3].0);
    assert_eq!(rest.count(), 2);

    // Its thread holds the lock until it is gone.
    wait_until("the lock is free", || super::directory::Directory::open(directory.path()).is_ok());
    // The next start prunes what the last one left beyond the bounds.
    let (journal, _writer, _reader) = open(&Config { archive_bytes: 100_000, ..archiving });
    wait_until("the archive is pruned", || segment_files(&directory.path().join("archive")).len() <= 2);
    assert_eq!(journal.status().entries, 0);
}

#[test]
fn a_missing_segment_and_files_that_are_none_are_told_and_no_hindrance() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let config = small(directory.path());
    let (_journal, mut writer, _reader) = open(&config);
    for number in 0..50 {
        writer.append([Recorded { payload: vec![b'x'; 10_000], ..entry(number) }]);
    }
    wait_until("the segments are known", || {
        super::directory::settled(directory.path()).is_some_and(|settled| settled.len() > 5)
    });
    let copy = as_left_by_a_kill(directory.path());
    let files = segment_files(copy.path());
    std::fs::remove_file(&files[1]).expect("it is there");
    std::fs::write(copy.path().join("0000000000-00000000.segment"), "garbage ".repeat(1000)).expect("it is writable");
    std::fs::write(copy.path().join("0000000900-00000000.segment"), []).expect("it is writable");

    let (journal, writer, mut reader) = open(&Config { path: copy.path().to_path_buf(), ..config });
    drop(writer);
    let found: BTreeSet<_> = numbers(&read(&mut reader, usize::MAX)).into_iter().collect();

    assert!(found.len() > 40 && found.len() < 50, "{found:?}");
    assert_eq!((journal.status().damages, journal.status().damaged_bytes), (2, 8000));
}

#[test]
fn a_directory_that_somebody_removes_is_made_again_and_the_journal_goes_on() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (journal, mut writer, mut reader) = open(&config(&directory.path().join("journal")));
    std::fs::remove_dir_all(directory.path().join("journal")).expect("it is there");

    writer.append(entries(0..1));

    wait_until("it is told", || journal.status().problem.is_some());
    let handed_over = read(&mut reader, 1);
    settle(&journal, &handed_over);
    wait_until("it is well without another entry", || journal.status().problem.is_none());
    writer.append(entries(1..2));
    assert_eq!(numbers(&handed_over), [0]);
    assert_eq!(numbers(&read(&mut reader, 1)), [1]);
    drop(writer);
    assert_eq!(segment_files(&directory.path().join("journal")).len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Cut anywhere, or with any byte changed, a journal opens and gives every entry that is whole, once.
    #[test]
    fn damage_costs_what_it_hits(seed: u64, cut: bool) {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (_journal, mut writer, _reader) = open(&config(directory.path()));
        writer.append(entries(0..8));
        let copy = as_left_by_a_kill(directory.path());
        let file = segment_files(copy.path()).remove(0);
        let mut bytes = std::fs::read(&file).expect("it is there");
        let at = usize::try_from(seed).unwrap_or(usize::MAX) % bytes.len();
        let length = bytes.len() / 8;
        let expected: Vec<i64> = if cut {
            bytes.truncate(at);
            (0..8).take(at / length).collect()
        } else {
            bytes[at] ^= 0x55;
            (0..8).filter(|number| usize::try_from(*number).unwrap_or_default() != at / length).collect()
        };
        std::fs::write(&file, bytes).expect("it is writable");

        prop_assert_eq!(numbers(&left(&config(copy.path()))), expected.clone());
        // And again: what was read once is not less the second time.
        prop_assert_eq!(numbers(&left(&config(as_left_by_a_kill(copy.path()).path()))), expected);
    }
}

/// It used to be called well again as soon as another sync went through.
#[test]
fn what_could_not_be_synced_is_told_until_it_is_stored() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let config = Config { sync_interval: Duration::from_millis(50), ..config(directory.path()) };
    let (journal, mut writer, mut reader) = open(&config);
    writer.append(entries(0..1));
    segment_files(directory.path()).iter().for_each(|path| std::fs::remove_file(path).expect("it is there"));
    wait_until("the sync fails", || journal.status().problem.is_some());

    writer.append(entries(1..2));
    std::thread::sleep(Duration::from_millis(1500));

    assert!(journal.status().problem.is_some_and(|problem| problem.starts_with("cannot sync")));
    settle(&journal, &read(&mut reader, 2));
    wait_until("it is well again", || journal.status().problem.is_none());
}
