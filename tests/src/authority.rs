//! A private certificate authority, made with `openssl`, which comes with the package of PostgreSQL.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// An authority, and the directory that it keeps its certificates in.
#[derive(Debug)]
pub struct Authority {
    directory: TempDir,
}

/// A certificate and its key, PEM.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The file of the certificate.
    pub certificate: PathBuf,
    /// The file of the key.
    pub key: PathBuf,
}

/// A key that is made within milliseconds.
const KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];

impl Authority {
    /// A new authority, whom nobody trusts yet.
    ///
    /// # Panics
    /// When `openssl` is missing.
    #[must_use]
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("make a temporary directory");
        // Each has a name of its own.
        let name = directory.path().file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let subject = format!("/CN=Authority {name}");
        let authority = Self { directory };
        let options = ["-subj", &subject, "-days", "2", "-keyout", "ca.key", "-out", "ca.crt"];
        authority.openssl(&[&["req", "-x509"][..], &KEY, &options].concat());
        authority
    }

    /// Its own certificate, for those who trust it.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.path("ca.crt")
    }

    /// A certificate for a subject, say `/CN=somebody`, that is made out to names: `DNS:db.test`, `IP:127.0.0.1`.
    ///
    /// # Panics
    /// When `openssl` makes none.
    #[must_use]
    pub fn issue(&self, subject: &str, names: &str) -> Certificate {
        let [key, request, certificate, extensions] = ["key", "csr", "crt", "ext"].map(|kind| format!("issued.{kind}"));
        let wanted = ["-subj", subject, "-keyout", &key, "-out", &request];
        self.openssl(&[&["req", "-new"][..], &KEY, &wanted].concat());
        let names = if names.is_empty() { String::new() } else { format!("subjectAltName={names}\n") };
        let extended = format!("basicConstraints=CA:FALSE\n{names}");
        std::fs::write(self.path(&extensions), extended).expect("write a file");
        let by = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", &extensions];
        self.openssl(&[&["x509", "-req", "-in", &request, "-out", &certificate][..], &by].concat());
        // The next one must not take its place.
        let number = std::fs::read_to_string(self.path("ca.srl")).expect("read the serial number");
        let [certificate, key] = [certificate, key].map(|name| {
            let kept = self.path(&format!("{}-{name}", number.trim()));
            std::fs::rename(self.path(&name), &kept).expect("rename a file");
            kept
        });
        Certificate { certificate, key }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn openssl(&self, arguments: &[&str]) {
        openssl(self.directory.path(), arguments);
    }
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

/// A certificate that signed itself, made out to names.
///
/// # Panics
/// When `openssl` makes none.
#[must_use]
pub fn self_signed(directory: &Path, names: &str) -> Certificate {
    let names = format!("subjectAltName={names}");
    let options =
        ["-subj", "/CN=localhost", "-addext", &names, "-days", "2", "-keyout", "self.key", "-out", "self.crt"];
    openssl(directory, &[&["req", "-x509"][..], &KEY, &options].concat());
    Certificate { certificate: directory.join("self.crt"), key: directory.join("self.key") }
}

fn openssl(directory: &Path, arguments: &[&str]) {
    let made = Command::new("openssl").args(arguments).current_dir(directory).output().expect("run openssl");
    assert!(made.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&made.stderr));
}
