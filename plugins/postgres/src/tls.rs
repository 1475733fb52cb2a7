//! TLS to the server: what of its certificate is checked, by `sslmode` as libpq has it.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use serde::Deserialize;
use storage_plugin_api::{Error, Result};
use tokio_postgres_rustls::MakeRustlsConnect;

/// `sslmode`, as libpq has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SslMode {
    /// Never TLS.
    Disable,
    /// TLS if the server has it, whoever it is. The default.
    #[default]
    Prefer,
    /// TLS, whoever the server is; with `sslrootcert` like `verify-ca`.
    Require,
    /// TLS with a certificate of an authority that we know.
    VerifyCa,
    /// The same, made out to the host that we connect to.
    VerifyFull,
}

impl SslMode {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "disable" => Self::Disable,
            "allow" | "prefer" => Self::Prefer,
            "require" => Self::Require,
            "verify-ca" => Self::VerifyCa,
            "verify-full" => Self::VerifyFull,
            _ => return None,
        })
    }

    /// What tokio-postgres is told: it decides on TLS or not, this module on certificates.
    pub(crate) fn negotiation(self) -> tokio_postgres::config::SslMode {
        match self {
            Self::Disable => tokio_postgres::config::SslMode::Disable,
            Self::Prefer => tokio_postgres::config::SslMode::Prefer,
            Self::Require | Self::VerifyCa | Self::VerifyFull => tokio_postgres::config::SslMode::Require,
        }
    }
}

/// Who the server must be, and who we are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tls {
    pub(crate) mode: SslMode,
    /// Certificates of authorities, PEM; those of the system if none (or `system`).
    pub(crate) root_cert: Option<PathBuf>,
    pub(crate) client_cert: Option<PathBuf>,
    pub(crate) client_key: Option<PathBuf>,
}

impl Tls {
    /// # Errors
    /// `Configuration` when a file cannot be read.
    pub(crate) fn connector(&self) -> Result<MakeRustlsConnect> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier: Arc<dyn ServerCertVerifier> = match self.mode {
            SslMode::Require if self.root_cert.is_some() => self.chain_verifier(&provider, false)?,
            SslMode::Disable | SslMode::Prefer | SslMode::Require => {
                let (provider, trusted) = (Arc::clone(&provider), Vec::new());
                Arc::new(Verifier { provider, chain: None, trusted, checks_name: false })
            }
            SslMode::VerifyCa => self.chain_verifier(&provider, false)?,
            SslMode::VerifyFull => self.chain_verifier(&provider, true)?,
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::internal(format_args!("TLS: {error}")))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let config = match (&self.client_cert, &self.client_key) {
            (Some(certificate), Some(key)) => {
                let chain = certificates(certificate)?;
                let private = PrivateKeyDer::from_pem_file(key).map_err(|error| match error {
                    pem::Error::NoItemsFound => Error::configuration(format_args!(
                        "`{}` has no private key in PEM form, or one with a passphrase",
                        key.display()
                    )),
                    error => Error::configuration(format_args!("cannot read `{}`: {error}", key.display())),
                })?;
                builder
                    .with_client_auth_cert(chain, private)
                    .map_err(|error| Error::configuration(format_args!("`sslcert` and `sslkey`: {error}")))?
            }
            _ => builder.with_no_client_auth(),
        };
        Ok(MakeRustlsConnect::new(config))
    }

    fn chain_verifier(&self, provider: &Arc<CryptoProvider>, checks_name: bool) -> Result<Arc<dyn ServerCertVerifier>> {
        let mut roots = RootCertStore::empty();
        let mut trusted = Vec::new();
        match self.root_cert.as_ref().filter(|path| path.as_os_str() != "system") {
            Some(path) => {
                trusted = certificates(path)?;
                for certificate in &trusted {
                    roots.add(certificate.clone()).map_err(|error| {
                        Error::configuration(format_args!("a certificate in `{}`: {error}", path.display()))
                    })?;
                }
            }
            None => {
                let _ = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
            .build()
            .map_err(|error| {
                Error::configuration(format_args!("no certificate to check the server by ({error}); set `sslrootcert`"))
            })?;
        Ok(Arc::new(Verifier { provider: Arc::clone(provider), chain: Some(chain), trusted, checks_name }))
    }
}

fn certificates(path: &std::path::Path) -> Result<Vec<CertificateDer<'static>>> {
    let unreadable = |error| Error::configuration(format_args!("cannot read `{}`: {error}", path.display()));
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(unreadable)?.collect();
    let found = found.map_err(unreadable)?;
    match found.is_empty() {
        true => Err(Error::configuration(format_args!("`{}` has no certificate in PEM form", path.display()))),
        false => Ok(found),
    }
}

#[derive(Debug)]
struct Verifier {
    provider: Arc<CryptoProvider>,
    /// None takes any certificate.
    chain: Option<Arc<WebPkiServerVerifier>>,
    /// The certificates of `sslrootcert`.
    trusted: Vec<CertificateDer<'static>>,
    checks_name: bool,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The name is looked at last: whose name is wrong has a chain that is right.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !self.checks_name => Ok(ServerCertVerified::assertion()),
            // A server that shows a certificate which is trusted by itself, most likely signed by itself: the chain is
            // what is wrong with it, as it is made out to an authority. Its time was looked at first.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(_))) if self.trusted.contains(end_entity) => {
                if self.checks_name {
                    verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                }
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
