//! An error together with its causes, as one line of text.

use std::error::Error;

/// `what failed: why: why that`. A cause that the text before it ends with already is not repeated.
#[must_use]
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(error.source(), |cause: &&(dyn Error + 'static)| (*cause).source());
    causes
        .map(ToString::to_string)
        .fold(error.to_string(), |text, cause| if text.ends_with(&cause) { text } else { format!("{text}: {cause}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Step(&'static str, #[source] Option<Box<Step>>);

    #[test]
    fn causes_follow_once() {
        let error = Step("cannot open", Some(Box::new(Step("no disk: gone", Some(Box::new(Step("gone", None)))))));

        assert_eq!(with_causes(&error), "cannot open: no disk: gone");
    }
}
