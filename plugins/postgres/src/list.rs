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
        // As which it is read; see `ranges`.
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
    let status = wanted.status.as_ref().map(|status| format!("status = {}", values.text(status)));
    let timed_out = wanted.status.as_deref().filter(|status| *status == Status::Failed.as_str());
    let timed_out = timed_out.map(|_| format!("status = {}", values.text(TIMED_OUT)));
    let ranges = ranges(wanted, after, &mut values);
    let (order, order_of_all) = match wanted.order {
        Order::Id => ("{id}", "{id}"),
        Order::NewestFirst => ("created_at DESC, {id} DESC", "coalesce(created_at, 'epoch') DESC, {id} DESC"),
    };
    let bodies = match wanted.fields {
        Fields::Whole => "CASE WHEN state IS NOT NULL THEN metadata ->> 'code' END AS code, output, error",
        Fields::WithoutBodies => "NULL::text AS code, NULL::text AS output, NULL::text AS error",
    };
    let language = wanted.language.as_ref().map(|language| values.text(language));
    let limit = format!("${}", values.order.len() + 1);
    let select = |more: &[Option<String>]| -> Vec<String> {
        let with_range = |range: &Vec<String>| {
            let all: Vec<String> = range.iter().cloned().chain(more.iter().flatten().cloned()).collect();
            let filter = if all.is_empty() { String::new() } else { format!("WHERE {}", all.join(" AND ")) };
            format!(
                "SELECT id, state, {bodies}, created_at FROM {{evaluations}} {filter} ORDER BY {order} LIMIT {limit}"
            )
        };
        ranges.iter().map(with_range).collect()
    };
    let of_others = "state IS NULL".to_owned();
    let parts = match language {
        None => {
            let timed_out = timed_out.map(|timed_out| select(&[Some(timed_out), Some(of_others)]));
            [select(&[status]), timed_out.unwrap_or_default()].concat()
        }
        Some(language) => {
            let either = status.as_ref().map(|status| match &timed_out {
                Some(timed_out) => format!("({status} OR {timed_out})"),
                None => status.clone(),
            });
            let others = select(&[Some(of_others), Some(of_language(&language)), either]);
            [select(&[status, Some(format!("language = {language}"))]), others].concat()
        }
    };
    let sql = match &*parts {
        [one] => one.clone(),
        parts => {
            let parts: Vec<String> = parts.iter().map(|part| format!("({part})")).collect();
            format!("SELECT * FROM ({}) AS kinds ORDER BY {order_of_all} LIMIT {limit}", parts.join(" UNION ALL "))
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

/// The conditions that the times and the place of a page make: those of rows that have a time and, where such rows may be
/// among them, those of rows that have none. These stand where 1970 is, as which they are read.
fn ranges(wanted: &Wanted, after: Option<&Place>, values: &mut Values) -> Vec<Vec<String>> {
    let mut range = Vec::new();
    let mut without_time = vec!["created_at IS NULL".to_owned()];
    let mut is_epoch_within = true;
    if let Some(since) = wanted.since {
        range.push(format!("created_at >= {}", values.time(since)));
        is_epoch_within &= since <= 0;
    }
    if let Some(until) = wanted.until {
        range.push(format!("created_at < {}", values.time(until)));
        is_epoch_within &= until > 0;
    }
    let has_times = !range.is_empty();
    match after {
        Some(Place::Id(id)) => {
            let behind = format!("{{id}} > {}", values.text(id));
            range.push(behind.clone());
            without_time.push(behind);
        }
        Some(Place::Created(created, id)) => {
            let id = values.text(id);
            range.push(format!("(created_at, {{id}}) < ({}, {id})", values.time(*created)));
            is_epoch_within &= *created >= 0;
            if *created == 0 {
                without_time.push(format!("{{id}} < {id}"));
            }
        }
        None => {}
    }
    match wanted.order {
        // Whether a row has a time does not matter.
        Order::Id if !has_times => return vec![range],
        Order::NewestFirst if range.is_empty() => range.push("created_at IS NOT NULL".to_owned()),
        Order::Id | Order::NewestFirst => {}
    }
    if is_epoch_within { vec![range, without_time] } else { vec![range] }
}

/// The condition that a row of the Python service is of a language. It has that in the JSON, of which an index knows
/// nothing. Into JSON that has a NUL somewhere PostgreSQL does not look.
fn of_language(language: &str) -> String {
    format!(
        "language IS NULL AND CASE WHEN strpos(metadata::text, '\\u0000') = 0 \
         THEN (metadata -> 'language')::text = to_json({language}::text)::text \
         ELSE strpos(metadata::text, '\"language\": ' || to_json({language}::text)::text) > 0 END"
    )
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
