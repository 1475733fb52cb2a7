//! From the tree to types: a serde deserializer that knows the path and the place of every value.
//!
//! An unknown key does not stop it, so that one run names them all; the struct's own field list says what is known.
//! A value that does not fit stops it, since the struct cannot be made.

use std::cell::RefCell;
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{self, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::forward_to_deserialize_any;

use super::error::Problem;
use super::tree::{Entry, Node, Origin, Table, Value, join};
use crate::secret::redact_url;
use crate::suggest::suggest;

/// Makes the type, or names everything that is wrong.
pub(crate) fn from_tree<T: de::DeserializeOwned>(tree: Table) -> Result<T, Vec<Problem>> {
    let problems = RefCell::new(Vec::new());
    let root = Node { value: Value::Table(tree), origin: Origin::Default };
    let result = T::deserialize(NodeDeserializer { node: &root, path: String::new(), problems: &problems });
    let mut problems = problems.into_inner();
    match result {
        Ok(value) if problems.is_empty() => return Ok(value),
        Ok(_) => {}
        Err(error) => problems.push(error.into_problem()),
    }
    problems.sort_by_key(|problem| problem.origin.file_line().map(|(_, line)| line));
    Err(problems)
}

/// One value on its way to a type.
struct NodeDeserializer<'a> {
    node: &'a Node,
    path: String,
    problems: &'a RefCell<Vec<Problem>>,
}

impl<'a> NodeDeserializer<'a> {
    fn entries(self, table: &'a Table) -> Entries<'a> {
        Entries { rest: table.0.iter(), value: None, parent: self }
    }

    /// A text out of a variable, where a number or a boolean is wanted.
    fn expanded(&self) -> Option<&'a str> {
        match &self.node.value {
            Value::Text { text, expanded: true } => Some(text.trim()),
            Value::Text { .. } | Value::Integer(_) | Value::Float(_) | Value::Boolean(_) => None,
            Value::List(_) | Value::Table(_) => None,
        }
    }

    fn number<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.expanded().and_then(|text| text.parse().ok()) {
            Some(number) => visitor.visit_i64(number),
            None => self.deserialize_any(visitor),
        }
    }
}

impl<'de> Deserializer<'de> for NodeDeserializer<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Text { text, .. } => visitor.visit_str(text),
            Value::Integer(number) => visitor.visit_i64(*number),
            Value::Float(number) => visitor.visit_f64(*number),
            Value::Boolean(boolean) => visitor.visit_bool(*boolean),
            Value::List(items) => visitor.visit_seq(Items { rest: items.iter(), parent: self }),
            Value::Table(table) => visitor.visit_map(self.entries(table)),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let Value::Table(table) = &self.node.value else { return self.deserialize_any(visitor) };
        let mut known = Vec::new();
        for entry in &table.0 {
            if fields.contains(&entry.key.as_str()) {
                known.push(entry);
                continue;
            }
            let path = join(&self.path, &entry.key);
            let hint = suggest(&entry.key, fields.iter().copied(), "the keys known here");
            let message = format!("unknown key `{path}`; {hint}");
            self.problems.borrow_mut().push(Problem::new(&entry.origin, path, message));
        }
        visitor.visit_map(Entries { rest: known.into_iter(), value: None, parent: self })
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Text { text, .. } => {
                let text: StrDeserializer<'_, Error> = text.as_str().into_deserializer();
                text.deserialize_enum(name, variants, visitor)
            }
            Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::List(_) | Value::Table(_) => {
                self.deserialize_any(visitor)
            }
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.expanded().and_then(|text| text.parse().ok()) {
            Some(boolean) => visitor.visit_bool(boolean),
            None => self.deserialize_any(visitor),
        }
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.number(visitor)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.number(visitor)
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.number(visitor)
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.number(visitor)
    }

    forward_to_deserialize_any! {
        i8 i16 i32 i128 u8 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map
        identifier ignored_any
    }
}

/// The entries of a table.
struct Entries<'a, I = std::slice::Iter<'a, Entry>> {
    rest: I,
    value: Option<&'a Entry>,
    parent: NodeDeserializer<'a>,
}

impl<'de, 'a, I: Iterator<Item = &'a Entry>> MapAccess<'de> for Entries<'a, I> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some(entry) = self.rest.next() else { return Ok(None) };
        self.value = Some(entry);
        let key: StrDeserializer<'_, Error> = entry.key.as_str().into_deserializer();
        let path = join(&self.parent.path, &entry.key);
        seed.deserialize(key).map(Some).map_err(|error| error.at(&path, &entry.origin))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let entry = self.value.take().ok_or_else(|| de::Error::custom("a value was asked for before its key"))?;
        let path = join(&self.parent.path, &entry.key);
        let value = NodeDeserializer { node: &entry.node, path: path.clone(), problems: self.parent.problems };
        seed.deserialize(value).map_err(|error| error.at(&path, &entry.node.origin))
    }
}

/// The items of a list; they share the path of the list.
struct Items<'a> {
    rest: std::slice::Iter<'a, Node>,
    parent: NodeDeserializer<'a>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some(node) = self.rest.next() else { return Ok(None) };
        let path = self.parent.path.clone();
        let item = NodeDeserializer { node, path: path.clone(), problems: self.parent.problems };
        seed.deserialize(item).map(Some).map_err(|error| error.at(&path, &node.origin))
    }
}

/// Why a value does not fit. The first enclosing entry tells it its place.
#[derive(Debug)]
struct Error {
    what: What,
    place: Option<(String, Origin)>,
}

#[derive(Debug)]
enum What {
    /// Follows the key: `worker.lanes` …
    Predicate(String),
    /// A key that must be there.
    Missing(&'static str),
}

impl Error {
    fn at(mut self, path: &str, origin: &Origin) -> Self {
        self.place.get_or_insert_with(|| (path.to_owned(), origin.clone()));
        self
    }

    fn into_problem(self) -> Problem {
        let (path, origin) = self.place.unwrap_or_else(|| (String::new(), Origin::Default));
        match self.what {
            What::Predicate(predicate) => Problem::new(&origin, path.as_str(), format!("`{path}` {predicate}")),
            What::Missing(field) => {
                let key = join(&path, field);
                Problem::new(&origin, key.as_str(), format!("`{key}` is missing; add it here"))
            }
        }
    }

    fn predicate(predicate: String) -> Self {
        Self { what: What::Predicate(predicate), place: None }
    }
}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::predicate(message.to_string())
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::predicate(format!("must be {}; found {}", expectation(&expected.to_string()), finding(unexpected)))
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::invalid_type(unexpected, expected)
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let hint = suggest(variant, expected.iter().copied(), "the possible values");
        Self::predicate(format!("cannot be `{variant}`; {hint}"))
    }

    fn missing_field(field: &'static str) -> Self {
        Self { what: What::Missing(field), place: None }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Predicate(predicate) => formatter.write_str(predicate),
            What::Missing(field) => write!(formatter, "`{field}` is missing"),
        }
    }
}

impl std::error::Error for Error {}

/// What serde expected, in words for operators.
fn expectation(expected: &str) -> &str {
    match expected {
        "usize" | "u64" | "u32" | "u16" | "u8" => "a whole number, 0 or more",
        "isize" | "i64" | "i32" | "i16" | "i8" => "a whole number",
        "a boolean" => "`true` or `false`",
        "a string" | "path string" => "a text",
        "a sequence" => "a list",
        "a map" => "a table",
        other if other.starts_with("struct ") => "a table",
        other => other,
    }
}

/// What was there instead; a value may be a secret in the wrong place, so URLs are redacted.
fn finding(unexpected: Unexpected<'_>) -> String {
    match unexpected {
        Unexpected::Bool(boolean) => format!("`{boolean}`"),
        Unexpected::Unsigned(number) => format!("the number `{number}`"),
        Unexpected::Signed(number) => format!("the number `{number}`"),
        Unexpected::Float(number) => format!("the number `{number}`"),
        Unexpected::Str(text) => format!("the text `{}`", redact_url(text)),
        Unexpected::Map | Unexpected::StructVariant => "a table".to_owned(),
        Unexpected::Seq | Unexpected::TupleVariant => "a list".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use serde::Deserialize;

    use super::*;
    use crate::config::environment::Environment;
    use crate::config::parse;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Outer {
        inner: Inner,
        path: Option<PathBuf>,
        list: Vec<Inner>,
        options: serde_json::Value,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        lanes: usize,
        #[serde(default)]
        enabled: bool,
        #[serde(default)]
        kind: Kind,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Kind {
        #[default]
        Plain,
        Fancy,
    }

    fn read(text: &str) -> Result<Outer, Vec<String>> {
        let environment: Environment = [("N", "7"), ("YES", "true")].into_iter().collect();
        let parsed = parse::file(text, Path::new("x.toml"), &environment).expect("valid TOML");
        from_tree(parsed.tree).map_err(|problems| problems.iter().map(Problem::to_string).collect())
    }

    #[test]
    fn types_are_made_of_the_tree() {
        let outer = read(
            "path = 'p'\ninner = { lanes = 3, kind = 'fancy' }\nlist = [{ lanes = 1 }]\noptions = { a = [1, 'x'] }",
        );

        let inner = Inner { lanes: 3, enabled: false, kind: Kind::Fancy };
        let list = vec![Inner { lanes: 1, ..Inner::default() }];
        let options = serde_json::json!({ "a": [1, "x"] });
        assert_eq!(outer, Ok(Outer { inner, path: Some("p".into()), list, options }));
    }

    #[test]
    fn numbers_and_booleans_may_come_from_variables() {
        let outer = read("inner = { lanes = '${N}', enabled = '${YES}' }").expect("7 is a number");

        assert_eq!((outer.inner.lanes, outer.inner.enabled), (7, true));
        assert!(read("inner = { lanes = '7' }").is_err());
    }

    #[test]
    fn every_unknown_key_is_named_and_the_value_that_does_not_fit() {
        let errors = read("pth = 'p'\n[inner]\nlanse = 1\nlanes = 'x'\n").expect_err("three problems");

        assert_eq!(
            errors,
            [
                "x.toml:1: unknown key `pth`; did you mean `path`?",
                "x.toml:3: unknown key `inner.lanse`; did you mean `lanes`?",
                "x.toml:4: `inner.lanes` must be a whole number, 0 or more; found the text `x`",
            ]
        );
    }

    #[test]
    fn errors_name_the_path() {
        let cases = [
            ("inner = 4", "x.toml:1: `inner` must be a table; found the number `4`"),
            ("[inner]\nenabled = true", "x.toml:1: `inner.lanes` is missing; add it here"),
            (
                "inner = { lanes = -1 }",
                "x.toml:1: `inner.lanes` must be a whole number, 0 or more; found the number `-1`",
            ),
            (
                "inner = { lanes = 1, kind = 'fancey' }",
                "x.toml:1: `inner.kind` cannot be `fancey`; did you mean `fancy`?",
            ),
            ("path = true", "x.toml:1: `path` must be a text; found `true`"),
            (
                "list = [\n{ lanes = 1 },\n{ lanes = [] },\n]",
                "x.toml:3: `list.lanes` must be a whole number, 0 or more; found a list",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text), Err(vec![expected.to_owned()]), "{text}");
        }
    }
}
