//! Certificates of a private authority, for servers on 127.0.0.1 and for their clients.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::process::find_program;

/// An authority, a certificate for 127.0.0.1, and one for a client.
#[derive(Debug)]
pub struct Certificates {
    directory: TempDir,
}

impl Certificates {
    /// Makes them.
    ///
    /// # Panics
    /// When there is no `openssl`, or it refuses.
    #[must_use]
    pub fn make() -> Self {
        let certificates = Self { directory: tempfile::tempdir().expect("make a temporary directory") };
        certificates.openssl("ca", &["-addext", "basicConstraints=critical,CA:TRUE"]);
        let signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "basicConstraints=critical,CA:FALSE"];
        certificates.openssl("server", &[&signed[..], &["-addext", "subjectAltName=IP:127.0.0.1"]].concat());
        certificates.openssl("client", &signed);
        certificates
    }

    /// A file of them: `ca.pem`, `server.pem`, `server.key`, `client.pem`, `client.key`.
    ///
    /// # Panics
    /// When the temporary directory has a name that is no text.
    #[must_use]
    pub fn file(&self, name: &str) -> String {
        let path: PathBuf = self.directory.path().join(name);
        path.into_os_string().into_string().expect("a temporary directory has a name in UTF-8")
    }

    fn openssl(&self, name: &str, arguments: &[&str]) {
        let program = find_program("openssl").expect("openssl is not installed; run `make setup`");
        let mut command = Command::new(program);
        command.current_dir(self.directory.path()).args(["req", "-x509", "-nodes", "-days", "2"]);
        command.args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", &format!("/CN={name}")]);
        command.args(["-keyout", &format!("{name}.key"), "-out", &format!("{name}.pem")]).args(arguments);
        let made = command.output().expect("run openssl");
        assert!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
    }
}
