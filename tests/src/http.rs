//! Requests to a worker.

use std::time::Duration;

use serde_json::Value;

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Panics
    /// When it is none.
    #[must_use]
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {}", self.body))
    }
}

/// A client that keeps its connections.
#[derive(Clone, Debug)]
pub struct Http {
    agent: ureq::Agent,
    base: String,
}

impl Http {
    /// A client of an address, say `127.0.0.1:8085`.
    #[must_use]
    pub fn new(address: &str) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(10)))
            .proxy(None)
            .build();
        Self { agent: config.into(), base: format!("http://{address}") }
    }

    /// The answer of a path.
    ///
    /// # Panics
    /// When there is none within 10 s.
    #[must_use]
    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.try_get(path).unwrap_or_else(|error| panic!("GET {}{path}: {error}", self.base))
    }

    /// The answer of a path, if there is one within 10 s.
    ///
    /// # Errors
    /// When there is none.
    pub fn try_get(&self, path: &str) -> Result<Answer, ureq::Error> {
        let mut response = self.agent.get(format!("{}{path}", self.base)).call()?;
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(64 << 20).read_to_string()?;
        Ok(Answer { status, body })
    }

    /// The answer to a POST of nothing, however long that takes.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    #[track_caller]
    pub fn post(&self, path: &str) -> Answer {
        self.try_post(path).unwrap_or_else(|error| panic!("POST {}{path}: {error}", self.base))
    }

    /// The answer to a POST of nothing, if there is one.
    ///
    /// # Errors
    /// When there is none.
    pub fn try_post(&self, path: &str) -> Result<Answer, ureq::Error> {
        let request = self.agent.post(format!("{}{path}", self.base)).config().timeout_global(None).build();
        let mut response = request.send_empty()?;
        let body = response.body_mut().read_to_string()?;
        Ok(Answer { status: response.status().as_u16(), body })
    }

    /// The sum of a metric over its labels, of those lines that hold every given text; 0 where there is none.
    #[must_use]
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text = self.get("/metrics").body;
        let lines = text.lines().filter(|line| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' '])) && labels.iter().all(|label| line.contains(label))
        });
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}
