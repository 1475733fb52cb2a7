//! The keys of `[http]` and `[admin]`.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde::de::{self, Deserializer, Unexpected, Visitor};
use serde::{Deserialize, Serialize};

use crate::units;

/// `[http]`: health, metrics and reading, for anyone who may reach it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Address and port. Default `0.0.0.0:8085`; port 0 takes a free one.
    #[serde(deserialize_with = "address")]
    pub listen: SocketAddr,
    /// Connections served at once, of each listener; more wait to be accepted. Default 256.
    #[serde(with = "units::count")]
    pub max_connections: usize,
    /// Reads of the storage at once; more wait until `read_timeout`. Default 16.
    #[serde(with = "units::count")]
    pub max_reads: usize,
    /// How long a read may take, waiting included. Default 5 s.
    #[serde(with = "units::duration")]
    pub read_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8085)),
            max_connections: 256,
            max_reads: 16,
            read_timeout: Duration::from_secs(5),
        }
    }
}

/// `[admin]`: what the commands talk to. Never public by default.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminConfig {
    /// Address and port. Default `127.0.0.1:8086`; port 0 takes a free one.
    #[serde(deserialize_with = "address")]
    pub listen: SocketAddr,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8086)) }
    }
}

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    deserializer.deserialize_str(AddressVisitor)
}

struct AddressVisitor;

impl Visitor<'_> for AddressVisitor {
    type Value = SocketAddr;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an IP address with a port, such as `0.0.0.0:8085` or `[::1]:8086`")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<SocketAddr, E> {
        text.parse().map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
    }
}
