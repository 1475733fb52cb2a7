//! How long work shows where it is, on standard error: a bar on a terminal, a line now and then elsewhere.

use std::cell::Cell;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

use super::output::plain;

/// How often a line is written where there is no terminal.
const LINES: Duration = Duration::from_secs(10);
/// How often a bar is drawn at least.
const TICKS: Duration = Duration::from_millis(500);

/// The progress of one command.
pub(crate) struct Progress {
    what: &'static str,
    total: Option<u64>,
    /// What others did before.
    before: u64,
    started: Instant,
    shown: Shown,
}

enum Shown {
    Bar(ProgressBar),
    Lines { last: Cell<Instant> },
}

impl Progress {
    /// Begins; `what` says what is done, such as `copied`. The total may be an estimate; of it so many were done before.
    pub(crate) fn start(what: &'static str, total: Option<u64>, before: u64) -> Self {
        let started = Instant::now();
        let shown = if io::stderr().is_terminal() {
            let template = match total {
                Some(_) => "{msg} {bar:30} {pos} of {len} · {rate} · {eta} left",
                None => "{msg} {spinner} {pos} · {rate} · {elapsed}",
            };
            let rate = |state: &ProgressState, out: &mut dyn fmt::Write| {
                // Nobody is left to be told that this failed.
                let _ = write!(out, "{:.0}/s", state.per_sec());
            };
            let style = ProgressStyle::with_template(template).expect("the templates are valid").with_key("rate", rate);
            let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new).with_style(style);
            let bar = bar.with_message(what).with_position(before);
            bar.reset_eta();
            // Also while nothing comes: a backend may be away.
            bar.enable_steady_tick(TICKS);
            Shown::Bar(bar)
        } else {
            Shown::Lines { last: Cell::new(started) }
        };
        Self { what, total, before, started, shown }
    }

    /// So many are done since the beginning.
    pub(crate) fn at(&self, done: u64) {
        let done = self.before + done;
        match &self.shown {
            Shown::Bar(bar) => {
                // What is merged meanwhile may come to more than was there at the start.
                if self.total.is_some_and(|total| done > total) {
                    bar.set_length(done);
                }
                bar.set_position(done);
            }
            Shown::Lines { last } => {
                if last.get().elapsed() >= LINES {
                    last.set(Instant::now());
                    note(&line(self.what, self.before, done, self.total, self.started.elapsed()));
                }
            }
        }
    }

    /// Writes something for people beside the bar.
    pub(crate) fn say(&self, text: &str) {
        match &self.shown {
            Shown::Bar(bar) => bar.suspend(|| note(text)),
            Shown::Lines { .. } => note(text),
        }
    }

    /// Writes a part of the answer; false if nobody reads it any more.
    pub(crate) fn answer(&self, text: &str) -> io::Result<bool> {
        match &self.shown {
            Shown::Bar(bar) => bar.suspend(|| super::output::write_part(text)),
            Shown::Lines { .. } => super::output::write_part(text),
        }
    }

    /// The bar goes; the answer follows.
    pub(crate) fn end(&self) {
        if let Shown::Bar(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

fn note(text: &str) {
    // Nobody is left to be told that this failed.
    let _ = writeln!(io::stderr(), "{}", plain(text));
}

fn line(what: &str, before: u64, done: u64, total: Option<u64>, elapsed: Duration) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = (done - before) as f64 / elapsed.as_secs_f64().max(0.001);
    let Some(total) = total.filter(|total| *total >= done && *total > 0) else {
        return format!("{what} {done}, {rate:.0}/s");
    };
    let percent = done.saturating_mul(100) / total;
    #[expect(clippy::cast_precision_loss, reason = "a time for people")]
    let left = (rate > 0.0).then(|| ((total - done) as f64 / rate).round());
    let left = left.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let left = left.map(|left| format!(", {} left", humantime::format_duration(left))).unwrap_or_default();
    format!("{what} {done} of {total} ({percent}%), {rate:.0}/s{left}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_it_is_and_how_long_it_takes() {
        let ten = Duration::from_secs(10);

        assert_eq!(line("copied", 0, 500, Some(2000), ten), "copied 500 of 2000 (25%), 50/s, 30s left");
        assert_eq!(line("copied", 400, 500, Some(2000), ten), "copied 500 of 2000 (25%), 10/s, 2m 30s left");
        assert_eq!(line("copied", 0, 500, Some(400), ten), "copied 500, 50/s");
        assert_eq!(line("copied", 0, 0, None, Duration::ZERO), "copied 0, 0/s");
    }
}
