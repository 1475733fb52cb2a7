//! Work on whole backends: copying one into another, comparing two, pruning. Live: events are merged meanwhile.
//!
//! Everything goes in id order, in bounded parts, and is harmless when repeated; between two parts it can be told to end. `walk.rs` reads, `copy.rs`, `compare.rs` and
//! `prune.rs` do the work; the commands of the same names show it.

pub(crate) mod compare;
pub(crate) mod copy;
pub(crate) mod prune;
#[cfg(test)]
mod tests;
mod walk;

use std::thread::sleep;
use std::time::{Duration, Instant};

use storage_plugin_api::{Backend, Call, Error, ErrorKind, Fields, Found, Result};

/// Pauses between attempts: the first, and the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(5)];
/// How long a sleep may go on after the work was told to end.
const STEP: Duration = Duration::from_millis(50);
/// About how many bytes of states are held at once.
const PART_BYTES: u64 = 8 * 1024 * 1024;

/// How long calls are tried again that fail only for now.
pub(crate) struct Patience<'a> {
    /// What each call may take.
    pub(crate) call_timeout: Duration,
    /// How long to go on without success.
    pub(crate) limit: Duration,
    /// Is told why there is a pause.
    pub(crate) waiting: &'a dyn Fn(&Error),
    /// Whether to end early: between two parts, and instead of a pause.
    pub(crate) is_told_to_end: &'a dyn Fn() -> bool,
}

impl Patience<'_> {
    /// Calls until there is an answer, or an error that no repetition mends, or the time is over.
    fn ask<T>(&self, run: impl Fn(&Call) -> Result<T>) -> Result<T> {
        let mut pauses = Pauses::until(Instant::now() + self.limit);
        loop {
            let call = Call { deadline: Instant::now() + self.call_timeout, attempt: pauses.made };
            match run(&call) {
                Err(error) if is_passing(&error) => {
                    self.pause(&mut pauses, error)?;
                }
                answer => return answer,
            }
        }
    }

    /// Sleeps, for as long as the error asks if it does; the error if the time is over, or the work is to end.
    fn pause(&self, pauses: &mut Pauses, error: Error) -> Result<()> {
        (self.waiting)(&error);
        let pause = pauses.next(&error).ok_or_else(|| error.clone())?;
        self.sleep(pause);
        if (self.is_told_to_end)() { Err(error) } else { Ok(()) }
    }

    /// Sleeps for so long, or until the work is to end.
    fn sleep(&self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until && !(self.is_told_to_end)() {
            sleep(until.saturating_duration_since(Instant::now()).min(STEP));
        }
    }
}

/// Ever longer pauses.
struct Pauses {
    limit: Instant,
    next: Duration,
    made: u32,
}

impl Pauses {
    fn until(limit: Instant) -> Self {
        Self { limit, next: PAUSES[0], made: 0 }
    }

    /// The next one, as long as the error asks if it does; none if the time is over.
    fn next(&mut self, error: &Error) -> Option<Duration> {
        let pause = error.retry_after.unwrap_or(self.next).clamp(PAUSES[0], PAUSES[1]);
        if Instant::now() + pause > self.limit {
            return None;
        }
        self.next = (self.next * 2).min(PAUSES[1]);
        self.made = self.made.saturating_add(1);
        Some(pause.mul_f64(0.75 + 0.5 * fastrand::f64()))
    }
}

fn is_passing(error: &Error) -> bool {
    matches!(error.kind, ErrorKind::Unavailable | ErrorKind::Overloaded)
}

/// Reads states; one of which only a part can be seen is as good as away.
fn get(backend: &dyn Backend, patience: &Patience<'_>, ids: &[&str], fields: Fields) -> Result<Vec<Option<Found>>> {
    patience.ask(|call| {
        let found = backend.get(call, ids, fields)?;
        match ids.iter().zip(&found).find(|(_, found)| found.as_ref().is_some_and(|found| found.incomplete)) {
            Some((id, _)) => Err(Error::unavailable(format_args!("only a part of `{id}` can be seen"))),
            None => Ok(found),
        }
    })
}

/// About how many bytes a state has whose bodies were left out.
fn whole_bytes(found: &Found) -> u64 {
    let bodies = found.state.registers().iter().filter_map(|register| register.value.as_body());
    found.state.memory_bytes() as u64 + bodies.map(|body| body.characters()).sum::<u64>()
}

/// Parts of which each has at most so many entries, and about [`PART_BYTES`] as whole states; a larger state is alone.
fn parts(entries: &[(String, Found)], count: usize) -> Vec<&[(String, Found)]> {
    let (mut parts, mut start, mut bytes) = (Vec::new(), 0, 0);
    for (index, (_, found)) in entries.iter().enumerate() {
        let size = whole_bytes(found);
        if index > start && (index - start >= count || bytes + size > PART_BYTES) {
            parts.push(&entries[start..index]);
            (start, bytes) = (index, 0);
        }
        bytes += size;
    }
    if start < entries.len() {
        parts.push(&entries[start..]);
    }
    parts
}
