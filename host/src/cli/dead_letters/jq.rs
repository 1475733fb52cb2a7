//! Applies a jq expression to payloads, in this process: one that never ends keeps nobody but its author.

use jaq_core::load::{Arena, Error, File, Loader};
use jaq_core::{Compiler, Ctx, Vars, data, unwrap_valr};
use jaq_json::{Val, read, write};
use serde_json::value::RawValue;

/// A filter over JSON values, ready to run.
type Filter = jaq_core::compile::Filter<jaq_core::Native<data::JustLut<Val>>>;

/// An expression that was understood.
pub(super) struct Expression {
    text: String,
    filter: Filter,
    raw_input: bool,
}

impl Expression {
    pub(super) fn new(text: &str, raw_input: bool) -> Result<Self, String> {
        let defs = jaq_core::defs().chain(jaq_std::defs()).chain(jaq_json::defs());
        let funs = jaq_core::funs().chain(jaq_std::funs()).chain(jaq_json::funs());
        let arena = Arena::default();
        let file = File { code: text, path: () };
        let modules = Loader::new(defs).load(&arena, file).map_err(|errors| {
            let said = errors.into_iter().flat_map(|(_, error)| match error {
                Error::Io(errors) => errors.into_iter().map(|(path, error)| format!("`{path}`: {error}")).collect(),
                Error::Lex(errors) => errors.iter().map(|(expected, at)| before(expected.as_str(), at)).collect(),
                Error::Parse(errors) => {
                    errors.iter().map(|(expected, at)| before(expected.as_str(), at)).collect::<Vec<_>>()
                }
            });
            format!("the jq expression cannot be read: {}", said.collect::<Vec<_>>().join("; "))
        })?;
        let filter = Compiler::default().with_funs(funs).compile(modules).map_err(|errors| {
            let unknown = errors.into_iter().flat_map(|(_, errors)| errors);
            let said: Vec<String> =
                unknown.map(|(name, kind)| format!("there is no {} `{name}`", kind.as_str())).collect();
            format!("the jq expression cannot be used: {}", said.join("; "))
        })?;
        Ok(Self { text: text.to_owned(), filter, raw_input })
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The payload that the expression makes of one.
    pub(super) fn apply(&self, payload: &[u8]) -> Result<String, String> {
        let input = match self.raw_input {
            true => Val::from(std::str::from_utf8(payload).map_err(|_| "the payload is no text")?.to_owned()),
            false => read::parse_single(payload)
                .map_err(|error| format!("the payload is no JSON ({error}); see `--raw-input`"))?,
        };
        let context = Ctx::<data::JustLut<Val>>::new(&self.filter.lut, Vars::new([]));
        let mut values = self.filter.id.run((context, input)).map(unwrap_valr);
        let value = values.next().ok_or("the expression gives nothing")?.map_err(|error| error.to_string())?;
        if values.next().is_some() {
            return Err("the expression gives more than one value".to_owned());
        }
        let mut text = Vec::new();
        write::write(&mut text, &write::Pp::default(), 0, &value).map_err(|error| error.to_string())?;
        let text = String::from_utf8(text).map_err(|_| "the expression gives what is no UTF-8")?;
        match serde_json::from_str::<&RawValue>(&text) {
            Ok(value) if value.get().starts_with('{') => Ok(text),
            Ok(_) => Err(format!(
                "the expression gives `{}`, and an event is an object",
                text.chars().take(60).collect::<String>()
            )),
            Err(error) => Err(format!("the expression gives what is no JSON: {error}")),
        }
    }
}

fn before(expected: &str, at: &str) -> String {
    match at {
        "" => format!("expected {expected} at the end"),
        at => format!("expected {expected} before `{}`", at.chars().take(40).collect::<String>()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apply(expression: &str, raw_input: bool, payload: &str) -> Result<String, String> {
        Expression::new(expression, raw_input)?.apply(payload.as_bytes())
    }

    #[test]
    fn an_expression_changes_a_payload_and_numbers_keep_their_digits() {
        let payload = r#"{"eval_id":"a","n":1.50,"big":123456789012345678901234567890}"#;
        let edited = r#"{"eval_id":"a","n":1.50,"big":123456789012345678901234567890,"code":"x\u0000é"}"#;

        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
        assert_eq!(value(&apply(r#".code = "x\u0000é""#, false, payload).expect("it is right")), value(edited));
        assert_eq!(apply(r#"gsub("NaN"; "null") | fromjson"#, true, r#"{"a":NaN}"#).as_deref(), Ok(r#"{"a":null}"#));
    }

    #[test]
    fn what_gives_no_payload_is_refused() {
        for (expression, payload, reason) in [
            (".a |", "{}", "cannot be read"),
            ("nothing_like_it", "{}", "there is no filter `nothing_like_it`"),
            (".", "{", "see `--raw-input`"),
            (".a", r#"{"a":1}"#, "an event is an object"),
            ("., .", "{}", "more than one"),
            ("empty", "{}", "gives nothing"),
            (".a.b.c", r#"{"a":1}"#, "index"),
        ] {
            let error = apply(expression, false, payload).expect_err(expression);
            assert!(error.contains(reason), "{expression}: {error}");
        }
    }
}
