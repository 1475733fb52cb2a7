//! The names of objects: a key and the hour in which it was stored.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use object_store::path::Path;
use storage_plugin_api::{Error, Result};

/// Most characters of a key.
const MAX_KEY: usize = 200;
const HOUR_SECONDS: i64 = 3600;
/// Sorts behind every hour.
const BEHIND_HOURS: &str = "z";

/// An hour of UTC, as it stands in a name: `2026-11-30T07`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Hour {
    /// Seconds since 1970.
    begin: i64,
}

impl Hour {
    /// The present one.
    pub(crate) fn now() -> Self {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        Self::of(i64::try_from(seconds).unwrap_or_default())
    }

    fn of(seconds: i64) -> Self {
        Self { begin: seconds.div_euclid(HOUR_SECONDS) * HOUR_SECONDS }
    }

    /// When it is over, in microseconds.
    pub(crate) fn end(self) -> i64 {
        (self.begin + HOUR_SECONDS) * 1_000_000
    }

    fn parse(text: &str) -> Option<Self> {
        let begin = format!("{text}:00:00Z").parse::<Timestamp>().ok()?;
        let hour = Self::of(begin.as_second());
        (hour.text() == text).then_some(hour)
    }

    fn text(self) -> String {
        Timestamp::from_second(self.begin).unwrap_or(Timestamp::UNIX_EPOCH).strftime("%Y-%m-%dT%H").to_string()
    }
}

/// The names below a prefix.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    prefix: Path,
}

impl Names {
    pub(crate) fn below(prefix: Path) -> Self {
        Self { prefix }
    }

    /// What everything begins with.
    pub(crate) fn prefix(&self) -> &Path {
        &self.prefix
    }

    /// What the copies of a key begin with.
    ///
    /// # Errors
    /// `InvalidItem` when the key is no name.
    pub(crate) fn of(&self, key: &str) -> Result<Path> {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if key.is_empty() || key.len() > MAX_KEY || key.starts_with('.') || !key.bytes().all(is_plain) {
            return Err(Error::invalid_item(format_args!(
                "the key of a blob has {} bytes, which make no name; give 1 to {MAX_KEY} letters, digits and `-_.`",
                key.len()
            )));
        }
        Ok(self.prefix.clone().join(key))
    }

    /// The name that a key has in an hour.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub(crate) fn of_hour(&self, key: &str, hour: Hour) -> Result<Path> {
        Ok(self.of(key)?.join(hour.text()))
    }

    /// The name behind all copies of a key. That of any text, since a caller may go on behind any.
    pub(crate) fn behind(&self, key: &str) -> Option<Path> {
        (!key.is_empty()).then(|| self.prefix.clone().join(key).join(BEHIND_HOURS))
    }

    /// The key and the hour of a name; none if it is none of ours.
    pub(crate) fn parse<'a>(&self, name: &'a Path) -> Option<(&'a str, Hour)> {
        let name = name.as_ref();
        let rest = match self.prefix.as_ref() {
            "" => name,
            prefix => name.strip_prefix(prefix)?.strip_prefix('/')?,
        };
        let (key, hour) = rest.split_once('/')?;
        self.of(key).ok()?;
        Some((key, Hour::parse(hour)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_key_and_hour() {
        let hour = Hour::of(1_796_110_200);
        for prefix in ["", "a", "a/b"] {
            let names = Names::below(Path::from(prefix));
            let name = names.of_hour("2cf2.zst", hour).expect("a name");

            assert!(name.as_ref().ends_with("2cf2.zst/2026-12-01T07"), "{name}");
            assert_eq!(names.parse(&name), Some(("2cf2.zst", hour)));
            assert!(names.behind("2cf2.zst").expect("a name") > name);
            assert!(names.behind("2cf2.zst").expect("a name") < names.of_hour("2cf3.zst", hour).expect("a name"));
        }
        assert_eq!(hour.end() - 1_000_000 * HOUR_SECONDS, 1_796_108_400 * 1_000_000);
        assert!(Hour::of(1_796_108_399) < hour);
    }

    #[test]
    fn what_is_none_of_ours_has_no_key() {
        let names = Names::below(Path::from("a"));
        for other in
            ["a/notes.txt", "a/key/notes", "a/key/2026-12-01T6", "a/key/2026-12-01T06/x", "ab/key/2026-12-01T06"]
        {
            assert_eq!(names.parse(&Path::from(other)), None, "{other}");
        }
        for key in ["", ".", "..", "a/b", "ü", "a b", "%41", &"x".repeat(201)] {
            assert!(names.of(key).is_err(), "{key}");
        }
    }
}
