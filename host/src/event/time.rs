//! The time of an event: RFC 3339 text to microseconds since 1970-01-01T00:00:00Z.
//!
//! Written by hand, because what counts as a time must not change with a library: a date alone is none, no zone means
//! UTC, and the instant lies in the years 1970 to 9999.

/// Microseconds of the last instant that is taken, 9999-12-31T23:59:59.999999Z.
const LAST: i64 = 253_402_300_799_999_999;

/// The instant that an RFC 3339 text names, in microseconds, rounded down; none if it is no such text.
///
/// A space may stand for the `T`, and a text without a zone is UTC.
#[must_use]
pub fn parse(text: &str) -> Option<i64> {
    let (date, rest) = text.as_bytes().split_at_checked(10)?;
    let [y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = *date else { return None };
    let (time, rest) = rest.split_at_checked(9)?;
    let [b'T' | b't' | b' ', h1, h2, b':', i1, i2, b':', s1, s2] = *time else { return None };
    let (micros, rest) = fraction(rest)?;
    let offset = offset_seconds(rest)?;

    let days = days_since_1970(digits(&[y1, y2, y3, y4])?, digits(&[m1, m2])?, digits(&[d1, d2])?)?;
    let (hour, minute, second) = (digits(&[h1, h2])?, digits(&[i1, i2])?, digits(&[s1, s2])?);
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second - offset;
    // A leap second is the last of a day in UTC, and counts as the first of the next one.
    if second == 60 && seconds % 86_400 != 0 {
        return None;
    }
    let instant = seconds * 1_000_000 + micros;
    (0..=LAST).contains(&instant).then_some(instant)
}

/// Reads `.` and digits, if they are there; digits beyond the microseconds are dropped.
fn fraction(text: &[u8]) -> Option<(i64, &[u8])> {
    let Some(text) = text.strip_prefix(b".") else { return Some((0, text)) };
    let length = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if length == 0 {
        return None;
    }
    let (fraction, rest) = text.split_at(length);
    let padded = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(6);
    Some((padded.fold(0, |sum, byte| sum * 10 + i64::from(byte - b'0')), rest))
}

/// Reads the zone, which ends the text: `Z`, `+01:00`, or nothing at all.
fn offset_seconds(text: &[u8]) -> Option<i64> {
    let (sign, rest) = match text {
        [] | [b'Z' | b'z'] => return Some(0),
        [b'+', rest @ ..] => (1, rest),
        [b'-', rest @ ..] => (-1, rest),
        _ => return None,
    };
    let [h1, h2, b':', m1, m2] = *rest else { return None };
    let (hours, minutes) = (digits(&[h1, h2])?, digits(&[m1, m2])?);
    (hours <= 23 && minutes <= 59).then_some(sign * (hours * 3600 + minutes * 60))
}

fn digits(text: &[u8]) -> Option<i64> {
    text.iter().try_fold(0, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0')))
}

/// The calendar is Howard Hinnant's `days_from_civil`, <https://howardhinnant.github.io/date_algorithms.html>.
fn days_since_1970(year: i64, month: i64, day: i64) -> Option<i64> {
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last_day = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i64::from(is_leap),
        _ => return None,
    };
    if !(1..=last_day).contains(&day) {
        return None;
    }
    let shifted_year = year - i64::from(month <= 2);
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use storage_plugin_api::format_time;

    use super::*;

    #[test]
    fn what_producers_write_is_a_time() {
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2024-01-15T10:30:00Z", 1_705_314_600_000_000),
            ("2024-01-15t10:30:00z", 1_705_314_600_000_000),
            ("2024-01-15 10:30:00", 1_705_314_600_000_000),
            ("2024-01-15T10:30:00.123456+00:00", 1_705_314_600_123_456),
            ("2024-01-15T10:30:00.1", 1_705_314_600_100_000),
            ("2024-01-15T10:30:00.123456999Z", 1_705_314_600_123_456),
            ("2024-01-15T12:30:00+02:00", 1_705_314_600_000_000),
            ("2024-01-15T00:00:00-10:30", 1_705_314_600_000_000),
            ("2024-01-15T10:30:00-00:00", 1_705_314_600_000_000),
            ("2000-02-29T23:59:59.999999Z", 951_868_799_999_999),
            ("2016-12-31T23:59:60Z", 1_483_228_800_000_000),
            ("2017-01-01T00:59:60.5+01:00", 1_483_228_800_500_000),
            ("9999-12-31T23:59:59.999999Z", LAST),
        ] {
            assert_eq!(parse(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in [
            "",
            "submission",
            "batch_submission",
            "2024-01-15",
            "2024-01-15T10:30",
            "2024-01-15T10:30Z",
            "2024-01-15T10:30:00.",
            "2024-01-15T10:30:00.Z",
            "2024-01-15T10:30:00,5Z",
            "2024-01-15T10:30:00 Z",
            "2024-01-15T10:30:00+0200",
            "2024-01-15T10:30:00+02",
            "2024-01-15T10:30:00+24:00",
            "2024-01-15T10:30:00+02:60",
            "2024-01-15T10:30:00Zulu",
            "2024-01-15T24:00:00Z",
            "2024-01-15T10:60:00Z",
            "2024-01-15T10:30:61Z",
            "2024-01-15T10:30:60Z",
            "2023-02-29T10:30:00Z",
            "1900-02-29T10:30:00Z",
            "2024-13-01T10:30:00Z",
            "2024-00-01T10:30:00Z",
            "2024-01-00T10:30:00Z",
            "2024-04-31T10:30:00Z",
            "1969-12-31T23:59:59Z",
            "1970-01-01T00:00:00+00:01",
            "9999-12-31T23:59:59-00:01",
            "10000-01-01T00:00:00Z",
            "+2024-01-15T10:30:00Z",
            " 2024-01-15T10:30:00Z",
            "2024-01-15T10:30:00é",
            "２０２４-01-15T10:30:00Z",
            "1705314600",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_time_that_is_written_is_read_back(time in 0..=LAST) {
            prop_assert_eq!(parse(&format_time(time)), Some(time));
        }

        #[test]
        fn it_agrees_with_a_calendar_library(time in 86_400_000_000..LAST - 3 * 86_400_000_000, hours in -23_i8..=23) {
            let instant = jiff::Timestamp::from_microsecond(time).expect("the library knows these years");
            let text = instant.display_with_offset(jiff::tz::Offset::constant(hours)).to_string();

            prop_assert_eq!(parse(&text), Some(time), "{}", text);
        }

        #[test]
        fn no_text_makes_it_panic(text in any::<String>(), near in "[0-9TtZz:.+ -]{0,40}") {
            let _ = (parse(&text), parse(&near));
        }
    }
}
