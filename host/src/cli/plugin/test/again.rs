//! The command that runs a behavior again: the arguments of this run as a shell takes them, without their secrets.

use serde_json::Value;
use storage_plugin_api::conformance::DEFAULT_ROUNDS;

use super::Arguments;
use crate::cli::Global;
use crate::secret::{REDACTED, is_secret_name, redact_url, redact_value};

/// A command, to be completed with what to run.
#[derive(Debug)]
pub(super) struct Again {
    command: String,
    /// Something was left out, which has to be filled in.
    pub(super) is_incomplete: bool,
}

impl Again {
    pub(super) fn of(arguments: &Arguments, global: &Global) -> Self {
        let mut again = Self { command: "storage-worker plugin test".to_owned(), is_incomplete: false };
        if let Some(plugin) = &arguments.plugin {
            again.add(None, plugin, plugin.clone());
        }
        if let Some(config) = global.config.as_ref().map(|path| path.to_string_lossy()) {
            again.add(Some("--config"), &config, config.to_string());
        }
        for setting in &global.settings {
            again.add(Some("--set"), setting, setting_without_secrets(setting));
        }
        if let Some(backend) = &arguments.backend {
            again.add(Some("--backend"), backend, backend.clone());
        }
        if arguments.options != "{}" {
            again.add(Some("--options"), &arguments.options, options_without_secrets(&arguments.options));
        }
        if let Some(away) = &arguments.away_options {
            again.add(Some("--away-options"), away, options_without_secrets(away));
        }
        if arguments.rounds != DEFAULT_ROUNDS {
            let rounds = arguments.rounds.to_string();
            again.add(Some("--rounds"), &rounds, rounds.clone());
        }
        again
    }

    /// The command for one behavior.
    pub(super) fn command(&self, behavior: &str, seed: u64) -> String {
        format!("{} --only {behavior} --seed {seed}", self.command)
    }

    fn add(&mut self, name: Option<&str>, given: &str, shown: String) {
        self.is_incomplete |= given != shown;
        for word in name.into_iter().chain([&*shown]) {
            self.command.push(' ');
            self.command.push_str(&quoted(word));
        }
    }
}

fn options_without_secrets(options: &str) -> String {
    match serde_json::from_str::<Value>(options) {
        Ok(value) => shown(options, &value),
        Err(_) => REDACTED.to_owned(),
    }
}

fn setting_without_secrets(setting: &str) -> String {
    let Some((key, value)) = setting.split_once('=') else { return redact_url(setting).into_owned() };
    // As the configuration reads it: TOML, or else text.
    let parsed = format!("value = {value}").parse::<toml::Table>().ok();
    let parsed = parsed.and_then(|table| serde_json::to_value(&table["value"]).ok());
    let parsed = parsed.unwrap_or_else(|| Value::from(value));
    match is_secret_name(key) || redact_value(&parsed) != parsed {
        true => format!("{key}={REDACTED}"),
        false => setting.to_owned(),
    }
}

/// The text as it was given, unless it has a secret.
fn shown(given: &str, value: &Value) -> String {
    let redacted = redact_value(value);
    if redacted == *value { given.to_owned() } else { redacted.to_string() }
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "/._-=:,@%+".contains(char);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_shown_as_they_were_given_but_for_secrets() {
        assert_eq!(options_without_secrets(r#"{ "path": "{dir}" }"#), r#"{ "path": "{dir}" }"#);
        assert_eq!(
            options_without_secrets(r#"{"url":"postgres://u:geheim@db/x","password":"geheim","n":1}"#),
            r#"{"n":1,"password":"[redacted]","url":"postgres://[redacted]@db/x"}"#
        );
        assert_eq!(options_without_secrets(r#"{"url":"host=db password='ge heim' user=u"}"#).find("heim"), None);
    }

    #[test]
    fn a_setting_that_holds_a_secret_is_left_out_whole() {
        for setting in ["storage.backend=pg", "backends.pg.options={path=\"x\"}", "worker.lanes=8"] {
            assert_eq!(setting_without_secrets(setting), setting);
        }
        for (setting, shown) in [
            ("backends.pg.options.url=postgres://u:geheim@db/x", "backends.pg.options.url=[redacted]"),
            ("backends.pg.options.password=geheim", "backends.pg.options.password=[redacted]"),
            ("backends.pg.options={password=\"geheim\"}", "backends.pg.options=[redacted]"),
            ("backends.pg.options.url=host=db password=geheim", "backends.pg.options.url=[redacted]"),
        ] {
            assert_eq!(setting_without_secrets(setting), shown);
        }
    }

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("./lib.so"), "./lib.so");
        assert_eq!(quoted(""), "''");
        assert_eq!(quoted(r#"{"a":"it's"}"#), r#"'{"a":"it'\''s"}'"#);
    }
}
