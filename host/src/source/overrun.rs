//! Recognises why Redis ended a subscription: it keeps what a slow reader has not read up to a limit, and then hangs up.
//!
//! Newer servers count these ends (`client_output_buffer_limit_disconnections`); of older ones it is concluded, when the
//! reader had been away and the server ran on. It is asked over a connection of its own, so that nothing waits for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use tracing::{debug, error};

use super::redis_client::RedisClient;

/// A reader that was away for so long may have been too slow.
pub(super) const LONG_AWAY: Duration = Duration::from_secs(1);

/// What is known of a server, and how often it hung up.
#[derive(Debug, Default)]
pub(super) struct Overruns {
    count: AtomicU64,
    last: Mutex<Option<Look>>,
}

/// What a server said of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    at: Instant,
    uptime: Duration,
    /// Clients that it hung up on because of their output buffers; none if it does not count them.
    hung_up: Option<u64>,
}

impl Overruns {
    pub(super) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Looks at the server that is subscribed to again, and says so if it had hung up on us. `away` is how long nobody
    /// had read the subscription that was lost; none if it was read, or if it is the first.
    pub(super) async fn look(&self, client: &RedisClient, away: Option<Duration>) {
        let Ok(mut connection) = client.connection().await else { return };
        let info: redis::RedisResult<String> = redis::cmd("INFO").query_async(&mut connection).await;
        let now = match info {
            Ok(info) => Look::read(&info, Instant::now()),
            Err(error) => {
                debug!(%error, "redis gives no INFO, so that a subscription that it ends is not explained");
                return;
            }
        };
        let before = self.last.lock().unwrap_or_else(PoisonError::into_inner).replace(now);
        if is_overrun(before, now, away) {
            self.count.fetch_add(1, Ordering::Relaxed);
            let away_seconds = away.map(|away| away.as_secs_f64());
            let limit = limit(&mut connection).await;
            error!(
                redis = client.address(),
                away_seconds,
                limit,
                "redis ended the subscription because it was not read fast enough, what was published until it was renewed is lost; see what held the reading up, or raise `client-output-buffer-limit pubsub` of redis"
            );
        }
    }
}

impl Look {
    fn read(info: &str, at: Instant) -> Self {
        let number = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|value| value.trim().parse::<u64>().ok())
        };
        let uptime = Duration::from_secs(number("uptime_in_seconds").unwrap_or_default());
        Self { at, uptime, hung_up: number("client_output_buffer_limit_disconnections") }
    }
}

fn is_overrun(before: Option<Look>, now: Look, away: Option<Duration>) -> bool {
    let second = Duration::from_secs(1);
    let ran_on = |since: Duration| now.uptime + second >= since;
    match before.map(|before| (before.hung_up, now.hung_up, now.at - before.at)) {
        Some((Some(before), Some(now), since)) if ran_on(since) => now > before,
        // It began to count anew.
        Some((_, Some(now), _)) => now > 0,
        Some((_, None, since)) => away.is_some() && ran_on(since),
        None => false,
    }
}

/// The limit as the server has it, if it may be asked.
async fn limit(connection: &mut MultiplexedConnection) -> Option<String> {
    let answer: redis::RedisResult<Vec<String>> =
        redis::cmd("CONFIG").arg("GET").arg("client-output-buffer-limit").query_async(connection).await;
    let all = answer.ok()?.into_iter().nth(1)?;
    let (_, pubsub) = all.split_once("pubsub ")?;
    Some(pubsub.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(start: Instant, at: u64, uptime: u64, hung_up: Option<u64>) -> Look {
        Look { at: start + Duration::from_secs(at), uptime: Duration::from_secs(uptime), hung_up }
    }

    #[test]
    fn a_server_that_counts_is_believed() {
        let start = Instant::now();
        let before = Some(look(start, 0, 100, Some(3)));

        assert!(is_overrun(before, look(start, 10, 110, Some(4)), None));
        assert!(!is_overrun(before, look(start, 10, 110, Some(3)), Some(LONG_AWAY)));
        assert!(!is_overrun(before, look(start, 10, 2, Some(0)), Some(LONG_AWAY)), "it was restarted");
        assert!(!is_overrun(None, look(start, 10, 110, Some(4)), None), "it is the first");
    }

    #[test]
    fn of_one_that_does_not_count_it_is_concluded() {
        let start = Instant::now();
        let before = Some(look(start, 0, 100, None));

        assert!(is_overrun(before, look(start, 10, 110, None), Some(LONG_AWAY)));
        assert!(!is_overrun(before, look(start, 10, 110, None), None), "it was read all the time");
        assert!(!is_overrun(before, look(start, 10, 2, None), Some(LONG_AWAY)), "it was restarted");
    }

    #[test]
    fn what_a_server_says_is_read() {
        let at = Instant::now();
        let info = "# Server\r\nuptime_in_seconds:77\r\nclient_output_buffer_limit_disconnections:5\r\n";

        let expected = Look { at, uptime: Duration::from_secs(77), hung_up: Some(5) };
        assert_eq!(Look::read(info, at), expected);
        assert_eq!(Look::read("", at).hung_up, None);
    }
}
