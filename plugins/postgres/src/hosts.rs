//! Connects to the first host that will do. Of several each has a time of its own, for everything until it is known that
//! it can be written to: one that takes a connection and then says nothing must not use up the time of those behind it.

use std::pin::Pin;
use std::time::{Duration, Instant};

use deadpool_postgres::Connect;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::{Host, LoadBalanceHosts};
use tokio_postgres::{Client, Config, Error};
use tokio_postgres_rustls::MakeRustlsConnect;
use tracing::debug;

tokio::task_local! {
    static DEADLINE: Instant;
}

/// Runs a future that may have to connect, and that is given up at some time.
pub(crate) async fn until<F: Future>(deadline: Instant, future: F) -> F::Output {
    DEADLINE.scope(deadline, future).await
}

/// The hosts of a target.
pub(crate) struct Hosts {
    /// The configuration for each alone, in the order in which they were named.
    each: Vec<Config>,
    is_shuffled: bool,
    tls: MakeRustlsConnect,
}

impl Hosts {
    /// `config` has at least one host.
    pub(crate) fn new(config: &Config, tls: MakeRustlsConnect) -> Self {
        let is_shuffled = config.get_load_balance_hosts() == LoadBalanceHosts::Random;
        Self { each: (0..config.get_hosts().len()).map(|place| alone(config, place)).collect(), is_shuffled, tls }
    }

    async fn first_that_will_do(&self) -> Result<(Client, JoinHandle<()>), Error> {
        let mut order: Vec<&Config> = self.each.iter().collect();
        if self.is_shuffled {
            fastrand::shuffle(&mut order);
        }
        let mut refused = None;
        for (place, host) in order.iter().enumerate() {
            let hosts_left = order.len() - place;
            // The last one may take as long as the caller waits, if there is nothing better to say.
            if hosts_left == 1 && refused.is_none() {
                return self.connect_to(host).await;
            }
            match timeout(time_for(host, hosts_left), self.connect_to(host)).await {
                Ok(Ok(connected)) => return Ok(connected),
                Ok(Err(error)) => refused = Some(error),
                Err(_) => debug!(host = ?host.get_hosts(), "a host did not answer in time"),
            }
        }
        Err(refused.expect("the last host is waited for if none refused"))
    }

    async fn connect_to(&self, host: &Config) -> Result<(Client, JoinHandle<()>), Error> {
        let (client, connection) = host.connect(self.tls.clone()).await?;
        let task = tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(%error, "a connection ended");
            }
        });
        Ok((client, task))
    }
}

impl Connect for Hosts {
    fn connect(
        &self,
        _: &Config,
    ) -> Pin<Box<dyn Future<Output = Result<(Client, JoinHandle<()>), Error>> + Send + '_>> {
        Box::pin(self.first_that_will_do())
    }
}

/// How long a host may take: its share of what is left, and not longer than `connect_timeout`.
fn time_for(host: &Config, hosts_left: usize) -> Duration {
    let longest = host.get_connect_timeout().copied().unwrap_or(Duration::MAX);
    let left = DEADLINE.try_with(|deadline| deadline.saturating_duration_since(Instant::now()));
    left.map_or(longest, |left| longest.min(left / u32::try_from(hosts_left).unwrap_or(u32::MAX)))
}

/// A configuration for one of its hosts alone.
fn alone(config: &Config, place: usize) -> Config {
    let mut one = Config::new();
    match &config.get_hosts()[place] {
        Host::Tcp(name) => one.host(name),
        #[cfg(unix)]
        Host::Unix(path) => one.host_path(path),
    };
    let ports = config.get_ports();
    one.port(ports.get(place).or(ports.first()).copied().unwrap_or(5432));
    one.ssl_mode(config.get_ssl_mode())
        .ssl_negotiation(config.get_ssl_negotiation())
        .keepalives(config.get_keepalives())
        .keepalives_idle(config.get_keepalives_idle())
        .target_session_attrs(config.get_target_session_attrs())
        .channel_binding(config.get_channel_binding())
        .load_balance_hosts(config.get_load_balance_hosts());
    config.get_hostaddrs().get(place).map(|address| one.hostaddr(*address));
    config.get_user().map(|user| one.user(user));
    config.get_password().map(|password| one.password(password));
    config.get_dbname().map(|name| one.dbname(name));
    config.get_options().map(|options| one.options(options));
    config.get_application_name().map(|name| one.application_name(name));
    config.get_connect_timeout().map(|time| one.connect_timeout(*time));
    config.get_tcp_user_timeout().map(|time| one.tcp_user_timeout(*time));
    config.get_keepalives_interval().map(|time| one.keepalives_interval(time));
    config.get_keepalives_retries().map(|retries| one.keepalives_retries(retries));
    one
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every key that tokio-postgres knows but `replication`.
    const ALL: &str = "host=a,b hostaddr=10.0.0.1,10.0.0.2 port=1,2 user=u password=p dbname=d options='-c a=b' \
        application_name=n sslmode=require sslnegotiation=direct connect_timeout=7 tcp_user_timeout=8 keepalives=1 \
        keepalives_idle=9 keepalives_interval=10 keepalives_retries=11 target_session_attrs=read-write \
        channel_binding=require load_balance_hosts=random";

    #[test]
    fn a_host_alone_has_all_that_was_said_of_it() {
        let [first, second] = [("a", "10.0.0.1", "1"), ("b", "10.0.0.2", "2")].map(|(host, address, port)| {
            ALL.replace("a,b", host).replace("10.0.0.1,10.0.0.2", address).replace("port=1,2", &format!("port={port}"))
        });
        let all: Config = ALL.parse().expect("a configuration");

        for (place, expected) in [first, second].iter().enumerate() {
            assert_eq!(alone(&all, place), expected.parse().expect("a configuration"), "{expected}");
        }
    }

    #[tokio::test]
    async fn hosts_share_the_time_that_is_left() {
        let host: Config = "host=a connect_timeout=5".parse().expect("a configuration");
        let within = |seconds: u64, hosts: usize| {
            let host = host.clone();
            until(Instant::now() + Duration::from_secs(seconds), async move { time_for(&host, hosts) })
        };

        assert!((Duration::from_millis(1900)..=Duration::from_secs(2)).contains(&within(6, 3).await));
        assert_eq!(within(100, 2).await, Duration::from_secs(5));
    }
}
