//! The judgement of a run: what was published against what is stored, confirmed and dead-lettered.
//!
//! What must be stored comes from the second model, from nothing but what was published. Pure: it reads no store.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use crate::second_model::{Expected, Sent, expected, read};

/// An event, by the ids of its evaluation and of itself.
pub type Event = (String, String);

/// Findings of a kind that are named; more are only counted.
const NAMED: usize = 5;

/// What came of a run.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// What Redis said that it has, repeats included.
    pub published: Vec<Sent>,
    /// Records and histories as a worker reads them.
    pub read: BTreeMap<String, Expected>,
    /// The evaluations in the store itself.
    pub evaluations: BTreeSet<String>,
    /// The lines of all histories in the store itself, as often as they are there.
    pub lines: Vec<Event>,
    /// What was confirmed as durable.
    pub confirmed: BTreeSet<Event>,
    /// What of it was not stored when the store was looked at right after a crash.
    pub lost_in_a_crash: BTreeSet<Event>,
    /// The dead letters of each worker.
    pub letters: Vec<Vec<Sent>>,
    /// Entries that were delivered more than once.
    pub redelivered: u64,
}

/// The judgement. What is a finding names what it is about.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Messages that were published, repeats included.
    pub published: usize,
    /// Evaluations that they are about.
    pub evaluations: usize,
    /// Different events among them.
    pub events: usize,
    /// Different messages among them that are no event.
    pub bad: usize,
    /// Different events that were confirmed as durable.
    pub confirmed: usize,
    /// Entries that were delivered more than once.
    pub redelivered: u64,
    /// Evaluations and lines of history that must be stored, and are not.
    pub missing: Vec<String>,
    /// Evaluations that are stored, and not as they must be.
    pub wrong: Vec<String>,
    /// Evaluations and lines of history that nobody published.
    pub unknown: Vec<String>,
    /// Lines of history that are stored more than once.
    pub duplicate_history: Vec<String>,
    /// Events that were confirmed as durable and are not stored, or were not right after a crash.
    pub false_confirmations: Vec<String>,
    /// Bad messages that are no dead letter.
    pub missing_letters: Vec<String>,
    /// Dead letters that are no bad message, or are there twice under different ids.
    pub wrong_letters: Vec<String>,
}

impl Observed {
    /// Judges.
    #[must_use]
    pub fn judge(&self) -> Verdict {
        let model = expected(&self.published, 0);
        let bad: BTreeSet<(&str, &[u8])> =
            self.published.iter().filter(|sent| read(&sent.channel, &sent.payload, 0).is_err()).map(parts).collect();
        let events: BTreeSet<Event> =
            model.iter().flat_map(|(id, expected)| expected.history.iter().map(|line| event(id, line))).collect();
        let mut stored: BTreeMap<&Event, usize> = BTreeMap::new();
        for line in &self.lines {
            *stored.entry(line).or_default() += 1;
        }
        let mut verdict = Verdict {
            published: self.published.len(),
            evaluations: model.len(),
            events: events.len(),
            bad: bad.len(),
            confirmed: self.confirmed.len(),
            redelivered: self.redelivered,
            ..Verdict::default()
        };
        self.compare(&model, &mut verdict);
        let lost = events.iter().filter(|event| !stored.contains_key(event));
        verdict.missing.extend(lost.map(|event| format!("event {event:?}")));
        let foreign = stored.keys().filter(|line| !events.contains(**line));
        verdict.unknown.extend(foreign.map(|line| format!("event {line:?}")));
        let doubled = stored.iter().filter(|(_, count)| **count > 1);
        verdict.duplicate_history.extend(doubled.map(|(line, count)| format!("{line:?}, {count} times")));
        let unfounded = self.confirmed.iter().filter(|event| !stored.contains_key(event));
        verdict.false_confirmations.extend(unfounded.map(|event| format!("{event:?}, at the end")));
        let lost = self.lost_in_a_crash.iter().map(|event| format!("{event:?}, after a crash"));
        verdict.false_confirmations.extend(lost);
        self.compare_letters(&bad, &mut verdict);
        verdict
    }

    fn compare(&self, model: &BTreeMap<String, Expected>, verdict: &mut Verdict) {
        for (id, expected) in model {
            match self.read.get(id).filter(|_| self.evaluations.contains(id)) {
                None => verdict.missing.push(format!("evaluation {id}")),
                Some(found) if found != expected => verdict.wrong.push(difference(id, expected, found)),
                Some(_) => {}
            }
        }
        let foreign = self.evaluations.iter().filter(|id| !model.contains_key(*id));
        verdict.unknown.extend(foreign.map(|id| format!("evaluation {id}")));
    }

    fn compare_letters(&self, bad: &BTreeSet<(&str, &[u8])>, verdict: &mut Verdict) {
        let mut found = BTreeSet::new();
        for file in &self.letters {
            let mut of_file = BTreeSet::new();
            for letter in file {
                let letter = parts(letter);
                let is_first = of_file.insert(letter);
                if !is_first || !bad.contains(&letter) {
                    let why = if is_first { "no bad message" } else { "it is there twice" };
                    verdict.wrong_letters.push(format!("{}: {why}", shown(letter)));
                }
            }
            found.extend(of_file);
        }
        verdict.missing_letters.extend(bad.difference(&found).map(|letter| shown(*letter)));
    }
}

impl Verdict {
    /// Everything that must not be, by its name.
    #[must_use]
    pub fn findings(&self) -> [(&'static str, &[String]); 7] {
        [
            ("missing", &self.missing),
            ("wrong", &self.wrong),
            ("unknown", &self.unknown),
            ("duplicate history", &self.duplicate_history),
            ("false confirmations", &self.false_confirmations),
            ("missing dead letters", &self.missing_letters),
            ("wrong dead letters", &self.wrong_letters),
        ]
    }

    /// The names of the kinds of which something was found.
    #[must_use]
    pub fn found(&self) -> Vec<&'static str> {
        self.findings().into_iter().filter(|(_, found)| !found.is_empty()).map(|(name, _)| name).collect()
    }

    /// Asserts that nothing was lost, changed, made up or promised in vain, and that something was at stake.
    ///
    /// # Panics
    /// When it was; with the whole table.
    #[track_caller]
    pub fn assert_conserved(&self) {
        assert_eq!(self.found(), [""; 0], "{self}");
        assert!(self.events > 0 && self.bad > 0 && self.confirmed > 0, "{self}");
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            ("published", self.published as u64),
            ("evaluations", self.evaluations as u64),
            ("events", self.events as u64),
            ("confirmed as durable", self.confirmed as u64),
            ("redelivered", self.redelivered),
            ("bad", self.bad as u64),
        ];
        for (name, count) in counts {
            writeln!(formatter, "  {name:22} {count:8}")?;
        }
        for (name, found) in self.findings() {
            writeln!(formatter, "  {name:22} {:8}", found.len())?;
            found.iter().take(NAMED).try_for_each(|one| writeln!(formatter, "      {one}"))?;
        }
        Ok(())
    }
}

/// The message of which a dead letter was made.
///
/// # Panics
/// When it is not a dead letter.
#[must_use]
pub fn message_of(letter: &Value) -> Sent {
    let text = |key: &str| letter[key].as_str();
    let payload = match (text("payload"), text("payload_base64")) {
        (Some(payload), None) => payload.as_bytes().to_owned(),
        (None, Some(payload)) => BASE64_STANDARD.decode(payload).expect("it is base64"),
        other => panic!("a letter has its payload in one of two forms: {other:?}"),
    };
    Sent { channel: text("channel").expect("a letter has a channel").to_owned(), payload }
}

fn parts(sent: &Sent) -> (&str, &[u8]) {
    (&sent.channel, &sent.payload)
}

fn shown((channel, payload): (&str, &[u8])) -> String {
    let text: String = String::from_utf8_lossy(payload).chars().take(80).collect();
    format!("{channel} {text}")
}

fn event(id: &str, line: &Value) -> Event {
    (id.to_owned(), line["event_id"].as_str().unwrap_or_default().to_owned())
}

/// The first key in which a record differs, or its history.
fn difference(id: &str, expected: &Expected, found: &Expected) -> String {
    let keys = expected.record.as_object().into_iter().flatten();
    let different = keys.filter(|(key, value)| found.record[key.as_str()] != **value);
    let key = different.map(|(key, value)| format!("{key} is {}, not {value}", found.record[key.as_str()])).next();
    format!("evaluation {id}: {}", key.unwrap_or_else(|| "its history".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conservation::mixture::Mixture;

    /// What comes of a run in which nothing goes wrong.
    fn right() -> Observed {
        let published: Vec<Sent> = Mixture::new(3).take(1500).collect();
        let read_of = |sent: &&Sent| read(&sent.channel, &sent.payload, 0).is_err();
        let letters: BTreeSet<(&str, &[u8])> = published.iter().filter(read_of).map(parts).collect();
        let letter = |(channel, payload): (&str, &[u8])| Sent { channel: channel.to_owned(), payload: payload.into() };
        let read = expected(&published, 0);
        let lines: Vec<Event> =
            read.iter().flat_map(|(id, found)| found.history.iter().map(|line| event(id, line))).collect();
        Observed {
            letters: vec![letters.into_iter().map(letter).collect(), Vec::new()],
            evaluations: read.keys().cloned().collect(),
            confirmed: lines.iter().cloned().collect(),
            lost_in_a_crash: BTreeSet::new(),
            redelivered: 1,
            read,
            lines,
            published,
        }
    }

    #[track_caller]
    fn finds<T>(right: &Observed, kind: &str, spoil: impl FnOnce(&mut Observed) -> T) {
        let mut observed = right.clone();
        let _ = spoil(&mut observed);
        assert_eq!(observed.judge().found(), [kind]);
    }

    #[test]
    fn a_run_in_which_nothing_goes_wrong_is_clean() {
        right().judge().assert_conserved();
    }

    #[test]
    fn each_kind_of_finding_is_found_and_nothing_else() {
        let right = right();
        let foreign = || ("nobody".to_owned(), "nothing".to_owned());
        finds(&right, "missing", |observed| observed.evaluations.pop_first());
        finds(&right, "missing", |observed| observed.read.pop_first());
        finds(&right, "missing", |observed| {
            let line = observed.lines.pop().expect("there are some");
            observed.confirmed.remove(&line);
        });
        finds(&right, "wrong", |observed| {
            let mut found = observed.read.first_entry().expect("there are some");
            found.get_mut().record["status"] = "provisioning".into();
        });
        finds(&right, "wrong", |observed| observed.read.values_mut().next().expect("there are some").history.pop());
        finds(&right, "unknown", |observed| observed.evaluations.insert("nobody".to_owned()));
        finds(&right, "unknown", |observed| observed.lines.push(foreign()));
        finds(&right, "duplicate history", |observed| observed.lines.push(observed.lines[0].clone()));
        finds(&right, "false confirmations", |observed| observed.confirmed.insert(foreign()));
        finds(&right, "false confirmations", |observed| observed.lost_in_a_crash.insert(foreign()));
        finds(&right, "missing dead letters", |observed| observed.letters[0].pop());
        finds(&right, "wrong dead letters", |observed| {
            observed.letters[1].push(Sent::new("evaluation:failed", &Value::Null))
        });
        finds(&right, "wrong dead letters", |observed| {
            let twice = observed.letters[0][0].clone();
            observed.letters[0].push(twice);
        });
    }
}
