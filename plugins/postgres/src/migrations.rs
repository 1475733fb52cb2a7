//! Brings a schema up to date at open: an empty one, that of the Python service, and every older one of ours.
//!
//! What changes tables is one short transaction for each version that touches no row; it waits for its locks only
//! briefly, since whoever waits for a lock on a table holds up everybody behind. Indexes come later (`indexes.rs`).

use std::time::{Duration, Instant};

use storage_plugin_api::{Call, Error, ErrorKind, Result};
use tokio_postgres::types::Type;
use tracing::info;

use crate::errors::Failure;
use crate::indexes;
use crate::options::Migrate;
use crate::pool::{Pool, Session, begin_reading};
use crate::tables::{Tables, quoted, without_comments};

/// What each version adds; the first is number 1.
const STEPS: [Step; 2] = [
    Step { sql: include_str!("schema/1_tables.sql"), optional: "" },
    Step { sql: include_str!("schema/2_states.sql"), optional: include_str!("schema/2_compression.sql") },
];
/// The schema that this version of the plugin needs.
const VERSION: i32 = STEPS.len() as i32;

struct Step {
    sql: &'static str,
    /// What a server may refuse to do.
    optional: &'static str,
}

/// How long a change of a table waits for its lock before it lets others through and tries again.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause between two looks at a lock that another process holds.
const POLL: Duration = Duration::from_millis(50);
/// The first half of the advisory lock, the same for every worker; the second is made of the tables' name.
pub(crate) const ADVISORY_CLASS: i32 = 0x5357_4d47;

/// The columns that a table of the Python service has after its last migration.
const ADOPTED: [(&str, &[&str]); 2] = [
    (
        "evaluations",
        &[
            "id",
            "code_hash",
            "status",
            "created_at",
            "queued_at",
            "started_at",
            "completed_at",
            "engine",
            "worker_id",
            "runtime_ms",
            "memory_used_mb",
            "exit_code",
            "code_location",
            "output_location",
            "error_location",
            "output",
            "error",
            "output_size",
            "error_size",
            "metadata",
            "output_truncated",
            "error_truncated",
        ],
    ),
    ("evaluation_events", &["id", "evaluation_id", "timestamp", "event_type", "message", "metadata"]),
];

/// Makes sure that the schema is the one that is needed. Answers the tables, knowing how ids compare.
pub(crate) async fn prepare(
    pool: &Pool,
    tables: Tables,
    migrate: Migrate,
    reads_only: bool,
    deadline: Instant,
) -> Result<Tables> {
    if migrate != Migrate::Off {
        bring_up_to_date(pool, &tables, migrate, reads_only, deadline).await?;
    }
    let mut session = pool.session(deadline).await?;
    begin_until(&mut session, deadline).await?;
    let tables = match is_bytewise(&session, &tables).await? {
        true => tables,
        false => tables.with_id_of_other_order(),
    };
    commit(&mut session).await?;
    Ok(tables)
}

/// Migrates, or refuses what would have to be migrated, and makes sure of the rights.
async fn bring_up_to_date(
    pool: &Pool,
    tables: &Tables,
    migrate: Migrate,
    reads_only: bool,
    deadline: Instant,
) -> Result<()> {
    let mut session = pool.session(deadline).await?;
    begin_until(&mut session, deadline).await?;
    check_encoding(&session).await?;
    let found = version(&session, tables).await?;
    commit(&mut session).await?;
    // There may be no second connection.
    drop(session);
    if found > VERSION {
        return Err(Error::configuration(format_args!(
            "the tables in schema `{}` are of version {found}, this plugin knows up to {VERSION}; use a newer one",
            tables.schema()
        )));
    }
    if found < VERSION {
        if migrate == Migrate::Check || reads_only {
            return Err(Error::configuration(format_args!(
                "the tables in schema `{}` are of version {found}, {VERSION} is needed; start a worker with \
                 `migrate = \"auto\"` and a role that may create tables",
                tables.schema()
            )));
        }
        run(pool, tables, deadline).await?;
    }
    let mut session = pool.session(deadline).await?;
    begin_until(&mut session, deadline).await?;
    check_rights(&session, tables, reads_only).await?;
    commit(&mut session).await?;
    Ok(())
}

/// Begins a transaction, for the sake of its time-out: somebody may have locked a table.
async fn begin_until(session: &mut Session, deadline: Instant) -> Result<(), Failure> {
    session.enter_transaction();
    session.command(&begin_reading(&Call { deadline, attempt: 0 })).await
}

async fn commit(session: &mut Session) -> Result<(), Failure> {
    session.command("COMMIT").await?;
    session.leave_transaction();
    Ok(())
}

async fn check_encoding(session: &Session) -> Result<(), Failure> {
    let encoding = text(session, "SELECT current_setting('server_encoding')").await?;
    match encoding.as_deref() {
        Some("UTF8") => Ok(()),
        other => Err(Error::configuration(format_args!(
            "the database has the encoding {}, which cannot have every text; use one with UTF8",
            other.unwrap_or("unknown")
        ))
        .into()),
    }
}

/// The version of the tables; 0 where there are none of ours.
async fn version(session: &Session, tables: &Tables) -> Result<i32, Failure> {
    if !exists(session, tables, "storage_worker_schema").await? {
        return Ok(0);
    }
    check_granted(session, tables, &[("storage_worker_schema", "SELECT")]).await?;
    let query = tables.query("SELECT coalesce(max(version), 0) FROM {versions}", &[]);
    let rows = session.query(&query, &[]).await?;
    Ok(rows.first().map_or(0, |row| row.get(0)))
}

async fn exists(session: &Session, tables: &Tables, table: &str) -> Result<bool, Failure> {
    // Read from the catalog itself: `to_regclass` may go by what this connection knew before it had the advisory lock.
    let query = tables.query(
        "SELECT EXISTS (SELECT FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace \
         WHERE nspname = $1 AND relname = $2)",
        &[Type::TEXT, Type::TEXT],
    );
    let rows = session.query(&query, &[&tables.schema(), &tables.plain(table)]).await?;
    Ok(rows.first().is_some_and(|row| row.get(0)))
}

/// Runs the steps that are missing, while no other process does.
async fn run(pool: &Pool, tables: &Tables, deadline: Instant) -> Result<()> {
    loop {
        match run_once(pool, tables, deadline).await {
            Err(Failure::Conflict(error)) if Instant::now() + LOCK_TIMEOUT > deadline => {
                return Err(Error::unavailable(format_args!("the tables are in use, {}", error.message)));
            }
            // Somebody else holds a lock, on the migration or on a table, or makes the schema.
            Err(Failure::Conflict(_)) => tokio::time::sleep(POLL).await,
            result => return result.map_err(Failure::into_error),
        }
    }
}

async fn run_once(pool: &Pool, tables: &Tables, deadline: Instant) -> Result<(), Failure> {
    let mut session = pool.session(deadline).await?;
    session.enter_transaction();
    session
        .command(&format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = {}",
            LOCK_TIMEOUT.as_millis()
        ))
        .await?;
    if !advisory_lock(&session, tables).await? {
        return Err(Failure::Conflict(Error::unavailable("another process migrates them")));
    }
    let found = version(&session, tables).await?;
    if found == 0 {
        if tables.schema() != "public" {
            create_schema(&session, tables).await?;
        }
        check_adopted(&session, tables).await?;
        session
            .command(&tables.fill(
                "CREATE TABLE IF NOT EXISTS {versions} \
                 (version integer PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())",
            ))
            .await?;
    }
    for (number, step) in (1..).zip(STEPS) {
        if number > found {
            let new = if number == 1 { new_tables(&session, tables).await? } else { Vec::new() };
            session.command(&tables.fill(&without_comments(step.sql))).await?;
            for index in indexes::OF_READERS.iter().filter(|index| new.contains(&index.table)) {
                session.command(&index.creation(tables, "INDEX IF NOT EXISTS")).await?;
            }
            run_optional(&session, &tables.fill(&without_comments(step.optional))).await?;
            session.command(&tables.fill(&format!("INSERT INTO {{versions}} (version) VALUES ({number})"))).await?;
        }
    }
    session.command("COMMIT").await?;
    session.leave_transaction();
    info!(from = found, to = VERSION, schema = tables.schema(), "schema migrated");
    Ok(())
}

/// The tables of the first step that are not there yet. Their indexes are made with them; those of a table that is there
/// are left to `indexes.rs`, which holds up nobody.
async fn new_tables(session: &Session, tables: &Tables) -> Result<Vec<&'static str>, Failure> {
    let mut new = Vec::new();
    for table in ["evaluations", "evaluation_events", "evaluation_metrics"] {
        if !exists(session, tables, table).await? {
            new.push(table);
        }
    }
    Ok(new)
}

/// Runs what a server may refuse, and goes on if it does.
async fn run_optional(session: &Session, sql: &str) -> Result<(), Failure> {
    session.command("SAVEPOINT optional").await?;
    let refused = match session.command(sql).await {
        Ok(()) => return Ok(()),
        Err(Failure::Data(error)) => error,
        Err(Failure::Other(error)) if error.kind == ErrorKind::Configuration => error,
        Err(failure) => return Err(failure),
    };
    info!(error = refused.message, "the server does without compression by lz4");
    session.command("ROLLBACK TO SAVEPOINT optional").await
}

/// Creates the schema if it is missing: asking for it needs a right that the role may not have otherwise.
async fn create_schema(session: &Session, tables: &Tables) -> Result<(), Failure> {
    let query = tables.query("SELECT 1 FROM pg_namespace WHERE nspname = $1", &[Type::TEXT]);
    if !session.query(&query, &[&tables.schema()]).await?.is_empty() {
        return Ok(());
    }
    let created = session.command(&format!("CREATE SCHEMA IF NOT EXISTS {}", quoted(tables.schema()))).await;
    // Somebody else may make it at the same moment: who makes tables of another prefix has another lock than ours.
    created.map_err(|failure| match failure {
        Failure::Data(error) => Failure::Conflict(error),
        failure => failure,
    })
}

/// Takes the lock that only one process has at a time, until the transaction ends. False if another one has it.
///
/// It is not waited for: a statement that waits would hold up the index builds of whoever has the lock.
pub(crate) async fn advisory_lock(session: &Session, tables: &Tables) -> Result<bool, Failure> {
    let query = tables.query("SELECT pg_try_advisory_xact_lock($1, hashtext($2))", &[Type::INT4, Type::TEXT]);
    let name = tables.qualified("evaluations");
    let rows = session.query(&query, &[&ADVISORY_CLASS, &name]).await?;
    Ok(rows.first().is_some_and(|row| row.get(0)))
}

/// Refuses tables of that name which are somebody else's.
async fn check_adopted(session: &Session, tables: &Tables) -> Result<(), Failure> {
    for (table, columns) in ADOPTED {
        let query = tables.query(
            "SELECT attname::text FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped",
            &[Type::TEXT],
        );
        let rows = session.query(&query, &[&tables.qualified(table)]).await?;
        let found: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
        let missing: Vec<&str> = columns.iter().copied().filter(|column| !found.contains(column)).collect();
        if found.is_empty() || missing.is_empty() {
            continue;
        }
        let remedy = match found.contains(&"output_preview") {
            true => "they are of an older version; run `alembic upgrade head` first",
            false => "they belong to another program; set `schema` or `table_prefix`",
        };
        return Err(Error::configuration(format_args!(
            "the table {} has no column {}: {remedy}",
            tables.qualified(table),
            missing.iter().map(|column| format!("`{column}`")).collect::<Vec<_>>().join(", ")
        ))
        .into());
    }
    Ok(())
}

/// Names every right that is missing, in the words of the statement that gives it.
async fn check_rights(session: &Session, tables: &Tables, reads_only: bool) -> Result<(), Failure> {
    let needed: &[(&str, &str)] = match reads_only {
        true => &[("evaluations", "SELECT"), ("evaluation_events", "SELECT"), ("evaluation_bodies", "SELECT")],
        false => &[
            ("evaluations", "SELECT"),
            ("evaluations", "INSERT"),
            ("evaluations", "UPDATE"),
            ("evaluations", "DELETE"),
            ("evaluation_events", "SELECT"),
            ("evaluation_events", "INSERT"),
            ("evaluation_events", "DELETE"),
            ("evaluation_bodies", "SELECT"),
            ("evaluation_bodies", "INSERT"),
            ("evaluation_bodies", "UPDATE"),
            ("evaluation_bodies", "DELETE"),
        ],
    };
    check_granted(session, tables, needed).await?;
    if !reads_only {
        let query =
            tables.query("SELECT has_sequence_privilege(pg_get_serial_sequence($1, 'id'), 'USAGE')", &[Type::TEXT]);
        let name = tables.qualified("evaluation_events");
        let rows = session.query(&query, &[&name]).await?;
        if rows.first().is_some_and(|row| row.get::<_, Option<bool>>(0) == Some(false)) {
            return Err(missing_rights(&[format!("USAGE ON the sequence of {name}")]).into());
        }
    }
    Ok(())
}

async fn check_granted(session: &Session, tables: &Tables, needed: &[(&str, &str)]) -> Result<(), Failure> {
    let query = tables.query("SELECT has_table_privilege(to_regclass($1), $2)", &[Type::TEXT, Type::TEXT]);
    let ready = session.ready(&query).await?;
    let mut missing = Vec::new();
    for (table, right) in needed {
        let name = tables.qualified(table);
        let rows = session.run(&ready, &[&name, right]).await?;
        if rows.first().is_none_or(|row| row.get::<_, Option<bool>>(0) != Some(true)) {
            missing.push(format!("{right} ON {name}"));
        }
    }
    if missing.is_empty() { Ok(()) } else { Err(missing_rights(&missing).into()) }
}

fn missing_rights(missing: &[String]) -> Error {
    Error::configuration(format_args!("the role lacks rights; GRANT {}", missing.join(", ")))
}

/// True if the ids of the table are in the order of their bytes.
async fn is_bytewise(session: &Session, tables: &Tables) -> Result<bool, Failure> {
    let query = tables.query(
        // Of a default that is not the C library's, which the column (of 15 and later) tells, the name says nothing.
        "SELECT CASE WHEN c.collname <> 'default' THEN c.collname::text \
         WHEN coalesce(to_jsonb(d) ->> 'datlocprovider', 'c') = 'c' THEN d.datcollate::text END \
         FROM pg_attribute a JOIN pg_collation c ON c.oid = a.attcollation, pg_database d \
         WHERE a.attrelid = to_regclass($1) AND a.attname = 'id' AND d.datname = current_database()",
        &[Type::TEXT],
    );
    let rows = session.query(&query, &[&tables.qualified("evaluations")]).await?;
    let collation: Option<String> = rows.first().and_then(|row| row.get(0));
    Ok(matches!(collation.as_deref(), Some("C" | "POSIX")))
}

async fn text(session: &Session, sql: &str) -> Result<Option<String>, Failure> {
    let query = crate::tables::Query { sql: sql.to_owned(), types: Vec::new() };
    let rows = session.query(&query, &[]).await?;
    Ok(rows.first().and_then(|row| row.get(0)))
}
