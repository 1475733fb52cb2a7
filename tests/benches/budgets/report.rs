//! Medians, ranges and the lines that are printed.

use std::fmt::Display;
use std::time::Duration;

/// Some measurements of one thing.
#[derive(Clone, Debug)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    /// Of at least one measurement.
    pub(crate) fn new(mut values: Vec<f64>) -> Self {
        assert!(!values.is_empty(), "something was measured");
        values.sort_by(f64::total_cmp);
        Self(values)
    }

    /// The one in the middle.
    pub(crate) fn median(&self) -> f64 {
        let middle = self.0.len() / 2;
        if self.0.len() % 2 == 1 { self.0[middle] } else { (self.0[middle - 1] + self.0[middle]) / 2.0 }
    }

    /// Median and range with so many decimals: `12.0 (11.5..13.0)`.
    pub(crate) fn show(&self, decimals: usize) -> String {
        let [least, most] = [self.0[0], self.0[self.0.len() - 1]];
        format!("{:.decimals$} ({least:.decimals$}..{most:.decimals$})", self.median())
    }
}

/// The latency that so many of a thousand do not exceed, in milliseconds.
pub(crate) fn quantile_ms(latencies: &mut [Duration], of_thousand: usize) -> f64 {
    latencies.sort_unstable();
    let place = (latencies.len() * of_thousand / 1000).min(latencies.len() - 1);
    latencies[place].as_secs_f64() * 1e3
}

/// Prints the head of a row.
pub(crate) fn row(name: &str, what: impl Display) {
    println!("\n{name}: {what}");
}

/// Prints a figure.
pub(crate) fn figure(what: impl Display, value: impl Display) {
    println!("  {:<44} {value}", what.to_string());
}

/// Prints how a figure stands to its budget.
pub(crate) fn at_least(what: &str, value: f64, least: f64, aim: f64) {
    let verdict = match value {
        value if value >= aim => "reached",
        value if value >= least => "kept",
        _ => "MISSED",
    };
    figure(what, format_args!("{value:.2}   budget at least {least}, aim {aim}: {verdict}"));
}

/// Prints how a figure stands to its budget.
pub(crate) fn at_most(what: &str, value: f64, unit: &str, most: f64) {
    let verdict = if value <= most { "kept" } else { "MISSED" };
    figure(what, format_args!("{value:.1} {unit}   budget at most {most} {unit}: {verdict}"));
}

/// Bytes in MiB.
pub(crate) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
