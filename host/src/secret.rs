//! Keeps secrets out of logs, errors and `explain`: the type of a secret value, and the redaction of texts.
//!
//! Redaction prefers to hide too much: a log line that lacks a host name is a nuisance, one with a password an incident.

use std::borrow::Cow;
use std::fmt;

use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

/// What stands in place of a secret.
pub const REDACTED: &str = "[redacted]";

/// A text that is, or holds, a secret. Only [`Secret::expose`] gives it away.
///
/// Printed and serialized, a URL shows everything but its user, password and secret parameters; any other text is
/// `[redacted]` as a whole.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Takes the text in.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for the one call that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.contains("://") { formatter.write_str(&redact_url(&self.0)) } else { formatter.write_str(REDACTED) }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The text without the user and password of its URLs and without the values of parameters such as `password=`.
///
/// # Example
/// ```
/// use storage_worker::secret::redact_url;
///
/// assert_eq!(redact_url("redis://worker:geheim@redis:6379/0"), "redis://[redacted]@redis:6379/0");
/// ```
#[must_use]
pub fn redact_url(text: &str) -> Cow<'_, str> {
    let text = if text.contains("://") { redact_userinfo(text) } else { Cow::Borrowed(text) };
    if !text.contains('=') {
        return text;
    }
    match redact_parameters(&text) {
        Some(redacted) => Cow::Owned(redacted),
        None => text,
    }
}

/// The value with the texts under secret names (`password`, `token`, …) hidden and all URLs redacted.
#[must_use]
pub fn redact_value(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(redact_url(text).into_owned()),
        Value::Array(items) => Value::Array(items.iter().map(redact_value).collect()),
        Value::Object(entries) => Value::Object(
            entries
                .iter()
                .map(|(key, value)| {
                    let value = if is_secret_name(key) { Value::from(REDACTED) } else { redact_value(value) };
                    (key.clone(), value)
                })
                .collect(),
        ),
        Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
    }
}

/// True for names whose values are hidden wherever they stand.
#[must_use]
pub fn is_secret_name(name: &str) -> bool {
    const PARTS: [&str; 8] =
        ["password", "passwd", "passphrase", "secret", "token", "credential", "api_key", "private_key"];
    let name = name.to_ascii_lowercase();
    PARTS.iter().any(|part| name.contains(part)) || name == "access_key" || name == "apikey"
}

fn redact_userinfo(text: &str) -> Cow<'_, str> {
    let mut redacted = String::new();
    let mut rest = text;
    while let Some(found) = rest.find("://") {
        let after = found + "://".len();
        let scheme = rest[..found].rsplit(|c: char| !c.is_ascii_alphanumeric() && !"+-.".contains(c)).next();
        redacted.push_str(&rest[..after]);
        rest = &rest[after..];
        if let Some(end) = userinfo_end(rest, scheme.unwrap_or_default()) {
            redacted.push_str(REDACTED);
            rest = &rest[end..];
        }
    }
    redacted.push_str(rest);
    if redacted == text { Cow::Borrowed(text) } else { Cow::Owned(redacted) }
}

/// Where the `@` stands that ends the user and password of a URL whose part behind `://` is given.
fn userinfo_end(rest: &str, scheme: &str) -> Option<usize> {
    let url = &rest[..rest.find(|c: char| c.is_whitespace() || "\"'`<>".contains(c)).unwrap_or(rest.len())];
    let authority = &url[..url.find(['/', '?', '#']).unwrap_or(url.len())];
    if let Some(at) = authority.rfind('@') {
        return Some(at);
    }
    // A password with an unescaped `/`, `?` or `#` reaches beyond the authority. In a web address an `@` there is
    // ordinary; anywhere else it is taken for the end of a password.
    let web = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    if web || !authority.contains(':') { None } else { url.rfind('@') }
}

/// The text with the values of secret parameters hidden; none if it has none.
fn redact_parameters(text: &str) -> Option<String> {
    let mut redacted = String::new();
    let mut copied = 0;
    for (equals, _) in text.match_indices('=') {
        if equals < copied {
            continue;
        }
        let name_start = text[..equals].rfind(|c: char| !c.is_alphanumeric() && !"_-".contains(c));
        let name = &text[name_start.map_or(0, |at| at + text[at..].chars().next().map_or(1, char::len_utf8))..equals];
        if !is_secret_name(name) {
            continue;
        }
        let value = &text[equals + 1..];
        let end = match value.chars().next().filter(|first| matches!(first, '\'' | '"')) {
            // In quotes it may have anything but the quote.
            Some(quote) => quoted_end(value, quote),
            None => value.find(|c: char| c.is_whitespace() || "&\"'`<>,;)".contains(c)).unwrap_or(value.len()),
        };
        redacted.push_str(&text[copied..=equals]);
        redacted.push_str(REDACTED);
        copied = equals + 1 + end;
    }
    (copied > 0).then(|| redacted + &text[copied..])
}

/// Where a text in quotes ends, behind the quote that closes it.
fn quoted_end(text: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, char) in text.char_indices().skip(1) {
        match char {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            char if char == quote => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn user_and_password_of_a_url_are_hidden() {
        let cases = [
            ("redis://redis:6379", "redis://redis:6379"),
            ("redis://:pw@redis:6379/0", "redis://[redacted]@redis:6379/0"),
            ("rediss://user@host", "rediss://[redacted]@host"),
            ("postgres://u:p%40ss@db/name?sslmode=require", "postgres://[redacted]@db/name?sslmode=require"),
            ("postgres://u:p@ss@db/name", "postgres://[redacted]@db/name"),
            ("postgres://u:p/a?s#s@db/name", "postgres://[redacted]@db/name"),
            ("http://127.0.0.1:8086/evaluations/a@b", "http://127.0.0.1:8086/evaluations/a@b"),
            ("postgres://db/name?user=u&password=geheim&x=1", "postgres://db/name?user=u&password=[redacted]&x=1"),
        ];
        for (text, expected) in cases {
            assert_eq!(redact_url(text), expected, "{text}");
        }
    }

    #[test]
    fn urls_inside_longer_texts_are_hidden() {
        let text = "cannot connect to `redis://a:b@one:1`, then \"redis://c:d@two\": é host=x password=p dbname=y";

        assert_eq!(
            redact_url(text),
            "cannot connect to `redis://[redacted]@one:1`, then \"redis://[redacted]@two\": é host=x password=[redacted] dbname=y"
        );
    }

    #[test]
    fn a_value_in_quotes_is_hidden_to_their_end() {
        let cases = [
            ("host=x password='ge heim' user=u", "host=x password=[redacted] user=u"),
            ("{password=\"ge&heim\",x=1}", "{password=[redacted],x=1}"),
            (r#"password="ge\"heim" x"#, "password=[redacted] x"),
            ("password='never closed", "password=[redacted]"),
        ];
        for (text, expected) in cases {
            assert_eq!(redact_url(text), expected, "{text}");
        }
    }

    #[test]
    fn ordinary_text_is_left_alone_without_a_copy() {
        assert!(matches!(redact_url("a = b, x@y, 3 != 4"), Cow::Borrowed(_)));
        assert!(matches!(redact_url("nothing here"), Cow::Borrowed(_)));
        assert_eq!(redact_url("é=1 ö"), "é=1 ö");
    }

    #[test]
    fn a_secret_never_prints() {
        let secret = Secret::new("hunter2");

        assert_eq!(format!("{secret} {secret:?}"), "[redacted] [redacted]");
        assert_eq!(serde_json::to_value(&secret).expect("a text"), json!("[redacted]"));
        assert_eq!(Secret::new("redis://x:y@host").to_string(), "redis://[redacted]@host");
    }

    #[test]
    fn options_under_secret_names_are_hidden() {
        let options =
            json!({ "url": "postgres://a:b@c", "Admin_Password": 7, "nested": [{ "token": "t" }], "path": "x" });

        assert_eq!(
            redact_value(&options),
            json!({ "url": "postgres://[redacted]@c", "Admin_Password": "[redacted]", "nested": [{ "token": "[redacted]" }], "path": "x" })
        );
    }
}
