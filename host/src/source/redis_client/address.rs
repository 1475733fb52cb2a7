//! What the URL says of where Redis is: one server, the nodes of a cluster, or sentinels that know where it is.
//!
//! The crate reads the address of one server; here stands what it has no form for. Nothing here connects.

use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisError};

/// The port of a sentinel that is given without one.
const SENTINEL_PORT: u16 = 26379;
/// The port of a node that is given without one.
const NODE_PORT: u16 = 6379;

/// Where Redis is. Holds passwords, so it has no `Debug`.
#[derive(Clone)]
pub(super) enum Address {
    /// A server.
    Server(ConnectionInfo),
    /// Some nodes of a cluster; the others are learned from these.
    Cluster(Vec<ConnectionInfo>),
    /// Sentinels, and what they are asked for.
    Sentinel {
        sentinels: Vec<ConnectionInfo>,
        /// The name of the primary.
        name: String,
        /// How the primary is spoken to, once it is known where it is.
        primary: ConnectionInfo,
    },
}

impl Address {
    /// Reads a URL. What is wrong with it is said without the URL.
    pub(super) fn read(url: &str) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").unwrap_or_default();
        match scheme.split_once('+') {
            Some((scheme @ ("redis" | "rediss"), "cluster")) => cluster(scheme, &Parts::of(rest)),
            Some((scheme @ ("redis" | "rediss"), "sentinel")) => sentinel(scheme, &Parts::of(rest)),
            _ => info(url).map(Self::Server),
        }
    }

    /// Hosts and ports, or the path of a socket; nothing secret.
    pub(super) fn shown(&self) -> String {
        let all = |infos: &[ConnectionInfo]| infos.iter().map(place).collect::<Vec<_>>().join(",");
        match self {
            Self::Server(info) => place(info),
            Self::Cluster(nodes) => all(nodes),
            Self::Sentinel { sentinels, name, .. } => format!("{name} of the sentinels {}", all(sentinels)),
        }
    }
}

/// What stands behind `://`.
struct Parts<'a> {
    /// With the `@`; empty if there is none.
    user: &'a str,
    hosts: &'a str,
    path: &'a str,
    /// With the `?` or `#`; empty if there is none.
    query: &'a str,
}

impl<'a> Parts<'a> {
    fn of(rest: &'a str) -> Self {
        let (rest, query) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = authority.split_at(authority.rfind('@').map_or(0, |at| at + 1));
        Self { user, hosts, path, query }
    }

    /// The address of each host.
    fn infos(&self, scheme: &str, user: &str, port: u16) -> Result<Vec<ConnectionInfo>, String> {
        let read = |host: &str| {
            if host.is_empty() {
                return Err("a host is missing".to_owned());
            }
            let has_port = host.rsplit(']').next().is_some_and(|end| end.contains(':'));
            let host = if has_port { host.to_owned() } else { format!("{host}:{port}") };
            info(&format!("{scheme}://{user}{host}{}", self.query))
        };
        self.hosts.split(',').map(|host| read(host.trim())).collect()
    }
}

fn cluster(scheme: &str, parts: &Parts<'_>) -> Result<Address, String> {
    if !matches!(parts.path, "" | "0") {
        return Err("a cluster has no database but 0".to_owned());
    }
    parts.infos(scheme, parts.user, NODE_PORT).map(Address::Cluster)
}

fn sentinel(scheme: &str, parts: &Parts<'_>) -> Result<Address, String> {
    let (name, database) = parts.path.split_once('/').unwrap_or((parts.path, "0"));
    if name.is_empty() {
        return Err("the name of the primary is missing behind the sentinels".to_owned());
    }
    let primary = info(&format!("{scheme}://{}primary:{NODE_PORT}/{database}{}", parts.user, parts.query))?;
    // Sentinels have users of their own, and seldom any.
    let sentinels = parts.infos(scheme, "", SENTINEL_PORT)?;
    Ok(Address::Sentinel { sentinels, name: name.to_owned(), primary })
}

/// The crate's own text may quote the URL, and with it the password.
fn info(url: &str) -> Result<ConnectionInfo, String> {
    url.into_connection_info().map_err(|_: RedisError| "it is of no known form".to_owned())
}

/// The same way to speak to another host.
pub(super) fn elsewhere(info: &ConnectionInfo, host: String, port: u16) -> ConnectionInfo {
    let addr = match info.addr() {
        ConnectionAddr::TcpTls { .. } => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
        _ => ConnectionAddr::Tcp(host, port),
    };
    info.clone().set_addr(addr)
}

/// Host and port, or the path of the socket.
pub(super) fn place(info: &ConnectionInfo) -> String {
    match info.addr() {
        ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => format!("{host}:{port}"),
        other => other.to_string(),
    }
}

/// Whether it is spoken to with TLS.
pub(super) fn has_tls(info: &ConnectionInfo) -> bool {
    matches!(info.addr(), ConnectionAddr::TcpTls { .. })
}

/// The host; empty for a socket.
pub(super) fn host(info: &ConnectionInfo) -> &str {
    match info.addr() {
        ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => host,
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Result<String, String> {
        Address::read(url).map(|address| address.shown())
    }

    #[test]
    fn every_form_is_read_and_shown_without_its_password() {
        let shown = |url: &str| read(url).expect("a readable URL");

        assert_eq!(shown("redis://user:hunter2@example.org:7000/1"), "example.org:7000");
        assert_eq!(shown("redis+cluster://user:hunter2@a:7000,b"), "a:7000,b:6379");
        assert_eq!(shown("rediss+cluster://[::1]:7000, [::2]/0"), "::1:7000,::2:6379");
        assert_eq!(shown("redis+sentinel://:hunter2@a,b:7/main/2"), "main of the sentinels a:26379,b:7");
    }

    #[test]
    fn each_node_is_spoken_to_as_the_url_says() {
        let Ok(Address::Cluster(nodes)) = Address::read("rediss+cluster://user:p%40ss@a,b:7") else { panic!("read") };
        let Ok(Address::Sentinel { sentinels, primary, .. }) = Address::read("redis+sentinel://u:p@a/main/2") else {
            panic!("read")
        };

        for node in &nodes {
            assert!(matches!(node.addr(), ConnectionAddr::TcpTls { insecure: false, .. }));
            assert_eq!(
                (node.redis_settings().username(), node.redis_settings().password()),
                (Some("user"), Some("p@ss"))
            );
        }
        assert_eq!((primary.redis_settings().db(), primary.redis_settings().password()), (2, Some("p")));
        assert_eq!(sentinels[0].redis_settings().password(), None);
    }

    #[test]
    fn what_is_wrong_is_said_without_the_url() {
        let wrong = |url: &str| read(url).expect_err("a URL that cannot be read");

        assert_eq!(wrong("redis+cluster://u:hunter2@a/3"), "a cluster has no database but 0");
        assert_eq!(wrong("redis+cluster://u:hunter2@a,"), "a host is missing");
        assert_eq!(wrong("redis+sentinel://u:hunter2@a"), "the name of the primary is missing behind the sentinels");
        assert!(!wrong("http://user:hunter2@example.org").contains("hunter2"));
    }
}
