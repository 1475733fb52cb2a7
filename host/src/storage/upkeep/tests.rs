//! Copying, comparing and pruning backends in memory that misbehave when they are asked to.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use storage_plugin_api::{Capabilities, EventStamp, State, Status, names};

use super::compare::{Compared, Comparing, Difference, Side};
use super::copy::{Copied, Copying, Place, copy};
use super::prune::{Pruning, prune};
use super::*;
use crate::storage::testing::TestBackend;

const NUMBER: usize = 600;

fn state(time: i64, end: Option<Status>) -> State {
    let stamp = EventStamp::new(time, "e");
    let mut state = State::new();
    state.set_created(&stamp);
    state.set_open(&stamp, Status::Queued);
    state.set_text(&stamp, names::CODE, "print(1)");
    if let Some(status) = end {
        state.set_end(&EventStamp::new(time, "end"), status);
    }
    state
}

fn id(number: usize) -> String {
    format!("e-{number:05}")
}

fn filled(number: usize) -> Arc<TestBackend> {
    let backend = TestBackend::new();
    (0..number).for_each(|number| backend.insert(&id(number), state(1, None)));
    backend
}

fn patience(waiting: &dyn Fn(&Error)) -> Patience<'_> {
    let (call_timeout, limit) = (Duration::from_secs(5), Duration::from_secs(20));
    Patience { call_timeout, limit, waiting, is_told_to_end: &|| false }
}

fn copied(from: &TestBackend, to: &TestBackend, place: Place) -> Copied {
    let copying = Copying { batch: 100, place, ..Copying::default() };
    copy(from, to, &copying, &patience(&|_| {}), &mut |_, _| Ok(())).expect("it copies")
}

fn compared(a: &TestBackend, b: &TestBackend, repair: bool) -> (Compared, Vec<Difference>) {
    let mut differences = Vec::new();
    let comparing =
        Comparing { a, b, patience: &patience(&|_| {}), repair, rate: None, settle: Duration::from_millis(600) };
    let result = comparing.run(&mut |_, difference| {
        differences.extend(difference.cloned());
        Ok(())
    });
    (result.expect("it compares"), differences)
}

fn whole() -> Compared {
    Compared { complete: true, ..Compared::default() }
}

#[test]
fn a_copy_has_everything_and_is_harmless_when_repeated() {
    let (from, to) = (filled(NUMBER), TestBackend::new());

    let first = copied(&from, &to, Place::default());
    let second = copied(&from, &to, Place::default());

    assert_eq!((first.copied, first.created, first.rejected), (600, 600, 0));
    assert_eq!((second.copied, second.created, second.unchanged), (600, 0, 600));
    assert_eq!(compared(&from, &to, false), (Compared { compared: 600, ..whole() }, Vec::new()));
}

#[test]
fn a_copy_goes_on_where_another_one_ended() {
    let (from, to) = (filled(NUMBER), TestBackend::new());
    let place = RefCell::new(Place::default());
    let copying = Copying { batch: 100, ..Copying::default() };
    let stop = |copied: &Copied, at: &Place| {
        place.replace(at.clone());
        if copied.copied >= 300 { Err(Error::configuration("the disk is full")) } else { Ok(()) }
    };
    let stopped = copy(&*from, &*to, &copying, &patience(&|_| {}), &mut { stop });
    assert_eq!(stopped.map_err(|error| error.message), Err("the disk is full".to_owned()));

    let reached = place.into_inner();
    let rest = copied(&from, &to, reached.clone());
    let from_a_foreign_cursor = Place { cursor: Some("of another backend".to_owned()), ..reached };
    let again = copied(&from, &to, from_a_foreign_cursor);

    // A page of 256 in parts of 100, and the first part of the next one.
    assert_eq!([rest.copied, again.copied], [600 - 356; 2]);
    assert_eq!(compared(&from, &to, false).0.different, 0);
}

#[test]
fn what_fails_for_now_is_tried_again_and_what_is_refused_is_listed() {
    let (from, to) = (filled(300), TestBackend::new());
    let failures = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let count = Arc::clone(&failures);
    to.set_fault(move |call| match (call, count.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
        ("merge", 0..2) => Err(Error::unavailable("connection refused")),
        _ => Ok(()),
    });
    let waits = Cell::new(0);
    let count = |_: &Error| waits.set(waits.get() + 1);

    let copying = Copying { batch: 50, ..Copying::default() };
    let result = copy(&*from, &*to, &copying, &patience(&count), &mut |_, _| Ok(())).expect("it copies");
    assert_eq!((result.created, waits.get()), (300, 2));

    to.set_fault(|call| if call == "merge" { Err(Error::invalid_item("no room for this one")) } else { Ok(()) });
    let refused = copied(&filled(3), &to, Place::default());
    assert_eq!((refused.rejected, refused.rejections.len()), (3, 3));
    assert_eq!((refused.rejections[1].id.as_str(), refused.rejections[1].kind), ("e-00001", "invalid_item"));

    to.is_away();
    let short = Patience { limit: Duration::from_millis(10), ..patience(&|_| {}) };
    let given_up = copy(&*from, &*to, &copying, &short, &mut |_, _| Ok(()));
    assert_eq!(given_up.map_err(|error| error.kind), Err(ErrorKind::Unavailable));
}

#[test]
fn a_copy_keeps_to_its_rate_and_a_dry_run_merges_nothing() {
    let (from, to) = (filled(60), TestBackend::new());

    let dry = Copying { batch: 100, dry_run: true, ..Copying::default() };
    let would = copy(&*from, &*to, &dry, &patience(&|_| {}), &mut |_, _| Ok(())).expect("it reads");
    assert_eq!((would.copied, would.created), (60, 0));
    assert_eq!(compared(&from, &to, false).0.only_in_a, 60);

    let started = Instant::now();
    let slow = Copying { batch: 10, rate: Some(200), ..Copying::default() };
    copy(&*from, &*to, &slow, &patience(&|_| {}), &mut |_, _| Ok(())).expect("it copies");
    assert!(started.elapsed() >= Duration::from_millis(250), "{:?}", started.elapsed());
}

#[test]
fn work_that_is_told_to_end_does_so_between_two_parts_and_says_where_it_is() {
    let (from, to) = (filled(NUMBER), TestBackend::new());
    let done = Cell::new(0);
    let is_told_to_end = || done.get() >= 200;
    let patience = Patience { is_told_to_end: &is_told_to_end, ..patience(&|_| {}) };
    let mut place = Place::default();

    let copying = Copying { batch: 100, ..Copying::default() };
    let ended = copy(&*from, &*to, &copying, &patience, &mut |copied, at| {
        done.set(copied.copied);
        place = at.clone();
        Ok(())
    });
    let ended = ended.expect("it is no failure");
    let rest = copied(&from, &to, place);

    assert_eq!((ended.copied, ended.created, ended.complete), (200, 200, false));
    assert_eq!((rest.copied, rest.created, rest.complete), (400, 400, true));
    let settle = Duration::from_millis(600);
    let comparing = Comparing { a: &*from, b: &*to, patience: &patience, repair: false, rate: None, settle };
    assert_eq!(comparing.run(&mut |_, _| Ok(())), Ok(Compared::default()));
    let pruning = Pruning { ended_before: 1000, batch: 50, rate: None, dry_run: false };
    let pruned = prune(&*from, &Capabilities::default(), &pruning, &patience, &mut |_| Ok(())).expect("no failure");
    assert!(!pruned.complete);

    // Nor does it wait on for who is away.
    to.is_away();
    let told = Cell::new(false);
    let tell = |_: &Error| told.set(true);
    let patience = Patience { waiting: &tell, is_told_to_end: &|| told.get(), ..patience };
    let ended = copy(&*from, &*to, &copying, &patience, &mut |_, _| Ok(()));
    assert_eq!(ended.map_err(|error| error.kind), Err(ErrorKind::Unavailable));
}

#[test]
fn what_a_merge_under_way_has_told_only_one_of_the_two_is_no_difference() {
    let (a, b) = (filled(3), filled(2));
    a.insert(&id(1), state(1, Some(Status::Completed)));

    let found = std::thread::scope(|scope| {
        scope.spawn(|| {
            // It stands still for some looks before the merge is through.
            sleep(Duration::from_millis(200));
            b.insert(&id(1), state(1, Some(Status::Completed)));
            b.insert(&id(2), state(1, None));
        });
        compared(&a, &b, false)
    });

    assert_eq!(found, (Compared { compared: 3, ..whole() }, Vec::new()));
}

#[test]
fn every_difference_is_named_and_repaired_both_ways() {
    let (a, b) = (filled(300), filled(300));
    a.insert("only-a", state(1, None));
    b.insert("0-only-b", state(1, None));
    let mut ended = state(1, Some(Status::Failed));
    ended.set_metadata(&EventStamp::new(2, "m"), "key", "1");
    let mut other = state(1, None);
    other.set_text(&EventStamp::new(0, "earlier"), names::CODE, "print(2)");
    a.insert(&id(7), ended);
    b.insert(&id(7), other);

    let (result, differences) = compared(&a, &b, false);
    let (repaired, _) = compared(&a, &b, true);
    let (after, _) = compared(&a, &b, false);

    let expected = Compared { compared: 302, different: 3, only_in_a: 1, only_in_b: 1, ..whole() };
    assert_eq!(result, expected);
    let ids: Vec<_> = differences.iter().map(|difference| (difference.id.as_str(), difference.only_in)).collect();
    assert_eq!(ids, [("0-only-b", Some(Side::B)), ("e-00007", None), ("only-a", Some(Side::A))]);
    let registers: Vec<_> = differences[1].registers.iter().map(|of| (of.name.as_str(), of.only_in)).collect();
    assert_eq!(registers, [("code", None), ("end/failed", Some(Side::A)), ("metadata/key", Some(Side::A))]);
    assert_eq!(repaired, Compared { repaired: 3, ..expected });
    assert_eq!(after, Compared { compared: 302, ..whole() });
}

/// The reason was thrown away, and each that was refused was waited for.
#[test]
fn what_a_repair_cannot_merge_is_told_with_the_reason_and_not_waited_for() {
    let (a, b) = (filled(4), TestBackend::new());
    for number in 0..3 {
        b.fail_for(&id(number), Error::invalid_item("it is too long"), 100);
    }
    let started = Instant::now();

    let (result, differences) = compared(&a, &b, true);

    assert_eq!(result, Compared { compared: 4, different: 4, only_in_a: 4, repaired: 1, ..whole() });
    let refused: Vec<_> = differences.iter().map(|difference| difference.refused.len()).collect();
    assert_eq!(refused, [1, 1, 1, 0]);
    assert_eq!((differences[0].refused[0].by, &*differences[0].refused[0].reason), (Side::B, "it is too long"));
    // Four times 700 ms if each were looked at by itself.
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[test]
fn what_becomes_equal_while_it_is_read_again_is_no_difference() {
    let (a, b) = (filled(3), filled(3));
    a.insert("late", state(1, None));
    let late = Arc::clone(&b);
    let reads = std::sync::atomic::AtomicU32::new(0);
    b.set_fault(move |call| {
        if call == "get" && reads.fetch_add(1, std::sync::atomic::Ordering::Relaxed) == 1 {
            late.insert("late", state(1, None));
        }
        Ok(())
    });

    assert_eq!(compared(&a, &b, false).0, Compared { compared: 4, ..whole() });
    b.mend();
}

#[test]
fn old_evaluations_go_from_a_backend_that_does_not_prune() {
    let backend = filled(5);
    for number in 0..400 {
        backend.insert(&format!("old-{number}"), state(1, Some(Status::TERMINAL[number % 3])));
    }
    backend.insert("young", state(1000, Some(Status::Completed)));
    let pruned = |dry_run| {
        let pruning = Pruning { ended_before: 1000, batch: 50, rate: None, dry_run };
        let capabilities = Capabilities { list_by_id: true, ..Capabilities::default() };
        prune(&*backend, &capabilities, &pruning, &patience(&|_| {}), &mut |_| Ok(())).expect("it prunes").removed
    };
    // One that could not be deleted for a moment used to end it.
    backend.fail_for("old-7", Error::unavailable("it is being merged back"), 2);

    let removed = [pruned(true), pruned(false), pruned(false)];

    assert_eq!(removed, [400, 400, 0]);
    assert_eq!(compared(&backend, &TestBackend::new(), false).0.compared, 6);
}
