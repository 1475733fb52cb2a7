//! Where the server is and how it is talked to: from a URL, a list of `key=value`, or the options of the same names.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, TargetSessionAttrs};

use crate::options::Options;
use crate::tls::{SslMode, Tls};

/// How long a host may take to take a connection, unless the URL says `connect_timeout`.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The same where others may be better, and all else until it is known that it will do; see `hosts.rs`.
const CONNECT_TIMEOUT_OF_SEVERAL: Duration = Duration::from_secs(2);

/// The keys of a URL that tokio-postgres leaves to others.
const TLS_KEYS: [&str; 4] = ["sslmode", "sslrootcert", "sslcert", "sslkey"];

/// The server, and how to connect to it. Shows no secret.
pub(crate) struct Target {
    pub(crate) config: Config,
    pub(crate) tls: Tls,
}

impl Target {
    /// # Errors
    /// What is wrong with the options, in a sentence that names the field and no secret.
    pub(crate) fn of(options: &Options) -> Result<Self, String> {
        let (mut config, given) = match options.url.is_empty() {
            true if options.host.is_none() => {
                return Err(
                    "`url` is missing; give the URL of the database, or `host`, `user` and `database`".to_owned()
                );
            }
            true => (Config::new(), Vec::new()),
            false if options.host.is_some() || options.port.is_some() => {
                return Err("`host` and `port` stand in `url` already; give either".to_owned());
            }
            false => parse(&options.url)?,
        };
        if let Some(host) = &options.host {
            config.host(host);
            config.port(options.port.unwrap_or(5432));
        }
        if let Some(user) = &options.user {
            config.user(user);
        }
        if let Some(password) = &options.password {
            config.password(password);
        }
        if let Some(database) = &options.database {
            config.dbname(database);
        }
        if let Some(name) = &options.application_name {
            config.application_name(name);
        } else if config.get_application_name().is_none() {
            config.application_name("storage-worker");
        }
        if config.get_user().is_none() {
            return Err("`url` names no user; put it before the host, as in `user@host`, or set `user`".to_owned());
        }
        if config.get_hosts().is_empty() {
            return Err("`url` names no host; put it behind the user, as in `user@host`".to_owned());
        }
        // What stands before it may be the end of a password, and hosts are shown.
        if config.get_hosts().iter().any(|host| matches!(host, Host::Tcp(name) if name.contains('@'))) {
            return Err("`url` has more than one `@`; write one that belongs to the password as `%40`".to_owned());
        }
        let hosts = config.get_hosts().len();
        for (what, count) in [("ports", config.get_ports().len()), ("addresses", config.get_hostaddrs().len())] {
            // One port is that of every host.
            if count != 0 && count != hosts && !(what == "ports" && count == 1) {
                return Err(format!("`url` has {hosts} hosts and {count} {what}; give one for each host"));
            }
        }
        match options.target_session_attrs.as_deref() {
            Some("any") => drop(config.target_session_attrs(TargetSessionAttrs::Any)),
            Some("read-write") => drop(config.target_session_attrs(TargetSessionAttrs::ReadWrite)),
            Some(other) => return Err(format!("`target_session_attrs` is `{other}`; give `any` or `read-write`")),
            // With several hosts one is a standby, most likely, and writing is what we are for.
            None if hosts > 1 && !given.iter().any(|(key, _)| key == "target_session_attrs") => {
                config.target_session_attrs(TargetSessionAttrs::ReadWrite);
            }
            None => {}
        }
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(if hosts > 1 { CONNECT_TIMEOUT_OF_SEVERAL } else { CONNECT_TIMEOUT });
        }
        let tls = tls(options, &given)?;
        config.ssl_mode(tls.mode.negotiation());
        Ok(Self { config, tls })
    }

    /// The name of the database.
    pub(crate) fn database(&self) -> &str {
        self.config.get_dbname().or(self.config.get_user()).unwrap_or_default()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "database `{}` on ", self.database())?;
        let ports = self.config.get_ports();
        for (index, host) in self.config.get_hosts().iter().enumerate() {
            let port = ports.get(index).or(ports.first()).copied().unwrap_or(5432);
            let separator = if index == 0 { "" } else { ", " };
            match host {
                Host::Tcp(name) => write!(formatter, "{separator}`{name}:{port}`")?,
                #[cfg(unix)]
                Host::Unix(path) => write!(formatter, "{separator}`{}` (port {port})", path.display())?,
            }
        }
        Ok(())
    }
}

/// The configuration of a URL or a list of `key=value`, and its keys and values.
fn parse(url: &str) -> Result<(Config, Vec<(String, String)>), String> {
    // SQLAlchemy names its driver: `postgresql+psycopg2://`.
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let scheme = scheme.split_once('+').map_or(scheme, |(scheme, _)| scheme);
    let (plain, given) = match scheme {
        "" if url.contains('=') => {
            let given = pairs(url)?;
            let others = given.iter().filter(|(key, _)| !TLS_KEYS.contains(&&**key));
            let quoted =
                others.map(|(key, value)| format!("{key}='{}'", value.replace('\\', "\\\\").replace('\'', "\\'")));
            (quoted.collect::<Vec<_>>().join(" "), given)
        }
        "postgres" | "postgresql" => {
            let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
            let words: Vec<(&str, &str)> = query
                .split('&')
                .filter(|word| !word.is_empty())
                .map(|word| word.split_once('=').unwrap_or((word, "")))
                .collect();
            let others = words.iter().filter(|(key, _)| !TLS_KEYS.contains(key));
            let others: Vec<String> = others.map(|(key, value)| format!("{key}={value}")).collect();
            let query = if others.is_empty() { String::new() } else { format!("?{}", others.join("&")) };
            let given = words.iter().map(|(key, value)| ((*key).to_owned(), percent_decoded(value)));
            (format!("{scheme}://{path}{query}"), given.collect())
        }
        _ => {
            return Err(
                "`url` is no URL of PostgreSQL; begin it with `postgres://`, or write `key=value` words".to_owned()
            );
        }
    };
    let config: Config = plain.parse().map_err(|error: tokio_postgres::Error| {
        let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
        format!("`url` cannot be read: {cause}")
    })?;
    Ok((config, given))
}

/// The pairs of a list as libpq reads it: spaces may stand around `=`, a value in single quotes may have spaces and be
/// empty, and a backslash takes the next character as it is.
fn pairs(list: &str) -> Result<Vec<(String, String)>, String> {
    let mut pairs = Vec::new();
    let mut rest = list.trim_start();
    while !rest.is_empty() {
        let (key, behind) = rest
            .split_once('=')
            .filter(|(key, _)| !key.trim_end().is_empty() && !key.trim_end().contains(char::is_whitespace))
            .ok_or_else(|| "`url` has a word without `=`; write `key=value`, with quotes around spaces".to_owned())?;
        let behind = behind.trim_start();
        let is_quoted = behind.starts_with('\'');
        let mut value = String::new();
        let mut characters = behind.char_indices().skip(usize::from(is_quoted));
        let end = loop {
            match characters.next() {
                Some((place, '\'')) if is_quoted => break place + 1,
                Some((place, space)) if !is_quoted && space.is_whitespace() => break place,
                Some((_, '\\')) => value.extend(characters.next().map(|(_, escaped)| escaped)),
                Some((_, character)) => value.push(character),
                None if is_quoted => return Err(format!("`url`: the quotes of `{}` do not end", key.trim_end())),
                None => break behind.len(),
            }
        };
        pairs.push((key.trim_end().to_owned(), value));
        rest = behind[end..].trim_start();
    }
    Ok(pairs)
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        let hex = behind.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match hex.filter(|_| byte == b'%') {
            Some(decoded) => {
                bytes.push(decoded);
                rest = &behind[2..];
            }
            None => {
                bytes.push(byte);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn tls(options: &Options, given: &[(String, String)]) -> Result<Tls, String> {
    let of_url = |key: &str| given.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
    let path = |option: &Option<PathBuf>, key: &str| option.clone().or_else(|| of_url(key).map(PathBuf::from));
    let mode = match (options.sslmode, of_url("sslmode")) {
        (Some(mode), _) => mode,
        (None, Some(name)) => SslMode::parse(name)
            .ok_or_else(|| format!("`sslmode` is `{name}`; give disable, prefer, require, verify-ca or verify-full"))?,
        (None, None) => SslMode::default(),
    };
    let tls = Tls {
        mode,
        root_cert: path(&options.sslrootcert, "sslrootcert"),
        client_cert: path(&options.sslcert, "sslcert"),
        client_key: path(&options.sslkey, "sslkey"),
    };
    if tls.client_cert.is_some() != tls.client_key.is_some() {
        return Err("`sslcert` and `sslkey` go together; give both".to_owned());
    }
    Ok(tls)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Target {
        Target::of(&Options { url: url.to_owned(), ..Options::default() }).expect("a URL")
    }

    #[test]
    fn a_target_shows_where_it_leads_and_no_password() {
        let several =
            target("postgres://u:geheim@a:1,b:2/d?sslmode=verify-full&sslrootcert=%2Fca.pem&connect_timeout=9");

        assert_eq!(several.to_string(), "database `d` on `a:1`, `b:2`");
        assert_eq!(several.tls.mode, SslMode::VerifyFull);
        assert_eq!(several.tls.root_cert, Some("/ca.pem".into()));
        assert_eq!(several.config.get_target_session_attrs(), TargetSessionAttrs::ReadWrite);
        assert_eq!(several.config.get_connect_timeout(), Some(&Duration::from_secs(9)));
    }

    #[test]
    fn drivers_of_sqlalchemy_and_lists_of_keys_are_understood() {
        assert_eq!(target("postgresql+psycopg2://u@h/d").to_string(), "database `d` on `h:5432`");
        let keys = target("host=h user=u dbname=d sslmode=disable");
        assert_eq!((keys.to_string().as_str(), keys.tls.mode), ("database `d` on `h:5432`", SslMode::Disable));
    }

    #[test]
    fn hosts_ports_and_addresses_belong_together() {
        for (url, said) in [
            ("host=a,b port=1,2,3 user=u", "2 hosts and 3 ports"),
            ("host=a,b hostaddr=10.0.0.1 user=u", "2 hosts and 1 addresses"),
        ] {
            let options = Options { url: url.to_owned(), ..Options::default() };
            assert!(Target::of(&options).is_err_and(|problem| problem.contains(said)), "{url}");
        }
        let several = target("host=a,b port=7 user=u dbname=d");
        assert_eq!(several.to_string(), "database `d` on `a:7`, `b:7`");
        assert_eq!(several.config.get_connect_timeout(), Some(&CONNECT_TIMEOUT_OF_SEVERAL));
    }

    #[test]
    fn a_password_that_ends_too_early_is_not_shown_as_a_host() {
        let options = Options { url: "postgres://u:gehe@im@h/d".to_owned(), ..Options::default() };

        let problem = Target::of(&options).err().expect("it is refused");

        assert!(problem.contains("`%40`") && !problem.contains("im@"), "{problem}");
    }

    #[test]
    fn lists_of_keys_are_quoted_as_libpq_has_it() {
        let keys =
            target(r"host = h user='a b' password = 'it\'s \\ = ' dbname=a\ b sslrootcert='/my ca.pem' options=''");

        assert_eq!(keys.config.get_user(), Some("a b"));
        assert_eq!(keys.config.get_password(), Some(&br"it's \ = "[..]));
        assert_eq!(keys.to_string(), "database `a b` on `h:5432`");
        assert_eq!(keys.tls.root_cert, Some("/my ca.pem".into()));
        for wrong in ["host=h user", "host=h user='a", "=h", "host=h a b=c"] {
            assert!(pairs(wrong).is_err(), "{wrong}");
        }
    }
}
