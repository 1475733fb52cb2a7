//! The options of a plugin in C: it declares them, and the host compares a configuration with the declaration.
//!
//! So no author in C reads JSON, and a typing error is told without running code of the plugin.

use std::ffi::CString;

use serde_json::Value;

/// An option that a plugin declares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeclaredOption {
    /// Its key in `options`.
    pub(crate) name: String,
    /// What values it takes.
    pub(crate) kind: OptionKind,
    /// A configuration without it is refused.
    pub(crate) required: bool,
}

/// What values an option takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OptionKind {
    Text,
    Integer,
    Boolean,
}

/// The value of a declared option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Given {
    Nothing,
    Text(CString),
    Integer(i64),
    Boolean(bool),
}

impl OptionKind {
    fn described(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Integer => "a whole number of at most 64 bits",
            Self::Boolean => "true or false",
        }
    }
}

/// The values of the declared options, in their order.
///
/// # Errors
/// Everything that is wrong with them, in the operator's words.
pub(crate) fn read(declared: &[DeclaredOption], options: &Value) -> Result<Vec<Given>, Vec<String>> {
    let empty = serde_json::Map::new();
    let table = options.as_object().unwrap_or(&empty);
    let is_known = |key: &str| declared.iter().any(|option| option.name == key);
    let mut problems: Vec<String> =
        table.keys().filter(|key| !is_known(key)).map(|key| unknown(key, declared)).collect();
    let mut values = Vec::with_capacity(declared.len());
    for option in declared {
        match value(option, table.get(&option.name)) {
            Ok(value) => values.push(value),
            Err(problem) => problems.push(problem),
        }
    }
    if problems.is_empty() { Ok(values) } else { Err(problems) }
}

fn value(option: &DeclaredOption, given: Option<&Value>) -> Result<Given, String> {
    let name = &option.name;
    let value = match given {
        None | Some(Value::Null) if option.required => {
            return Err(format!("option `{name}` is missing; give {}", option.kind.described()));
        }
        None | Some(Value::Null) => return Ok(Given::Nothing),
        Some(value) => value,
    };
    let read = match option.kind {
        OptionKind::Text => value.as_str().and_then(|text| CString::new(text).ok()).map(Given::Text),
        OptionKind::Integer => value.as_i64().map(Given::Integer),
        OptionKind::Boolean => value.as_bool().map(Given::Boolean),
    };
    // The value is not told: it may be a secret.
    read.ok_or_else(|| match value.as_str() {
        Some(text) if text.contains('\0') => format!("option `{name}` has a NUL in it; take it out"),
        _ => format!("option `{name}` is of another type; give {}", option.kind.described()),
    })
}

fn unknown(key: &str, declared: &[DeclaredOption]) -> String {
    let known: Vec<String> = declared.iter().map(|option| format!("`{}`", option.name)).collect();
    match known.as_slice() {
        [] => format!("unknown option `{key}`; this plugin takes none"),
        known => format!("unknown option `{key}`; there are {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn declared() -> Vec<DeclaredOption> {
        let option = |name: &str, kind, required| DeclaredOption { name: name.to_owned(), kind, required };
        vec![
            option("path", OptionKind::Text, true),
            option("limit", OptionKind::Integer, false),
            option("sync", OptionKind::Boolean, false),
        ]
    }

    #[test]
    fn values_come_in_the_order_of_the_declaration() {
        let read = read(&declared(), &json!({"sync": false, "path": "/x"}));

        let path = CString::new("/x").expect("no NUL");
        assert_eq!(read, Ok(vec![Given::Text(path), Given::Nothing, Given::Boolean(false)]));
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        for (options, expected) in [
            (json!(null), vec!["option `path` is missing; give text"]),
            (
                json!({"paht": "/x", "limit": 1.5, "sync": "yes"}),
                vec![
                    "unknown option `paht`; there are `path`, `limit`, `sync`",
                    "option `path` is missing; give text",
                    "option `limit` is of another type; give a whole number of at most 64 bits",
                    "option `sync` is of another type; give true or false",
                ],
            ),
            (json!({"path": "a\0b"}), vec!["option `path` has a NUL in it; take it out"]),
        ] {
            let problems = read(&declared(), &options).expect_err("it is wrong");

            assert_eq!(problems, expected);
        }
        assert_eq!(read(&[], &json!({"a": 1})), Err(vec!["unknown option `a`; this plugin takes none".to_owned()]));
    }
}
