//! The backend: opens a pool, makes sure of the schema, and hands each call to the module that does it.

use std::sync::Arc;

use storage_plugin_api::{
    Answer, AsyncBackend, Call, ChildDescription, Counts, Delete, Deleted, Description, Error, Fields, Found, Health,
    Item, Opening, Page, Prune, Pruned, Query, Result,
};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::connect::Target;
use crate::counts::Counter;
use crate::errors::Failure;
use crate::guess::Guess;
use crate::merge::Means;
use crate::options::{Durability, Migrate, Options};
use crate::pool::Pool;
use crate::rows::{Reader, found};
use crate::statements::Statements;
use crate::tables::{Query as Statement, Tables};
use crate::watch::{Watch, watch};
use crate::{delete, indexes, list, merge, migrations, rows};

/// Evaluations in PostgreSQL.
pub struct Postgres {
    pool: Arc<Pool>,
    tables: Tables,
    statements: Statements,
    guess: Guess,
    counter: Counter,
    watch: Arc<Watch>,
    tasks: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Postgres {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Postgres").field("tables", &self.tables).finish_non_exhaustive()
    }
}

impl AsyncBackend for Postgres {
    type Options = Options;

    fn check(options: &Options, _children: &[ChildDescription]) -> Description {
        options.describe()
    }

    async fn open(options: Options, opening: Opening) -> Result<Self> {
        let target = Target::of(&options).map_err(Error::configuration)?;
        let pool = Arc::new(Pool::new(&target, &options)?);
        let tables = Tables::new(&options.schema, &options.table_prefix);
        let tables = migrations::prepare(&pool, tables, options.migrate, opening.read_only, opening.deadline).await?;
        let checks_durability = options.durability == Durability::Check;
        if checks_durability && !opening.read_only {
            check_durability(&pool, opening.deadline).await?;
        }
        info!(target = target.to_string(), schema = options.schema, "connected");

        let watched = Arc::new(Watch::new(options.durability));
        let mut tasks = vec![tokio::spawn(watch(Arc::clone(&watched), Arc::clone(&pool), tables.clone()))];
        if !opening.read_only && options.migrate == Migrate::Auto {
            let builders = Pool::of_size(&target, &options, indexes::CONNECTIONS)?;
            tasks.push(tokio::spawn(indexes::build(Arc::clone(&pool), builders, tables.clone())));
        } else if !opening.read_only {
            indexes::tell_of_missing(&pool, &tables, opening.deadline).await;
        }
        Ok(Self {
            pool,
            statements: Statements::new(&tables),
            guess: Guess::default(),
            counter: Counter::default(),
            tables,
            watch: watched,
            tasks,
        })
    }

    fn runtime_threads() -> usize {
        2
    }

    async fn merge(&self, call: &Call, batch: &[Item<'_>]) -> Result<Vec<Answer>> {
        let budget = call.remaining();
        let means = Means { pool: &self.pool, statements: &self.statements, guess: &self.guess };
        let result = merge::merge(means, self.watch.durability(), call, batch).await;
        self.watch.learn_of_merge(&result, budget);
        result
    }

    async fn get(&self, call: &Call, ids: &[&str], fields: Fields) -> Result<Vec<Option<Found>>> {
        let states = rows::get(&Reader::Pool(&self.pool, call), &self.statements, ids, fields).await?;
        Ok(ids.iter().map(|id| states.get(*id).cloned().map(found)).collect())
    }

    async fn list(&self, call: &Call, query: &Query) -> Result<Page> {
        list::list(&self.pool, &self.tables, &self.statements, call, query).await
    }

    async fn counts(&self, call: &Call) -> Result<Counts> {
        self.counter.counts(&self.pool, &self.statements.counts, call).await
    }

    async fn delete(&self, call: &Call, items: &[Delete<'_>]) -> Result<Vec<Deleted>> {
        delete::delete(&self.pool, &self.statements, call, items).await
    }

    fn health(&self) -> Health {
        self.watch.health(&self.pool)
    }

    async fn flush(&self, _call: &Call) -> Result<()> {
        // What was answered was committed.
        Ok(())
    }

    async fn close(&self, _call: &Call) -> Result<()> {
        for task in &self.tasks {
            task.abort();
        }
        self.pool.close();
        Ok(())
    }

    async fn prune(&self, call: &Call, prune: &Prune) -> Result<Pruned> {
        delete::prune(&self.pool, &self.statements, call, prune).await
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// A server that does not sync loses what was confirmed, whatever we do. (Of `synchronous_commit` we take care.)
async fn check_durability(pool: &Pool, deadline: std::time::Instant) -> Result<(), Failure> {
    let session = pool.session(deadline).await?;
    let sql = "SELECT current_setting('fsync'), current_setting('full_page_writes')".to_owned();
    let rows = session.query(&Statement { sql, types: Vec::new() }, &[]).await?;
    let Some(row) = rows.first() else { return Ok(()) };
    let (fsync, full_page_writes): (&str, &str) = (row.get(0), row.get(1));
    if fsync == "off" {
        return Err(Error::configuration(
            "the server has `fsync = off`, so a crash loses what it has stored; turn it on, or say what is right with \
             `durability = \"volatile\"` or, where the storage below it syncs, `durability = \"durable\"`",
        )
        .into());
    }
    if full_page_writes == "off" {
        warn!("the server has `full_page_writes = off`; unless its file system never tears a page, a crash loses data");
    }
    Ok(())
}
