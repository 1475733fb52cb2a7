//! Plugins and loaders of other versions: today's sources, changed, built in a workspace of their own by `outside.rs`.

use std::path::PathBuf;

use tempfile::TempDir;
use toml::{Table, Value};

use crate::outside;
use crate::process::library_name;

/// A workspace that differs from this one in a few places.
#[derive(Debug)]
pub struct Variant {
    directory: TempDir,
}

impl Variant {
    /// Copies the sources of the contract, of the plugin `memory` and of the worker's loader.
    ///
    /// # Panics
    /// When they cannot be copied.
    #[must_use]
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("make a temporary directory");
        let (source, target) = (outside::repository(), directory.path());
        outside::copy(&source.join("plugin-api"), &target.join("plugin-api"));
        outside::copy(&source.join("plugins/memory"), &target.join("plugins/memory"));
        outside::copy(&source.join("tests/fixtures/loader"), &target.join("loader"));
        for (from, to) in [
            ("host/src/plugin/load.rs", "loader/src/load.rs"),
            ("host/src/plugin/host_api.rs", "loader/src/host_api.rs"),
            ("Cargo.lock", "Cargo.lock"),
        ] {
            std::fs::copy(source.join(from), target.join(to)).expect("copy a file of the workspace");
        }
        let text = std::fs::read_to_string(source.join("Cargo.toml")).expect("read the workspace's Cargo.toml");
        let mut manifest: Table = text.parse().expect("the workspace's Cargo.toml is TOML");
        let members = ["plugin-api", "plugins/memory", "loader"].map(Value::from).to_vec();
        let workspace = manifest["workspace"].as_table_mut().expect("`workspace` is a table");
        workspace.insert("members".to_owned(), Value::Array(members));
        workspace.remove("exclude");
        // At another optimisation level than the worker.
        let profile: Table = "[dev]\nopt-level = 0".parse().expect("it is TOML");
        manifest.insert("profile".to_owned(), profile.into());
        std::fs::write(target.join("Cargo.toml"), manifest.to_string()).expect("write a Cargo.toml");
        Self { directory }
    }

    /// Replaces a text, which must occur once in a file.
    ///
    /// # Panics
    /// When it does not: the sources have changed, and the variant with them.
    #[must_use]
    #[track_caller]
    pub fn replace(self, file: &str, from: &str, to: &str) -> Self {
        let path = self.directory.path().join(file);
        let text = std::fs::read_to_string(&path).expect("read a copied file");
        assert_eq!(text.matches(from).count(), 1, "`{from}` must occur once in {file}");
        std::fs::write(path, text.replace(from, to)).expect("write a copied file");
        self
    }

    /// Of another version of the contract.
    #[must_use]
    #[track_caller]
    pub fn of_api(self, version: &str) -> Self {
        let current = env!("PLUGIN_API_VERSION");
        self.replace("plugin-api/Cargo.toml", &format!("version = \"{current}\""), &format!("version = \"{version}\""))
            .replace("Cargo.toml", &format!("version = \"{current}\""), &format!("version = \"{version}\""))
    }

    /// With one more method of a backend and one more function of the root module, as a next minor version may have.
    #[must_use]
    #[track_caller]
    pub fn with_more_functions(self) -> Self {
        let last_method =
            "    #[sabi(last_prefix_field)]\n    fn begin(&self, context: &CallContext) -> Answered<()>;\n";
        let one_more = format!("{last_method}    fn later(&self) -> RString {{ RString::from(\"default\") }}\n");
        let last_function = "    pub open: extern \"C\" fn(OpenArguments) -> Answered<Opened>,\n";
        let one_more_function = format!("{last_function}    pub later: extern \"C\" fn() -> u64,\n");
        self.replace("plugin-api/src/abi.rs", last_method, &one_more)
            .replace("plugin-api/src/abi.rs", last_function, &one_more_function)
            .replace(
                "plugin-api/src/export.rs",
                "PluginModule { check: P::check, open: P::open }",
                "PluginModule { check: P::check, open: P::open, later: { extern \"C\" fn later() -> u64 { 1 } later } }",
            )
    }

    /// With panics that end the process.
    #[must_use]
    #[track_caller]
    pub fn that_aborts(self) -> Self {
        self.replace("Cargo.toml", "opt-level = 0", "panic = \"abort\"\nopt-level = 0")
    }

    /// Builds a package, and gives a copy of the file of this name.
    ///
    /// # Panics
    /// When it does not build.
    #[must_use]
    #[track_caller]
    pub fn build(&self, package: &str, file: &str) -> PathBuf {
        outside::build(self.directory.path(), package, file, &self.directory.path().join("built"), &["--offline"])
    }

    /// Builds the worker's loader as a program that loads the plugin it is given and merges one state.
    #[must_use]
    #[track_caller]
    pub fn build_loader(&self) -> PathBuf {
        self.build("loader", "loader")
    }

    /// Builds the plugin `memory`.
    #[must_use]
    #[track_caller]
    pub fn build_memory(&self) -> PathBuf {
        self.build("storage-backend-memory", &library_name("memory"))
    }
}

impl Default for Variant {
    fn default() -> Self {
        Self::new()
    }
}
