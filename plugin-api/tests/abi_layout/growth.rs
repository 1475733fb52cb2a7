//! From one layout to a later one: what is broken, and what was added where something may be.

/// Types that may grow at their end: the tables of functions of the traits, and what a plugin exports.
const GROWING: [&str; 2] = ["VTable", "PluginModule"];

/// What became of a layout.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Growth {
    /// Paragraphs of before that are gone, or different in another way than that they have grown.
    pub(crate) broken: Vec<String>,
    /// Paragraphs of today that are new, or have grown.
    pub(crate) added: Vec<String>,
}

/// Compares two layouts, each a paragraph for each type.
pub(crate) fn of(before: &str, today: &str) -> Growth {
    let mut rest = paragraphs(today);
    let mut growth = Growth::default();
    let mut open = Vec::new();
    // Several types have one name, so those that are the same are put aside first.
    for paragraph in paragraphs(before) {
        match rest.iter().position(|other| *other == paragraph) {
            Some(place) => drop(rest.remove(place)),
            None => open.push(paragraph),
        }
    }
    for paragraph in open {
        match rest.iter().position(|other| has_grown(paragraph, other)) {
            Some(place) => growth.added.push(rest.remove(place).to_owned()),
            None => growth.broken.push(paragraph.to_owned()),
        }
    }
    growth.added.extend(rest.into_iter().map(str::to_owned));
    growth
}

fn paragraphs(layout: &str) -> Vec<&str> {
    layout.split("\n\n").map(str::trim_end).filter(|paragraph| !paragraph.is_empty()).collect()
}

/// All of the one is at the beginning of the other, which is larger, and may be.
fn has_grown(before: &str, today: &str) -> bool {
    let (Some((old_head, old)), Some((new_head, new))) = (before.split_once('\n'), today.split_once('\n')) else {
        return false;
    };
    let (Some((old_name, old_size)), Some((new_name, new_size))) =
        (old_head.split_once(": "), new_head.split_once(": "))
    else {
        return false;
    };
    let alignment = |size: &str| size.split_once(", ").map(|(_, alignment)| alignment.to_owned());
    old_name == new_name
        && GROWING.contains(&old_name)
        && alignment(old_size) == alignment(new_size)
        && new.strip_prefix(old).is_some_and(|more| more.starts_with('\n'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "\
Call: 16 bytes, aligned to 8
    0  budget: u64
    8  reserved: u64

VTable: 16 bytes, aligned to 8
    0  get: unsafe fn(RRef<'a>) -> RString
    8  put: unsafe fn(RRef<'a>) -> ()

VTable: 8 bytes, aligned to 8
    0  log: unsafe fn(RRef<'a>) -> ()
";

    fn broken(from: &str, to: &str) -> usize {
        assert_eq!(BEFORE.matches(from).count(), 1, "{from}");
        of(BEFORE, &BEFORE.replace(from, to)).broken.len()
    }

    #[test]
    fn what_is_the_same_is_neither_broken_nor_new() {
        assert_eq!(of(BEFORE, BEFORE), Growth::default());
    }

    #[test]
    fn a_function_at_the_end_of_a_table_is_growth() {
        let put = "    8  put: unsafe fn(RRef<'a>) -> ()\n";
        let grown = BEFORE.replace(put, &format!("{put}   16  later: unsafe fn(RRef<'a>) -> ()\n"));

        let growth = of(BEFORE, &grown.replace("VTable: 16", "VTable: 24"));

        assert_eq!((growth.broken.len(), growth.added.len()), (0, 1));
        assert!(growth.added[0].ends_with("later: unsafe fn(RRef<'a>) -> ()"), "{growth:?}");
    }

    #[test]
    fn a_type_that_is_new_is_growth() {
        let growth = of(BEFORE, &format!("Added: 8 bytes, aligned to 8\n    0  x: u64\n\n{BEFORE}"));

        assert_eq!((growth.broken.len(), growth.added.len()), (0, 1));
    }

    #[test]
    fn everything_else_is_broken() {
        for (what, from, to) in [
            ("a field at the end of a struct", "    8  reserved: u64\n", "    8  reserved: u64\n   16  more: u64\n"),
            ("a field of another name", "budget", "budget_us"),
            ("a field of another type", "0  budget: u64", "0  budget: i64"),
            ("a size", "Call: 16", "Call: 24"),
            ("an alignment of a table", "VTable: 16 bytes, aligned to 8", "VTable: 16 bytes, aligned to 16"),
            ("a function in the middle", "    8  put", "    8  pat: unsafe fn(RRef<'a>) -> ()\n   16  put"),
            ("a function before the others", "    0  log", "    0  before: unsafe fn(RRef<'a>) -> ()\n    8  log"),
            ("a function of another name", "0  get:", "0  got:"),
            ("a function that returns something else", "-> RString", "-> u64"),
            (
                "a function with more parameters",
                "0  get: unsafe fn(RRef<'a>)",
                "0  get: unsafe fn(RRef<'a>, param_1: u8)",
            ),
            ("a function that is gone", "    8  put: unsafe fn(RRef<'a>) -> ()\n", ""),
            (
                "a last function of which more is said",
                "log: unsafe fn(RRef<'a>) -> ()",
                "log: unsafe fn(RRef<'a>) -> ()x",
            ),
        ] {
            assert_eq!(broken(from, to), 1, "{what}");
        }
        let swapped = BEFORE
            .replace("0  get: unsafe fn(RRef<'a>) -> RString", "0  put: unsafe fn(RRef<'a>) -> ()")
            .replace("8  put: unsafe fn(RRef<'a>) -> ()", "8  get: unsafe fn(RRef<'a>) -> RString");
        assert_eq!(of(BEFORE, &swapped).broken.len(), 1, "two functions that changed places");
        assert_eq!(of(BEFORE, BEFORE.split_once("\n\n").expect("two").1).broken.len(), 1, "a type that is gone");
    }
}
