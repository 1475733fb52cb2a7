//! Where a URL leads: to a bucket of a provider, or to a directory.

use std::fmt;
use std::path::PathBuf;

use object_store::path::Path;

/// Whose bucket it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Provider {
    /// Amazon S3, and whoever speaks like it.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage, where a bucket is called a container.
    Azure,
}

/// Where blobs are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a bucket, below a prefix that may be empty.
    Bucket { provider: Provider, name: String, prefix: Path },
    /// In a directory of this machine.
    Directory(PathBuf),
}

impl Provider {
    pub(crate) fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gcs => "gs",
            Self::Azure => "az",
        }
    }
}

impl Place {
    /// # Errors
    /// What is wrong with the URL, and what to write instead.
    pub(crate) fn parse(url: &str) -> Result<Self, String> {
        const EXPECTED: &str =
            "give `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix` or `file:///directory`";
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err(format!("`url` is no URL; {EXPECTED}"));
        };
        let provider = match scheme {
            "s3" => Provider::S3,
            "gs" => Provider::Gcs,
            "az" => Provider::Azure,
            "file" if !rest.starts_with('/') || rest.contains(['%', '?', '#']) => {
                return Err("`url` names no directory; give the whole plain path, `file:///var/lib/blobs`".to_owned());
            }
            "file" => return Ok(Self::Directory(PathBuf::from(rest))),
            _ => return Err(format!("`url` has another scheme than is known; {EXPECTED}")),
        };
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if name.is_empty() || !name.bytes().all(is_plain) {
            // Not what stands there: it may be a password.
            return Err(format!("`url` names no bucket; {EXPECTED}, and credentials in keys of their own"));
        }
        let unusable = "`url` has a prefix that cannot stand in a name; use letters, digits, `-_.` and `/`";
        // A `/` at the beginning would be passed over.
        let prefix = Some(prefix.trim_end_matches('/')).filter(|prefix| !prefix.starts_with('/'));
        let prefix = prefix.and_then(|prefix| Path::parse(prefix).ok()).ok_or_else(|| unusable.to_owned())?;
        Ok(Self::Bucket { provider, name: name.to_owned(), prefix })
    }

    /// What all names of objects begin with.
    pub(crate) fn prefix(&self) -> Path {
        match self {
            Self::Bucket { prefix, .. } => prefix.clone(),
            Self::Directory(_) => Path::default(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bucket { provider, name, prefix } => {
                write!(formatter, "{}://{name}/{prefix}", provider.scheme())
            }
            Self::Directory(path) => write!(formatter, "file://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_lead_to_buckets_and_directories() {
        for (url, shown) in [
            ("s3://b", "s3://b/"),
            ("s3://b/", "s3://b/"),
            ("gs://b/a/c/", "gs://b/a/c"),
            ("az://container/a", "az://container/a"),
            ("file:///var/lib/blobs", "file:///var/lib/blobs"),
        ] {
            assert_eq!(Place::parse(url).map(|place| place.to_string()).as_deref(), Ok(shown));
        }
    }

    #[test]
    fn other_urls_are_refused_without_being_shown() {
        for url in ["", "bucket", "s3:///a", "s3://key:geheim@b/a", "http://geheim/", "file://geheim", "s3://b//geheim"]
        {
            let problem = Place::parse(url).expect_err(url);
            assert!(problem.contains("`url`") && !problem.contains("geheim"), "{problem}");
        }
    }
}
