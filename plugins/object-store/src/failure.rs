//! What the errors of stores mean for what happens next.

use std::error::Error as Cause;
use std::time::Duration;

use storage_plugin_api::{Error, ErrorKind};

use crate::http::{Answer, Refusal, Refused};
use crate::place::Place;

/// When a server that has too much to do is asked again, unless it says so itself.
const WHEN_BUSY: Duration = Duration::from_secs(1);

/// Why a request failed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The object is not there; the bucket is.
    Absent,
    /// What the error says.
    Other(Error),
}

impl Failure {
    /// The failure of a request, by what was overheard of it.
    pub(crate) fn of(place: &Place, error: &object_store::Error, overheard: Option<Refusal>) -> Self {
        match overheard {
            Some(Refusal { host, what }) => by_refusal(place, &host, what),
            None if matches!(error, object_store::Error::NotFound { .. }) => Self::Absent,
            // A directory, or an answer that could not be read.
            None => Self::Other(Error::unavailable(chain(error))),
        }
    }

    /// The error for the caller, where it is not an object that is missing.
    pub(crate) fn into_error(self, absent: impl FnOnce() -> Error) -> Error {
        match self {
            Self::Absent => absent(),
            Self::Other(error) => error,
        }
    }
}

fn by_refusal(place: &Place, host: &str, what: Refused) -> Failure {
    let answer = match what {
        Refused::Unanswered(text) if gives_credentials(host) => {
            return Failure::Other(Error::unavailable(no_credentials(host, &text)));
        }
        Refused::Unanswered(text) => {
            return Failure::Other(Error::unavailable(format_args!("no answer from `{host}`: {text}")));
        }
        Refused::Answered(answer) => answer,
    };
    if gives_credentials(host) && answer.status < 500 {
        return Failure::Other(Error::configuration(no_credentials(host, &described(&answer))));
    }
    let Some((kind, remedy)) = meaning(place, &answer) else { return Failure::Absent };
    let error = Error::new(kind, format_args!("`{host}` answers {}{remedy}", described(&answer)));
    Failure::Other(match kind {
        ErrorKind::Overloaded => error.with_retry_after(answer.retry_after.unwrap_or(WHEN_BUSY)),
        _ => error,
    })
}

/// What an answer means, and what to do; none if only the object is not there.
fn meaning(place: &Place, answer: &Answer) -> Option<(ErrorKind, String)> {
    let is_busy = matches!(&*answer.code, "SlowDown" | "ServerBusy" | "OperationTimedOut" | "TooManyRequests");
    let meaning = match (answer.status, &*answer.code) {
        (429, _) | (503, _) if is_busy || answer.status == 429 || answer.retry_after.is_some() => {
            (ErrorKind::Overloaded, String::new())
        }
        (404, "NoSuchBucket" | "ContainerNotFound") => {
            (ErrorKind::Configuration, format!("; make the bucket of {place}, or name another one in `url`"))
        }
        (404, _) => return None,
        (401 | 403, "RequestTimeTooSkewed") => (ErrorKind::Configuration, "; set the clock of this machine".to_owned()),
        (401 | 403, _) | (400, "ExpiredToken" | "InvalidToken") => {
            (ErrorKind::Configuration, "; check the credentials, and what they may do".to_owned())
        }
        (300..=399, _) | (400, "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException") => {
            (ErrorKind::Configuration, "; the bucket is elsewhere: check `region` and `endpoint`".to_owned())
        }
        (413, _) | (400, "EntityTooLarge") => {
            (ErrorKind::InvalidItem, "; the store takes no larger objects".to_owned())
        }
        // What is there is being changed by somebody else at this moment.
        (408 | 409, _) => (ErrorKind::Unavailable, String::new()),
        (400..=499, _) => (ErrorKind::Configuration, "; check `url` and `endpoint`".to_owned()),
        _ => (ErrorKind::Unavailable, String::new()),
    };
    Some(meaning)
}

fn described(answer: &Answer) -> String {
    let named = [&answer.code, &answer.text].map(|text| text.trim()).into_iter().filter(|text| !text.is_empty());
    format!("{} {}", answer.status, named.collect::<Vec<_>>().join(": ")).trim_end().trim_end_matches('.').to_owned()
}

/// The hosts at which a machine of a provider is given credentials.
fn gives_credentials(host: &str) -> bool {
    let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
    matches!(host, "169.254.169.254" | "169.254.170.2" | "metadata.google.internal" | "metadata")
}

fn no_credentials(host: &str, said: &str) -> String {
    format!(
        "no credentials are configured, and `{host}` gives this machine none ({said}); set them in the options or the environment"
    )
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn Cause) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        Place::parse("s3://b/p").expect("a place")
    }

    fn answered(status: u16, code: &str) -> Failure {
        let answer = Answer { status, code: code.to_owned(), ..Answer::default() };
        by_refusal(&place(), "host:1", Refused::Answered(answer))
    }

    #[track_caller]
    fn kind(failure: Failure) -> ErrorKind {
        match failure {
            Failure::Other(error) => error.kind,
            Failure::Absent => panic!("only the object is absent"),
        }
    }

    #[test]
    fn the_kind_says_what_happens_next() {
        for (status, code, expected) in [
            (500, "InternalError", ErrorKind::Unavailable),
            (502, "", ErrorKind::Unavailable),
            (503, "ServiceUnavailable", ErrorKind::Unavailable),
            (503, "SlowDown", ErrorKind::Overloaded),
            (503, "ServerBusy", ErrorKind::Overloaded),
            (429, "", ErrorKind::Overloaded),
            (408, "RequestTimeout", ErrorKind::Unavailable),
            (409, "OperationAborted", ErrorKind::Unavailable),
            (403, "InvalidAccessKeyId", ErrorKind::Configuration),
            (403, "SignatureDoesNotMatch", ErrorKind::Configuration),
            (403, "AuthenticationFailed", ErrorKind::Configuration),
            (401, "", ErrorKind::Configuration),
            (400, "ExpiredToken", ErrorKind::Configuration),
            (404, "NoSuchBucket", ErrorKind::Configuration),
            (404, "ContainerNotFound", ErrorKind::Configuration),
            (301, "PermanentRedirect", ErrorKind::Configuration),
            (400, "EntityTooLarge", ErrorKind::InvalidItem),
            (413, "RequestBodyTooLarge", ErrorKind::InvalidItem),
            (405, "", ErrorKind::Configuration),
        ] {
            assert_eq!(kind(answered(status, code)), expected, "{status} {code}");
        }
        for code in ["NoSuchKey", "BlobNotFound", ""] {
            assert_eq!(answered(404, code), Failure::Absent);
        }
        assert_eq!(
            kind(by_refusal(&place(), "host:1", Refused::Unanswered("refused".to_owned()))),
            ErrorKind::Unavailable
        );
    }

    #[test]
    fn a_server_that_is_busy_is_left_alone_for_a_while() {
        let busy = |retry_after| Answer { status: 503, code: "SlowDown".to_owned(), retry_after, ..Answer::default() };
        let hint = |answer| match by_refusal(&place(), "host", Refused::Answered(answer)) {
            Failure::Other(error) => error.retry_after,
            Failure::Absent => None,
        };

        assert_eq!(hint(busy(None)), Some(WHEN_BUSY));
        assert_eq!(hint(busy(Some(Duration::from_secs(9)))), Some(Duration::from_secs(9)));
    }

    #[test]
    fn errors_say_who_answered_what_and_what_to_do() {
        let answer = Answer {
            status: 404,
            code: "NoSuchBucket".to_owned(),
            text: "The specified bucket does not exist.".to_owned(),
            retry_after: None,
        };
        let error =
            by_refusal(&place(), "host:1", Refused::Answered(answer)).into_error(|| unreachable!("the bucket is"));
        assert_eq!(
            error.message,
            "`host:1` answers 404 NoSuchBucket: The specified bucket does not exist; make the bucket of s3://b/p, or name another one in `url`"
        );

        let error = by_refusal(&place(), "169.254.169.254", Refused::Unanswered("timed out".to_owned()))
            .into_error(|| unreachable!("the bucket is"));
        assert!(error.message.starts_with("no credentials are configured"), "{error}");
    }
}
