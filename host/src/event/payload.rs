//! The top-level fields of a payload, read in one pass. Values stay as they were sent until somebody takes them.
//!
//! serde_json checks the syntax of everything; what it does not check of values that nobody parses, their depth and the
//! halves of surrogate pairs, is checked where they are put into canonical form. Every value ends there, or as a text.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use storage_plugin_api::json::{self, MAX_DEPTH, NotCanonical};

use super::reject::Reject;

/// The fields of an object by key, each key once: of duplicates the last.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    sorted: Vec<Field<'a>>,
    /// How deep the values may be.
    levels: usize,
}

#[derive(Debug)]
struct Field<'a> {
    key: Cow<'a, str>,
    value: &'a RawValue,
    is_taken: bool,
}

impl<'a> Fields<'a> {
    /// Reads a payload, an object of JSON in UTF-8.
    pub(crate) fn read(payload: &'a [u8]) -> Result<Self, Reject> {
        let text = std::str::from_utf8(payload).map_err(|error| Reject::InvalidUtf8 { offset: error.valid_up_to() })?;
        match text.trim_start_matches([' ', '\n', '\r', '\t']).as_bytes().first() {
            Some(b'{') => Self::of_object(text, MAX_DEPTH),
            _ => match serde_json::from_str::<&RawValue>(text) {
                Ok(value) => Err(Reject::NotAnObject { found: kind_of(value) }),
                Err(error) => Err(Reject::InvalidJson { reason: error.to_string() }),
            },
        }
    }

    /// No fields at all.
    pub(crate) fn none() -> Self {
        Self { sorted: Vec::new(), levels: 0 }
    }

    /// The fields of an object, which with its values is at most so many levels deep.
    fn of_object(text: &'a str, levels: usize) -> Result<Self, Reject> {
        let mut sorted = serde_json::from_str::<Entries<'a>>(text)
            .map_err(|error| Reject::InvalidJson { reason: error.to_string() })?
            .0;
        let levels = levels.saturating_sub(1);
        sorted.sort_by(|a, b| a.key.cmp(&b.key));
        for pair in sorted.windows(2).filter(|pair| pair[0].key == pair[1].key) {
            canonical(&pair[0].key, pair[0].value, levels)?;
        }
        sorted.dedup_by(|later, earlier| {
            let is_duplicate = later.key == earlier.key;
            if is_duplicate {
                earlier.value = later.value;
            }
            is_duplicate
        });
        Ok(Self { sorted, levels })
    }

    /// The value of a field; none if it is missing or empty: null, an empty text or an empty object.
    pub(crate) fn get(&self, key: &str) -> Option<&'a RawValue> {
        let value = self.sorted[self.find(key)?].value;
        (!is_empty(value)).then_some(value)
    }

    /// Says that a field was made use of, so that it is not [left](Self::left).
    pub(crate) fn take(&mut self, key: &str) {
        if let Some(index) = self.find(key) {
            self.sorted[index].is_taken = true;
        }
    }

    /// The fields of the object that a field holds.
    pub(crate) fn fields_of(&self, object: &'a RawValue) -> Result<Self, Reject> {
        Self::of_object(object.get(), self.levels)
    }

    /// The fields that are not empty and were not taken: key and canonical JSON, sorted by key.
    pub(crate) fn left(self) -> impl Iterator<Item = Result<(Cow<'a, str>, String), Reject>> {
        let levels = self.levels;
        let left = self.sorted.into_iter().filter(|field| !field.is_taken && !is_empty(field.value));
        left.map(move |field| canonical(&field.key, field.value, levels).map(|value| (field.key, value)))
    }

    /// The canonical JSON of the whole object.
    pub(crate) fn to_canonical_json(&self) -> Result<String, Reject> {
        let size: usize = self.sorted.iter().map(|field| field.key.len() + field.value.get().len() + 4).sum();
        let mut out = String::with_capacity(size + 2);
        out.push('{');
        for (index, field) in self.sorted.iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            json::push_string(&mut out, &field.key);
            out.push(':');
            json::push_raw(&mut out, field.value, self.levels).map_err(|error| in_field(&field.key, error))?;
        }
        out.push('}');
        Ok(out)
    }

    /// Refuses a field of which only a part is looked at, if it would be refused as a whole.
    pub(crate) fn check(&self, key: &str) -> Result<(), Reject> {
        self.get(key).map_or(Ok(()), |value| canonical(key, value, self.levels).map(|_| ()))
    }

    /// A payload has few fields and their lengths differ, so looking at each costs less than a binary search.
    fn find(&self, key: &str) -> Option<usize> {
        self.sorted.iter().position(|field| *field.key == *key)
    }
}

/// The text of a value, if it is a string.
pub(crate) fn string<'a>(key: &str, value: &'a RawValue) -> Result<Option<Cow<'a, str>>, Reject> {
    match value.get().starts_with('"') {
        true => json::unquote(value.get()).map(Some).map_err(|error| in_field(key, error)),
        false => Ok(None),
    }
}

/// What a value is, for a message.
pub(crate) fn kind_of(value: &RawValue) -> &'static str {
    match value.get().as_bytes().first() {
        Some(b'{') => "an object",
        Some(b'[') => "an array",
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a truth value",
        Some(b'n') | None => "null",
        Some(_) => "a number",
    }
}

fn canonical(key: &str, value: &RawValue, levels: usize) -> Result<String, Reject> {
    let mut out = String::with_capacity(value.get().len());
    json::push_raw(&mut out, value, levels).map_err(|error| in_field(key, error))?;
    Ok(out)
}

fn in_field(key: &str, error: NotCanonical) -> Reject {
    let field = super::id::shown(key);
    match error {
        NotCanonical::TooDeep => Reject::TooDeep { field },
        NotCanonical::HalfOfPair { .. } => Reject::InvalidJson { reason: format!("field `{field}`: {error}") },
    }
}

fn is_empty(value: &RawValue) -> bool {
    match value.get() {
        "null" | "\"\"" | "{}" => true,
        text => text.starts_with("{") && text.as_bytes()[1..text.len() - 1].trim_ascii().is_empty(),
    }
}

/// The entries of an object as they came.
struct Entries<'a>(Vec<Field<'a>>);

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Deserialize<'de> for Entries<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct EntriesVisitor;

        impl<'de> Visitor<'de> for EntriesVisitor {
            type Value = Entries<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::with_capacity(16);
                while let Some((Key(key), value)) = map.next_entry()? {
                    entries.push(Field { key, value, is_taken: false });
                }
                Ok(Entries(entries))
            }
        }

        deserializer.deserialize_map(EntriesVisitor)
    }
}
