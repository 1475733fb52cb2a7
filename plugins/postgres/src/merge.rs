//! The merge: reads the ranks of a batch's ids under locks, joins in memory, and writes what won. Two round trips; one if
//! all seem to be new, which are not looked up (`guess.rs`). Bodies of new rows that have a place of their own take more.
//!
//! Rows are locked, and then new ones inserted, in the order of their ids' bytes, so that transactions wait for each other
//! in one direction. That is not quite so for an id which is there though we did not find it, or did not look: its insert
//! waits for whoever changes that row meanwhile, and behind it in the order we may hold locks. The rare deadlock is
//! repeated like every conflict. Whose insert finds a row joins again, into what is there. All of it may be repeated at
//! any time, since merging twice is merging once.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use storage_plugin_api::{Answer, Call, Durability, Error, Item, State};
use tracing::debug;

use crate::errors::{Failure, unreadable};
use crate::guess::Guess;
use crate::joined::{Group, Joined, groups, join};
use crate::pool::{Pool, Session, begin};
use crate::rows::{self, Reader};
use crate::state_form;
use crate::statements::Statements;
use crate::write::Writes;

/// What is left of a call's time when nothing is begun any more.
const TOO_LATE: Duration = Duration::from_millis(20);

/// What every merge of an instance needs.
#[derive(Clone, Copy)]
pub(crate) struct Means<'a> {
    pub(crate) pool: &'a Pool,
    pub(crate) statements: &'a Statements,
    pub(crate) guess: &'a Guess,
}

/// Merges a batch. An error of the whole batch is one that no item is guilty of.
pub(crate) async fn merge(
    means: Means<'_>,
    durability: Durability,
    call: &Call,
    batch: &[Item<'_>],
) -> Result<Vec<Answer>, Error> {
    let mut answers: Vec<Option<Answer>> = vec![None; batch.len()];
    // Parts of the batch that are still to do; a part with a bad item is halved until that is alone.
    let mut parts = vec![groups(batch)];
    let mut guesses = means.guess.all_new(&parts[0]);
    while let Some(mut part) = parts.pop() {
        let mut done = Vec::with_capacity(part.len());
        let merged = merge_part(means, call, std::mem::take(&mut guesses), &mut part, &mut done).await;
        for (place, answer) in done {
            answers[place] = Some(Answer { durability, ..answer });
        }
        match merged {
            Ok(()) => {}
            Err(Failure::Data(error)) => match part.len() {
                1 => {
                    for (place, _) in &part[0].items {
                        answers[*place] = Some(Answer::rejected(error.clone()));
                    }
                }
                groups => {
                    let right = part.split_off(groups / 2);
                    parts.extend([right, part]);
                }
            },
            // What was merged until now is merged again with the rest.
            Err(failure) => return Err(failure.into_error()),
        }
    }
    Ok(answers.into_iter().map(|answer| answer.expect("every item is in one part")).collect())
}

type Done = Vec<(usize, Answer)>;

/// Merges groups in one transaction, or in several where others are in the way, until none is left.
///
/// After an error `done` has what was committed, and `left` the rest.
async fn merge_part(
    means: Means<'_>,
    call: &Call,
    mut guesses: bool,
    left: &mut Vec<Group<'_>>,
    done: &mut Done,
) -> Result<(), Failure> {
    let mut pause = Duration::from_millis(2);
    while !left.is_empty() {
        let round = merge_once(means, call, left, guesses).await;
        // Whatever goes wrong under a guess is looked up.
        let guessed = std::mem::take(&mut guesses);
        match &round {
            Ok(round) if guessed => means.guess.learn(round.raced.is_empty()),
            Err(Failure::Conflict(_) | Failure::Data(_)) if guessed => means.guess.learn(false),
            _ => {}
        }
        let in_the_way = match round {
            Ok(Round { settled, raced }) => {
                done.extend(settled);
                left.retain(|group| raced.contains(group.id));
                if guessed || left.is_empty() {
                    continue;
                }
                Error::unavailable("evaluations that are not there were not inserted: another transaction, or a rule")
            }
            Err(Failure::Conflict(error)) => error,
            Err(Failure::Data(_)) if guessed => continue,
            Err(failure) => return Err(failure),
        };
        if call.remaining() < pause + TOO_LATE {
            return Err(Failure::Conflict(in_the_way));
        }
        debug!(error = in_the_way.message, "merging again after a conflict");
        // Of two that met, one should be through before the other comes again.
        tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
        pause = (pause * 2).min(Duration::from_millis(200));
    }
    Ok(())
}

struct Round<'a> {
    settled: Done,
    /// Ids that are to be looked up: they were there although they were not found, or were not looked up and not written.
    raced: BTreeSet<&'a str>,
}

/// Merges groups in one transaction, without looking them up if they are guessed to be new.
async fn merge_once<'a>(
    means: Means<'_>,
    call: &Call,
    groups: &[Group<'a>],
    guesses: bool,
) -> Result<Round<'a>, Failure> {
    let mut session = means.pool.session(call.deadline).await?;
    let result = in_transaction(&mut session, means.statements, call, groups, guesses).await;
    match &result {
        Ok(_) => session.leave_transaction(),
        Err(failure) => session.abandon(failure).await,
    }
    result
}

async fn in_transaction<'a>(
    session: &mut Session,
    statements: &Statements,
    call: &Call,
    groups: &[Group<'a>],
    guesses: bool,
) -> Result<Round<'a>, Failure> {
    let Locked { states: mut stored, unreadable } = match guesses {
        true => Locked::default(),
        false => lock(session, statements, call, groups).await?,
    };
    let mut writes = Writes::default();
    let mut settled = Vec::with_capacity(groups.len());
    let mut created: Vec<(&Group<'a>, Joined)> = Vec::new();
    let mut unseen = BTreeSet::new();
    for group in groups {
        if let Some(error) = unreadable.get(group.id) {
            settled.extend(group.items.iter().map(|(place, _)| (*place, Answer::rejected(error.clone()))));
            continue;
        }
        let mut joined = join(stored.remove(group.id), group);
        if !joined.is_changed {
            // That nothing of it can be stored is only known of what is there.
            match guesses {
                true => drop(unseen.insert(group.id)),
                false => settle(&mut settled, group, joined),
            }
            continue;
        }
        let state = std::mem::take(&mut joined.state);
        match joined.before.take() {
            Some(before) => {
                writes.update(group.id, state, &before);
                settle(&mut settled, group, joined);
            }
            None => {
                writes.insert(group.id, state);
                created.push((group, joined));
            }
        }
    }
    let mut raced = match (writes.is_empty(), guesses) {
        (true, true) => BTreeSet::new(),
        (true, false) => {
            session.command("COMMIT").await?;
            BTreeSet::new()
        }
        (false, true) => writes.begin_and_send(session, statements, &begin(call)).await?,
        (false, false) => writes.send(session, statements).await?,
    };
    for (group, joined) in created {
        if !raced.contains(group.id) {
            settle(&mut settled, group, joined);
        }
    }
    raced.append(&mut unseen);
    Ok(Round { settled, raced })
}

#[derive(Default)]
struct Locked<'a> {
    /// What is stored, bodies left where they are.
    states: HashMap<&'a str, State>,
    /// What is stored and cannot be understood; it is not touched.
    unreadable: HashMap<&'a str, Error>,
}

/// Begins a transaction and locks the rows of some ids, in one round trip.
async fn lock<'a>(
    session: &mut Session,
    statements: &Statements,
    call: &Call,
    groups: &[Group<'a>],
) -> Result<Locked<'a>, Failure> {
    let ids: Vec<&'a str> = groups.iter().map(|group| group.id).collect();
    let rows = session.begin_with(&begin(call), &statements.lock, &[&ids]).await?;
    let mut states = HashMap::with_capacity(rows.len());
    let mut refused = HashMap::new();
    let mut others = Vec::new();
    for row in &rows {
        let id: &str = row.get(0);
        // The id of the batch lives longer than the row.
        let Ok(place) = ids.binary_search(&id) else { continue };
        match row.get::<_, Option<&[u8]>>(1) {
            Some(bytes) => match state_form::read(bytes) {
                Ok(state) => drop(states.insert(ids[place], state)),
                Err(error) => drop(refused.insert(ids[place], unreadable(id, &error))),
            },
            None => others.push(ids[place]),
        }
    }
    if !others.is_empty() {
        let mut adopted = rows::adopted(&Reader::Session(session), statements, &others).await?;
        states.extend(others.into_iter().filter_map(|id| Some((id, adopted.remove(id)?))));
    }
    Ok(Locked { states, unreadable: refused })
}

fn settle(settled: &mut Done, group: &Group<'_>, joined: Joined) {
    for ((place, _), (outcome, status)) in group.items.iter().zip(joined.outcomes) {
        settled.push((*place, Answer::new(outcome, status, Durability::Durable)));
    }
}
