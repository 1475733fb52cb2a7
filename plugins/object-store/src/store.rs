//! A store is made of a place and the options. Nothing is sent yet.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AwsCredential};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig, StaticCredentialProvider};
use storage_plugin_api::{Error, Result};

use crate::failure::chain;
use crate::http::Connector;
use crate::options::Options;
use crate::place::{Place, Provider};

/// Pauses before a request is made again; the worker waits longer ones out.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What is wrong with the options as a whole. Makes nothing and sends nothing.
pub(crate) fn check(options: &Options, place: &Place) -> Result<(), String> {
    match place {
        Place::Bucket { provider, name, .. } => of_bucket(options, *provider, name).map(drop),
        Place::Directory(_) => Ok(()),
    }
}

/// The store of a place. A directory is made if it is not there, unless only reading follows.
///
/// # Errors
/// `Configuration` when it cannot be.
pub(crate) fn open(options: &Options, place: &Place, read_only: bool) -> Result<Arc<dyn ObjectStore>> {
    match place {
        Place::Bucket { provider, name, .. } => of_bucket(options, *provider, name).map_err(Error::configuration),
        Place::Directory(path) => {
            let failed = |what: &str, cause: &dyn std::error::Error| {
                Error::configuration(format_args!("cannot {what} `{}`: {}", path.display(), chain(cause)))
            };
            if !read_only {
                std::fs::create_dir_all(path).map_err(|cause| failed("make", &cause))?;
            }
            let store = LocalFileSystem::new_with_prefix(path).map_err(|cause| failed("open", &cause))?;
            Ok(Arc::new(store.with_fsync(true).with_automatic_cleanup(true)))
        }
    }
}

fn of_bucket(options: &Options, provider: Provider, bucket: &str) -> Result<Arc<dyn ObjectStore>, String> {
    let connector = Connector::new(options)?;
    let store: object_store::Result<Arc<dyn ObjectStore>> = match provider {
        Provider::S3 => s3(options, bucket, connector).build().map(|store| Arc::new(store) as _),
        Provider::Gcs => gcs(options, bucket, connector).build().map(|store| Arc::new(store) as _),
        Provider::Azure => {
            let builder = azure(options, bucket, connector);
            if builder.get_config_value(&AzureConfigKey::AccountName).is_none() {
                return Err("`account` is missing; give it, or set AZURE_STORAGE_ACCOUNT_NAME".to_owned());
            }
            builder.build().map(|store| Arc::new(store) as _)
        }
    };
    store.map_err(|error| {
        let cause = match &error {
            object_store::Error::Generic { source, .. } => chain(&**source),
            error => chain(error),
        };
        let given = [
            ("account_key", options.account_key.is_some()),
            ("sas_token", options.sas_token.is_some()),
            ("google_key_file", options.google_key_file.is_some()),
        ];
        let named = given.into_iter().find(|(_, is_given)| *is_given);
        let remedy = named.map_or("the environment".to_owned(), |(name, _)| format!("`{name}`"));
        format!("{}://{bucket} cannot be used: {cause}; check {remedy}", provider.scheme())
    })
}

fn s3(options: &Options, bucket: &str, connector: Connector) -> AmazonS3Builder {
    let mut builder = AmazonS3Builder::from_env()
        .with_bucket_name(bucket)
        .with_retry(retries(options))
        // One object is deleted at a time, by the call that every server knows that speaks S3.
        .with_disable_bulk_delete(true)
        .with_http_connector(connector);
    if options.allow_http {
        builder = builder.with_allow_http(true);
    }
    if let Some(region) = &options.region {
        builder = builder.with_region(region);
    }
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    if let Some(is_virtual_hosted) = options.virtual_hosted_style {
        builder = builder.with_virtual_hosted_style_request(is_virtual_hosted);
    }
    // As a whole, so that no part of it comes from the environment.
    if let (Some(key_id), Some(secret_key)) = (options.access_key_id.clone(), options.secret_access_key.clone()) {
        let credential = AwsCredential { key_id, secret_key, token: options.session_token.clone() };
        builder = builder.with_credentials(Arc::new(StaticCredentialProvider::new(credential)));
    }
    builder
}

fn gcs(options: &Options, bucket: &str, connector: Connector) -> GoogleCloudStorageBuilder {
    let mut builder = match &options.google_key_file {
        Some(path) => GoogleCloudStorageBuilder::new().with_service_account_path(path.display().to_string()),
        None => GoogleCloudStorageBuilder::from_env(),
    };
    builder = builder.with_bucket_name(bucket).with_retry(retries(options)).with_http_connector(connector);
    if options.allow_http {
        builder = builder.with_client_options(ClientOptions::new().with_allow_http(true));
    }
    match &options.endpoint {
        Some(endpoint) => builder.with_base_url(endpoint),
        None => builder,
    }
}

fn azure(options: &Options, container: &str, connector: Connector) -> MicrosoftAzureBuilder {
    let mut builder = MicrosoftAzureBuilder::from_env()
        .with_container_name(container)
        .with_retry(retries(options))
        .with_http_connector(connector);
    if options.allow_http {
        builder = builder.with_allow_http(true);
    }
    if let Some(account) = &options.account {
        builder = builder.with_account(account);
    }
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    match (&options.account_key, &options.sas_token) {
        (Some(key), _) => builder.with_access_key(key).with_credential_type("access_key"),
        (None, Some(token)) => builder.with_config(AzureConfigKey::SasKey, token).with_credential_type("sas_token"),
        (None, None) => builder,
    }
}

fn retries(options: &Options) -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig { init_backoff: FIRST_PAUSE, max_backoff: LONGEST_PAUSE, base: 2.0 },
        max_retries: options.retries,
        retry_timeout: options.timeout,
    }
}
