//! From the text of a file, or of one `--set`, to a tree; fills in `${NAME}` on the way.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::environment::Environment;
use super::error::Problem;
use super::tree::{Entry, Node, Origin, Table, Value, join};

/// What a file says.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    pub(crate) tree: Table,
    /// The variables that it refers to.
    pub(crate) variables: BTreeSet<String>,
}

/// Reads a file's text. Every unset variable is a problem; a syntax error is the only one.
pub(crate) fn file(text: &str, path: &Path, environment: &Environment) -> Result<Parsed, Vec<Problem>> {
    let path: Arc<Path> = path.into();
    let lines = Lines::of(text);
    let origin = |at: usize| Origin::File { path: Arc::clone(&path), line: lines.line(at) };
    let table = DeTable::parse(text).map_err(|error| {
        let span = error.span().unwrap_or(text.len()..text.len());
        let message = match error.message() {
            "duplicate key" => format!("the key `{}` stands here a second time; take one out", &text[span.clone()]),
            message => format!("not valid TOML: {message}"),
        };
        vec![Problem::new(&origin(span.start), "", message)]
    })?;
    let mut reader = Reader::new(&origin, Some(environment));
    let tree = reader.table(table.into_inner(), "");
    if reader.problems.is_empty() { Ok(Parsed { tree, variables: reader.variables }) } else { Err(reader.problems) }
}

/// Reads one `KEY=VALUE`; a value that is not TOML is taken as text.
pub(crate) fn setting(setting: &str) -> Result<Table, Problem> {
    let Some((key, value)) = setting.split_once('=') else {
        let place = Origin::CommandLine(setting.to_owned());
        return Err(Problem::new(&place, "", "has no `=`; write `--set KEY=VALUE`"));
    };
    let place = Origin::CommandLine(key.trim().to_owned());
    let as_text = format!("{key} = {}", toml::Value::from(value.trim()));
    let as_toml = format!("{key} = {value}");
    let table = DeTable::parse(&as_toml)
        .or_else(|_| DeTable::parse(&as_text))
        .map_err(|_| Problem::new(&place, "", format!("`{key}` is no key; write it as `section.name`")))?;
    let origin = |_| place.clone();
    Ok(Reader::new(&origin, None).table(table.into_inner(), ""))
}

/// Turns parsed TOML into a tree.
struct Reader<'a, O: Fn(usize) -> Origin> {
    origin: &'a O,
    /// Where `${NAME}` is looked up; none leaves it as it stands.
    environment: Option<&'a Environment>,
    variables: BTreeSet<String>,
    problems: Vec<Problem>,
}

impl<'a, O: Fn(usize) -> Origin> Reader<'a, O> {
    fn new(origin: &'a O, environment: Option<&'a Environment>) -> Self {
        Self { origin, environment, variables: BTreeSet::new(), problems: Vec::new() }
    }

    fn table(&mut self, table: DeTable<'_>, path: &str) -> Table {
        let mut entries: Vec<_> = table.into_iter().collect();
        entries.sort_by_key(|(key, _)| key.span().start);
        let entry = |(key, value): (Spanned<_>, Spanned<_>)| {
            let origin = (self.origin)(key.span().start);
            let key: Cow<'_, str> = key.into_inner();
            let node = self.node(value, origin.clone(), &join(path, &key));
            Entry { key: key.into_owned(), origin, node }
        };
        Table(entries.into_iter().map(entry).collect())
    }

    fn node(&mut self, value: Spanned<DeValue<'_>>, origin: Origin, path: &str) -> Node {
        let value = match value.into_inner() {
            DeValue::String(text) => self.text(&text, &origin, path),
            DeValue::Integer(integer) => i64::from_str_radix(integer.as_str(), integer.radix())
                .map_or_else(|_| Value::Text { text: integer.to_string(), expanded: false }, Value::Integer),
            DeValue::Float(float) => float.as_str().parse().map_or(Value::Float(f64::NAN), Value::Float),
            DeValue::Boolean(boolean) => Value::Boolean(boolean),
            DeValue::Datetime(datetime) => Value::Text { text: datetime.to_string(), expanded: false },
            DeValue::Array(items) => Value::List(
                items
                    .into_iter()
                    .map(|item| {
                        let origin = (self.origin)(item.span().start);
                        self.node(item, origin, path)
                    })
                    .collect(),
            ),
            DeValue::Table(table) => Value::Table(self.table(table, path)),
        };
        Node { value, origin }
    }

    fn text(&mut self, text: &str, origin: &Origin, path: &str) -> Value {
        let Some(environment) = self.environment else {
            return Value::Text { text: text.to_owned(), expanded: false };
        };
        match expand(text, environment, &mut self.variables) {
            Ok(Some(text)) => Value::Text { text, expanded: true },
            Ok(None) => Value::Text { text: text.to_owned(), expanded: false },
            Err(message) => {
                self.problems.push(Problem::new(origin, path, format!("`{path}` {message}")));
                Value::Text { text: String::new(), expanded: true }
            }
        }
    }
}

/// The text with every `${NAME}` and `${NAME:-default}` filled in; none if there is nothing to fill in.
///
/// The default also stands for a variable that is set to nothing, as in a shell. `$${` writes a plain `${`.
fn expand(text: &str, environment: &Environment, used: &mut BTreeSet<String>) -> Result<Option<String>, String> {
    if !text.contains("${") {
        return Ok(None);
    }
    let mut expanded = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, after) = (&rest[..at], &rest[at + 2..]);
        if let Some(before) = before.strip_suffix('$') {
            expanded.push_str(before);
            expanded.push_str("${");
            rest = after;
            continue;
        }
        let Some(end) = after.find('}') else {
            return Err("has a `${` without its `}`; write `$${` for a plain `${`".to_owned());
        };
        expanded.push_str(before);
        expanded.push_str(variable(&after[..end], environment, used)?);
        rest = &after[end + 1..];
    }
    Ok(Some(expanded + rest))
}

/// The value of what stands between `${` and `}`.
fn variable<'a>(
    reference: &'a str,
    environment: &'a Environment,
    used: &mut BTreeSet<String>,
) -> Result<&'a str, String> {
    let (name, default) = match reference.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (reference, None),
    };
    let is_name = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !name.is_empty();
    if !is_name || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(format!(
            "refers to `${{{reference}}}`, which is no variable; write `${{NAME}}` or `${{NAME:-default}}`"
        ));
    }
    used.insert(name.to_owned());
    match (environment.raw(name), default) {
        (Some(""), Some(default)) => Ok(default),
        (Some(value), _) => Ok(value),
        (None, Some(default)) => Ok(default),
        (None, None) => Err(format!(
            "needs the environment variable `{name}`, which is not set; set it, or write `${{{name}:-default}}`"
        )),
    }
}

/// Finds the line of a byte.
struct Lines {
    starts: Vec<usize>,
}

impl Lines {
    fn of(text: &str) -> Self {
        Self { starts: std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect() }
    }

    /// The line, counted from 1.
    fn line(&self, at: usize) -> usize {
        self.starts.partition_point(|start| *start <= at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tree::join;

    fn expanded(text: &str) -> Result<Option<String>, String> {
        let environment = [("HOST", "redis"), ("EMPTY", "")].into_iter().collect();
        expand(text, &environment, &mut BTreeSet::new())
    }

    #[test]
    fn variables_are_filled_in() {
        let cases = [
            ("plain $HOST", None),
            ("redis://${HOST}:${PORT:-6379}/${EMPTY}", Some("redis://redis:6379/")),
            ("${EMPTY:-x}${NONE:-}", Some("x")),
            ("$${HOST} costs $5", Some("${HOST} costs $5")),
        ];
        for (text, expected) in cases {
            assert_eq!(expanded(text), Ok(expected.map(str::to_owned)), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_filled_in_says_why() {
        assert!(expanded("${NONE}").is_err_and(|error| error.contains("`NONE`, which is not set")));
        assert!(expanded("${HOST").is_err_and(|error| error.contains("without its `}`")));
        assert!(expanded("${1x}").is_err_and(|error| error.contains("no variable")));
        assert!(expanded("${}").is_err_and(|error| error.contains("no variable")));
    }

    #[test]
    fn entries_keep_the_order_and_the_lines_of_the_file() {
        let text = "[b]\nz = 1\n\na = [\n  'x',\n]\n[a]\nc = { d = '${HOST}' }\n";
        let environment = [("HOST", "redis")].into_iter().collect();

        let parsed = file(text, Path::new("f"), &environment).expect("valid");

        let mut lines = Vec::new();
        walk(&parsed.tree, "", &mut lines);
        let expected = [("b", 1), ("b.z", 2), ("b.a", 4), ("a", 7), ("a.c", 8), ("a.c.d", 8)];
        assert_eq!(lines, expected.map(|(path, line)| (path.to_owned(), line)));
        assert_eq!(parsed.variables.into_iter().collect::<Vec<_>>(), ["HOST"]);
    }

    fn walk(table: &Table, path: &str, lines: &mut Vec<(String, usize)>) {
        for entry in &table.0 {
            let path = join(path, &entry.key);
            lines.push((path.clone(), entry.origin.file_line().map_or(0, |(_, line)| line)));
            if let Some(table) = entry.node.as_table() {
                walk(table, &path, lines);
            }
        }
    }

    #[test]
    fn a_setting_is_toml_or_text() {
        let value = |text: &str| setting(text).map(|table| table.find(&["a", "b"]).map(|node| node.value.clone()));
        let plain = |text: &str| Some(Value::Text { text: text.to_owned(), expanded: false });

        assert_eq!(value("a.b=4"), Ok(Some(Value::Integer(4))));
        assert_eq!(value("a.b=true"), Ok(Some(Value::Boolean(true))));
        assert_eq!(value("a.b=redis://x\"y"), Ok(plain("redis://x\"y")));
        assert_eq!(value("a.b=${HOME}"), Ok(plain("${HOME}")));
        assert!(value("a.b").is_err());
        assert!(value("a b=1").is_err());
    }
}
