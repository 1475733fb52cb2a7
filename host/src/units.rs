//! Durations, sizes and counts as they are written in the configuration: `"5s"`, `"16MiB"`, `4`.
//!
//! Each module is for `#[serde(with = "units::…")]` on a field of a part's `Config`. Zero is refused everywhere: a queue
//! of nothing and a wait of no time are mistakes, and a part that trusts its numbers needs no case for them.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Deserializer, Unexpected, Visitor};
use serde::ser::Serializer;

/// A duration as text with a unit.
pub mod duration {
    use super::{Deserializer, Duration, DurationVisitor, Serializer};

    /// Writes `5s`, `1m 30s`.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&humantime::format_duration(*duration))
    }

    /// Reads `500ms`, `5s`, `1m 30s`.
    ///
    /// # Errors
    /// For anything else, a number without a unit included.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        deserializer.deserialize_any(DurationVisitor)
    }
}

/// A size in bytes, as a number or as text with a unit (KiB = 1024, KB = 1000).
pub mod size {
    use super::{Deserializer, Serializer, SizeVisitor, de, size_text};

    /// Writes `16MiB` where that is exact, else the number of bytes.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<T: Copy + TryInto<u64>, S: Serializer>(bytes: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&size_text((*bytes).try_into().unwrap_or(u64::MAX)))
    }

    /// Reads `1048576`, `"1MiB"`, `"1.5 GiB"`.
    ///
    /// # Errors
    /// For anything else, and for a size that does not fit the field.
    pub fn deserialize<'de, T: TryFrom<u64>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        let bytes = deserializer.deserialize_any(SizeVisitor)?;
        T::try_from(bytes)
            .map_err(|_| de::Error::custom(format_args!("{bytes} bytes are more than this machine addresses")))
    }
}

/// A count of at least one.
pub mod count {
    use super::{CountVisitor, Deserializer, Serializer, de};

    /// Writes the number.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<T: Copy + TryInto<u64>, S: Serializer>(count: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64((*count).try_into().unwrap_or(u64::MAX))
    }

    /// Reads a whole number above zero.
    ///
    /// # Errors
    /// For anything else.
    pub fn deserialize<'de, T: TryFrom<u64>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        let count = deserializer.deserialize_u64(CountVisitor)?;
        T::try_from(count).map_err(|_| de::Error::custom(format_args!("{count} is more than can be counted here")))
    }
}

/// The size as `16MiB` where that is exact, else as a number.
#[must_use]
pub fn size_text(bytes: u64) -> String {
    for (unit, factor) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= factor && bytes.is_multiple_of(factor) {
            return format!("{}{unit}", bytes / factor);
        }
    }
    bytes.to_string()
}

struct DurationVisitor;

impl Visitor<'_> for DurationVisitor {
    type Value = Duration;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a duration above zero with its unit, such as `500ms`, `5s` or `2m`")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Duration, E> {
        match humantime::parse_duration(text) {
            Ok(duration) if !duration.is_zero() => Ok(duration),
            Ok(_) | Err(_) => Err(E::invalid_value(Unexpected::Str(text), &self)),
        }
    }
}

struct SizeVisitor;

impl Visitor<'_> for SizeVisitor {
    type Value = u64;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a size above zero, in bytes or with its unit, such as `1048576` or `16MiB`")
    }

    fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<u64, E> {
        if bytes == 0 { Err(E::invalid_value(Unexpected::Unsigned(0), &self)) } else { Ok(bytes) }
    }

    fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<u64, E> {
        match u64::try_from(bytes) {
            Ok(bytes) => self.visit_u64(bytes),
            Err(_) => Err(E::invalid_value(Unexpected::Signed(bytes), &self)),
        }
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<u64, E> {
        match text.parse::<bytesize::ByteSize>() {
            Ok(size) if size.as_u64() > 0 => Ok(size.as_u64()),
            Ok(_) | Err(_) => Err(E::invalid_value(Unexpected::Str(text), &self)),
        }
    }
}

struct CountVisitor;

impl Visitor<'_> for CountVisitor {
    type Value = u64;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a whole number above zero")
    }

    fn visit_u64<E: de::Error>(self, count: u64) -> Result<u64, E> {
        if count == 0 { Err(E::invalid_value(Unexpected::Unsigned(0), &self)) } else { Ok(count) }
    }

    fn visit_i64<E: de::Error>(self, count: i64) -> Result<u64, E> {
        match u64::try_from(count) {
            Ok(count) => self.visit_u64(count),
            Err(_) => Err(E::invalid_value(Unexpected::Signed(count), &self)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(default)]
    struct Sample {
        #[serde(with = "duration")]
        wait: Duration,
        #[serde(with = "size")]
        room: usize,
        #[serde(with = "count")]
        lanes: usize,
    }

    impl Default for Sample {
        fn default() -> Self {
            Self { wait: Duration::from_secs(1), room: 1, lanes: 1 }
        }
    }

    fn read(toml: &str) -> Result<Sample, String> {
        toml::from_str(toml).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn numbers_with_units_are_read() {
        let sample = read("wait = '1m 30s'\nroom = '1.5KiB'\nlanes = 4").expect("all are valid");

        assert_eq!(sample, Sample { wait: Duration::from_secs(90), room: 1536, lanes: 4 });
        assert_eq!(read("room = '2MB'").expect("decimal units").room, 2_000_000);
        assert_eq!(read("room = 17").expect("a plain number").room, 17);
    }

    #[test]
    fn zero_and_nonsense_are_refused() {
        for toml in
            ["wait = '0s'", "wait = 5", "wait = 'soon'", "room = 0", "room = '12 apples'", "room = -1", "lanes = 0"]
        {
            assert!(read(toml).is_err(), "{toml}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let sample = Sample { wait: Duration::from_millis(1500), room: 16 << 20, lanes: 3 };

        let text = toml::to_string(&sample).expect("plain values");

        assert!(text.contains("room = \"16MiB\""), "{text}");
        assert_eq!(read(&text), Ok(sample));
    }

    #[test]
    fn sizes_are_written_in_the_largest_exact_unit() {
        assert_eq!(size_text(1 << 30), "1GiB");
        assert_eq!(size_text(1536), "1536");
        assert_eq!(size_text(1 << 10), "1KiB");
    }
}
