//! What a guard makes of a backend that fails, hangs or panics.

use storage_plugin_api::abi::with_items;
use storage_plugin_api::{EventStamp, State, Status};

use super::*;
use crate::storage::testing::{TestBackend, counted, eventually, guarded, quick};
use crate::telemetry::metrics::BackendLabel;

fn call() -> Call {
    Call::with_budget(Duration::from_secs(5))
}

fn queued() -> State {
    let mut state = State::new();
    state.set_open(&EventStamp::new(1, "e"), Status::Queued);
    state
}

fn merge(guard: &Guard, ids: &[&str]) -> Result<Vec<Answer>> {
    let state = queued();
    let states: Vec<_> = ids.iter().map(|id| (*id, &state)).collect();
    with_items(&states, |batch| guard.merge(&call(), batch))
}

#[test]
fn answers_name_the_instance_and_are_counted() {
    let (backend, metrics) = (TestBackend::new(), Metrics::new());
    let guard = guarded(&backend, &quick(), &metrics);

    let answers = merge(&guard, &["a", "b", "a"]).expect("the backend is well");

    assert!(answers.iter().all(|answer| answer.taken_by.as_deref() == Some("root")));
    assert_eq!(counted(&metrics), ["merges created 2", "merges unchanged 1"]);
}

#[test]
fn a_panic_becomes_an_internal_error() {
    let (backend, metrics) = (TestBackend::new(), Metrics::new());
    let guard = guarded(&backend, &quick(), &metrics);
    backend.set_fault(|call| panic!("{call} is not my day"));

    let error = merge(&guard, &["a"]).expect_err("it panics");

    assert_eq!(error.kind, ErrorKind::Internal);
    assert_eq!(error.message, "backend `root` panicked in `merge`: merge is not my day");
    assert!(!guard.health().healthy);
    assert_eq!(counted(&metrics), ["storage_failures internal 1"]);
    backend.mend();
    assert!(merge(&guard, &["a"]).is_ok());
}

#[test]
fn a_panic_of_drop_is_caught() {
    let metrics = Metrics::new();
    let backend = TestBackend::new();
    let guard = guarded(&backend, &quick(), &metrics);
    backend.set_fault(|call| if call == "drop" { Err(Error::internal("dropped")) } else { Ok(()) });
    drop(backend);

    assert_eq!(guard.release().as_deref(), Some("dropped"));
}

#[test]
fn who_finds_no_place_within_the_call_timeout_is_told_overloaded() {
    let backend = TestBackend::new();
    let guard = guarded(&backend, &quick(), &Metrics::new());
    let (release, entered) = backend.hang();

    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| merge(&guard, &["a"]));
        }
        for _ in 0..2 {
            entered.recv().expect("two calls enter");
        }
        let state = queued();
        let soon = Call::with_budget(Duration::from_millis(30));
        let error = with_items(&[("a", &state)], |batch| guard.merge(&soon, batch)).expect_err("both places are taken");
        assert_eq!(error.kind, ErrorKind::Overloaded);
        drop(release);
    });
}

/// It used to be told that it is overloaded, which no layer takes for an outage.
#[test]
fn who_finds_no_place_since_calls_hang_is_told_that_the_backend_is_away() {
    let backend = TestBackend::new();
    let config = Config { call_timeout: Duration::from_millis(1), ..quick() };
    let guard = guarded(&backend, &config, &Metrics::new());
    let (release, entered) = backend.hang();

    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| merge(&guard, &["a"]));
        }
        for _ in 0..2 {
            entered.recv().expect("two calls enter");
        }
        eventually("they hang", || guard.hanging().is_some());
        for _ in 0..3 {
            assert_eq!(merge(&guard, &["a"]).expect_err("both places are taken").kind, ErrorKind::Unavailable);
        }
        assert_ne!(guard.breaker_state(), BreakerState::Closed);
        drop(release);
    });
}

/// A probe that asked for nothing used to close the breaker, though the store was not asked.
#[test]
fn a_merge_of_nothing_does_not_show_that_a_backend_is_back() {
    let backend = TestBackend::new();
    let guard = guarded(&backend, &quick(), &Metrics::new());
    backend.is_away();
    for _ in 0..3 {
        assert!(merge(&guard, &["a"]).is_err());
    }
    backend.set_fault(|_| Ok(()));

    eventually("it may be asked again", || merge(&guard, &[]).is_ok());
    assert_ne!(guard.breaker_state(), BreakerState::Closed);

    eventually("it is found again", || merge(&guard, &["a"]).is_ok());
    assert_eq!(guard.breaker_state(), BreakerState::Closed);
}

#[test]
fn a_hanging_call_turns_health_red_until_it_is_back() {
    let backend = TestBackend::new();
    let config = Config { call_timeout: Duration::from_millis(1), ..quick() };
    let guard = guarded(&backend, &config, &Metrics::new());
    let (release, entered) = backend.hang();

    std::thread::scope(|scope| {
        scope.spawn(|| merge(&guard, &["a"]));
        entered.recv().expect("the call enters");
        eventually("the call hangs", || guard.hanging().is_some());
        let health = guard.health();
        assert!(!health.healthy && health.reason.starts_with("`merge` has been running"), "{health:?}");
        drop(release);
    });

    backend.mend();
    assert!(guard.health().healthy);
}

#[test]
fn a_backend_that_is_away_is_left_alone_and_found_again() {
    let (backend, metrics) = (TestBackend::new(), Metrics::new());
    let guard = guarded(&backend, &quick(), &metrics);
    backend.is_away();
    for _ in 0..3 {
        assert_eq!(merge(&guard, &["a"]).expect_err("it is away").message, "the disk is gone");
    }
    let calls = backend.calls.load(Ordering::Relaxed);

    let error = merge(&guard, &["a"]).expect_err("it is left alone");

    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.retry_after.is_some() && error.message.contains("the disk is gone"), "{error:?}");
    assert_eq!(backend.calls.load(Ordering::Relaxed), calls);
    assert_eq!(metrics.breaker_open.get_or_create(&BackendLabel { backend: "root".to_owned() }).get(), 1);
    backend.mend();
    eventually("it is found again", || merge(&guard, &["a"]).is_ok());
    assert_eq!(guard.breaker_state(), BreakerState::Closed);
    assert_eq!(metrics.breaker_open.get_or_create(&BackendLabel { backend: "root".to_owned() }).get(), 0);
}

#[test]
fn what_cannot_be_written_to_can_still_be_read() {
    let backend = TestBackend::new();
    let guard = guarded(&backend, &quick(), &Metrics::new());
    backend.set_fault(|call| match call {
        "merge" => Err(Error::unavailable("the disk is full")),
        _ => Ok(()),
    });
    for _ in 0..5 {
        assert!(merge(&guard, &["a"]).is_err());
        assert!(guard.get(&call(), &["a"], Fields::Whole).is_ok());
    }

    assert_eq!(guard.breaker_state(), BreakerState::Open, "a read does not close it");
    assert_eq!(guard.health().reason, "the disk is full");
}

#[test]
fn expensive_reads_do_not_open_the_breaker() {
    let backend = TestBackend::new();
    let guard = guarded(&backend, &quick(), &Metrics::new());
    backend.is_away();

    for _ in 0..10 {
        assert!(guard.list(&call(), &Query::default()).is_err());
    }

    assert_eq!(guard.breaker_state(), BreakerState::Closed);
}

/// Five merges of nothing but large bodies, while only the place for those was away, shut off all the rest of the tree.
#[test]
fn a_layer_whose_children_are_away_is_not_left_alone() {
    let backend = TestBackend::new();
    let guard = guarded(&backend, &quick(), &Metrics::new()).of_layer();
    backend.set_fault(|call| match call {
        "health" | "drop" => Ok(()),
        _ => Err(Error::unavailable("the disk is gone")),
    });

    for _ in 0..10 {
        assert_eq!(merge(&guard, &["a"]).expect_err("a child is away").message, "the disk is gone");
        assert_eq!(guard.get(&call(), &["a"], Fields::Whole).expect_err("the same").message, "the disk is gone");
    }

    assert_eq!(guard.breaker_state(), BreakerState::Closed);
    assert!(guard.health().healthy, "it is as well as it says");
}

/// It closed everybody out when it was tried again and again in quiet times.
#[test]
fn one_evaluation_that_the_backend_is_away_for_does_not_open_the_breaker() {
    let backend = TestBackend::new();
    let guard = guarded(&backend, &quick(), &Metrics::new());
    for id in ["bad", "b", "c", "d"] {
        backend.fail_for(id, Error::unavailable("not this one"), 100);
    }

    for _ in 0..10 {
        let answers = merge(&guard, &["bad"]).expect("it is asked");
        assert!(matches!(answers[0].outcome, storage_plugin_api::Outcome::Rejected(_)));
    }
    assert_eq!(guard.breaker_state(), BreakerState::Closed);

    for id in ["b", "c"] {
        merge(&guard, &[id]).expect("it is asked");
    }
    assert_eq!(guard.breaker_state(), BreakerState::Open, "several that fail one after the other are an outage");
}

/// What had opened it was not asked for any more, so that it stayed open.
#[test]
fn a_list_finds_out_that_a_backend_can_be_read_again() {
    let backend = TestBackend::new();
    let guard = guarded(&backend, &quick(), &Metrics::new());
    backend.is_away();
    for _ in 0..3 {
        assert!(guard.get(&call(), &["a"], Fields::Whole).is_err());
    }
    assert_eq!(guard.breaker_state(), BreakerState::Open);
    backend.mend();

    eventually("it may be asked again", || guard.list(&call(), &Query::default()).is_ok());

    assert_eq!(guard.breaker_state(), BreakerState::Closed);
}

#[test]
fn nothing_follows_close() {
    let backend = TestBackend::new();
    let guard = guarded(&backend, &quick(), &Metrics::new());

    assert_eq!(guard.close(&call()), Ok(()));
    assert_eq!(guard.close(&call()), Ok(()), "the second one does nothing");

    let error = merge(&guard, &["a"]).expect_err("it is closed");
    assert_eq!(error.message, "backend `root` is closed");
    assert_eq!(*crate::storage::lock(&backend.events), ["close test"]);
}
