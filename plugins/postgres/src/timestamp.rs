//! A time as PostgreSQL keeps it, with nothing lost of our microseconds.

use std::error::Error;

use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, accepts, to_sql_checked};

/// 2000-01-01T00:00:00Z, from which PostgreSQL counts, in microseconds since 1970.
const EPOCH: i64 = 946_684_800_000_000;
/// The first time that a `timestamptz` can be (4714 BC, the manual's table 8.9); the last one is beyond our own.
const FIRST: i64 = -210_866_803_200_000_000;

/// A `timestamptz`: microseconds since 1970-01-01T00:00:00Z.
///
/// What a `timestamptz` cannot be is written as the nearest that it can: columns are for finding, the state has the truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Timestamp(pub(crate) i64);

impl Timestamp {
    /// The time that is kept for this one.
    pub(crate) fn clamped(self) -> Self {
        Self(self.0.max(FIRST))
    }
}

impl ToSql for Timestamp {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.extend_from_slice(&(self.clamped().0 - EPOCH).to_be_bytes());
        Ok(IsNull::No)
    }

    accepts!(TIMESTAMPTZ);
    to_sql_checked!();
}

impl<'a> FromSql<'a> for Timestamp {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        let microseconds = i64::from_be_bytes(raw.try_into()?);
        Ok(Self(microseconds.saturating_add(EPOCH)))
    }

    accepts!(TIMESTAMPTZ);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_and_those_out_of_range_become_the_nearest() {
        for (time, kept) in [(0, 0), (1_700_000_000_123_456, 1_700_000_000_123_456), (-1, -1), (i64::MIN, FIRST)] {
            let mut raw = BytesMut::new();
            Timestamp(time).to_sql(&Type::TIMESTAMPTZ, &mut raw).expect("a time can be written");

            assert_eq!(Timestamp::from_sql(&Type::TIMESTAMPTZ, &raw).expect("a time can be read"), Timestamp(kept));
        }
    }
}
