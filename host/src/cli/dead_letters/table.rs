//! Dead letters as people read them.

use std::fmt::Write;

use comfy_table::Table;
use comfy_table::presets::NOTHING;
use serde_json::Value;

use super::super::output::plain;
use crate::letters::desk::Selected;

/// Most characters of an error in a table.
const ERROR_CHARACTERS: usize = 60;

/// Letters as a table, and what is not in it.
pub(super) fn of(selected: &Selected) -> String {
    let Selected { letters, matched, unreadable } = selected;
    let mut text = String::new();
    if letters.is_empty() {
        text.push_str("no dead letters\n");
    } else {
        let mut table = Table::new();
        table.load_style(NOTHING);
        table.set_header(["ID", "GIVEN UP", "CHANNEL", "EVALUATION", "REASON", "STATE", "ATTEMPTS", "ERROR"]);
        for letter in letters {
            table.add_row(row(letter));
        }
        for line in table.trim_fmt().lines() {
            let _ = writeln!(text, "{}", line.strip_prefix(' ').unwrap_or(line));
        }
    }
    if letters.len() < *matched {
        let _ = writeln!(text, "… and {} more; see `--limit`", matched - letters.len());
    }
    if *unreadable > 0 {
        let _ = writeln!(text, "{unreadable} lines of the file are no letters, such as one that a crash cut short");
    }
    text
}

fn row(letter: &Value) -> [String; 8] {
    let part = |key: &str| plain(letter[key].as_str().unwrap_or("-"));
    let given_up = part("last_at").split('.').next().unwrap_or_default().to_owned();
    let state = match (letter["state"].as_str(), letter["is_edited"].as_bool()) {
        (Some(state), _) => state.to_owned(),
        (None, Some(true)) => "edited".to_owned(),
        (None, _) => "dead".to_owned(),
    };
    let error = part("error");
    let mut characters = error.chars();
    let mut short: String = characters.by_ref().take(ERROR_CHARACTERS).collect();
    if characters.next().is_some() {
        short.push('…');
    }
    [
        part("id"),
        given_up,
        part("channel"),
        part("eval_id"),
        part("reason"),
        state,
        letter["attempts"].to_string(),
        short,
    ]
}

/// A letter with all that it has.
pub(super) fn whole(letter: &Value) -> String {
    let mut text = String::new();
    for (key, value) in
        letter.as_object().into_iter().flatten().filter(|(key, _)| !["payload", "edited"].contains(&&***key))
    {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let _ = writeln!(text, "{key:<15} {}", plain(&value));
    }
    for key in ["payload", "edited"] {
        if let Some(body) = letter[key].as_str() {
            let _ = writeln!(text, "\n{key}:\n  {}", plain(body));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn letters_are_a_table_without_what_could_steer_a_terminal() {
        let letter = json!({
            "id": "5f0c", "last_at": "2025-01-01T00:00:00.123456+00:00", "channel": "c\u{1b}", "reason": "wrong_type",
            "attempts": 2, "error": "x".repeat(70), "state": "parked",
        });

        let text = of(&Selected { letters: vec![letter], matched: 3, unreadable: 1 });

        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("ID ") && lines[1].starts_with("5f0c "), "{text}");
        assert!(lines[1].contains("c\\u{1b}") && lines[1].contains("parked") && lines[1].ends_with('…'), "{text}");
        assert_eq!(
            lines[2..],
            ["… and 2 more; see `--limit`", "1 lines of the file are no letters, such as one that a crash cut short"]
        );
    }
}
