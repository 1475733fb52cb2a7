//! Certificates for connections with TLS, read anew for each connection, so that renewed ones are taken without a restart.

use std::path::{Path, PathBuf};

use redis::{Client, ClientTlsConfig, ConnectionInfo, TlsCertificates};

use super::RedisClientError;
use crate::source::config::TlsConfig;

/// A client of one server.
pub(super) fn client(info: ConnectionInfo, config: &TlsConfig) -> Result<Client, RedisClientError> {
    let address = super::address::place(&info);
    let failed = |error: redis::RedisError| RedisClientError::Connect { address, reason: error.to_string() };
    if *config == TlsConfig::default() {
        return Client::open(info).map_err(failed);
    }
    let client_tls = match (&config.certificate_file, &config.key_file) {
        (Some(certificate), Some(key)) => {
            Some(ClientTlsConfig { client_cert: read(certificate)?, client_key: read(key)? })
        }
        _ => None,
    };
    let root_cert = config.ca_file.as_deref().map(read).transpose()?;
    Client::build_with_tls(info, TlsCertificates { client_tls, root_cert }).map_err(failed)
}

fn read(path: &(impl AsRef<Path> + ?Sized)) -> Result<Vec<u8>, RedisClientError> {
    let path = path.as_ref();
    std::fs::read(path)
        .map_err(|error| RedisClientError::Certificate { path: PathBuf::from(path), reason: error.to_string() })
}
