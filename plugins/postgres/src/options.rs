//! The options of the backend `postgres`, and what an instance of them promises.

use std::path::PathBuf;

use serde::Deserialize;
use storage_plugin_api::{Capabilities, Description};

use crate::connect::Target;
use crate::tls::SslMode;

/// What can be configured. Everything about the connection may stand in `url`, or in the keys of the same names.
#[derive(Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// `postgres://user:password@host:5432/database?sslmode=verify-full`; several hosts are separated by commas.
    pub url: String,
    /// The host, or the directory of a Unix socket; not with `url`.
    pub host: Option<String>,
    /// The port; not with `url`.
    pub port: Option<u16>,
    /// The role. Default: as `url` says.
    pub user: Option<String>,
    /// The role's password. Default: as `url` says.
    pub password: Option<String>,
    /// The database. Default: as `url` says, else that of the role's name.
    pub database: Option<String>,
    /// What the server knows us by. Default `"storage-worker"`.
    pub application_name: Option<String>,
    /// Which of several hosts will do: `any` or `read-write`. Default `read-write` with several hosts, else `any`.
    pub target_session_attrs: Option<String>,
    /// Whether TLS is used, and what is checked. Default `prefer`.
    pub sslmode: Option<SslMode>,
    /// Certificates of the authorities that the server's may come from, PEM. Default: those of the system.
    pub sslrootcert: Option<PathBuf>,
    /// Our certificate, PEM; needs `sslkey`.
    pub sslcert: Option<PathBuf>,
    /// The key of our certificate, PEM.
    pub sslkey: Option<PathBuf>,
    /// The schema of the tables. Default `"public"`.
    pub schema: String,
    /// What the names of the tables and indexes begin with. Default: nothing.
    pub table_prefix: String,
    /// What happens at open to a schema that is missing or old. Default `"auto"`.
    pub migrate: Migrate,
    /// Most connections at once, beside two while indexes are built. Default 8.
    pub connections: usize,
    /// What is promised of what was stored. Default `"check"`.
    pub durability: Durability,
    /// Named prepared statements; `false` behind a pooler in transaction mode. Default `true`.
    pub prepared_statements: bool,
}

/// What happens at open to a schema that is missing or old.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Migrate {
    /// It is made.
    #[default]
    Auto,
    /// It is refused.
    Check,
    /// Nobody looks, neither at the tables nor at the rights to them.
    Off,
}

/// What is promised of what was stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// It survives; a server that does not sync is refused.
    #[default]
    Check,
    /// It survives, whatever the server's settings say: what is below the server syncs by itself.
    Durable,
    /// It may not survive.
    Volatile,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            url: String::new(),
            host: None,
            port: None,
            user: None,
            password: None,
            database: None,
            application_name: None,
            target_session_attrs: None,
            sslmode: None,
            sslrootcert: None,
            sslcert: None,
            sslkey: None,
            schema: "public".to_owned(),
            table_prefix: String::new(),
            migrate: Migrate::Auto,
            connections: 8,
            durability: Durability::Check,
            prepared_statements: true,
        }
    }
}

impl std::fmt::Debug for Options {
    /// Without URL and password.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Options").field("schema", &self.schema).finish_non_exhaustive()
    }
}

/// Longest `table_prefix`: the longest name that it stands before must stay below PostgreSQL's 63 bytes.
const MAX_PREFIX: usize = 30;

impl Options {
    pub(crate) fn describe(&self) -> Description {
        let capabilities = Capabilities {
            durable: self.durability != Durability::Volatile,
            evicting: false,
            exclusive: false,
            list_by_id: true,
            list_by_created: true,
            counts: true,
            blobs: false,
            states: true,
            prune: true,
            parallel_calls: self.connections.max(1),
        };
        let mut problems = Vec::new();
        let mut notes = Vec::new();
        match Target::of(self) {
            Ok(target) => notes.push(format!("stores in {target}, schema `{}`", self.schema)),
            Err(problem) => problems.push(problem),
        }
        if self.connections == 0 {
            problems.push("`connections` is 0; give at least 1".to_owned());
        }
        if self.schema.is_empty() || self.schema.len() > 63 || self.schema.contains('\0') {
            problems.push("`schema` must have 1 to 63 bytes; give the name of a schema".to_owned());
        }
        if self.table_prefix.len() > MAX_PREFIX || self.table_prefix.contains('\0') {
            problems.push(format!("`table_prefix` must have at most {MAX_PREFIX} bytes; give a shorter one"));
        }
        Description { capabilities, problems, notes, ..Description::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(options: &str) -> Vec<String> {
        serde_json::from_str::<Options>(options).expect("options").describe().problems
    }

    #[test]
    fn unknown_keys_are_refused() {
        let error = serde_json::from_str::<Options>(r#"{"ulr":"x"}"#).expect_err("unknown");

        assert!(error.to_string().contains("ulr"));
    }

    #[test]
    fn wrong_fields_are_named_and_secrets_are_not() {
        for (options, named) in [
            ("{}", "`url`"),
            (r#"{"url":"mysql://u:geheim@h/d"}"#, "`url`"),
            (r#"{"url":"postgres://u:geheim@h:port/d"}"#, "`url`"),
            (r#"{"url":"postgres://u:geheim@h/d?sslmode=sometimes"}"#, "`sslmode`"),
            (r#"{"url":"postgres://u:geheim@h/d?colour=red"}"#, "`colour`"),
            (r#"{"url":"postgres://u:geheim@h/d","host":"x"}"#, "`host`"),
            (r#"{"url":"postgres://u:geheim@h/d","target_session_attrs":"best"}"#, "`target_session_attrs`"),
            (r#"{"url":"postgres://u:geheim@h/d","sslcert":"c.pem"}"#, "`sslkey`"),
            (r#"{"url":"postgres://u:geheim@h/d","connections":0}"#, "`connections`"),
            (r#"{"url":"postgres://u:geheim@h/d","schema":""}"#, "`schema`"),
        ] {
            let problems = problems(options);

            assert!(problems.iter().any(|problem| problem.contains(named)), "{options}: {problems:?}");
            assert!(!problems.iter().any(|problem| problem.contains("geheim")), "{problems:?}");
        }
        assert_eq!(problems(r#"{"url":"postgres://u:geheim@h/d"}"#), [""; 0]);
        assert_eq!(problems(r#"{"host":"/run/postgresql","user":"u","database":"d"}"#), [""; 0]);
    }
}
