//! Connections: where they come from, and that none is used again whose transaction may still be open.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use deadpool_postgres::{Manager, ManagerConfig, Object, RecyclingMethod, Runtime, Timeouts};
use storage_plugin_api::{Call, Error, Result};
use tokio::join;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};

use crate::connect::Target;
use crate::errors::{Failure, no_connection};
use crate::hosts::{Hosts, until};
use crate::options::Options;
use crate::tables::Query;

/// What is left of a call's time when the server gives up, so that its answer still arrives.
const MARGIN: Duration = Duration::from_millis(100);

/// A parameter of a statement.
pub(crate) type Parameter<'a> = &'a (dyn ToSql + Sync);

/// The connections of an instance.
pub(crate) struct Pool {
    pool: deadpool_postgres::Pool,
    /// Where connections lead, for people.
    target: String,
    named: bool,
}

impl Pool {
    /// # Errors
    /// `Configuration` when a certificate cannot be read. Nothing is connected yet.
    pub(crate) fn new(target: &Target, options: &Options) -> Result<Self> {
        Self::of_size(target, options, options.connections.max(1))
    }

    /// Connections apart from all others, for what takes long.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub(crate) fn of_size(target: &Target, options: &Options, connections: usize) -> Result<Self> {
        let config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let hosts = Hosts::new(&target.config, target.tls.connector()?);
        let connector = Manager::from_connect(target.config.clone(), hosts, config);
        let pool = deadpool_postgres::Pool::builder(connector)
            .max_size(connections)
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| Error::internal(format_args!("the pool: {error}")))?;
        Ok(Self { pool, target: target.to_string(), named: options.prepared_statements })
    }

    /// A connection of one's own, until a time.
    pub(crate) async fn session(&self, deadline: Instant) -> Result<Session, Failure> {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeouts = Timeouts { wait: Some(left), create: Some(left), recycle: Some(left) };
        let client = until(deadline, self.pool.timeout_get(&timeouts)).await;
        let client = client.map_err(|error| no_connection(&error, &self.target))?;
        Ok(Session { client: Some(client), named: self.named, in_transaction: false, pending: AtomicUsize::new(0) })
    }

    /// Rows of a statement that only reads, in a transaction of its own.
    pub(crate) async fn read(
        &self,
        call: &Call,
        query: &Query,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, Failure> {
        let mut tries = 0;
        loop {
            let mut session = self.session(call.deadline).await?;
            match session.read(call, query, parameters).await {
                // Columns were added meanwhile: another connection has not planned yet.
                Err(Failure::Conflict(_)) if tries < 3 => tries += 1,
                result => return result,
            }
        }
    }

    /// How many connections there are, and how many are in use.
    pub(crate) fn figures(&self) -> (usize, usize) {
        let status = self.pool.status();
        (status.size, status.size.saturating_sub(status.available))
    }

    pub(crate) fn close(&self) {
        self.pool.close();
    }
}

/// A connection. Closed when it is dropped within a transaction, so that its locks go at once.
pub(crate) struct Session {
    client: Option<Object>,
    named: bool,
    in_transaction: bool,
    /// Requests whose answers have not come; of a call that was given up they never do.
    pending: AtomicUsize,
}

/// A statement that is ready to run on one connection.
pub(crate) enum Ready<'a> {
    Named(Statement),
    Unnamed(&'a Query),
}

impl Session {
    /// Prepares a statement, the first time on a connection; ready at once afterwards.
    ///
    /// Within a transaction, since this waits for whoever has locked the table, and only there it has a time-out.
    pub(crate) async fn ready<'a>(&self, query: &'a Query) -> Result<Ready<'a>, Failure> {
        match self.named {
            true => {
                Ok(Ready::Named(self.answered(self.client().prepare_typed_cached(&query.sql, &query.types)).await?))
            }
            false => Ok(Ready::Unnamed(query)),
        }
    }

    /// Runs a statement. It is sent when this is first polled, so that several can be under way in a known order.
    pub(crate) async fn run(&self, ready: &Ready<'_>, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, Failure> {
        let rows = match ready {
            Ready::Named(statement) => self.answered(self.client().query(statement, parameters)).await,
            Ready::Unnamed(query) => {
                let typed: Vec<_> = parameters.iter().copied().zip(query.types.iter().cloned()).collect();
                self.answered(self.client().query_typed(&query.sql, &typed)).await
            }
        };
        rows.map_err(Failure::from)
    }

    /// Makes a statement ready and runs it.
    pub(crate) async fn query(&self, query: &Query, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, Failure> {
        let ready = self.ready(query).await?;
        self.run(&ready, parameters).await
    }

    /// Runs SQL that has no parameters and no answer. Sent when first polled.
    pub(crate) async fn command(&self, sql: &str) -> Result<(), Failure> {
        self.answered(self.client().batch_execute(sql)).await.map_err(Failure::from)
    }

    /// From now on a transaction is open; see [`begin`] for the command that opens it.
    pub(crate) fn enter_transaction(&mut self) {
        self.in_transaction = true;
    }

    /// The transaction ended well.
    pub(crate) fn leave_transaction(&mut self) {
        self.in_transaction = false;
    }

    /// The transaction failed: ends it, if the connection is of any use.
    pub(crate) async fn abandon(&mut self, failure: &Failure) {
        let is_of_use = matches!(failure, Failure::Data(_))
            || matches!(failure, Failure::Conflict(error) if !error.message.contains("cached plan"));
        if is_of_use && self.command("ROLLBACK").await.is_ok() {
            self.in_transaction = false;
        }
    }

    async fn read(&mut self, call: &Call, query: &Query, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, Failure> {
        let rows = self.begin_with(&begin_reading(call), query, parameters).await?;
        self.command("COMMIT").await?;
        self.leave_transaction();
        Ok(rows)
    }

    /// Begins a transaction and runs its first statement, in one round trip once that is prepared.
    pub(crate) async fn begin_with(
        &mut self,
        begin: &str,
        query: &Query,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, Failure> {
        self.enter_transaction();
        let (begun, rows) = join!(biased; self.command(begin), self.query(query, parameters));
        begun?;
        rows
    }

    async fn answered<T>(&self, request: impl Future<Output = T>) -> T {
        self.pending.fetch_add(1, Ordering::Relaxed);
        let answer = request.await;
        self.pending.fetch_sub(1, Ordering::Relaxed);
        answer
    }

    fn client(&self) -> &Object {
        self.client.as_ref().expect("the client is only taken when this is dropped")
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(client) = self.client.take()
            && (self.in_transaction || self.pending.load(Ordering::Relaxed) > 0)
        {
            // Dropping the client itself closes the connection.
            drop(Object::take(client));
        }
    }
}

/// The command that begins a transaction that writes, and whose commit is durable however the server is set.
///
/// Settings that wait for more than the disk, say for a standby, stay as they are.
pub(crate) fn begin(call: &Call) -> String {
    let begin = begin_mode(call, "READ COMMITTED");
    format!(
        "{begin}; SELECT set_config('synchronous_commit', 'on', true) \
         WHERE current_setting('synchronous_commit') = 'off'"
    )
}

/// The command that begins a transaction that only reads.
pub(crate) fn begin_reading(call: &Call) -> String {
    begin_mode(call, "READ COMMITTED READ ONLY")
}

/// The command that begins a transaction that only reads, and of which all statements see the same moment.
pub(crate) fn begin_snapshot(call: &Call) -> String {
    begin_mode(call, "REPEATABLE READ READ ONLY")
}

/// The server ends the transaction when the call's time is up.
///
/// The isolation is named, as a database may have another default, under which merges would fail for nothing.
fn begin_mode(call: &Call, mode: &str) -> String {
    let left = call.remaining();
    let budget = left.saturating_sub(MARGIN.min(left / 4)).as_millis().max(1);
    format!(
        "BEGIN ISOLATION LEVEL {mode}; SET LOCAL statement_timeout = {budget}; \
         SET LOCAL idle_in_transaction_session_timeout = {}",
        budget + 1000
    )
}
