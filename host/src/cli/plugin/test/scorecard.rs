//! What a run came to, for people and for programs.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};
use storage_plugin_api::Capabilities;
use storage_plugin_api::conformance::{Behavior, Level, Report, Verdict};

use super::super::super::output::plain;
use super::again::Again;
use super::crew::Run;
use crate::secret::REDACTED;

/// A run, to be shown.
pub(super) struct Scorecard<'a> {
    pub(super) run: &'a Run,
    pub(super) seed: u64,
    pub(super) took: Duration,
    /// Every behavior was run, so that levels can be told.
    pub(super) is_whole: bool,
    pub(super) again: Again,
    /// The levels that somebody demands of it.
    pub(super) demanded: Vec<Level>,
}

/// Whether a level was reached, and what keeps it.
struct Standing {
    level: Level,
    is_reached: bool,
    lacks: Vec<String>,
}

impl Scorecard<'_> {
    pub(super) fn has_failed(&self) -> bool {
        self.run.reports.iter().any(|(_, report)| matches!(report.verdict, Verdict::Failed { .. }))
    }

    pub(super) fn has_what_was_demanded(&self) -> bool {
        self.missed().is_empty()
    }

    /// The levels that were demanded and not reached.
    fn missed(&self) -> Vec<Level> {
        let standings = self.standings().into_iter();
        let missed = standings.filter(|standing| !standing.is_reached && self.demanded.contains(&standing.level));
        missed.map(|standing| standing.level).collect()
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!("{}\n{}\n", self.run.plugin, claims(&self.run.capabilities));
        let mut family = "";
        let width = self.run.reports.iter().map(|(behavior, _)| behavior.name.len()).max().unwrap_or_default();
        for (behavior, report) in &self.run.reports {
            if behavior.family() != family {
                family = behavior.family();
                text.push('\n');
            }
            self.line(&mut text, behavior, report, width);
        }
        text.push('\n');
        for standing in self.standings() {
            add(&mut text, &standing.text());
        }
        for note in self.notes() {
            add(&mut text, &format!("note: {note}"));
        }
        for level in self.missed() {
            add(&mut text, &format!("FAIL: `{}` is demanded and not reached", level.as_str()));
        }
        let counted = self.counts();
        let [passed, failed, not_claimed, not_run] = counted;
        let took = self.took.as_secs_f64();
        let total: usize = counted.iter().sum();
        add(
            &mut text,
            &format!(
                "\n{total} behaviors: {passed} passed, {failed} failed, {not_claimed} not claimed, {not_run} not run; \
                 seed {}, {took:.1} s",
                self.seed
            ),
        );
        text
    }

    fn line(&self, text: &mut String, behavior: &Behavior, report: &Report, width: usize) {
        let (name, asks) = (behavior.name, behavior.asks);
        match &report.verdict {
            Verdict::Passed => add(text, &format!("  ok    {name:<width$}  {asks}")),
            Verdict::NotClaimed { needs } => add(text, &format!("  -     {name:<width$}  not claimed: needs {needs}")),
            Verdict::NotRun { reason } => add(text, &format!("  ?     {name:<width$}  not run: {}", plain(reason))),
            Verdict::Failed { expected, seen } => {
                add(text, &format!("  FAIL  {name:<width$}  {asks}"));
                add(text, &format!("          expected: {}", plain(expected)));
                add(text, &format!("          seen:     {}", plain(seen)));
                add(text, &format!("          again:    {}", self.again.command(name, self.seed)));
            }
        }
        for note in &report.notes {
            add(text, &format!("          note: {}", plain(note)));
        }
    }

    fn notes(&self) -> Vec<String> {
        let fill_in = format!("`{REDACTED}` stands for a secret that was left out; fill it in to run a command again");
        let fill_in = (self.has_failed() && self.again.is_incomplete).then_some(fill_in);
        self.run.notes.iter().cloned().chain(fill_in).collect()
    }

    pub(super) fn json(&self) -> Value {
        let behavior = |(behavior, report): &(&'static Behavior, Report)| {
            let mut value = behavior_json(behavior);
            if let (Value::Object(value), Ok(Value::Object(report))) = (&mut value, serde_json::to_value(report)) {
                value.extend(report);
            }
            if matches!(report.verdict, Verdict::Failed { .. }) {
                value["again"] = Value::from(self.again.command(behavior.name, self.seed));
            }
            value
        };
        let [passed, failed, not_claimed, not_run] = self.counts();
        let levels: serde_json::Map<String, Value> = self
            .standings()
            .iter()
            .map(|standing| {
                let value = json!({ "reached": standing.is_reached, "lacks": standing.lacks });
                (standing.level.as_str().to_owned(), value)
            })
            .collect();
        json!({
            "plugin": self.run.plugin,
            "capabilities": self.run.capabilities,
            "behaviors": self.run.reports.iter().map(behavior).collect::<Vec<_>>(),
            "levels": levels,
            "passed": passed, "failed": failed, "not_claimed": not_claimed, "not_run": not_run,
            "seed": self.seed,
            "seconds": self.took.as_secs_f64(),
            "notes": self.notes(),
            "demanded": self.demanded,
            "missed": self.missed(),
        })
    }

    fn counts(&self) -> [usize; 4] {
        let mut counts = [0; 4];
        for (_, report) in &self.run.reports {
            let place = match &report.verdict {
                Verdict::Passed => 0,
                Verdict::Failed { .. } => 1,
                Verdict::NotClaimed { .. } => 2,
                Verdict::NotRun { .. } => 3,
            };
            counts[place] += 1;
        }
        counts
    }

    /// The levels, each with what those before it lack; none if only a part was run.
    fn standings(&self) -> Vec<Standing> {
        if !self.is_whole {
            return Vec::new();
        }
        let mut standings = Vec::new();
        let mut before: Option<Level> = None;
        for level in Level::LADDER {
            let lacks: Vec<String> = before.iter().map(|level| format!("level {}", level.as_str())).collect();
            let standing = self.standing(level, lacks);
            before = (!standing.is_reached).then_some(level);
            standings.push(standing);
        }
        standings.push(self.standing(Level::Shared, Vec::new()));
        standings
    }

    fn standing(&self, level: Level, mut lacks: Vec<String>) -> Standing {
        for (behavior, report) in self.run.reports.iter().filter(|(behavior, _)| behavior.level == level) {
            match &report.verdict {
                Verdict::Passed => {}
                Verdict::Failed { .. } => lacks.push(behavior.name.to_owned()),
                Verdict::NotRun { .. } => lacks.push(format!("{} (not run)", behavior.name)),
                Verdict::NotClaimed { .. } if behavior.is_optional() => {}
                Verdict::NotClaimed { needs } => {
                    let lack = format!("{needs} (not claimed)");
                    if !lacks.contains(&lack) {
                        lacks.push(lack);
                    }
                }
            }
        }
        Standing { level, is_reached: lacks.is_empty(), lacks }
    }
}

impl Standing {
    fn text(&self) -> String {
        let name = self.level.as_str();
        match self.is_reached {
            true => format!("{name:<9} yes"),
            false => format!("{name:<9} no: {}", self.lacks.join(", ")),
        }
    }
}

/// What the backend says of itself.
fn claims(capabilities: &Capabilities) -> String {
    let Capabilities {
        durable,
        evicting,
        exclusive,
        list_by_id,
        list_by_created,
        counts,
        blobs,
        states,
        prune,
        parallel_calls,
    } = capabilities;
    let all = [
        (true, if *durable { "durable" } else { "volatile" }),
        (*evicting, "evicting"),
        (true, if *exclusive { "for one process" } else { "for several processes" }),
        (*list_by_id, "lists by id"),
        (*list_by_created, "lists newest first"),
        (*counts, "counts"),
        (*prune, "prune"),
        (*blobs, if *states { "blobs" } else { "blobs alone" }),
    ];
    let claimed: Vec<&str> = all.into_iter().filter(|(has, _)| *has).map(|(_, name)| name).collect();
    format!("claims: {}, {parallel_calls} calls at once", claimed.join(", "))
}

/// The behaviors and what they ask.
pub(super) fn list(behaviors: &[&'static Behavior]) -> String {
    let mut text = String::new();
    for behavior in behaviors {
        let needs = match behavior.needs.to_string().as_str() {
            "nothing" => String::new(),
            needs => format!(" (needs {needs})"),
        };
        add(&mut text, &format!("{:<32}  {:<8}  {}{needs}", behavior.name, behavior.level.as_str(), behavior.asks));
    }
    text
}

pub(super) fn behavior_json(behavior: &Behavior) -> Value {
    json!({
        "name": behavior.name, "family": behavior.family(), "asks": behavior.asks,
        "level": behavior.level, "needs": behavior.needs.to_string(),
    })
}

fn add(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("writing to a string does not fail");
}
