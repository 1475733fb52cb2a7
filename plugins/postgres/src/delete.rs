//! Removes evaluations: by id, and those that ended long ago. Their history and bodies go with them.

use std::collections::{BTreeSet, HashMap};

use storage_plugin_api::{Call, Delete, Deleted, Fields, Hash, Prune, Pruned, Result};

use crate::errors::Failure;
use crate::pool::{Pool, Session, begin};
use crate::rows::{self, Reader, get};
use crate::statements::Statements;
use crate::timestamp::Timestamp;

/// Evaluations in one transaction of a prune: it holds their locks for some milliseconds.
const AT_ONCE: usize = 500;
/// Rows of the Python service that are looked into at once.
const LOOKS: i64 = 200;

pub(crate) async fn delete(
    pool: &Pool,
    statements: &Statements,
    call: &Call,
    items: &[Delete<'_>],
) -> Result<Vec<Deleted>> {
    let mut ids: Vec<&str> = items.iter().map(|item| item.id).collect();
    ids.sort_unstable();
    ids.dedup();
    let digests: HashMap<&str, &Hash> = items.iter().filter_map(|item| Some((item.id, item.digest?))).collect();
    let mut tries = 0;
    let outcome = loop {
        let mut session = pool.session(call.deadline).await?;
        match delete_once(&mut session, statements, call, &ids, &digests).await {
            Ok(outcome) => {
                session.leave_transaction();
                break outcome;
            }
            Err(failure) => {
                session.abandon(&failure).await;
                match failure {
                    Failure::Conflict(_) if tries < 10 => tries += 1,
                    failure => return Err(failure.into_error()),
                }
            }
        }
    };
    let mut answered = BTreeSet::new();
    let mut answers = Vec::with_capacity(items.len());
    for item in items {
        answers.push(match outcome.get(item.id) {
            // Of an id that is named twice the second finds nothing.
            Some(Deleted::Deleted) if !answered.insert(item.id) => Deleted::Absent,
            Some(deleted) => deleted.clone(),
            None => Deleted::Absent,
        });
    }
    Ok(answers)
}

/// Deletes ids in one transaction. Who is not in the answer was not there.
async fn delete_once(
    session: &mut Session,
    statements: &Statements,
    call: &Call,
    ids: &[&str],
    digests: &HashMap<&str, &Hash>,
) -> Result<HashMap<String, Deleted>, Failure> {
    let locked = session.begin_with(&begin(call), &statements.lock_to_delete, &[&ids]).await?;
    let mut outcome: HashMap<String, Deleted> =
        locked.iter().map(|row| (row.get::<_, String>(0), Deleted::Deleted)).collect();
    let asked: Vec<&str> =
        ids.iter().copied().filter(|id| digests.contains_key(id) && outcome.contains_key(*id)).collect();
    if !asked.is_empty() {
        let states = get(&Reader::Session(session), statements, &asked, Fields::Whole).await?;
        for (id, state) in states {
            match state {
                Ok(state) if digests.get(id.as_str()).is_some_and(|digest| **digest != state.digest()) => {
                    outcome.insert(id, Deleted::Differs);
                }
                Ok(_) => {}
                Err(error) => drop(outcome.insert(id, Deleted::Failed(error))),
            }
        }
    }
    let gone: Vec<&str> =
        outcome.iter().filter(|(_, deleted)| **deleted == Deleted::Deleted).map(|(id, _)| id.as_str()).collect();
    session.query(&statements.delete, &[&gone]).await?;
    session.command("COMMIT").await?;
    Ok(outcome)
}

pub(crate) async fn prune(pool: &Pool, statements: &Statements, call: &Call, prune: &Prune) -> Result<Pruned> {
    let before = Timestamp(prune.ended_before);
    let wanted = i64::try_from(prune.limit).unwrap_or(i64::MAX).saturating_add(1);
    let rows = pool.read(call, &statements.ended, &[&before, &wanted]).await?;
    let mut ids: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    if ids.len() <= prune.limit {
        find_adopted(pool, statements, call, prune, &mut ids).await?;
    }
    let more = ids.len() > prune.limit;
    ids.truncate(prune.limit);
    if prune.dry_run {
        return Ok(Pruned { removed: ids.len() as u64, more });
    }
    let mut removed = 0;
    for part in ids.chunks(AT_ONCE) {
        let mut session = pool.session(call.deadline).await?;
        match prune_part(&mut session, statements, call, part, before).await {
            Ok(count) => {
                session.leave_transaction();
                removed += count;
            }
            Err(failure) => {
                session.abandon(&failure).await;
                return Err(failure.into_error());
            }
        }
    }
    Ok(Pruned { removed, more })
}

/// Adds rows of the Python service that ended long ago, until there are more than enough or all were looked into.
///
/// No column says when they ended, only the JSON and the history; nearly all that began long ago also ended long ago.
async fn find_adopted(
    pool: &Pool,
    statements: &Statements,
    call: &Call,
    prune: &Prune,
    ids: &mut Vec<String>,
) -> Result<()> {
    let before = Timestamp(prune.ended_before);
    let (mut created, mut last) = (Timestamp(i64::MIN), String::new());
    while ids.len() <= prune.limit {
        let rows = pool.read(call, &statements.adopted_ended, &[&before, &created, &last, &LOOKS]).await?;
        let others: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
        let ends = rows::adopted_ends(&Reader::Pool(pool, call), statements, &others).await?;
        let has_ended = |id: &&str| ends.get(*id).is_some_and(|at| *at < prune.ended_before);
        ids.extend(others.into_iter().filter(has_ended).map(str::to_owned));
        match rows.last().filter(|_| rows.len() as i64 == LOOKS) {
            Some(row) => (created, last) = (row.get(1), row.get(0)),
            None => break,
        }
    }
    Ok(())
}

async fn prune_part(
    session: &mut Session,
    statements: &Statements,
    call: &Call,
    part: &[String],
    before: Timestamp,
) -> Result<u64, Failure> {
    let removed = session.begin_with(&begin(call), &statements.prune, &[&part, &before]).await?;
    session.command("COMMIT").await?;
    Ok(removed.len() as u64)
}
