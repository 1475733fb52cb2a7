//! What can be done with dead letters: look at them, edit, drop, and note how a retry ended. All of it leaves a line in the
//! audit, written before it takes effect.

use std::io;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use storage_plugin_api::format_time;

use super::fold::Entry;
use super::line::{self, Action};
use super::{Destination, Letter, LetterState};
use crate::source::fed::Outcome;
use crate::source::now;

/// About so many bytes of letters are answered at once.
const ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// Which letters are meant; all conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Filter {
    /// Those of these ids; all if there are none.
    pub ids: Vec<String>,
    /// Those given up for this reason.
    pub reason: Option<String>,
    /// Those of this channel.
    pub channel: Option<String>,
    /// Those of this evaluation.
    pub evaluation_id: Option<String>,
    /// Those given up then or later, in microseconds since 1970.
    pub since: Option<i64>,
    /// Those given up before.
    pub until: Option<i64>,
    /// Those in one of these states; in any if there are none.
    pub states: Vec<Shown>,
}

/// How a letter stands, as people see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shown {
    /// It waits for somebody to look at it.
    Dead,
    /// It has a new payload that was not tried yet.
    Edited,
    /// It was tried again and failed again.
    Parked,
}

impl Shown {
    fn of(state: LetterState, is_edited: bool) -> Self {
        match state {
            LetterState::Parked => Self::Parked,
            LetterState::Dead if is_edited => Self::Edited,
            LetterState::Dead => Self::Dead,
        }
    }
}

impl Filter {
    fn matches(&self, entry: &Entry) -> bool {
        let letter = &entry.letter;
        let is = |wanted: &Option<String>, value: Option<&str>| wanted.as_deref().is_none_or(|one| Some(one) == value);
        (self.ids.is_empty() || self.ids.contains(&letter.id))
            && is(&self.reason, Some(&letter.reason))
            && is(&self.channel, Some(&letter.channel))
            && is(&self.evaluation_id, letter.evaluation_id.as_deref())
            && self.since.is_none_or(|since| letter.last_at >= since)
            && self.until.is_none_or(|until| letter.last_at < until)
            && (self.states.is_empty() || self.states.contains(&Shown::of(letter.state, entry.is_edited())))
    }
}

/// Letters that were asked for, the newest first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Selected {
    /// As JSON objects; without their payloads if so asked. Fewer than there are where they are large.
    pub letters: Vec<Value>,
    /// How many match in all.
    pub matched: usize,
    /// Lines of the file, or entries of the stream, that are no letters.
    pub unreadable: usize,
}

/// A new payload for a letter.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Edit {
    /// The letter.
    pub id: String,
    /// The payload that is tried from now on.
    pub edited: String,
}

/// What became of a letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// The letter.
    pub id: String,
    /// How it is now.
    pub outcome: DoneOutcome,
    /// Why it was parked.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
}

/// See [`Done`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DoneOutcome {
    /// It has a new payload.
    Edited,
    /// It is gone, and was not stored.
    Dropped,
    /// It is stored, and gone from the letters.
    Stored,
    /// It failed again.
    Parked,
    /// It was edited while it was tried: whatever came of that, it is left as it is now.
    Changed,
    /// There is no such letter any more.
    Gone,
}

/// A letter that was tried again.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tried {
    /// The letter.
    pub id: String,
    /// A hash of the payload that was tried.
    pub payload_sha256: String,
    /// How it fared.
    pub outcome: Outcome,
}

impl Tried {
    /// How the letter, as it is here, fared.
    #[must_use]
    pub fn new(letter: &Letter, outcome: Outcome) -> Self {
        Self { id: letter.id.clone(), payload_sha256: payload_sha256(letter), outcome }
    }
}

fn payload_sha256(letter: &Letter) -> String {
    hex::encode(Sha256::digest(letter.current_payload()))
}

/// Who did something, and what they say of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Note {
    /// Who.
    pub by: String,
    /// The expression of an edit, or the backend of a retry.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub detail: Option<String>,
}

/// Where letters are worked on. Blocks; any number may work at once.
#[derive(Clone, Debug)]
pub struct Desk {
    destination: Destination,
}

impl Desk {
    /// The desk of the letters that are there.
    #[must_use]
    pub fn new(destination: Destination) -> Self {
        Self { destination }
    }

    /// Finds letters, at most so many, the newest first.
    ///
    /// # Errors
    /// When the letters cannot be read; so for all that follows.
    pub fn select(&self, filter: &Filter, limit: usize, brief: bool) -> io::Result<Selected> {
        let snapshot = self.destination.open().snapshot()?;
        let (mut letters, mut matched, mut bytes) = (Vec::new(), 0, 0);
        for entry in snapshot.entries().rev().filter(|entry| filter.matches(entry)) {
            if letters.len() >= limit || bytes >= ANSWER_BYTES {
                matched += 1;
                continue;
            }
            let Some(letter) = snapshot.read(entry)? else { continue };
            matched += 1;
            let text = line::letter_text(&letter);
            bytes += if brief { 0 } else { text.len() };
            letters.push(value(&text, &letter, brief)?);
        }
        Ok(Selected { letters, matched, unreadable: snapshot.unreadable })
    }

    /// The ids of letters, at most so many, the newest first.
    ///
    /// # Errors
    /// As of [`Self::select`].
    pub fn ids(&self, filter: &Filter, limit: usize) -> io::Result<Vec<String>> {
        let snapshot = self.destination.open().snapshot()?;
        let matching = snapshot.entries().rev().filter(|entry| filter.matches(entry));
        Ok(matching.take(limit).map(|entry| entry.letter.id.clone()).collect())
    }

    /// The letters of the first of these ids, whole, as many as memory has room for; and how many ids that were.
    ///
    /// # Errors
    /// As of [`Self::select`].
    pub fn first_letters(&self, ids: &[String]) -> io::Result<(Vec<Letter>, usize)> {
        let snapshot = self.destination.open().snapshot()?;
        let (mut letters, mut bytes) = (Vec::new(), 0);
        for (index, id) in ids.iter().enumerate() {
            if bytes >= ANSWER_BYTES {
                return Ok((letters, index));
            }
            if let Some(letter) = snapshot.find(id).map_or(Ok(None), |entry| snapshot.read(entry))? {
                bytes += letter.payload.len() + letter.current_payload().len();
                letters.push(letter);
            }
        }
        Ok((letters, ids.len()))
    }

    /// Gives letters new payloads; the originals stay beside them.
    ///
    /// # Errors
    /// As of [`Self::select`]; some may have been changed by then.
    pub fn edit(&self, edits: &[Edit], note: &Note) -> io::Result<Vec<Done>> {
        let ids: Vec<String> = edits.iter().map(|edit| edit.id.clone()).collect();
        self.act("edit", &ids, note, |index, letter| {
            let edited = edits[index].edited.clone();
            let more = json!({ "expression": note.detail, "letter": whole(letter), "edited": edited });
            (more, Some(Action::Edit { id: letter.id.clone(), edited }), DoneOutcome::Edited, None)
        })
    }

    /// Drops letters.
    ///
    /// # Errors
    /// As of [`Self::edit`].
    pub fn drop_letters(&self, ids: &[String], note: &Note) -> io::Result<Vec<Done>> {
        self.act("drop", ids, note, |_, letter| {
            let more = json!({ "letter": whole(letter) });
            (more, Some(Action::Remove { id: letter.id.clone() }), DoneOutcome::Dropped, None)
        })
    }

    /// Notes how letters that were tried again fared: what is stored goes, what failed is parked. One that was edited
    /// meanwhile has not been tried as it is now, and stays.
    ///
    /// # Errors
    /// As of [`Self::edit`].
    pub fn settle(&self, tried: &[Tried], note: &Note) -> io::Result<Vec<Done>> {
        let ids: Vec<String> = tried.iter().map(|tried| tried.id.clone()).collect();
        self.act("retry", &ids, note, |index, letter| match &tried[index].outcome {
            _ if tried[index].payload_sha256 != payload_sha256(letter) => {
                let more = json!({ "outcome": "changed", "into": note.detail });
                (more, None, DoneOutcome::Changed, None)
            }
            Outcome::Stored => {
                let more = json!({ "outcome": "stored", "into": note.detail });
                (more, Some(Action::Remove { id: letter.id.clone() }), DoneOutcome::Stored, None)
            }
            Outcome::Refused { reason, error } => {
                let attempts = letter.attempts.saturating_add(1);
                let more = json!({
                    "outcome": "parked", "into": note.detail, "reason": reason, "error": error, "attempts": attempts,
                });
                let (id, reason, last_at) = (letter.id.clone(), reason.clone(), now());
                let park = Action::Park { id, attempts, reason, error: error.clone(), last_at };
                (more, Some(park), DoneOutcome::Parked, Some(error.clone()))
            }
        })
    }

    /// Does something with each letter: first the audit has it, then it is so.
    fn act(
        &self,
        action: &str,
        ids: &[String],
        note: &Note,
        each: impl Fn(usize, &Letter) -> (Value, Option<Action>, DoneOutcome, Option<String>),
    ) -> io::Result<Vec<Done>> {
        let mut log = self.destination.open();
        let snapshot = log.snapshot()?;
        let (mut audit, mut changes, mut done) = (String::new(), Vec::new(), Vec::with_capacity(ids.len()));
        for (index, id) in ids.iter().enumerate() {
            let Some(letter) = snapshot.find(id).map_or(Ok(None), |entry| snapshot.read(entry))? else {
                done.push(Done { id: id.clone(), outcome: DoneOutcome::Gone, error: None });
                continue;
            };
            let (more, change, outcome, error) = each(index, &letter);
            let mut said = json!({
                "at": format_time(now()), "by": note.by, "action": action, "id": id,
                "channel": letter.channel, "event_id": letter.event_id,
            });
            if let (Some(said), Value::Object(more)) = (said.as_object_mut(), more) {
                said.extend(more.into_iter().filter(|(_, value)| !value.is_null()));
            }
            audit.push_str(&said.to_string());
            audit.push('\n');
            changes.extend(change);
            done.push(Done { id: id.clone(), outcome, error });
            if audit.len() >= ANSWER_BYTES {
                log.audit(&std::mem::take(&mut audit))?;
                log.change(&snapshot, &std::mem::take(&mut changes))?;
            }
        }
        if !audit.is_empty() {
            log.audit(&audit)?;
            log.change(&snapshot, &changes)?;
        }
        Ok(done)
    }
}

/// A letter as JSON; its bytes are told where they are left out.
fn value(text: &str, letter: &Letter, brief: bool) -> io::Result<Value> {
    let mut value: Value = serde_json::from_str(text)?;
    if brief && let Some(object) = value.as_object_mut() {
        object.retain(|key, _| !["payload", "payload_base64", "edited"].contains(&key.as_str()));
        object.insert("payload_bytes".to_owned(), letter.payload.len().into());
        object.insert("is_edited".to_owned(), letter.edited.is_some().into());
    }
    Ok(value)
}

fn whole(letter: &Letter) -> Value {
    serde_json::from_str(&line::letter_text(letter)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::letters::line::letter_text;
    use crate::letters::line::tests::letter;

    fn desk(directory: &tempfile::TempDir, payloads: &[&[u8]]) -> Desk {
        let destination = Destination::File { path: directory.path().join("dead.jsonl"), max_bytes: 1 << 20 };
        let lines: String = payloads.iter().map(|payload| letter_text(&letter(payload)) + "\n").collect();
        destination.open().append(&lines).expect("it is writable");
        Desk::new(destination)
    }

    fn note(detail: &str) -> Note {
        Note { by: "me".to_owned(), detail: Some(detail.to_owned()) }
    }

    #[test]
    fn an_edit_keeps_the_original_and_leaves_a_line_with_both() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let desk = desk(&directory, &[b"\xff{", b"other"]);
        let id = letter(b"\xff{").id;

        let edits =
            [Edit { id: id.clone(), edited: "{}".to_owned() }, Edit { id: "x".to_owned(), edited: String::new() }];
        let done = desk.edit(&edits, &note(".a")).expect("it is writable");

        assert_eq!(done.iter().map(|done| done.outcome).collect::<Vec<_>>(), [DoneOutcome::Edited, DoneOutcome::Gone]);
        let edited = desk.first_letters(std::slice::from_ref(&id)).expect("it is readable").0.remove(0);
        assert_eq!((&*edited.payload, edited.current_payload()), (&b"\xff{"[..], &b"{}"[..]));
        let audit = std::fs::read_to_string(directory.path().join("dead.audit.jsonl")).expect("it is there");
        let audit: Value = serde_json::from_str(audit.trim()).expect("one line of JSON");
        assert_eq!(
            (&audit["action"], &audit["expression"], &audit["by"]),
            (&json!("edit"), &json!(".a"), &json!("me"))
        );
        assert_eq!((&audit["letter"]["payload_base64"], &audit["edited"]), (&json!("/3s="), &json!("{}")));
    }

    #[test]
    fn what_fails_again_is_parked_and_what_is_stored_goes() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let desk = desk(&directory, &[b"a", b"b"]);
        let [a, b] = [b"a", b"b"].map(|payload| letter(payload));
        let refused = Outcome::Refused { reason: "wrong_type".to_owned(), error: "no".to_owned() };

        let tried = [Tried::new(&a, Outcome::Stored), Tried::new(&b, refused)];
        desk.settle(&tried, &note("pg")).expect("it is writable");

        let [a, b] = [a.id, b.id];
        let parked = Filter { states: vec![Shown::Parked], ..Filter::default() };
        let selected = desk.select(&parked, 10, true).expect("it is readable");
        assert_eq!((selected.matched, &selected.letters[0]["id"]), (1, &json!(b)));
        assert_eq!(
            (&selected.letters[0]["attempts"], &selected.letters[0]["reason"]),
            (&json!(3), &json!("wrong_type"))
        );
        assert_eq!(selected.letters[0].get("payload"), None);
        assert!(desk.first_letters(&[a]).expect("it is readable").0.is_empty());
    }

    /// `list --reason` used not to find it.
    #[test]
    fn a_letter_that_comes_once_more_says_why_it_did_so_last() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let desk = desk(&directory, &[b"a"]);
        let first = letter(b"a");
        let again = Letter { reason: "missing_field".to_owned(), last_at: first.last_at + 1, ..first };
        desk.destination.open().append(&(letter_text(&again) + "\n")).expect("it is writable");

        let filter = Filter { reason: Some("missing_field".to_owned()), ..Filter::default() };
        let selected = desk.select(&filter, 10, false).expect("it is readable");

        assert_eq!(selected.matched, 1);
    }

    /// The letter used to be removed with the edit that had not been tried.
    #[test]
    fn a_letter_that_is_edited_while_it_is_tried_stays_as_it_is_then() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let desk = desk(&directory, &[b"a", b"b"]);
        let [a, b] = [b"a", b"b"].map(|payload| letter(payload));
        let edits = [&a, &b].map(|letter| Edit { id: letter.id.clone(), edited: "{}".to_owned() });
        desk.edit(&edits, &note(".a")).expect("it is writable");

        let refused = Outcome::Refused { reason: "wrong_type".to_owned(), error: "no".to_owned() };
        let tried = [Tried::new(&a, Outcome::Stored), Tried::new(&b, refused)];
        let done = desk.settle(&tried, &note("pg")).expect("it is writable");

        assert!(done.iter().all(|done| done.outcome == DoneOutcome::Changed), "{done:?}");
        let edited = Filter { states: vec![Shown::Edited], ..Filter::default() };
        assert_eq!(desk.ids(&edited, 10).expect("it is readable"), [b.id, a.id]);
        let audit = std::fs::read_to_string(directory.path().join("dead.audit.jsonl")).expect("it is there");
        assert_eq!(audit.lines().filter(|line| line.contains(r#""outcome":"changed""#)).count(), 2);
    }
}
