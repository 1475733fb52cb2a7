//! How a Rust file looks: its head, its length, where `unsafe` may stand, and that nothing in it is unfinished.

use crate::code::{code_of, identifiers};
use crate::{Finding, assert_tidy, repository};

/// Longest file, in lines, tests included.
const MAX_LINES: usize = 450;

/// The modules that make the plugin boundary; see docs/adr/0002-abi-stable.md and docs/adr/0009-c-plugins.md.
const UNSAFE: [&str; 8] = [
    "host/src/plugin/c_call.rs",
    "host/src/plugin/c_load.rs",
    "host/src/plugin/c_store.rs",
    "host/src/plugin/load.rs",
    "plugin-api/src/abi.rs",
    "plugin-api/src/c_abi.rs",
    "plugin-api/src/export.rs",
    "plugin-api/src/import.rs",
];

#[test]
fn every_file_opens_with_what_it_owns() {
    assert_tidy(
        "every Rust file opens with `//!`",
        repository::with_extension(".rs").filter_map(|file| opening(&file.path, &file.text)).collect(),
    );
}

#[test]
fn no_file_is_too_long() {
    assert_tidy(
        "a file has at most 450 lines",
        repository::with_extension(".rs").filter_map(|file| length(&file.path, &file.text)).collect(),
    );
}

#[test]
fn unsafe_code_stays_at_the_boundary() {
    assert_tidy(
        "`unsafe` is for the modules of the plugin boundary",
        repository::with_extension(".rs").flat_map(|file| unsafe_code(&file.path, &file.text)).collect(),
    );
}

#[test]
fn nothing_is_unfinished() {
    assert_tidy(
        "what is committed is finished",
        repository::with_extension(".rs").flat_map(|file| unfinished(&file.path, &file.text)).collect(),
    );
}

fn opening(path: &str, text: &str) -> Option<Finding> {
    let has_words = text.strip_prefix("//!").and_then(|rest| rest.lines().next()).is_some_and(|line| line.len() > 10);
    (!has_words).then(|| Finding::new(path, 1, "begin it with `//!` and what it owns, what it leaves to others"))
}

fn length(path: &str, text: &str) -> Option<Finding> {
    let lines = text.lines().count();
    let message = format!("has {lines} lines; move one of the things it does to a file of its own");
    (lines > MAX_LINES).then(|| Finding::new(path, 0, message))
}

fn unsafe_code(path: &str, text: &str) -> Vec<Finding> {
    if UNSAFE.contains(&path) {
        return Vec::new();
    }
    let code = code_of(text);
    let lines = identifiers(&code).filter(|(_, word)| *word == "unsafe").map(|(line, _)| line);
    lines
        .map(|line| Finding::new(path, line, "do it without `unsafe`, or in one of the modules of the boundary"))
        .collect()
}

fn unfinished(path: &str, text: &str) -> Vec<Finding> {
    let code = code_of(text);
    let mut findings = Vec::new();
    for (index, line) in code.lines().enumerate() {
        for (found, remedy) in [
            ("todo!", "finish it, or leave it out"),
            ("unimplemented!", "finish it, or leave it out"),
            ("dbg!", "take it out"),
            ("#[ignore", "repair the test, or remove it"),
        ] {
            if line.contains(found) {
                findings.push(Finding::new(path, index + 1, format!("`{found}`: {remedy}")));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_a_head_is_found() {
        assert!(opening("a.rs", "use std::fmt;\n").is_some());
        assert!(opening("a.rs", "//!\n").is_some());
        assert!(opening("a.rs", "// Not of the module.\n").is_some());
        assert_eq!(opening("a.rs", "//! Owns the thing.\n"), None);
    }

    #[test]
    fn a_long_file_is_found() {
        let lines = |count: usize| "x\n".repeat(count);

        assert_eq!(length("a.rs", &lines(450)), None);
        assert!(length("a.rs", &lines(451)).is_some_and(|finding| finding.message.contains("451 lines")));
    }

    #[test]
    fn unsafe_is_found_in_code_only_and_only_outside_of_the_boundary() {
        let text = "// unsafe\nlet x = \"unsafe\";\n#![allow(unsafe_code)]\nunsafe { y() }\n#[unsafe(no_mangle)]\n";

        let lines: Vec<_> = unsafe_code("host/src/worker/lane.rs", text).iter().map(|finding| finding.line).collect();

        assert_eq!(lines, [4, 5]);
        assert_eq!(unsafe_code("host/src/plugin/load.rs", text), []);
    }

    #[test]
    fn what_is_unfinished_is_found() {
        let text = "// todo!()\ntodo!();\nunimplemented!()\n#[ignore = \"slow\"]\ndbg!(x);\n";

        let lines: Vec<_> = unfinished("a.rs", text).iter().map(|finding| finding.line).collect();

        assert_eq!(lines, [2, 3, 4, 5]);
    }
}
