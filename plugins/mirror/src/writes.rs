//! `merge`, `delete`, `prune` and `flush`: what the primary takes, and then the shadows, each in the order that keeps them
//! alike; see the module of the crate.

use storage_plugin_api::{Answer, Call, Delete, Deleted, Error, Item, Outcome, Prune, Pruned, Result};
use tracing::warn;

use crate::mirror::Layer;
use crate::options::Ack;
use crate::queue::{Change, Merge};
use crate::shadow::Shadow;
use crate::turns::Turn;

impl Layer {
    pub(crate) fn merge(&self, call: &Call, batch: &[Item<'_>]) -> Result<Vec<Answer>> {
        let _turn = self.turns.together(call.deadline).ok_or_else(busy)?;
        match self.options.ack {
            Ack::Primary => {
                let answers = self.primary.backend.merge(call, batch)?;
                let taken = batch.iter().zip(&answers).filter(|(_, answer)| is_taken(answer));
                let changes: Vec<Change> = taken.map(|(item, _)| Change::Merge(Merge::of(item))).collect();
                self.add(&changes);
                Ok(answers)
            }
            Ack::All => self.merge_into_all(call, batch),
        }
    }

    /// The primary first, since only what it takes goes to a shadow.
    fn merge_into_all(&self, call: &Call, batch: &[Item<'_>]) -> Result<Vec<Answer>> {
        let mut answers = self.primary.backend.merge(&half(call), batch)?;
        let places: Vec<usize> = (0..answers.len()).filter(|place| is_taken(&answers[*place])).collect();
        if places.is_empty() {
            return Ok(answers);
        }
        let items: Vec<Item<'_>> = places.iter().map(|place| batch[*place]).collect();
        for (shadow, theirs) in self.ask_all(|shadow| shadow.child.backend.merge(call, &items)) {
            let theirs = theirs.unwrap_or_else(|error| items.iter().map(|_| Answer::rejected(error.clone())).collect());
            for (place, their) in places.iter().zip(theirs) {
                join(&mut answers[*place], their, shadow);
            }
        }
        // It is not the primary alone that took it.
        answers.iter_mut().for_each(|answer| answer.taken_by = None);
        Ok(answers)
    }

    pub(crate) fn delete(&self, call: &Call, items: &[Delete<'_>]) -> Result<Vec<Deleted>> {
        let _turn = self.alone(call)?;
        match self.options.ack {
            Ack::Primary => {
                let answers = self.primary.backend.delete(call, items)?;
                let gone = items.iter().zip(&answers).filter(|(item, answer)| match answer {
                    Deleted::Deleted => true,
                    Deleted::Absent => item.digest.is_none(),
                    Deleted::Differs | Deleted::Failed(_) => false,
                });
                let changes: Vec<Change> = gone.map(|(item, _)| Change::Look(item.id.into())).collect();
                self.add(&changes);
                Ok(answers)
            }
            Ack::All => self.delete_in_all(call, items),
        }
    }

    fn delete_in_all(&self, call: &Call, items: &[Delete<'_>]) -> Result<Vec<Deleted>> {
        let (by_digest, by_id): (Vec<usize>, Vec<usize>) =
            (0..items.len()).partition(|place| items[*place].digest.is_some());
        let mut answers = vec![Deleted::Absent; items.len()];
        // Only the primary can tell whether it is still that state.
        let first: Vec<Delete<'_>> = by_digest.iter().map(|place| items[*place]).collect();
        let told = if first.is_empty() { Vec::new() } else { self.primary.backend.delete(&half(call), &first)? };
        for (place, answer) in by_digest.iter().zip(told) {
            answers[*place] = answer;
        }
        // What the primary no longer had by that digest, a shadow may still have by it.
        let in_shadows: Vec<usize> =
            (0..items.len()).filter(|place| matches!(answers[*place], Deleted::Deleted | Deleted::Absent)).collect();
        let theirs: Vec<Delete<'_>> = in_shadows
            .iter()
            .map(|place| match answers[*place] {
                Deleted::Deleted => Delete { digest: None, ..items[*place] },
                Deleted::Absent | Deleted::Differs | Deleted::Failed(_) => items[*place],
            })
            .collect();
        if !theirs.is_empty() {
            for (shadow, told) in self.ask_all(|shadow| shadow.child.backend.delete(&half(call), &theirs)) {
                let told = told.unwrap_or_else(|error| theirs.iter().map(|_| Deleted::Failed(error.clone())).collect());
                for (place, answer) in in_shadows.iter().zip(told) {
                    match answer {
                        Deleted::Deleted if answers[*place] == Deleted::Absent => answers[*place] = Deleted::Deleted,
                        Deleted::Failed(error) => answers[*place] = Deleted::Failed(of_shadow(shadow, error)),
                        Deleted::Deleted | Deleted::Absent | Deleted::Differs => {}
                    }
                }
            }
        }
        let last: Vec<usize> =
            by_id.into_iter().filter(|place| !matches!(answers[*place], Deleted::Failed(_))).collect();
        let items: Vec<Delete<'_>> = last.iter().map(|place| items[*place]).collect();
        let told = if items.is_empty() { Vec::new() } else { self.primary.backend.delete(call, &items)? };
        for (place, answer) in last.iter().zip(told) {
            if answer != Deleted::Absent {
                answers[*place] = answer;
            }
        }
        Ok(answers)
    }

    pub(crate) fn prune(&self, call: &Call, prune: &Prune) -> Result<Pruned> {
        if prune.dry_run {
            return self.primary.backend.prune(call, prune);
        }
        let _turn = self.alone(call)?;
        match self.options.ack {
            Ack::Primary => {
                let pruned = self.primary.backend.prune(call, prune)?;
                self.add(&[Change::Prune(prune.clone())]);
                Ok(pruned)
            }
            Ack::All => {
                let mut more = false;
                for (shadow, pruned) in self.ask_all(|shadow| shadow.child.backend.prune(&half(call), prune)) {
                    more |= pruned.map_err(|error| of_shadow(shadow, error))?.more;
                }
                let pruned = self.primary.backend.prune(call, prune)?;
                Ok(Pruned { more: pruned.more || more, ..pruned })
            }
        }
    }

    pub(crate) fn flush(&self, call: &Call) -> Result<()> {
        self.primary.backend.flush(&half(call))?;
        // So much of the time is left for those who are flushed or closed after this one.
        let until = half(call).deadline;
        for (shadow, flushed) in self.ask_all(|shadow| match self.options.ack {
            Ack::All => shadow.child.backend.flush(call),
            Ack::Primary if shadow.queue.wait_until_done(until) => shadow.child.backend.flush(call),
            Ack::Primary => Err(Error::unavailable(format_args!(
                "{} changes and {} evaluations wait for it",
                shadow.queue.figures().changes,
                shadow.queue.figures().owed
            ))),
        }) {
            match (flushed, self.options.ack) {
                (Ok(()), _) => {}
                (Err(error), Ack::All) => return Err(of_shadow(shadow, error)),
                // What was answered is in the primary.
                (Err(error), Ack::Primary) => warn!(shadow = shadow.child.name, %error, "shadow is not flushed"),
            }
        }
        Ok(())
    }

    fn alone(&self, call: &Call) -> Result<Turn<'_>> {
        self.turns.alone(half(call).deadline).ok_or_else(busy)
    }

    fn add(&self, changes: &[Change]) {
        if changes.is_empty() {
            return;
        }
        for shadow in &self.shadows {
            shadow.queue.add(changes.iter().cloned());
        }
    }

    /// Asks every shadow, all at once.
    fn ask_all<T: Send>(&self, ask: impl Fn(&Shadow) -> T + Sync) -> Vec<(&Shadow, T)> {
        let [first, others @ ..] = &self.shadows[..] else { return Vec::new() };
        let ask = &ask;
        std::thread::scope(|scope| {
            let started: Vec<_> = others
                .iter()
                .map(|shadow| std::thread::Builder::new().spawn_scoped(scope, move || ask(shadow)))
                .collect();
            let mut answers = vec![(first, ask(first))];
            for (shadow, started) in others.iter().zip(started) {
                let answer = match started.map(std::thread::ScopedJoinHandle::join) {
                    Ok(Ok(answer)) => answer,
                    Ok(Err(panic)) => std::panic::resume_unwind(panic),
                    // There is no thread for it.
                    Err(_) => ask(shadow),
                };
                answers.push((shadow, answer));
            }
            answers
        })
    }
}

/// The first half of the time; others are called afterwards.
fn half(call: &Call) -> Call {
    call.at_most(call.remaining() / 2)
}

fn is_taken(answer: &Answer) -> bool {
    match answer.outcome {
        Outcome::Created | Outcome::Updated | Outcome::Unchanged | Outcome::Accepted => true,
        Outcome::Rejected(_) => false,
    }
}

/// What is answered of an item that the primary took and a shadow was given.
fn join(answer: &mut Answer, of_one: Answer, shadow: &Shadow) {
    match of_one.outcome {
        Outcome::Rejected(error) => *answer = Answer::rejected(of_shadow(shadow, error)),
        Outcome::Created | Outcome::Updated | Outcome::Unchanged | Outcome::Accepted => {
            answer.durability = answer.durability.min(of_one.durability);
        }
    }
}

fn of_shadow(shadow: &Shadow, error: Error) -> Error {
    Error { message: format!("the shadow `{}` did not do it: {error}", shadow.child.name), ..error }
}

fn busy() -> Error {
    Error::overloaded("merges and deletes take turns, and the others did not end in time; try again")
}
