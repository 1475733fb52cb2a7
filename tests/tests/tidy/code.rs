//! Rust code without its comments and the contents of its strings, so that rules look at code only.

/// The same lines, with blanks in the place of comments, strings and characters.
pub(crate) fn code_of(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = skip_length(rest, code.chars().next_back());
        let taken = if skipped > 0 { skipped } else { first.len_utf8() };
        let (piece, tail) = rest.split_at(taken);
        if skipped > 0 {
            code.extend(piece.chars().map(|char| if char == '\n' { '\n' } else { ' ' }));
        } else {
            code.push_str(piece);
        }
        rest = tail;
    }
    code
}

/// The words of code: identifiers and keywords, each with its line.
pub(crate) fn identifiers(code: &str) -> impl Iterator<Item = (usize, &str)> {
    code.lines().enumerate().flat_map(|(index, line)| {
        line.split(|char: char| !(char.is_alphanumeric() || char == '_'))
            .filter(|word| word.starts_with(|first: char| first.is_alphabetic() || first == '_'))
            .map(move |word| (index + 1, word))
    })
}

/// How many bytes of a comment, string or character begin here; 0 if none does.
fn skip_length(rest: &str, before: Option<char>) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment_length(rest);
    }
    if rest.starts_with('"') {
        return quoted_length(rest);
    }
    let in_word = before.is_some_and(|before| before.is_alphanumeric() || before == '_');
    if rest.starts_with('r') && !in_word {
        return raw_length(rest);
    }
    if rest.starts_with('\'') { character_length(rest) } else { 0 }
}

fn block_comment_length(rest: &str) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        match &rest.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

fn quoted_length(rest: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in rest.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

/// `r"…"`, `r#"…"#` and so on; 0 for a word that begins with `r`.
fn raw_length(rest: &str) -> usize {
    let hashes = rest[1..].bytes().take_while(|byte| *byte == b'#').count();
    let Some(body) = rest[1 + hashes..].strip_prefix('"') else { return 0 };
    let end = format!("\"{}", "#".repeat(hashes));
    body.find(&end).map_or(rest.len(), |at| 2 + hashes + at + end.len())
}

/// `'x'` or `'\n'`; 0 for a lifetime.
fn character_length(rest: &str) -> usize {
    let mut chars = rest[1..].char_indices();
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), Some((at, escaped))) => {
            let from = 1 + at + escaped.len_utf8();
            rest[from..].find('\'').map_or(0, |end| from + end + 1)
        }
        (Some(_), Some((at, '\''))) => 1 + at + 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_strings_and_characters_are_blank() {
        let text = "let a = \"unsafe \\\" b\"; // todo\nlet 'c' = '\\''; /* x /* y */ z */ fn d<'e>(r: &'e str)\nr#\"f\"g\"# ok";

        let words: Vec<_> = identifiers(&code_of(text)).map(|(line, word)| (line, word.to_owned())).collect();

        let expected =
            [(1, "let"), (1, "a"), (2, "let"), (2, "fn"), (2, "d"), (2, "e"), (2, "r"), (2, "e"), (2, "str")];
        let expected: Vec<_> =
            expected.into_iter().chain([(3, "ok")]).map(|(line, word)| (line, word.to_owned())).collect();
        assert_eq!(words, expected);
    }

    #[test]
    fn lines_and_lengths_stay() {
        let text = "a /* ä\n */ \"b\nc\" d";

        let code = code_of(text);

        assert_eq!(code.chars().count(), text.chars().count());
        assert_eq!(identifiers(&code).collect::<Vec<_>>(), [(1, "a"), (3, "d")]);
    }
}
