//! Requests and what is answered to them: the client with its TLS, and an ear at every answer.
//!
//! The errors of `object_store` do not tell the status of an answer to a program. So each request leaves what went wrong
//! with it in [`overhear`], where `failure.rs` finds it.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use object_store::client::{
    ClientConfigKey, HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService,
};
use object_store::{ClientOptions, HeaderMap};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::failure::chain;
use crate::options::Options;

/// Longest hint of a server that is passed on.
const LONGEST_HINT: Duration = Duration::from_secs(60);
/// How long a connection is kept that nobody uses; servers close theirs after some time.
const IDLE: Duration = Duration::from_secs(20);

/// What went wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Who was asked.
    pub(crate) host: String,
    pub(crate) what: Refused,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// No answer came, or none that could be read.
    Unanswered(String),
    /// An answer of another status than success.
    Answered(Answer),
}

/// An answer that is no success.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// What the provider calls it, say `NoSuchBucket`.
    pub(crate) code: String,
    /// What it says of it.
    pub(crate) text: String,
    /// How long it asks to be left alone.
    pub(crate) retry_after: Option<Duration>,
}

tokio::task_local! {
    static LAST: RefCell<Option<Refusal>>;
}

/// The result of a future, and what went wrong with the last request that it made.
pub(crate) async fn overhear<T>(future: impl Future<Output = T>) -> (T, Option<Refusal>) {
    LAST.scope(RefCell::default(), async {
        let result = future.await;
        (result, LAST.with(RefCell::take))
    })
    .await
}

fn leave(refusal: Option<Refusal>) {
    // Requests that nobody listens to are of no interest.
    let _ = LAST.try_with(|last| last.replace(refusal));
}

/// Makes clients with our TLS and our limits.
#[derive(Debug)]
pub(crate) struct Connector {
    tls: ClientConfig,
    connect_timeout: Duration,
    timeout: Duration,
    requests: usize,
}

impl Connector {
    /// # Errors
    /// What is wrong with `root_certificates`.
    pub(crate) fn new(options: &Options) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        match &options.root_certificates {
            Some(path) => {
                let unreadable =
                    |cause: &dyn std::error::Error| format!("cannot read `{}`: {}", path.display(), chain(cause));
                for certificate in CertificateDer::pem_file_iter(path).map_err(|cause| unreadable(&cause))? {
                    let certificate = certificate.map_err(|cause| unreadable(&cause))?;
                    roots.add(certificate).map_err(|cause| unreadable(&cause))?;
                }
                if roots.is_empty() {
                    return Err(format!("`{}` has no certificate in PEM form", path.display()));
                }
            }
            // Where there are none, no `https://` is trusted, and the error of the request says so.
            None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
        }
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|cause| format!("TLS: {cause}"))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { tls, connect_timeout: options.connect_timeout, timeout: options.timeout, requests: options.requests })
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        // The clients that fetch credentials from the machine's metadata must do without TLS.
        let allows_http = options.get_config_value(&ClientConfigKey::AllowHttp).as_deref() == Some("true");
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(self.tls.clone())
            .https_only(!allows_http)
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(self.connect_timeout)
            .timeout(self.timeout)
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(self.requests)
            .user_agent(concat!("storage-worker/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|cause| object_store::Error::Generic { store: "HTTP", source: Box::new(cause) })?;
        Ok(HttpClient::new(Overheard(client)))
    }
}

#[derive(Debug)]
struct Overheard(reqwest::Client);

#[async_trait]
impl HttpService for Overheard {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let host = request.uri().authority().map_or_else(String::new, ToString::to_string);
        let unanswered = |error: HttpError| {
            leave(Some(Refusal { host: host.clone(), what: Refused::Unanswered(chain(&error)) }));
            error
        };
        let response = HttpService::call(&self.0, request).await.map_err(&unanswered)?;
        if response.status().is_success() {
            leave(None);
            return Ok(response);
        }
        let (parts, body) = response.into_parts();
        let body = body.bytes().await.map_err(&unanswered)?;
        let answer = Answer::of(parts.status.as_u16(), &parts.headers, &String::from_utf8_lossy(&body));
        leave(Some(Refusal { host: host.clone(), what: Refused::Answered(answer) }));
        Ok(HttpResponse::from_parts(parts, body.into()))
    }
}

impl Answer {
    fn of(status: u16, headers: &HeaderMap, body: &str) -> Self {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let element = |name: &str| {
            let (_, rest) = body.split_once(&format!("<{name}>"))?;
            let (text, _) = rest.split_once(&format!("</{name}>"))?;
            // Azure adds lines with ids and times.
            text.lines().next().map(str::to_owned)
        };
        let seconds = header("retry-after").and_then(|text| text.parse().ok());
        Self {
            status,
            code: header("x-ms-error-code").or_else(|| element("Code")).unwrap_or_default(),
            text: element("Message").unwrap_or_default(),
            retry_after: seconds.map(|seconds| Duration::from_secs(seconds).min(LONGEST_HINT)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_whoever_gives_them() {
        let mut headers = HeaderMap::new();
        let s3 =
            "<?xml version=\"1.0\"?>\n<Error><Code>SlowDown</Code><Message>Please reduce your rate.</Message></Error>";
        headers.insert("retry-after", "7".parse().expect("a header"));

        let answer = Answer::of(503, &headers, s3);
        assert_eq!((&*answer.code, &*answer.text), ("SlowDown", "Please reduce your rate."));
        assert_eq!(answer.retry_after, Some(Duration::from_secs(7)));

        headers.insert("x-ms-error-code", "ServerBusy".parse().expect("a header"));
        headers.insert("retry-after", "9999999".parse().expect("a header"));
        let answer = Answer::of(503, &headers, "<Error><Message>Busy.\nRequestId:1</Message></Error>");
        assert_eq!((&*answer.code, &*answer.text), ("ServerBusy", "Busy."));
        assert_eq!(answer.retry_after, Some(LONGEST_HINT));

        assert_eq!(Answer::of(502, &HeaderMap::new(), "<html>"), Answer { status: 502, ..Answer::default() });
    }
}
