//! Asks a running worker through its admin listener; what the commands use.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::wire::MAX_BODY_BYTES;

/// Beyond the worker's own timeout for reads, so that its answer is what people see.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Beyond the worker's own patience with what it was handed.
const PATIENCE: Duration = Duration::from_secs(120);

/// A worker that may be running.
#[derive(Clone, Debug)]
pub struct Client {
    agent: ureq::Agent,
    address: SocketAddr,
}

/// Why a worker gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no worker.
    #[error("nothing listens on `{0}`, which `admin.listen` names")]
    NothingListens(SocketAddr),
    /// It said no.
    #[error("the worker at `{address}` answered {status}: {detail}")]
    Refused {
        /// Where it listens.
        address: SocketAddr,
        /// The status of its answer.
        status: u16,
        /// What it said.
        detail: String,
    },
    /// It was not understood, or did not answer.
    #[error("cannot ask the worker at `{address}`; see whether another program listens there")]
    Failed {
        /// Where it listens.
        address: SocketAddr,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Client {
    /// A client of the worker whose `admin.listen` this is.
    #[must_use]
    pub fn new(listen: SocketAddr) -> Self {
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(TIMEOUT))
            .http_status_as_error(false)
            // Never through a proxy: the worker is near.
            .proxy(None)
            .max_redirects(0)
            .build();
        Self { agent: config.into(), address: reachable(listen) }
    }

    /// Asks for a path; `None` if the worker answers that there is nothing of that name.
    ///
    /// # Errors
    /// [`ClientError::NothingListens`] if there is no worker, and whatever else keeps it from answering.
    pub fn get(&self, path: &str) -> Result<Option<Value>, ClientError> {
        match self.answer(|url| self.agent.get(url).call(), path)? {
            (200, Ok(value)) => Ok(Some(value)),
            (404, Ok(_)) => Ok(None),
            (status, body) => Err(self.refused(status, body)),
        }
    }

    /// Has the worker do something, however long it takes.
    ///
    /// # Errors
    /// As of [`Self::get`]; [`ClientError::Refused`] if it was not done.
    pub fn post(&self, path: &str) -> Result<Value, ClientError> {
        let send = |url: String| self.agent.post(url).config().timeout_global(None).build().send_empty();
        match self.answer(send, path)? {
            (200, Ok(value)) => Ok(value),
            (status, body) => Err(self.refused(status, body)),
        }
    }

    /// Sends something to be done and gives what the worker answers, once it is done.
    ///
    /// # Errors
    /// As of [`Self::post`].
    pub fn ask<T: DeserializeOwned>(&self, path: &str, body: &[u8]) -> Result<T, ClientError> {
        let (status, answer) = self.call(path, body, PATIENCE)?;
        if status == 200 {
            return self.understood(serde_json::from_slice(&answer));
        }
        let body = serde_json::from_slice(&answer).map_err(|_| String::from_utf8_lossy(&answer).into_owned());
        Err(self.refused(status, body))
    }

    /// Sends a body and answers the status and the body of the answer, whatever they are.
    ///
    /// # Errors
    /// As of [`Self::get`].
    pub(super) fn call(&self, path: &str, body: &[u8], timeout: Duration) -> Result<(u16, Vec<u8>), ClientError> {
        let send = |url: String| {
            let request = self.agent.post(url).config().timeout_global(Some(timeout)).build();
            request.header("content-type", "application/json").send(body)
        };
        let mut response = self.send(send, path)?;
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(MAX_BODY_BYTES as u64).read_to_vec();
        Ok((status, body.map_err(|error| self.failed(error))?))
    }

    /// What the worker answered, if it could be understood.
    pub(super) fn understood<T>(&self, parsed: serde_json::Result<T>) -> Result<T, ClientError> {
        parsed.map_err(|error| self.failed(error))
    }

    /// The status and the body: JSON, or else the text.
    fn answer(
        &self,
        send: impl FnOnce(String) -> Result<ureq::http::Response<ureq::Body>, ureq::Error>,
        path: &str,
    ) -> Result<(u16, Result<Value, String>), ClientError> {
        let mut response = self.send(send, path)?;
        let status = response.status().as_u16();
        let text = response.body_mut().with_config().limit(u64::MAX).read_to_string();
        let text = text.map_err(|error| self.failed(error))?;
        Ok((status, serde_json::from_str(&text).map_err(|_| text)))
    }

    fn send(
        &self,
        send: impl FnOnce(String) -> Result<ureq::http::Response<ureq::Body>, ureq::Error>,
        path: &str,
    ) -> Result<ureq::http::Response<ureq::Body>, ClientError> {
        let address = self.address;
        if address.port() == 0 {
            return Err(ClientError::NothingListens(address));
        }
        match send(format!("http://{address}{path}")) {
            Ok(response) => Ok(response),
            Err(ureq::Error::ConnectionFailed) => Err(ClientError::NothingListens(address)),
            Err(ureq::Error::Io(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                Err(ClientError::NothingListens(address))
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    fn failed(&self, source: impl std::error::Error + Send + Sync + 'static) -> ClientError {
        ClientError::Failed { address: self.address, source: Box::new(source) }
    }

    fn refused(&self, status: u16, body: Result<Value, String>) -> ClientError {
        let detail = match body {
            Ok(body) => body["detail"].as_str().map_or_else(|| body.to_string(), str::to_owned),
            Err(text) => text,
        };
        ClientError::Refused { address: self.address, status, detail }
    }
}

/// A text as it stands in a path or a query.
#[must_use]
pub fn escape(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let escape = |byte: u8| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(escape).collect()
}

/// Who listens on all addresses is found on the loopback one.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}
