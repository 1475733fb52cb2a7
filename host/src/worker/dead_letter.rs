//! Keeps events that will not be tried again: one JSON object a line, durable before the delivery is acknowledged.
//!
//! ```text
//! {"channel":"evaluation:queued","id":"5f0c…","payload":"{…","reason":"invalid_json","error":"…","attempts":0,
//!  "first_at":"2025-01-01T00:00:00.123456+00:00","last_at":"…","generation":1}
//! ```
//! `payload_base64` stands in the place of `payload` where that is no UTF-8. A disk that is full holds the delivery
//! back: the letter keeps its room in the budget, and is tried again.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use storage_plugin_api::{format_time, json};
use tracing::{error, info, warn};

use super::config::DeadLettersConfig;
use super::confirm::Acknowledge;
use super::counters::Counters;
use super::letter_file::LetterFile;
use super::queue::{Budget, Held};
use super::taken::Origin;

/// At most so many letters are written and synced together.
const BATCH_LETTERS: usize = 256;
/// How long to wait before a file that failed is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// An event that will not be tried again by itself.
#[derive(Debug)]
pub(super) struct DeadLetter {
    pub(super) origin: Origin,
    /// A class from a fixed set.
    pub(super) reason: &'static str,
    pub(super) error: String,
    /// How many calls of a backend failed with it.
    pub(super) attempts: u32,
    /// When it was given up, in microseconds since 1970.
    pub(super) last_at: i64,
    pub(super) generation: u64,
}

impl DeadLetter {
    fn write_line(&self, out: &mut String) {
        let Origin { channel, payload, received_at, .. } = &self.origin;
        out.push_str("{\"channel\":");
        json::push_string(out, channel);
        out.push_str(",\"id\":\"");
        out.push_str(&id(channel, payload));
        match std::str::from_utf8(payload) {
            Ok(text) => {
                out.push_str("\",\"payload\":");
                json::push_string(out, text);
            }
            Err(_) => {
                out.push_str("\",\"payload_base64\":\"");
                push_base64(out, payload);
                out.push('"');
            }
        }
        out.push_str(",\"reason\":");
        json::push_string(out, self.reason);
        out.push_str(",\"error\":");
        json::push_string(out, &self.error);
        let (first_at, last_at) = (format_time(*received_at), format_time(self.last_at));
        let (attempts, generation) = (self.attempts, self.generation);
        out.push_str(&format!(
            ",\"attempts\":{attempts},\"first_at\":\"{first_at}\",\"last_at\":\"{last_at}\",\"generation\":{generation}}}\n"
        ));
    }
}

/// The id of a dead letter: the same for the same payload on the same channel, so a repeat is recognised.
fn id(channel: &str, payload: &[u8]) -> String {
    let hash = Sha256::new().chain_update(channel).chain_update([0]).chain_update(payload).finalize();
    hex::encode(&hash[..12])
}

/// Base64 of RFC 4648 section 4, padded.
fn push_base64(out: &mut String, bytes: &[u8]) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    out.reserve(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for place in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * place)) as usize & 63];
            out.push(if place <= group.len() { char::from(digit) } else { '=' });
        }
    }
}

/// The letters that wait to be written. Bounded by the budget, whose room they keep.
#[derive(Debug, Default)]
pub(super) struct Postbox {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    letters: VecDeque<DeadLetter>,
    closed: bool,
    aborted: bool,
}

impl Postbox {
    pub(super) fn push(&self, letter: DeadLetter) {
        self.lock().letters.push_back(letter);
        self.changed.notify_one();
    }

    /// Says that nothing more will come.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Ends every wait.
    pub(super) fn abort(&self) {
        self.lock().aborted = true;
        self.changed.notify_all();
    }

    /// Waits for letters. Empty once it is closed and empty, or given up.
    fn take(&self) -> Vec<DeadLetter> {
        let mut state = self.lock();
        while state.letters.is_empty() && !state.closed && !state.aborted {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let count = if state.aborted { 0 } else { state.letters.len().min(BATCH_LETTERS) };
        state.letters.drain(..count).collect()
    }

    /// Lets time pass. False, and at once, if the worker gives up.
    fn pause(&self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        let mut state = self.lock();
        while !state.aborted {
            let rest = until.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                return true;
            }
            state = self.changed.wait_timeout(state, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
        false
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread that writes the file.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) config: DeadLettersConfig,
    pub(super) postbox: Arc<Postbox>,
    pub(super) budget: Arc<Budget>,
    pub(super) acknowledge: Arc<Acknowledge>,
    pub(super) counters: Arc<Counters>,
}

impl Writer {
    /// Writes until the postbox is closed and empty.
    pub(super) fn run(self) {
        let mut file = LetterFile::new(&self.config);
        // Tried before there is a letter, so that the operator learns early of a place that cannot be written.
        if let Err(error) = file.open() {
            let path = self.config.path.display();
            warn!(%path, %error, "cannot open the dead-letter file; make it writable, or set `dead_letters.path`");
        }
        let mut lines = String::new();
        loop {
            let letters = self.postbox.take();
            if letters.is_empty() {
                return;
            }
            lines.clear();
            letters.iter().for_each(|letter| letter.write_line(&mut lines));
            if !self.write(&mut file, &lines, letters.len()) {
                return;
            }
            self.settle(letters);
        }
    }

    /// Writes, however long it takes. False if the worker gives up.
    fn write(&self, file: &mut LetterFile, lines: &str, count: usize) -> bool {
        let mut failures = 0_u64;
        loop {
            match file.append(lines) {
                Ok(dropped) => {
                    if failures > 0 {
                        info!(path = %self.config.path.display(), count, "dead letters are written again");
                    }
                    if dropped > 0 {
                        let path = file.rotated.display();
                        self.counters.dead_letters_dropped(dropped);
                        warn!(%path, dropped, "the dead-letter file was rotated, older letters were dropped");
                    }
                    return true;
                }
                Err(error) => {
                    failures += 1;
                    if failures.is_power_of_two() {
                        let path = self.config.path.display();
                        error!(%path, %error, held = count, "cannot write dead letters, they are held; free the disk");
                    }
                    if !self.postbox.pause(RETRY_AFTER) {
                        return false;
                    }
                }
            }
        }
    }

    fn settle(&self, letters: Vec<DeadLetter>) {
        let mut freed = Held::default();
        let mut tokens = Vec::new();
        for letter in &letters {
            let held = letter.origin.held();
            freed = Held { events: freed.events + held.events, bytes: freed.bytes + held.bytes };
            tokens.extend(letter.origin.token.map(|token| (letter.origin.source, token)));
            self.counters.dead_letter(letter.reason);
        }
        self.counters.settled_kept.add(tokens.len());
        self.acknowledge.acknowledge(&tokens);
        drop(letters);
        self.budget.release(freed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(payload: &[u8]) -> DeadLetter {
        let origin = Origin {
            channel: "evaluation:queued".into(),
            payload: payload.to_vec(),
            received_at: 0,
            source: 0,
            token: None,
        };
        let error = "expected `:`\nat 1".to_owned();
        DeadLetter { origin, reason: "invalid_json", error, attempts: 2, last_at: 1_000_001, generation: 3 }
    }

    fn line(payload: &[u8]) -> serde_json::Value {
        let mut line = String::new();
        letter(payload).write_line(&mut line);
        assert!(line.ends_with('\n') && line.matches('\n').count() == 1, "{line}");
        serde_json::from_str(&line).expect("a line is JSON")
    }

    #[test]
    fn a_line_has_the_keys_of_the_format() {
        let line = line(b"{\"a\"\n1}");

        let id = line["id"].clone();
        assert_eq!(id.as_str().map(str::len), Some(24));
        let expected = serde_json::json!({
            "channel": "evaluation:queued",
            "id": id,
            "payload": "{\"a\"\n1}",
            "reason": "invalid_json",
            "error": "expected `:`\nat 1",
            "attempts": 2,
            "first_at": "1970-01-01T00:00:00.000000+00:00",
            "last_at": "1970-01-01T00:00:01.000001+00:00",
            "generation": 3,
        });
        assert_eq!(line, expected);
    }

    #[test]
    fn bytes_that_are_no_text_are_base64() {
        for (bytes, expected) in [
            (&b"\xff"[..], "/w=="),
            (b"\xff\x00", "/wA="),
            (b"\xff\x00\x01", "/wAB"),
            (b"\xfe\xed\xfa\xce", "/u36zg=="),
        ] {
            let line = line(bytes);

            assert_eq!(line["payload_base64"], expected);
            assert!(line.get("payload").is_none());
        }
    }
}
