//! Asks sentinels where the primary is.
//!
//! The first that answers is believed if the server that it names says itself that it is the primary: a sentinel may not
//! have heard of a failover yet.

use std::time::Duration;

use redis::{ConnectionInfo, Value, cmd};

use super::address::{elsewhere, place};
use super::{RedisClient, RedisClientError, failed};

impl RedisClient {
    /// Finds the primary.
    pub(super) async fn ask_sentinels(
        &self,
        sentinels: &[ConnectionInfo],
        name: &str,
        primary: &ConnectionInfo,
    ) -> Result<ConnectionInfo, RedisClientError> {
        let mut failures = Vec::new();
        for sentinel in sentinels {
            match self.ask_sentinel(sentinel, name, primary).await {
                Ok(info) => return Ok(info),
                Err(error) => failures.push(error),
            }
        }
        Err(RedisClientError::Several(failures))
    }

    async fn ask_sentinel(
        &self,
        sentinel: &ConnectionInfo,
        name: &str,
        primary: &ConnectionInfo,
    ) -> Result<ConnectionInfo, RedisClientError> {
        let refused = |reason: String| RedisClientError::Connect { address: place(sentinel), reason };
        let mut connection = self.open(sentinel.clone(), Duration::ZERO).await?;
        let mut question = cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
        let answer: Option<(String, u16)> =
            question.query_async(&mut connection).await.map_err(|error| failed(sentinel, &error))?;
        let (host, port) = answer.ok_or_else(|| refused(format!("the sentinel knows no primary `{name}`")))?;
        let info = elsewhere(primary, host, port);
        let mut connection = self.open(info.clone(), Duration::ZERO).await?;
        let role: Value = cmd("ROLE").query_async(&mut connection).await.map_err(|error| failed(&info, &error))?;
        if is_primary(&role) {
            Ok(info)
        } else {
            Err(refused(format!("the sentinel names `{}`, which is no primary", place(&info))))
        }
    }
}

fn is_primary(role: &Value) -> bool {
    let Value::Array(parts) = role else { return false };
    match parts.first() {
        Some(Value::BulkString(role)) => role == b"master",
        Some(Value::SimpleString(role)) => role == "master",
        _ => false,
    }
}
