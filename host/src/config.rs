//! The configuration of the worker: the parts' configurations put together, and the places they come from.
//!
//! Precedence: command line (`--set`), environment, file, defaults. The steps: `config/parse.rs` makes a tree of the file,
//! `environment.rs` lays variables over it, `deserialize.rs` turns it into [`Config`], `check.rs` looks at the whole.
//! What a key means stands at the part's own `Config`; `storage-worker.toml` is the reference for people.

mod check;
mod deserialize;
mod environment;
mod error;
mod origins;
mod parse;
mod tree;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use self::environment::Environment;
pub use self::error::{ConfigError, Problem};
pub use self::origins::{Origins, Setting};
pub use self::tree::Origin;
use crate::storage::config::{BackendConfig, Backends};
use crate::{event, http, journal, letters, source, storage, worker};

/// Everything that can be configured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// `[redis]`.
    pub redis: source::config::RedisConfig,
    /// `[http]`.
    pub http: http::config::Config,
    /// `[admin]`.
    pub admin: http::config::AdminConfig,
    /// `[source]`.
    pub source: source::config::Config,
    /// `[events]`.
    pub events: event::row::EventRows,
    /// `[worker]`.
    pub worker: worker::config::Config,
    /// `[storage]`.
    pub storage: storage::config::Config,
    /// `[journal]`.
    pub journal: journal::config::Config,
    /// `[dead_letters]`.
    pub dead_letters: letters::config::DeadLettersConfig,
    /// `[backends]`.
    pub backends: Backends,
}

impl Default for Config {
    /// What the worker does with no file and no variables: it stores in files below `./data`.
    fn default() -> Self {
        let file = BackendConfig::new("file", serde_json::json!({ "path": "./data" }));
        Self {
            redis: source::config::RedisConfig::default(),
            http: http::config::Config::default(),
            admin: http::config::AdminConfig::default(),
            source: source::config::Config::default(),
            events: event::row::EventRows::default(),
            worker: worker::config::Config::default(),
            storage: storage::config::Config::default(),
            journal: journal::config::Config::default(),
            dead_letters: letters::config::DeadLettersConfig::default(),
            backends: Backends::from([("file".to_owned(), file)]),
        }
    }
}

/// A configuration, and where each of its values came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// The file it was read from, if there is one.
    pub file: Option<PathBuf>,
    /// Where its values came from.
    pub origins: Origins,
    /// What is not wrong, yet probably not meant: variables and backends that are of no use.
    pub notes: Vec<String>,
}

impl Loaded {
    /// Reads the file if one is named, and lays the environment and the settings of the command line over it.
    ///
    /// # Errors
    /// When the file cannot be read, or with everything that is wrong with it.
    pub fn load(file: Option<&Path>, environment: &Environment, settings: &[String]) -> Result<Self, ConfigError> {
        let parsed = match file {
            Some(path) => parse::file(&read(path)?, path, environment).map_err(ConfigError::Problems)?,
            None => parse::Parsed::default(),
        };
        let mut tree = parsed.tree;
        for setting in settings {
            tree.lay(parse::setting(setting).map_err(|problem| ConfigError::Problems(vec![problem]))?);
        }
        // A tree without a root is of interest only if it has no other problems, which are likely the cause.
        let environment = environment::apply(&mut tree, environment, &parsed.variables);
        let origins = Origins::of(&tree);
        let config: Config = deserialize::from_tree(tree).map_err(ConfigError::Problems)?;
        let mut notes = environment.map_err(|problem| ConfigError::Problems(vec![problem]))?;
        let problems = check::problems(&config, &origins);
        if !problems.is_empty() {
            return Err(ConfigError::Problems(problems));
        }
        notes.extend(storage::config::unused(&config.storage, &config.backends).map(|name| {
            format!("the backend `{name}` is not below the root `{}` and will not be opened", config.storage.backend)
        }));
        Ok(Self { config, file: file.map(Path::to_path_buf), origins, notes })
    }

    /// A problem that a part found with a key, with the place of the key or of the nearest one above it.
    #[must_use]
    pub fn problem(&self, path: &[impl AsRef<str>], message: impl Into<String>) -> Problem {
        let path: Vec<&str> = path.iter().map(AsRef::as_ref).collect();
        let (key, origin) = self.origins.nearest(&path);
        Problem::new(origin, key, message)
    }

    /// Every value with its key and origin, secrets redacted.
    #[must_use]
    pub fn settings(&self) -> Vec<Setting> {
        self.origins.settings(&self.config)
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let bytes = std::fs::read(path).map_err(|source| ConfigError::Read { path: path.to_path_buf(), source })?;
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = good.iter().filter(|byte| **byte == b'\n').count() + 1;
        let place = Origin::File { path: path.into(), line };
        ConfigError::Problems(vec![Problem::new(&place, "", "not UTF-8; save the file as UTF-8")])
    })
}
