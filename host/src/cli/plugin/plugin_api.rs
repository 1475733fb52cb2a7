//! plugin-api as the worker carries it: its sources, and a manifest that stands without our workspace.

use toml::{Table, Value};

/// By path; made by `build.rs`.
static SOURCES: &[(&str, &str)] = &include!(concat!(env!("OUT_DIR"), "/plugin_api_sources.rs"));
const MANIFEST: &str = include_str!("../../../../plugin-api/Cargo.toml");
const WORKSPACE: &str = include_str!("../../../../Cargo.toml");

/// Its version, which is that of the contract.
pub(super) use storage_plugin_api::manifest::API_VERSION as VERSION;

/// Whether that version can be had from the registry; true from the release on in which it is published.
pub(super) const IS_PUBLISHED: bool = false;

/// The versions of what it depends on.
pub(super) const LOCK: &str = include_str!("../../../../Cargo.lock");

/// Every file, by its path below the directory of the crate.
pub(super) fn files() -> Vec<(String, String)> {
    let others = [
        ("LICENSE-APACHE", include_str!("../../../../LICENSE-APACHE")),
        ("LICENSE-MIT", include_str!("../../../../LICENSE-MIT")),
        // Else `cargo fmt` of the new crate would change our sources.
        ("rustfmt.toml", include_str!("../../../../rustfmt.toml")),
    ];
    let text = |(file, text): &(&str, &str)| ((*file).to_owned(), (*text).to_owned());
    let mut files: Vec<_> = SOURCES.iter().chain(&others).map(text).collect();
    files.push(("Cargo.toml".to_owned(), manifest()));
    files
}

/// The manifest with what it takes from the workspace filled in, without what only its own tests need.
fn manifest() -> String {
    let parse = |text: &str| text.parse::<Table>().expect("our manifests are TOML");
    let (mut manifest, workspace) = (parse(MANIFEST), parse(WORKSPACE));
    let workspace = workspace["workspace"].as_table().expect("it is a workspace");
    for unneeded in ["dev-dependencies", "lints"] {
        manifest.remove(unneeded);
    }
    fill(table(&mut manifest, "package"), table_of(workspace, "package"));
    fill(table(&mut manifest, "dependencies"), table_of(workspace, "dependencies"));
    manifest.to_string()
}

/// Replaces every value `{ workspace = true, … }` by the workspace's, with what is said beside it.
fn fill(own: &mut Table, workspace: &Table) {
    for (key, value) in own.iter_mut() {
        let Some(said) = value.as_table_mut() else { continue };
        if said.remove("workspace").is_none() {
            continue;
        }
        let said = std::mem::take(said);
        *value = match (workspace[key.as_str()].clone(), said.is_empty()) {
            (whole, true) => whole,
            (Value::Table(whole), false) => Value::Table(whole.into_iter().chain(said).collect()),
            (version, false) => Value::Table([("version".to_owned(), version)].into_iter().chain(said).collect()),
        };
    }
}

fn table<'a>(of: &'a mut Table, key: &str) -> &'a mut Table {
    of[key].as_table_mut().expect("the manifest has this table")
}

fn table_of<'a>(of: &'a Table, key: &str) -> &'a Table {
    of[key].as_table().expect("the workspace has this table")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_stands_alone() {
        let text = manifest();

        assert!(!text.contains("workspace"), "{text}");
        let manifest: Table = text.parse().expect("it is TOML");
        assert_eq!(manifest["package"]["version"].as_str(), Some(VERSION));
        assert_eq!(manifest["dependencies"]["tokio"]["optional"].as_bool(), Some(true));
        assert!(manifest["dependencies"]["tokio"]["features"].as_array().is_some_and(|all| !all.is_empty()));
    }
}
