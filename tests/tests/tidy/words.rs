//! The words of identifiers and file names: those that `docs/style.md` lists as not used are not used.

use crate::code::{code_of, identifiers};
use crate::{Finding, assert_tidy, documents, repository};

/// Names of ours that speak of an outside system.
const OF_OTHERS: [&str; 1] = ["running_by_storage_service"];

/// What stands before a name that is given there.
const GIVES_NAME: [&str; 12] =
    ["fn", "struct", "enum", "trait", "type", "mod", "const", "static", "let", "mut", "for", "macro_rules"];

/// A word that is not used, and what is said instead.
struct Banned {
    word: String,
    instead: String,
}

#[test]
fn banned_words_are_not_used() {
    let banned = banned_words(repository::text("docs/style.md"));
    assert!(banned.len() > 10, "docs/style.md has a table `| not | but |` under \"Words that are not used\"");
    let in_code = repository::with_extension(".rs").flat_map(|file| in_code(&file.path, &file.text, &banned));
    let in_names = repository::files().iter().filter_map(|file| in_name(&file.path, &banned));
    assert_tidy("words are those of docs/style.md", in_code.chain(in_names).collect());
}

fn banned_words(style: &str) -> Vec<Banned> {
    let rows = documents::table(style, "not");
    let pairs = rows.into_iter().filter_map(|row| Some((row.first()?.clone(), row.get(1)?.clone())));
    pairs
        .flat_map(|(words, instead)| {
            let words: Vec<String> = words.split(',').map(|word| word.trim().trim_matches('`').to_owned()).collect();
            words.into_iter().map(move |word| Banned { word, instead: instead.clone() })
        })
        .collect()
}

fn in_code(path: &str, text: &str, banned: &[Banned]) -> Vec<Finding> {
    let code = code_of(text);
    let mut findings = Vec::new();
    for (line, name) in names_given(&code).into_iter().filter(|(_, name)| !OF_OTHERS.contains(name)) {
        let words = words_of(name);
        for Banned { word, instead } in banned.iter().filter(|banned| words.contains(&banned.word)) {
            findings.push(Finding::new(path, line, format!("`{name}` has the word `{word}`; say {instead}")));
        }
    }
    findings
}

/// The names that code gives: to items, bindings, fields and parameters. Names of others are only used.
fn names_given(code: &str) -> Vec<(usize, &str)> {
    let mut before = "";
    let mut names = Vec::new();
    for (line, word) in identifiers(code) {
        let behind = &code[word.as_ptr() as usize - code.as_ptr() as usize + word.len()..];
        let is_typed = behind.starts_with(':') && !behind.starts_with("::");
        if is_typed || GIVES_NAME.contains(&before) {
            names.push((line, word));
        }
        before = word;
    }
    names
}

fn in_name(path: &str, banned: &[Banned]) -> Option<Finding> {
    let name = path.rsplit('/').next()?.strip_suffix(".rs")?;
    let words = words_of(name);
    let Banned { word, instead } = banned.iter().find(|banned| words.contains(&banned.word))?;
    Some(Finding::new(path, 0, format!("the file's name has the word `{word}`; say {instead}")))
}

/// `LaneQueue` and `lane_queue` are `lane`, `queue`.
fn words_of(identifier: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before = '_';
    for char in identifier.chars() {
        if char == '_' || (char.is_uppercase() && before.is_lowercase()) {
            words.push(String::new());
        }
        if char != '_' {
            let word = words.last_mut().expect("there is always a word");
            word.extend(char.to_lowercase());
        }
        before = char;
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    const STYLE: &str =
        "# Style\n| not | but |\n|---|---|\n| `manager`, `helper` | the job it does |\n| `ctx` | `call` |\n";

    #[test]
    fn the_table_is_read() {
        let words: Vec<_> = banned_words(STYLE).into_iter().map(|banned| (banned.word, banned.instead)).collect();

        let job = "the job it does";
        let expected = [("manager", job), ("helper", job), ("ctx", "`call`")];
        assert_eq!(words, expected.map(|(word, instead)| (word.to_owned(), instead.to_owned())));
    }

    #[test]
    fn a_banned_word_is_found_in_names_that_are_given_but_not_in_text_nor_in_names_of_others() {
        let banned = banned_words(STYLE);
        let text = "use redis::ConnectionManager; // the manager\nstruct PoolManager;\nfn read(ctx: &Context) {}\n\
                    let managed = ctx::manager(\"ctx\");\nlet mut help_ctx = 1;\n";

        let found: Vec<_> = in_code("a.rs", text, &banned).into_iter().map(|finding| finding.line).collect();

        assert_eq!(found, [2, 3, 5]);
        assert!(in_name("host/src/test_helper.rs", &banned).is_some());
        assert_eq!(in_name("host/src/retry.rs", &banned), None);
    }

    #[test]
    fn words_are_told_apart() {
        assert_eq!(words_of("LaneQueue"), ["lane", "queue"]);
        assert_eq!(words_of("MAX_LINES"), ["max", "lines"]);
        assert_eq!(words_of("__export"), ["export"]);
    }
}
