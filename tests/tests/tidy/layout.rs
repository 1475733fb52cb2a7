//! How a Rust file looks: its head, its length, where `unsafe` may stand, and that nothing in it is unfinished.

use crate::code::{code_of, identifiers};
use crate::{Finding, assert_tidy, repository};

/// Longest file, in lines, tests included.
const MAX_LINES: usize = 450;

/// Files that are longer, how long they may be, and why. Shorten the list, not the reasons.
const LONGER: [(&str, usize, &str); 1] =
    [("host/src/event/decode.rs", 500, "one table of fields and its table of tests, read side by side")];

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
    let mut findings: Vec<Finding> =
        repository::with_extension(".rs").filter_map(|file| length(&file.path, &file.text, &LONGER)).collect();
    for (path, _, _) in LONGER {
        if !repository::files().iter().any(|file| file.path == path) {
            findings.push(Finding::new(path, 0, "is gone; take it out of `LONGER` in tests/tests/tidy/layout.rs"));
        }
    }
    assert_tidy("a file has at most 450 lines", findings);
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

fn length(path: &str, text: &str, longer: &[(&str, usize, &str)]) -> Option<Finding> {
    let lines = text.lines().count();
    match longer.iter().find(|(longer, _, _)| *longer == path) {
        Some((_, limit, reason)) if lines > *limit => {
            Some(Finding::new(path, 0, format!("has {lines} lines, and even \"{reason}\" allows {limit}; split it")))
        }
        Some(_) if lines <= MAX_LINES => {
            let message = format!("has {lines} lines and needs no exception; take it out of `LONGER`");
            Some(Finding::new(path, 0, message))
        }
        None if lines > MAX_LINES => {
            let message = format!("has {lines} lines; move one of the things it does to a file of its own");
            Some(Finding::new(path, 0, message))
        }
        _ => None,
    }
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
    fn a_long_file_is_found_and_so_is_an_exception_that_nobody_needs() {
        let lines = |count: usize| "x\n".repeat(count);
        let longer = [("b.rs", 500, "it is one table")];

        assert_eq!(length("a.rs", &lines(450), &longer), None);
        assert!(length("a.rs", &lines(451), &longer).is_some_and(|finding| finding.message.contains("451 lines")));
        assert_eq!(length("b.rs", &lines(451), &longer), None);
        assert!(length("b.rs", &lines(501), &longer).is_some_and(|finding| finding.message.contains("split it")));
        assert!(length("b.rs", &lines(10), &longer).is_some_and(|finding| finding.message.contains("no exception")));
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
