//! What stands around every opened backend: limits, deadline, caught panics, metrics and the circuit breaker.
//!
//! Nothing else in the host calls a backend, and layers are handed only guarded children. A guard changes no answer that
//! keeps the contract; it cannot end a call that hangs, but says so in its health, and no other call joins in beyond the
//! limit. See `gate.rs` for the limit, `breakers.rs` and `kind.rs` for when a backend is left alone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use storage_plugin_api::{
    Answer, Backend, BlobPage, Call, Capabilities, Counts, Delete, Deleted, Error, ErrorKind, Fields, Found, Health,
    Item, Page, Prune, Pruned, Query, Result,
};
use tracing::{error, info, warn};

use super::breaker::{Admission, BreakerState, Refusal, Sign};
use super::breakers::Breakers;
use super::config::Config;
use super::gate::{Gate, NoEntry, Overdue, drop_caught, panic_message};
use super::kind::{
    COUNTS, DELETE, DELETE_BLOB, FLUSH, GET, GET_BLOB, Kind, LIST, MERGE, PRUNE, PUT_BLOB, SCAN_BLOBS, alive,
    sign_of_answers, sign_of_deletes, sign_of_error, sign_of_found,
};
use super::lock;
use super::meter::Meter;
use crate::telemetry::metrics::Metrics;

/// How far past its deadline a call is taken to hang. Backends look at the deadline themselves and may be a little late.
const GRACE: Duration = Duration::from_secs(1);

/// A backend with everything around it that the host relies on.
pub struct Guard {
    instance: Arc<str>,
    capabilities: Capabilities,
    gate: Gate,
    breakers: Breakers,
    /// It stands before others, each of which has breakers of its own.
    is_layer: bool,
    /// The evaluation that was away when it was merged alone for the last time.
    alone: Mutex<Option<Box<str>>>,
    call_timeout: Duration,
    /// It was told that its tree is in use.
    begun: AtomicBool,
    closed: AtomicBool,
    meter: Meter,
}

impl Guard {
    /// Puts a guard around an opened backend.
    #[must_use]
    pub fn new(
        instance: &Arc<str>,
        backend: Arc<dyn Backend>,
        capabilities: Capabilities,
        config: &Config,
        metrics: &Metrics,
    ) -> Self {
        Self {
            instance: Arc::clone(instance),
            gate: Gate::new(backend, capabilities.parallel_calls),
            capabilities,
            breakers: Breakers::new(&config.breaker, config.call_timeout.saturating_add(GRACE)),
            is_layer: false,
            alone: Mutex::default(),
            call_timeout: config.call_timeout,
            begun: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            meter: Meter::new(metrics, instance),
        }
    }

    /// The same around a layer. What its children are away for is answered by it, and says nothing of the rest that it can
    /// do; only calls that do not come back open its breakers.
    #[must_use]
    pub(crate) fn of_layer(mut self) -> Self {
        self.is_layer = true;
        self
    }

    /// The instance's name in the configuration.
    #[must_use]
    pub fn instance(&self) -> &Arc<str> {
        &self.instance
    }

    /// What the instance promises.
    #[must_use]
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// True once it was told to close.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// True once it was told that its tree is in use.
    pub(crate) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    /// Where the circuit breakers stand; the one that is worse off.
    #[must_use]
    pub fn breaker_state(&self) -> BreakerState {
        self.breakers.state(Instant::now()).0
    }

    /// Since when its calls have failed so often that it is left alone.
    pub(crate) fn failing_since(&self) -> Option<Instant> {
        self.breakers.failing_since()
    }

    /// The call that hangs, if one does.
    #[must_use]
    pub fn hanging(&self) -> Option<Overdue> {
        self.gate.overdue(Instant::now()).filter(|overdue| overdue.late >= GRACE)
    }

    /// Drops the backend; what a panic of its drop said, if it did. Belongs after [`Backend::close`].
    pub(crate) fn release(&self) -> Option<String> {
        drop_caught(self.gate.release())
    }

    /// One call: breaker, place, deadline, panic, check of the answer, metrics.
    fn call<T>(
        &self,
        kind: Kind,
        call: &Call,
        run: impl FnOnce(&dyn Backend, &Call) -> Result<T>,
        sign_of: impl Fn(&T) -> Sign<'_>,
    ) -> Result<T> {
        let call = call.at_most(self.call_timeout);
        let breaker = self.breakers.of(kind);
        let admission = breaker.admit(Instant::now(), kind.tells).map_err(|refusal| self.refused(&refusal))?;
        let answer = match self.gate.enter(kind.name, call.deadline) {
            Ok(pass) => {
                let run = AssertUnwindSafe(|| run(pass.backend(), &call));
                let answer = catch_unwind(run).unwrap_or_else(|payload| Err(self.panicked(kind, payload)));
                drop(pass);
                answer
            }
            Err(refused) => {
                let error = self.not_let_in(refused);
                let is_away = refused == NoEntry::Full && error.kind == ErrorKind::Unavailable && kind.tells;
                self.report(kind, admission, if is_away { Sign::Away(&error.message) } else { Sign::Nothing });
                self.meter.failed(error.kind);
                return Err(error);
            }
        };
        let sign = match &answer {
            Ok(answer) => sign_of(answer),
            Err(error) => {
                self.meter.failed(error.kind);
                if kind.alarms && error.kind == ErrorKind::Configuration {
                    error!(backend = %self.instance, call = kind.name, %error, "storage.misconfigured");
                }
                sign_of_error(kind, error)
            }
        };
        let sign = match sign {
            Sign::Away(_) if self.is_layer => Sign::Alive,
            sign => sign,
        };
        self.report(kind, admission, sign);
        answer
    }

    /// What the answers to a merge show. The same evaluation, alone again and again, says nothing of the others: it may
    /// be the only one that the backend is away for.
    fn sign_of_merge<'a>(&self, batch: &[Item<'_>], answers: &'a [Answer]) -> Sign<'a> {
        let (sign, [item]) = (sign_of_answers(answers), batch) else { return sign_of_answers(answers) };
        let mut alone = lock(&self.alone);
        match sign {
            // What is to find out whether the backend is back has no other answer.
            Sign::Away(_) if alone.as_deref() == Some(item.id()) && self.breakers.of(MERGE).is_closed() => {
                return Sign::Nothing;
            }
            Sign::Away(_) => *alone = Some(item.id().into()),
            Sign::Alive | Sign::Nothing => {}
        }
        sign
    }

    fn report(&self, kind: Kind, admission: Admission, sign: Sign<'_>) {
        let breaker = self.breakers.of(kind);
        if !breaker.report(Instant::now(), admission, sign) {
            return;
        }
        self.meter.breaker(self.breaker_state());
        let calls = kind.path();
        match breaker.state(Instant::now()) {
            (BreakerState::Closed, _) => info!(backend = %self.instance, calls, "storage.breaker_closed"),
            (BreakerState::Open | BreakerState::HalfOpen, reason) => {
                warn!(backend = %self.instance, calls, reason = reason.unwrap_or_default(), "storage.breaker_opened");
            }
        }
    }

    fn refused(&self, refusal: &Refusal) -> Error {
        let Refusal { reason, retry_after } = refusal;
        Error::unavailable(format_args!("backend `{}` is left alone after repeated failures: {reason}", self.instance))
            .with_retry_after(*retry_after)
    }

    fn not_let_in(&self, refused: NoEntry) -> Error {
        match refused {
            NoEntry::Shut => Error::unavailable(format_args!("backend `{}` is closed", self.instance)),
            NoEntry::Full => {
                let Self { instance, capabilities, .. } = self;
                let places = capabilities.parallel_calls;
                match self.hanging() {
                    // Not a matter of waiting: they do not come back when they should.
                    Some(Overdue { call, late, .. }) => Error::unavailable(format_args!(
                        "backend `{instance}` takes {places} calls at once, and `{call}` should have been back {late:.0?} ago"
                    )),
                    None => Error::overloaded(format_args!(
                        "backend `{instance}` takes {places} calls at once, and none came back in time"
                    )),
                }
            }
        }
    }

    fn panicked(&self, kind: Kind, payload: Box<dyn std::any::Any + Send>) -> Error {
        let message = panic_message(payload);
        error!(backend = %self.instance, call = kind.name, panic = message, "storage.backend_panicked");
        Error::internal(format_args!("backend `{}` panicked in `{}`: {message}", self.instance, kind.name))
    }

    /// The answers, if there are as many as were asked for.
    fn complete<T>(&self, kind: Kind, asked: usize, answers: Vec<T>) -> Result<Vec<T>> {
        if answers.len() == asked {
            return Ok(answers);
        }
        Err(Error::internal(format_args!(
            "backend `{}` gave {} answers to {asked} items of `{}`; this is a defect of its plugin",
            self.instance,
            answers.len(),
            kind.name
        )))
    }
}

/// Without a default method: one that is added to the contract must be guarded too.
#[deny(clippy::missing_trait_methods)]
impl Backend for Guard {
    fn merge(&self, call: &Call, batch: &[Item<'_>]) -> Result<Vec<Answer>> {
        let run = |backend: &dyn Backend, call: &Call| {
            let started = Instant::now();
            let answers = backend.merge(call, batch);
            self.meter.merge_called(batch.len(), started.elapsed());
            self.complete(MERGE, batch.len(), answers?)
        };
        let answers = self.call(MERGE, call, run, |answers| self.sign_of_merge(batch, answers))?;
        self.meter.merged(&answers);
        Ok(answers.into_iter().map(|answer| answer.taken_by(&self.instance)).collect())
    }

    fn get(&self, call: &Call, ids: &[&str], fields: Fields) -> Result<Vec<Option<Found>>> {
        let run = |backend: &dyn Backend, call: &Call| self.complete(GET, ids.len(), backend.get(call, ids, fields)?);
        self.call(GET, call, run, |found| sign_of_found(found))
    }

    fn list(&self, call: &Call, query: &Query) -> Result<Page> {
        self.call(LIST, call, |backend, call| backend.list(call, query), alive)
    }

    fn counts(&self, call: &Call) -> Result<Counts> {
        self.call(COUNTS, call, |backend, call| backend.counts(call), alive)
    }

    fn delete(&self, call: &Call, items: &[Delete<'_>]) -> Result<Vec<Deleted>> {
        let run = |backend: &dyn Backend, call: &Call| self.complete(DELETE, items.len(), backend.delete(call, items)?);
        self.call(DELETE, call, run, |answers| sign_of_deletes(answers))
    }

    fn health(&self) -> Health {
        let (state, reason) = self.breakers.state(Instant::now());
        let health = match (self.hanging(), state, self.gate.backend()) {
            (_, _, None) => Health::unhealthy("closed"),
            (Some(Overdue { call, running, late }), _, _) => Health::unhealthy(format!(
                "`{call}` has been running for {running:.0?} and should have been back {late:.0?} ago"
            )),
            (None, BreakerState::Open, _) => Health::unhealthy(reason.unwrap_or_default()),
            (None, BreakerState::Closed | BreakerState::HalfOpen, Some(backend)) => {
                let asked = catch_unwind(AssertUnwindSafe(|| backend.health()));
                drop_caught(backend);
                asked.unwrap_or_else(|payload| {
                    Health::unhealthy(format!("the backend panicked in `health`: {}", panic_message(payload)))
                })
            }
        };
        health.with("breaker", state.as_str())
    }

    /// A second time, as for one that is carried over into another tree, changes nothing.
    fn begin(&self, call: &Call) -> Result<()> {
        if self.is_closed() || self.begun.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let Some(backend) = self.gate.backend() else { return Ok(()) };
        let begun = catch_unwind(AssertUnwindSafe(|| backend.begin(call)));
        drop_caught(backend);
        begun.unwrap_or_else(|payload| {
            let message = panic_message(payload);
            Err(Error::internal(format_args!("backend `{}` panicked in `begin`: {message}", self.instance)))
        })
    }

    fn flush(&self, call: &Call) -> Result<()> {
        self.call(FLUSH, call, |backend, call| backend.flush(call), alive)
    }

    fn close(&self, call: &Call) -> Result<()> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let inside = self.gate.shut(Instant::now() + call.remaining() / 2);
        if inside > 0 {
            return Err(Error::internal(format_args!(
                "cannot close backend `{}`: {inside} calls are still running",
                self.instance
            )));
        }
        let Some(backend) = self.gate.backend() else { return Ok(()) };
        let closed = catch_unwind(AssertUnwindSafe(|| backend.close(call)));
        drop_caught(backend);
        closed.unwrap_or_else(|payload| {
            let message = panic_message(payload);
            Err(Error::internal(format_args!("backend `{}` panicked in `close`: {message}", self.instance)))
        })
    }

    fn prune(&self, call: &Call, prune: &Prune) -> Result<Pruned> {
        self.call(PRUNE, call, |backend, call| backend.prune(call, prune), alive)
    }

    fn put_blob(&self, call: &Call, key: &str, bytes: &[u8]) -> Result<()> {
        self.call(PUT_BLOB, call, |backend, call| backend.put_blob(call, key, bytes), alive)
    }

    fn get_blob(&self, call: &Call, key: &str) -> Result<Option<Vec<u8>>> {
        self.call(GET_BLOB, call, |backend, call| backend.get_blob(call, key), alive)
    }

    fn scan_blobs(&self, call: &Call, after: &str, limit: usize) -> Result<BlobPage> {
        self.call(SCAN_BLOBS, call, |backend, call| backend.scan_blobs(call, after, limit), alive)
    }

    fn delete_blob(&self, call: &Call, key: &str, untouched_since: i64) -> Result<bool> {
        self.call(DELETE_BLOB, call, |backend, call| backend.delete_blob(call, key, untouched_since), alive)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(panic) = self.release() {
            error!(backend = %self.instance, call = "drop", panic, "storage.backend_panicked");
        }
    }
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Guard").field("instance", &self.instance).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
