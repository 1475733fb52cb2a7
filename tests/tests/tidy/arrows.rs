//! Who may know whom: between the crates, and between the modules of the host.
//!
//! The arrows inside the host are read from the table in `docs/architecture.md`, so that it cannot differ from the code.

use std::collections::BTreeMap;

use crate::code::code_of;
use crate::{Finding, assert_tidy, documents, repository};

/// What the names of our crates begin with, as dependencies.
const OURS: &str = "storage-";

/// From each module of the host to those that it may import.
type Arrows = BTreeMap<String, Vec<String>>;

#[test]
fn crates_depend_on_the_contract_only() {
    let manifests = repository::files().iter().filter(|file| file.path.ends_with("Cargo.toml"));
    assert_tidy(
        "arrows between crates: plugins → plugin-api ← host, tests and fuzz → both",
        manifests.flat_map(|file| crates(&file.path, &file.text)).collect(),
    );
}

#[test]
fn the_host_names_no_plugin_crate() {
    let host = repository::with_extension(".rs").filter(|file| file.path.starts_with("host/src/"));
    assert_tidy(
        "the host knows plugins at run time only",
        host.flat_map(|file| plugins(&file.path, &file.text)).collect(),
    );
}

#[test]
fn modules_of_the_host_import_what_the_table_allows() {
    let arrows = arrows(repository::text("docs/architecture.md"));
    assert!(arrows.len() > 5, "docs/architecture.md has a table `| module | may import |`");
    let host = repository::with_extension(".rs").filter(|file| file.path.starts_with("host/src/"));
    let mut findings: Vec<Finding> = host.flat_map(|file| imports(&file.path, &file.text, &arrows)).collect();
    findings.extend(in_circles(&arrows));
    assert_tidy("arrows inside the host: main → cli → app → parts → leaves", findings);
}

fn crates(path: &str, manifest: &str) -> Vec<Finding> {
    let allowed: &[&str] = match path {
        "Cargo.toml" => return Vec::new(),
        "plugin-api/Cargo.toml" => &[],
        // The benchmark of the boundary makes the same calls statically. Two plugins in one program would share symbols.
        "tests/Cargo.toml" => &["storage-plugin-api", "storage-worker", "storage-backend-memory"],
        "fuzz/Cargo.toml" => &["storage-plugin-api", "storage-worker"],
        _ => &["storage-plugin-api"],
    };
    let mut findings = Vec::new();
    let mut in_dependencies = false;
    for (index, line) in manifest.lines().enumerate() {
        if let Some(section) = line.trim().strip_prefix('[') {
            in_dependencies = section.contains("dependencies");
            continue;
        }
        let name = line.split(['=', '.', ' ']).next().unwrap_or_default();
        if in_dependencies && name.starts_with(OURS) && !allowed.contains(&name) {
            let message = match allowed {
                [] => format!("the contract depends on `{name}`; turn the dependency around"),
                allowed => format!("`{name}` is none of {allowed:?}; go through the contract, or load it at run time"),
            };
            findings.push(Finding::new(path, index + 1, message));
        }
    }
    findings
}

fn plugins(path: &str, text: &str) -> Vec<Finding> {
    let code = code_of(text);
    let names_a_crate = |line: &str| {
        let behind = line.split("storage_backend_").skip(1);
        behind
            .map(|rest| rest.trim_start_matches(|char: char| char.is_alphanumeric() || char == '_'))
            .any(|rest| rest.starts_with("::"))
    };
    let lines = code.lines().enumerate().filter(|(_, line)| names_a_crate(line));
    let message = "names a plugin's crate; the host loads plugins by the name in the configuration";
    lines.map(|(index, _)| Finding::new(path, index + 1, message)).collect()
}

fn arrows(architecture: &str) -> Arrows {
    let rows = documents::table(architecture, "module");
    let names = |cell: &str| cell.split(',').map(|name| name.trim().trim_matches('`').to_owned()).collect::<Vec<_>>();
    let mut arrows = Arrows::new();
    for row in rows {
        let [modules, may_import, ..] = row.as_slice() else { continue };
        for module in names(modules) {
            arrows.insert(module, names(may_import));
        }
    }
    arrows
}

fn imports(path: &str, text: &str, arrows: &Arrows) -> Vec<Finding> {
    let module = module_of(path);
    if module == "lib" {
        return Vec::new();
    }
    let Some(allowed) = arrows.get(module) else {
        let message = format!("module `{module}` is not in the table of docs/architecture.md; add what it may import");
        return vec![Finding::new(path, 0, message)];
    };
    let mut findings = Vec::new();
    for (line, imported) in imported(&code_of(text)) {
        if imported != module && !allowed.contains(&imported) {
            let message = format!(
                "`{module}` imports `{imported}`; meet through a trait of `source` or `storage`, pass it in, or (with an \
                 ADR) add the arrow to the table of docs/architecture.md"
            );
            findings.push(Finding::new(path, line, message));
        }
    }
    findings
}

fn module_of(path: &str) -> &str {
    let inside = path.strip_prefix("host/src/").unwrap_or(path);
    let first = inside.split('/').next().unwrap_or(inside);
    first.strip_suffix(".rs").unwrap_or(first)
}

/// The modules that a file names as `crate::module` or, in `main.rs`, `storage_worker::module`, and where.
fn imported(code: &str) -> Vec<(usize, String)> {
    let mut imported = Vec::new();
    for root in ["crate::", "storage_worker::"] {
        for (at, _) in code.match_indices(root) {
            if code[..at].ends_with(|before: char| before.is_alphanumeric() || "_$".contains(before)) {
                continue;
            }
            let line = code[..at].matches('\n').count() + 1;
            imported.extend(names_behind(&code[at + root.len()..]).into_iter().map(|name| (line, name)));
        }
    }
    imported
}

/// `a::b` is `a`; `{a, b::{c, d}}` is `a` and `b`.
fn names_behind(code: &str) -> Vec<String> {
    let word = |code: &str| code.chars().take_while(|char| char.is_alphanumeric() || *char == '_').collect::<String>();
    let Some(group) = code.strip_prefix('{') else { return vec![word(code)] };
    let mut names = vec![word(group.trim_start())];
    let mut depth = 0;
    for (at, char) in group.char_indices() {
        match char {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(word(group[at + 1..].trim_start())),
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// Modules from which a way along the arrows leads back.
fn in_circles(arrows: &Arrows) -> Vec<Finding> {
    let mut left = arrows.clone();
    // Whoever imports only what is gone already goes, too; what cannot go is in a circle, or above one.
    while let Some(done) =
        left.iter().find(|(_, to)| !to.iter().any(|to| left.contains_key(to))).map(|(done, _)| done.clone())
    {
        left.remove(&done);
    }
    let message = |module: &str| format!("the arrows from `{module}` lead in a circle; take one of them out");
    left.keys().map(|module| Finding::new("docs/architecture.md", 0, message(module))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "| module | may import |\n|---|---|\n| `worker` | `event`, `units` |\n| `event`, `units` | |\n";

    fn lines(findings: Vec<Finding>) -> Vec<usize> {
        findings.into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn a_crate_that_knows_too_much_is_found() {
        let manifest = "[package]\nname = \"storage-backend-x\"\n[dependencies]\nserde = \"1\"\nstorage-plugin-api.workspace = true\n\
                        [dev-dependencies]\nstorage-backend-memory = { path = \"..\" }\n";

        assert_eq!(lines(crates("plugins/x/Cargo.toml", manifest)), [7]);
        assert_eq!(lines(crates("host/Cargo.toml", manifest)), [7]);
        assert_eq!(lines(crates("plugin-api/Cargo.toml", manifest)), [5, 7]);
        assert_eq!(crates("plugins/x/Cargo.toml", "[dependencies]\nstorage-plugin-api = \"1\"\n"), []);
    }

    #[test]
    fn a_plugin_that_the_host_names_is_found() {
        assert_eq!(
            lines(plugins(
                "host/src/a.rs",
                "const A: &str = \"storage_backend_x\";\nuse storage_backend_x::X;\nfn storage_backend_is_set() {}"
            )),
            [2]
        );
    }

    #[test]
    fn an_arrow_that_is_not_in_the_table_is_found() {
        let arrows = arrows(TABLE);
        let text = "use crate::event::{self, Event};\nuse crate::worker::lane;\nuse crate::{units, http::Server};\n// crate::cli\n";

        assert_eq!(lines(imports("host/src/worker/lane.rs", text, &arrows)), [3]);
        assert_eq!(lines(imports("host/src/event/decode.rs", text, &arrows)), [2, 3, 3]);
        assert_eq!(lines(imports("host/src/novelty.rs", "", &arrows)), [0]);
        assert_eq!(imports("host/src/lib.rs", "pub use crate::cli;", &arrows), []);
    }

    #[test]
    fn circles_are_found() {
        assert_eq!(in_circles(&arrows(TABLE)), []);
        let circle = TABLE.replace("| `event`, `units` | |", "| `event` | `worker` |");
        assert_eq!(in_circles(&arrows(&circle)).len(), 2);
    }

    #[test]
    fn imports_are_read_from_groups_and_paths() {
        let names = |code: &str| imported(code).into_iter().map(|(_, name)| name).collect::<Vec<_>>();

        assert_eq!(names("crate::a::b(); use crate::{c, d::{e, f}, g};"), ["a", "c", "d", "g"]);
        assert_eq!(names("storage_worker::cli::main(); $crate::x"), ["cli"]);
    }
}
