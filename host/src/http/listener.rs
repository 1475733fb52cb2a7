//! Binds an address and serves connections: bounded in number, in the size of a request's head, and in time.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// How long a client may take to send the head of a request, and an idle connection stays open.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How large the head of a request may be.
const MAX_HEAD_BYTES: usize = 32 * 1024;
const MAX_HEADERS: usize = 64;
/// How long a connection lives at most, so that a client that never reads its answer does not keep a place for ever.
const MAX_LIFE: Duration = Duration::from_secs(300);
/// How long an answer that is under way may take when the life of its connection is over; more than any waits for storage.
const LAST_ANSWER: Duration = Duration::from_secs(90);
/// How long answers that are under way may take to the end.
const GRACE: Duration = Duration::from_secs(2);
/// How long to pause when the system has no sockets left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound address.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
    section: &'static str,
}

/// Why an address could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on `{address}`, which `{section}.listen` names{}", hint(.source, section))]
pub struct BindError {
    address: SocketAddr,
    section: &'static str,
    source: io::Error,
}

fn hint(source: &io::Error, section: &str) -> String {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            format!("; end the other process that does, or set `{section}.listen` to another port")
        }
        io::ErrorKind::AddrNotAvailable => format!("; set `{section}.listen` to an address of this machine"),
        io::ErrorKind::PermissionDenied => format!("; set `{section}.listen` to a port above 1023"),
        _ => String::new(),
    }
}

impl Listener {
    /// Binds the address of a section of the configuration (`http` or `admin`), and logs `http.listening` or
    /// `admin.listening` with the address that was bound.
    ///
    /// # Errors
    /// When it cannot be bound; the operator must change something.
    pub async fn bind(section: &'static str, address: SocketAddr) -> Result<Self, BindError> {
        let error = |source| BindError { address, section, source };
        let listener = TcpListener::bind(address).await.map_err(error)?;
        let address = listener.local_addr().map_err(error)?;
        match section {
            "admin" => info!(%address, "admin.listening"),
            _ => info!(%address, "http.listening"),
        }
        Ok(Self { listener, address, section })
    }

    /// The address that was bound, with the port that the system chose for port 0.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `stop`, then lets answers that are under way come to their end.
    pub async fn serve(self, router: Router, max_connections: usize, stop: CancellationToken) {
        let places = Arc::new(Semaphore::new(max_connections.clamp(1, Semaphore::MAX_PERMITS)));
        let mut connections = JoinSet::new();
        loop {
            let place = tokio::select! {
                () = stop.cancelled() => break,
                place = Arc::clone(&places).acquire_owned() => place,
            };
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (router, stop) = (router.clone(), stop.clone());
                    connections.spawn(async move {
                        let _place = place;
                        serve_connection(stream, router, stop).await;
                    });
                }
                Err(error) => {
                    warn!(section = self.section, %error, "http.accept_failed");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
            while connections.try_join_next().is_some() {}
        }
        // Bounded by the grace of each connection.
        while connections.join_next().await.is_some() {}
    }
}

async fn serve_connection(stream: TcpStream, router: Router, stop: CancellationToken) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    let mut ended = tokio::select! {
        ended = connection.as_mut() => Some(ended),
        () = stop.cancelled() => None,
        () = sleep(MAX_LIFE) => None,
    };
    if ended.is_none() {
        connection.as_mut().graceful_shutdown();
        ended = tokio::select! {
            ended = connection.as_mut() => Some(ended),
            () = stop.cancelled() => None,
            () = sleep(LAST_ANSWER) => None,
        };
    }
    let ended = match ended {
        Some(ended) => Ok(ended),
        None => timeout(GRACE, connection).await,
    };
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "http.connection_failed"),
        Err(_) => debug!("http.connection_cut"),
    }
}
