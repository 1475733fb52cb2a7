//! The documents: every file and target that they name exists, and the changelog and the decisions have their form.

use std::collections::BTreeSet;

use crate::{Finding, assert_tidy, repository};

/// What the name of a file of the repository ends in, when a document names it in backticks.
const EXTENSIONS: [&str; 6] = [".rs", ".md", ".toml", ".sh", ".service", "Makefile"];

/// The sections of a decision; see docs/adr/0001-an-event-is-a-state.md.
const SECTIONS: [&str; 4] = ["## Context", "## Decision", "## Consequences", "## What else was weighed"];

/// Names of files that belong to others than this repository.
const OF_OTHERS: [&str; 2] = ["Cargo.toml", "lib.rs"];

fn documents() -> impl Iterator<Item = &'static repository::File> {
    repository::with_extension(".md")
}

#[test]
fn links_lead_somewhere() {
    let known = known_paths();
    let findings = documents().flat_map(|file| links(&file.path, &file.text, &known)).collect();
    assert_tidy("relative links in documents lead to files", findings);
}

#[test]
fn files_that_are_named_exist() {
    let known = known_paths();
    let findings = documents().flat_map(|file| named_paths(&file.path, &file.text, &known));
    let comments = repository::with_extension(".rs").filter(|file| !file.path.starts_with("tests/tests/tidy/"));
    let in_comments = comments.flat_map(|file| named_paths(&file.path, &comments_of(&file.text), &known));
    assert_tidy("files in backticks exist", findings.chain(in_comments).collect());
}

#[test]
fn make_targets_that_are_named_exist() {
    let makefile = repository::text("Makefile");
    assert_tidy(
        "targets of make exist",
        documents().flat_map(|file| targets(&file.path, &file.text, makefile)).collect(),
    );
}

#[test]
fn the_changelog_has_its_form() {
    let version = repository::text("Cargo.toml").lines().find_map(|line| line.strip_prefix("version = \""));
    let version = version.expect("the workspace has a version").trim_end_matches('"');
    assert_tidy("the changelog tells users what is new", changelog(repository::text("CHANGELOG.md"), version));
}

#[test]
fn decisions_have_their_form() {
    let files = repository::files().iter().filter(|file| file.path.starts_with("docs/adr/"));
    let files: Vec<_> = files.map(|file| (file.path.as_str(), file.text.as_str())).collect();
    assert!(!files.is_empty(), "docs/adr has the decisions");
    assert_tidy("decisions are numbered pages of one form", decisions(&files));
}

#[test]
fn the_example_of_plugin_api_is_the_tested_one() {
    let comments = comments_of(repository::text("plugin-api/src/lib.rs"));
    let shown: Vec<&str> = comments.lines().filter(|line| !line.starts_with("# ") && *line != "#").collect();
    let example = blocks(&shown.join("\n"), "```");
    let whole = "examples/shelf/src/lib.rs";
    let findings = same_example(&example, repository::text(whole), whole);
    assert_tidy("the plugin in the documentation of plugin-api is examples/shelf", findings);
}

/// The rows of the first table whose first column has this head, without head and rule.
pub(crate) fn table(text: &str, head: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| {
        let line = line.trim().trim_matches('|').to_owned();
        line.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>()
    };
    let rows = text.lines().skip_while(|line| !line.starts_with('|') || cells(line)[0] != head);
    rows.take_while(|line| line.starts_with('|')).skip(2).map(cells).collect()
}

/// Every file and directory of the repository.
fn known_paths() -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    for file in repository::files() {
        known.insert(file.path.clone());
        known.extend(file.path.match_indices('/').map(|(at, _)| file.path[..at].to_owned()));
    }
    known
}

fn links(path: &str, text: &str, known: &BTreeSet<String>) -> Vec<Finding> {
    let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
    let mut findings = Vec::new();
    for (line, text) in prose(text) {
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split([')', ' ']).next().unwrap_or_default();
            let file = target.split('#').next().unwrap_or_default();
            if file.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let resolved = resolve(directory, file);
            if !known.contains(resolved.trim_end_matches('/')) {
                let message = format!("links to `{target}`, but there is no `{resolved}`; repair the link");
                findings.push(Finding::new(path, line, message));
            }
        }
    }
    findings
}

fn resolve(directory: &str, target: &str) -> String {
    let mut parts: Vec<&str> = directory.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn named_paths(path: &str, text: &str, known: &BTreeSet<String>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (line, text) in prose(text) {
        for token in text.split('`').skip(1).step_by(2).filter(|token| is_path(token, known)) {
            let suffix = format!("/{token}");
            if !known.iter().any(|known| known == token || known.ends_with(&suffix)) {
                let message = format!("names `{token}`, which does not exist; name what there is now");
                findings.push(Finding::new(path, line, message));
            }
        }
    }
    findings
}

/// True for what reads like a file or directory of this repository.
fn is_path(token: &str, known: &BTreeSet<String>) -> bool {
    let plain = token.chars().all(|char| char.is_ascii_alphanumeric() || "/._-".contains(char));
    let first = token.split('/').next().unwrap_or_default();
    let is_file = EXTENSIONS.iter().any(|extension| token.ends_with(extension) && token.len() > extension.len());
    let is_ours = token.contains('/') && known.contains(first) && !token.ends_with('/');
    plain && !token.starts_with(['/', '.']) && !OF_OTHERS.contains(&token) && (is_file || is_ours)
}

fn targets(path: &str, text: &str, makefile: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let commands = line.split('`').skip(1).step_by(2).chain([line]);
        for target in commands.filter_map(|command| command.trim().strip_prefix("make ")) {
            let target = target.split(' ').next().unwrap_or_default();
            let is_word = !target.is_empty() && target.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
            // A line of prose may begin with the word; only commands in blocks and backticks are meant.
            let is_prose = line.trim_start().starts_with("make ") && line.split(' ').count() > 2 && !line.contains('#');
            if is_word && !is_prose && !makefile.lines().any(|line| line.starts_with(&format!("{target}:"))) {
                findings.push(Finding::new(path, index + 1, format!("`make {target}` is no target of the Makefile")));
            }
        }
    }
    findings
}

fn changelog(text: &str, version: &str) -> Vec<Finding> {
    let path = "CHANGELOG.md";
    let heads: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let mut findings = Vec::new();
    if !heads.iter().any(|head| head.starts_with("[Unreleased]") || head.starts_with(&format!("[{version}]"))) {
        let message = format!("has neither `## [Unreleased]` nor `## [{version}]`; say there what users would notice");
        findings.push(Finding::new(path, 0, message));
    }
    let form = |head: &&&str| !head.starts_with('[');
    let bad =
        heads.iter().filter(form).map(|head| format!("`## {head}` is no version; write `## [0.1.0] - 2025-01-31`"));
    findings.extend(bad.map(|message| Finding::new(path, 0, message)));
    findings
}

fn decisions(files: &[(&str, &str)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, (path, text)) in files.iter().enumerate() {
        let number = format!("{:04}-", index + 1);
        if !path.starts_with(&format!("docs/adr/{number}")) || !path.ends_with(".md") {
            let message = format!("is decision {}; name it `{number}what-was-decided.md`", index + 1);
            findings.push(Finding::new(path, 0, message));
        }
        for section in SECTIONS.iter().filter(|section| !text.lines().any(|line| line == **section)) {
            findings.push(Finding::new(path, 0, format!("has no `{section}`; add it")));
        }
        let lines = text.lines().count();
        if lines > 60 {
            findings.push(Finding::new(path, 0, format!("has {lines} lines; a decision is one page, at most 60")));
        }
    }
    findings
}

fn same_example(example: &[String], tested: &str, path: &str) -> Vec<Finding> {
    let message = match example {
        [] => "has no block of code; show a plugin".to_owned(),
        [example] if tested.contains(example.trim()) => return Vec::new(),
        [_] => format!("shows another plugin than {path}; copy the one to the other"),
        _ => format!("has several blocks of code; say which one is that of {path}"),
    };
    vec![Finding::new("plugin-api/src/lib.rs", 0, message)]
}

/// The blocks of code that open with this fence.
fn blocks(text: &str, fence: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = text.lines();
    while lines.by_ref().any(|line| line == fence) {
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        blocks.push(block.join("\n"));
    }
    blocks
}

/// The lines outside of blocks of code, numbered.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_block = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let is_fence = line.trim_start().starts_with("```");
        in_block ^= is_fence;
        (!in_block && !is_fence).then_some((index + 1, line))
    })
}

/// The text of documentation comments; other lines are empty, so that line numbers stay.
fn comments_of(text: &str) -> String {
    let comment = |line: &str| {
        let line = line.trim_start();
        let text = line.strip_prefix("//!").or_else(|| line.strip_prefix("///")).unwrap_or_default();
        text.strip_prefix(' ').unwrap_or(text).to_owned()
    };
    text.lines().map(comment).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> BTreeSet<String> {
        ["docs", "docs/style.md", "host", "host/src/worker/retry.rs", "README.md"].map(str::to_owned).into()
    }

    fn lines(findings: Vec<Finding>) -> Vec<usize> {
        findings.into_iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn a_dead_link_is_found() {
        let text = "[a](style.md) [b](../README.md#run)\n[c](gone.md)\n[d](https://example.org/x) [e](#here)\n```\n[f](gone.md)\n```\n";

        assert_eq!(lines(links("docs/a.md", text, &known())), [2]);
    }

    #[test]
    fn a_file_that_is_gone_is_found() {
        let text = "`worker/retry.rs`, `docs/style.md`, `host`\n`worker/gone.rs`\n`docs/gone`\n`data/evaluations` `x.y` `lib.rs`\n";

        assert_eq!(lines(named_paths("a.md", text, &known())), [2, 3]);
    }

    #[test]
    fn a_target_that_is_gone_is_found() {
        let text = "`make demo`\n`make gone`\n```\nmake also-gone  # a comment\n```\nmake sure of it\n";

        assert_eq!(lines(targets("a.md", text, "demo: ## Show\n")), [2, 4]);
    }

    #[test]
    fn a_changelog_without_the_version_is_found() {
        assert_eq!(changelog("## [Unreleased]\n", "0.1.0"), []);
        assert_eq!(changelog("## [0.1.0] - 2025-01-31\n", "0.1.0"), []);
        assert_eq!(changelog("## [0.0.9] - 2025-01-31\n## News\n", "0.1.0").len(), 2);
    }

    #[test]
    fn a_decision_of_another_form_is_found() {
        let whole = SECTIONS.join("\n");
        assert_eq!(decisions(&[("docs/adr/0001-a.md", &whole), ("docs/adr/0002-b.md", &whole)]), []);

        let long = whole.clone() + &"\n".repeat(70);
        let found = decisions(&[
            ("docs/adr/0001-a.md", "## Context\n"),
            ("docs/adr/0003-c.md", &whole),
            ("docs/adr/0003-d.md", &long),
        ]);

        assert_eq!(found.len(), 3 + 1 + 1, "{found:?}");
    }

    #[test]
    fn an_example_that_nobody_compiles_is_found() {
        let readme = blocks("```rust\nfn a() {}\n```\n", "```rust");

        assert_eq!(same_example(&readme, "```\nfn a() {}\n```\n", "a.rs"), []);
        assert_eq!(same_example(&readme, "```\nfn b() {}\n```\n", "a.rs").len(), 1);
        assert_eq!(same_example(&[], "", "a.rs").len(), 1);
    }

    #[test]
    fn tables_are_read() {
        let text = "| other |\n|---|\n| x |\n\n| module | may |\n|---|---|\n| `a` | b, c |\n| d | |\n\nend";

        assert_eq!(table(text, "module"), [["`a`", "b, c"], ["d", ""]]);
    }
}
