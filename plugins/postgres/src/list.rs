//! Pages of states, each found by an index from where the last one ended.

use std::time::Duration;

use storage_plugin_api::{Call, Error, Fields, Order, Page, Query as Wanted, Result, Status};
use tokio_postgres::types::Type;

use crate::escape::escape_key;
use crate::pool::{Parameter, Pool};
use crate::rows::{Reader, found, of_rows};
use crate::statements::Statements;
use crate::tables::{Query, Tables};
use crate::timestamp::Timestamp;

/// A status that only rows of the Python service have; as a record they have failed.
pub(crate) const TIMED_OUT: &str = "timeout";

/// Where a page ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Id(String),
    Created(i64, String),
}

/// The values of a page's statement, in the order of their numbers.
#[derive(Debug, Default)]
struct Values {
    texts: Vec<String>,
    times: Vec<Timestamp>,
    /// For each parameter: whether it is a text or a time, and its place there.
    order: Vec<(bool, usize)>,
    limit: i64,
}

pub(crate) async fn list(
    pool: &Pool,
    tables: &Tables,
    statements: &Statements,
    call: &Call,
    wanted: &Wanted,
) -> Result<Page> {
    if wanted.status.as_deref().is_some_and(|status| Status::parse(status).is_none()) {
        return Ok(Page::default());
    }
    let after = wanted.cursor.as_deref().map(|cursor| Place::parse(cursor, wanted.order)).transpose()?;
    let limit = wanted.limit.max(1);
    let (query, values) = statement(tables, wanted, after.as_ref());
    // What is needed for the bodies is read in the time that this leaves.
    let first =
        call.at_most(call.remaining().saturating_sub(Duration::from_millis(200)).max(Duration::from_millis(50)));
    let rows = pool.read(&first, &query, &values.parameters()).await?;
    let is_last = rows.len() <= limit;
    let rows = &rows[..rows.len().min(limit)];
    let mut states = of_rows(&Reader::Pool(pool, call), statements, rows, wanted.fields).await?;
    let cursor = rows.last().filter(|_| !is_last).map(|row| {
        let id: String = row.get(0);
        let created = row.get::<_, Option<Timestamp>>(5).unwrap_or(Timestamp(0));
        match wanted.order {
            Order::Id => Place::Id(id),
            Order::NewestFirst => Place::Created(created.0, id),
        }
        .to_string()
    });
    let entries = rows.iter().filter_map(|row| {
        let id: String = row.get(0);
        // Gone since, if somebody else wrote it and it was read apart.
        let found = found(states.remove(&id)?);
        Some((id, found))
    });
    Ok(Page { entries: entries.collect(), cursor })
}

/// The statement of a page, and its values. One more row than wanted tells whether there are more.
fn statement(tables: &Tables, wanted: &Wanted, after: Option<&Place>) -> (Query, Values) {
    let mut values =
        Values { limit: i64::try_from(wanted.limit.max(1)).unwrap_or(i64::MAX).saturating_add(1), ..Values::default() };
    let mut conditions = Vec::new();
    let status = wanted.status.as_ref().map(|status| format!("status = {}", values.text(status)));
    let timed_out = wanted.status.as_deref().filter(|status| *status == Status::Failed.as_str());
    let timed_out = timed_out.map(|_| format!("status = {}", values.text(TIMED_OUT)));
    if let Some(since) = wanted.since {
        conditions.push(format!("created_at >= {}", values.time(since)));
    }
    if let Some(until) = wanted.until {
        conditions.push(format!("created_at < {}", values.time(until)));
    }
    match after {
        Some(Place::Id(id)) => conditions.push(format!("{{id}} > {}", values.text(id))),
        Some(Place::Created(created, id)) => {
            conditions.push(format!("(created_at, {{id}}) < ({}, {})", values.time(*created), values.text(id)));
        }
        None => {}
    }
    let order = match wanted.order {
        Order::Id => "{id}",
        Order::NewestFirst => "created_at DESC, {id} DESC",
    };
    let bodies = match wanted.fields {
        Fields::Whole => "CASE WHEN state IS NOT NULL THEN metadata ->> 'code' END AS code, output, error",
        Fields::WithoutBodies => "NULL::text AS code, NULL::text AS output, NULL::text AS error",
    };
    let language = wanted.language.as_ref().map(|language| values.text(language));
    let limit = format!("${}", values.order.len() + 1);
    let select = |more: &[Option<String>]| {
        let all: Vec<String> = conditions.iter().cloned().chain(more.iter().flatten().cloned()).collect();
        let filter = if all.is_empty() { String::new() } else { format!("WHERE {}", all.join(" AND ")) };
        format!("SELECT id, state, {bodies}, created_at FROM {{evaluations}} {filter} ORDER BY {order} LIMIT {limit}")
    };
    let of_others = "state IS NULL".to_owned();
    let parts = match language {
        None => {
            let timed_out = timed_out.map(|timed_out| select(&[Some(timed_out), Some(of_others)]));
            [Some(select(&[status])), timed_out]
        }
        Some(language) => {
            // Rows of the Python service have their language in the JSON, of which an index knows nothing. Into JSON that
            // has a NUL somewhere PostgreSQL does not look.
            let of_language = format!(
                "language IS NULL AND CASE WHEN strpos(metadata::text, '\\u0000') = 0 \
                 THEN (metadata -> 'language')::text = to_json({language}::text)::text \
                 ELSE strpos(metadata::text, '\"language\": ' || to_json({language}::text)::text) > 0 END"
            );
            let either = status.as_ref().map(|status| match &timed_out {
                Some(timed_out) => format!("({status} OR {timed_out})"),
                None => status.clone(),
            });
            let others = select(&[Some(of_others), Some(of_language), either]);
            [Some(select(&[status, Some(format!("language = {language}"))])), Some(others)]
        }
    };
    let sql = match parts {
        [Some(one), None] => one,
        parts => {
            let parts: Vec<String> = parts.into_iter().flatten().map(|part| format!("({part})")).collect();
            format!("SELECT * FROM ({}) AS kinds ORDER BY {order} LIMIT {limit}", parts.join(" UNION ALL "))
        }
    };
    let types: Vec<Type> = values
        .order
        .iter()
        .map(|(is_text, _)| if *is_text { Type::TEXT } else { Type::TIMESTAMPTZ })
        .chain([Type::INT8])
        .collect();
    (tables.query(&sql, &types), values)
}

impl Values {
    fn text(&mut self, text: &str) -> String {
        self.texts.push(escape_key(text).into_owned());
        self.order.push((true, self.texts.len() - 1));
        format!("${}", self.order.len())
    }

    fn time(&mut self, time: i64) -> String {
        self.times.push(Timestamp(time));
        self.order.push((false, self.times.len() - 1));
        format!("${}", self.order.len())
    }

    fn parameters(&self) -> Vec<Parameter<'_>> {
        let value = |(is_text, place): &(bool, usize)| -> Parameter<'_> {
            if *is_text { &self.texts[*place] } else { &self.times[*place] }
        };
        self.order.iter().map(value).chain([&self.limit as Parameter<'_>]).collect()
    }
}

impl Place {
    fn parse(cursor: &str, order: Order) -> Result<Self> {
        let place = match order {
            Order::Id => cursor.strip_prefix("id:").map(|id| Self::Id(id.to_owned())),
            Order::NewestFirst => cursor
                .strip_prefix("created:")
                .and_then(|rest| rest.split_once(':'))
                .and_then(|(created, id)| Some(Self::Created(created.parse().ok()?, id.to_owned()))),
        };
        place.ok_or_else(|| {
            Error::configuration(format_args!("the cursor `{cursor}` is not of this list; take it from the last page"))
        })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Id(id) => write!(formatter, "id:{id}"),
            Self::Created(created, id) => write!(formatter, "created:{created}:{id}"),
        }
    }
}
