//! `merge`, `delete`, `flush` and `prune`: the primary first, then whoever must follow it.

use storage_plugin_api::{
    Answer, Call, Delete, Deleted, Durability, Error, ErrorKind, Fields, Item, Outcome, Prune, Pruned, Result,
};

use crate::composite::{Fallback, Layer};
use crate::primary::unavailable;

impl Layer {
    pub(crate) fn merge(&self, call: &Call, batch: &[Item<'_>]) -> Result<Vec<Answer>> {
        let mut answers = self.primary.merge(&self.primary_call(call), batch)?;
        self.taken_by_primary(call, batch, &answers);
        let Some(fallback) = &self.fallback else { return Ok(answers) };
        let left: Vec<usize> = (0..answers.len()).filter(|place| unavailable(&answers[*place]).is_some()).collect();
        if !left.is_empty() {
            self.accept(fallback, call, batch, &left, &mut answers);
        }
        if !fallback.holding.is_empty() {
            // The fallback may know more of them than the primary does.
            answers.iter_mut().for_each(|answer| answer.status = None);
        }
        Ok(answers)
    }

    /// Brings what the primary took into the cache, before anybody is told that it was taken.
    pub(crate) fn taken_by_primary(&self, call: &Call, batch: &[Item<'_>], answers: &[Answer]) {
        let taken: Vec<Item<'_>> = batch
            .iter()
            .zip(answers)
            .filter(|(_, answer)| !matches!(answer.outcome, Outcome::Rejected(_)))
            .map(|(item, _)| *item)
            .collect();
        if let Some(fallback) = self.fallback.as_ref().filter(|fallback| !fallback.holding.is_empty()) {
            fallback.holding.meanwhile().add(taken.iter().map(Item::id));
        }
        if let Some(cache) = &self.cache {
            cache.join(call, &taken);
        }
    }

    /// Gives the fallback what the primary was away for. What it does not take either waits for one of them.
    fn accept(&self, fallback: &Fallback, call: &Call, batch: &[Item<'_>], left: &[usize], answers: &mut [Answer]) {
        let items: Vec<Item<'_>> = left.iter().map(|place| batch[*place]).collect();
        let under_way = fallback.holding.begin_merge();
        let taken = fallback.child.backend.merge(call, &items);
        drop(under_way);
        fallback.signal.wake();
        let taken = taken.unwrap_or_else(|error| items.iter().map(|_| Answer::rejected(error.clone())).collect());
        let (mut accepted, mut created) = (0, 0);
        for (place, answer) in left.iter().zip(taken) {
            created += i64::from(answer.outcome == Outcome::Created);
            accepted += u64::from(!matches!(answer.outcome, Outcome::Rejected(_)));
            answers[*place] = match (answer.outcome, unavailable(&answers[*place])) {
                // Whatever the fallback cannot take, the primary may; an outage makes no dead letter.
                (Outcome::Rejected(error), Some(away)) => Answer::rejected(Error {
                    message: format!("{away}; and the fallback `{}` did not take it: {error}", fallback.name),
                    ..away.clone()
                }),
                (Outcome::Rejected(error), None) => Answer::rejected(error),
                _ => {
                    let name = answer.taken_by.unwrap_or_else(|| fallback.name.clone());
                    let durability = answer.durability.min(self.lasting_durability());
                    Answer::new(Outcome::Accepted, None, durability).taken_by(&name)
                }
            };
        }
        fallback.holding.count(created);
        self.host.count("accepted", accepted);
        self.gauge_holding();
    }

    /// What an accepted item keeps: it will move to the primary, and be no safer there than the primary is.
    fn lasting_durability(&self) -> Durability {
        self.primary.child.description.capabilities.durability()
    }

    pub(crate) fn delete(&self, call: &Call, items: &[Delete<'_>]) -> Result<Vec<Deleted>> {
        let ids: Vec<&str> = items.iter().map(|item| item.id).collect();
        let answers = match self.fallback.as_ref().filter(|fallback| !fallback.holding.is_empty()) {
            None => self.primary.delete(call, items)?,
            Some(fallback) => {
                let moves = fallback.holding.moves().claim(ids.iter().copied(), call.deadline);
                let _moves = moves.ok_or_else(|| {
                    Error::overloaded("some of these are being merged back from the fallback; try again")
                })?;
                self.delete_everywhere(fallback, call, items, &ids)?
            }
        };
        if let Some(cache) = &self.cache {
            cache.forget(call, &ids);
        }
        Ok(answers)
    }

    /// Deletes in primary and fallback; the caller has claimed the ids, so that none of them is merged back meanwhile.
    fn delete_everywhere(
        &self,
        fallback: &Fallback,
        call: &Call,
        items: &[Delete<'_>],
        ids: &[&str],
    ) -> Result<Vec<Deleted>> {
        let held = fallback.child.backend.get(call, ids, Fields::WithoutBodies)?;
        let held: Vec<bool> = held.iter().map(Option::is_some).collect();
        // The digest is that of the joined state, which neither of them has.
        let is_open = |place: &usize| !held[*place] || items[*place].digest.is_none();
        let places: Vec<usize> = (0..items.len()).filter(is_open).collect();
        let from_primary: Vec<Delete<'_>> = places.iter().map(|place| items[*place]).collect();
        let mut answers: Vec<Deleted> = items
            .iter()
            .map(|item| {
                Deleted::Failed(Error::unavailable(format_args!(
                    "`{}` still holds a part of `{}`; try again when it is merged back",
                    fallback.name, item.id
                )))
            })
            .collect();
        for (place, answer) in places.iter().zip(self.primary.delete(call, &from_primary)?) {
            answers[*place] = answer;
        }
        let gone = |place: &&usize| held[**place] && matches!(answers[**place], Deleted::Deleted | Deleted::Absent);
        let rest: Vec<usize> = places.iter().filter(gone).copied().collect();
        if rest.is_empty() {
            return Ok(answers);
        }
        let from_fallback: Vec<Delete<'_>> = rest.iter().map(|place| items[*place]).collect();
        for (place, answer) in rest.iter().zip(fallback.child.backend.delete(call, &from_fallback)?) {
            match answer {
                Deleted::Deleted => {
                    fallback.holding.count(-1);
                    answers[*place] = Deleted::Deleted;
                }
                Deleted::Absent => {}
                Deleted::Differs | Deleted::Failed(_) => answers[*place] = answer,
            }
        }
        Ok(answers)
    }

    pub(crate) fn flush(&self, call: &Call) -> Result<()> {
        let primary = match self.primary.child.backend.flush(&self.primary_call(call)) {
            // What a durable primary answered is durable already.
            Err(error) if error.kind == ErrorKind::Unavailable && self.lasting_durability() == Durability::Durable => {
                Ok(())
            }
            flushed => flushed,
        };
        let fallback = self.fallback.as_ref().map_or(Ok(()), |fallback| fallback.child.backend.flush(call));
        primary.and(fallback)
    }

    pub(crate) fn prune(&self, call: &Call, prune: &Prune) -> Result<Pruned> {
        if let Some(fallback) = self.fallback.as_ref().filter(|fallback| !fallback.holding.is_empty()) {
            // A part that is merged back later would stand for the whole.
            return Err(Error::unavailable(format_args!(
                "nothing is pruned while `{}` holds what is to be merged back; try again later",
                fallback.name
            )));
        }
        let pruned = self.primary.child.backend.prune(call, prune)?;
        if let Some(cache) = self.cache.as_ref().filter(|_| !prune.dry_run && pruned.removed > 0) {
            cache.forget_all();
        }
        Ok(pruned)
    }
}
