//! The options of the backend `object-store`, and what an instance of them promises.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Deserializer, de::Error};
use storage_plugin_api::{Capabilities, Description};

use crate::place::{Place, Provider};
use crate::store;

/// What can be configured. What is not given here is taken from the usual variables of the environment.
#[derive(Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix` or `file:///directory`.
    pub url: String,
    /// Another server than the provider's, `https://host:port`. Default: the provider's.
    pub endpoint: Option<String>,
    /// The region of a bucket of S3. Default: that of the environment, else `us-east-1`.
    pub region: Option<String>,
    /// The key that S3 knows us by; needs `secret_access_key`.
    pub access_key_id: Option<String>,
    /// The secret that belongs to `access_key_id`.
    pub secret_access_key: Option<String>,
    /// What temporary keys of S3 come with.
    pub session_token: Option<String>,
    /// The bucket's name is a part of the host's, as some servers that speak S3 want it. Default `false`.
    pub virtual_hosted_style: Option<bool>,
    /// The storage account of Azure.
    pub account: Option<String>,
    /// The key of the account.
    pub account_key: Option<String>,
    /// A shared access signature, in the place of `account_key`.
    pub sas_token: Option<String>,
    /// The file with the key of a service account of Google.
    pub google_key_file: Option<PathBuf>,
    /// Certificates of the authorities that the server's may come from, PEM. Default: those of the system.
    pub root_certificates: Option<PathBuf>,
    /// Whether `endpoint` may be without TLS. Default `false`.
    pub allow_http: bool,
    /// How long a connection may take to come about. Default `"5s"`.
    #[serde(deserialize_with = "duration")]
    pub connect_timeout: Duration,
    /// How long one request may take; what is left of a call's time bounds it as well. Default `"30s"`.
    #[serde(deserialize_with = "duration")]
    pub timeout: Duration,
    /// How often a request that failed for a reason that may pass is made again within a call. Default 2.
    pub retries: usize,
    /// Most requests at once. Default 16.
    pub requests: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            url: String::new(),
            endpoint: None,
            region: None,
            access_key_id: None,
            secret_access_key: None,
            session_token: None,
            virtual_hosted_style: None,
            account: None,
            account_key: None,
            sas_token: None,
            google_key_file: None,
            root_certificates: None,
            allow_http: false,
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(30),
            retries: 2,
            requests: 16,
        }
    }
}

impl std::fmt::Debug for Options {
    /// Without keys, and without the URL, in which somebody may have put some.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Options").field("endpoint", &self.endpoint.is_some()).finish_non_exhaustive()
    }
}

impl Options {
    pub(crate) fn describe(&self) -> Description {
        let capabilities = Capabilities {
            durable: true,
            exclusive: false,
            blobs: true,
            states: false,
            parallel_calls: self.requests.max(1),
            ..Capabilities::default()
        };
        let mut problems = self.problems();
        let mut notes = Vec::new();
        match Place::parse(&self.url) {
            Ok(place) => {
                problems.extend(self.misplaced(&place));
                // Only what is right by itself can be judged as a whole.
                if problems.is_empty()
                    && let Err(problem) = store::check(self, &place)
                {
                    problems.push(problem);
                }
                notes.push(format!("keeps blobs in {place}"));
            }
            Err(problem) => problems.push(problem),
        }
        Description { capabilities, problems, notes, ..Description::default() }
    }

    /// What is wrong wherever the URL leads.
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if let Some(endpoint) = &self.endpoint {
            match endpoint.split_once("://") {
                // Credentials in it would be shown.
                Some((_, rest)) if rest.contains('@') => {
                    problems.push("`endpoint` has credentials; give them in keys of their own".to_owned())
                }
                Some(("https", _)) => {}
                Some(("http", _)) if self.allow_http => {}
                Some(("http", _)) => problems
                    .push("`endpoint` has no TLS; give an `https://` URL, or set `allow_http = true`".to_owned()),
                _ => problems.push("`endpoint` is no URL; give `https://host:port`".to_owned()),
            }
        }
        for (given, needs) in [
            (("access_key_id", self.access_key_id.is_some()), ("secret_access_key", self.secret_access_key.is_some())),
            (("secret_access_key", self.secret_access_key.is_some()), ("access_key_id", self.access_key_id.is_some())),
            (("session_token", self.session_token.is_some()), ("access_key_id", self.access_key_id.is_some())),
        ] {
            if given.1 && !needs.1 {
                problems.push(format!("`{}` is of no use without `{}`; give both or neither", given.0, needs.0));
            }
        }
        if self.account_key.is_some() && self.sas_token.is_some() {
            problems.push("`account_key` and `sas_token` are two ways to say the same; give one".to_owned());
        }
        for (name, value) in [("connect_timeout", self.connect_timeout), ("timeout", self.timeout)] {
            if value.is_zero() {
                problems.push(format!("`{name}` is 0, in which nothing can be answered; give some seconds"));
            }
        }
        if self.requests == 0 {
            problems.push("`requests` is 0; give at least 1".to_owned());
        }
        problems
    }

    /// Options that say nothing of such a place.
    fn misplaced(&self, place: &Place) -> Vec<String> {
        let provider = match place {
            Place::Bucket { provider, .. } => Some(*provider),
            Place::Directory(_) => None,
        };
        [
            ("endpoint", self.endpoint.is_some(), vec![Provider::S3, Provider::Gcs, Provider::Azure]),
            ("root_certificates", self.root_certificates.is_some(), vec![Provider::S3, Provider::Gcs, Provider::Azure]),
            ("region", self.region.is_some(), vec![Provider::S3]),
            ("access_key_id", self.access_key_id.is_some(), vec![Provider::S3]),
            ("secret_access_key", self.secret_access_key.is_some(), vec![Provider::S3]),
            ("session_token", self.session_token.is_some(), vec![Provider::S3]),
            ("virtual_hosted_style", self.virtual_hosted_style.is_some(), vec![Provider::S3]),
            ("account", self.account.is_some(), vec![Provider::Azure]),
            ("account_key", self.account_key.is_some(), vec![Provider::Azure]),
            ("sas_token", self.sas_token.is_some(), vec![Provider::Azure]),
            ("google_key_file", self.google_key_file.is_some(), vec![Provider::Gcs]),
        ]
        .into_iter()
        .filter(|(_, is_given, of)| *is_given && !provider.is_some_and(|provider| of.contains(&provider)))
        .map(|(name, _, of)| {
            let schemes: Vec<String> = of.into_iter().map(|provider| format!("`{}://`", provider.scheme())).collect();
            format!("`{name}` is for {}; leave it out, or change `url`", schemes.join(", "))
        })
        .collect()
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text)
        .map_err(|cause| D::Error::custom(format_args!("`{text}` is no duration such as \"5s\": {cause}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(options: &str) -> Vec<String> {
        serde_json::from_str::<Options>(options).expect("options").describe().problems
    }

    #[test]
    fn unknown_keys_and_odd_values_are_refused() {
        let refused = |json: &str| serde_json::from_str::<Options>(json).expect_err("refused").to_string();

        assert!(refused(r#"{"ulr":"x"}"#).contains("ulr"));
        assert!(refused(r#"{"timeout":"soon"}"#).contains("no duration such as"));
    }

    #[test]
    fn wrong_fields_are_named_and_secrets_are_not() {
        for (options, named) in [
            ("{}", "`url`"),
            (r#"{"url":"s3://u:geheim@b/p"}"#, "`url`"),
            (r#"{"url":"s3://b","endpoint":"http://127.0.0.1:1"}"#, "`allow_http = true`"),
            (r#"{"url":"s3://b","endpoint":"https://u:geheim@h"}"#, "`endpoint`"),
            (r#"{"url":"s3://b","endpoint":"geheim"}"#, "`endpoint`"),
            (r#"{"url":"s3://b","secret_access_key":"geheim"}"#, "`access_key_id`"),
            (r#"{"url":"s3://b","session_token":"geheim"}"#, "`access_key_id`"),
            (
                r#"{"url":"az://b","access_key_id":"i","secret_access_key":"geheim"}"#,
                "`secret_access_key` is for `s3://`",
            ),
            (r#"{"url":"file:///b","endpoint":"https://h"}"#, "`endpoint` is for"),
            (r#"{"url":"s3://b","sas_token":"geheim"}"#, "`sas_token` is for `az://`"),
            (r#"{"url":"az://b","account":"a","account_key":"not base64: geheim"}"#, "`account_key`"),
            (r#"{"url":"gs://b","google_key_file":"/nowhere/key.json"}"#, "/nowhere/key.json"),
            (r#"{"url":"az://b","account":"a","sas_token":"geheim"}"#, "`sas_token`"),
            (r#"{"url":"az://b","account_key":"Z2VoZWlt"}"#, "`account`"),
            (r#"{"url":"s3://b","root_certificates":"/nowhere/ca.pem"}"#, "/nowhere/ca.pem"),
            (r#"{"url":"s3://b","requests":0}"#, "`requests`"),
            (r#"{"url":"s3://b","timeout":"0s"}"#, "`timeout`"),
        ] {
            let problems = problems(options);

            assert!(problems.iter().any(|problem| problem.contains(named)), "{options}: {problems:?}");
            assert!(!problems.iter().any(|problem| problem.contains("geheim")), "{problems:?}");
        }
        for options in [
            r#"{"url":"s3://b/p","access_key_id":"i","secret_access_key":"geheim"}"#,
            r#"{"url":"az://c","account":"a","account_key":"Z2VoZWlt"}"#,
            r#"{"url":"az://c","account":"a","sas_token":"?sv=1&sig=geheim"}"#,
            r#"{"url":"gs://b"}"#,
            r#"{"url":"file:///not/there"}"#,
        ] {
            assert_eq!(problems(options), [""; 0], "{options}");
        }
    }

    #[test]
    fn it_keeps_blobs_alone() {
        let description = Options { url: "s3://b/p".to_owned(), ..Options::default() }.describe();

        let capabilities = &description.capabilities;
        assert!(capabilities.blobs && !capabilities.states && capabilities.durable && !capabilities.exclusive);
        assert_eq!(description.notes, ["keeps blobs in s3://b/p"]);
    }
}
