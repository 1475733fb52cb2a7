//! `merge`, `delete` and `flush`: the blobs first, then the states that refer to them.

use std::collections::BTreeMap;

use storage_plugin_api::body::sha256;
use storage_plugin_api::{
    Answer, Body, Call, Delete, Deleted, Error, Fields, Hash, Item, Register, RegisterRef, Result, State, Value,
    ValueKind, names, with_items,
};

use crate::blob;
use crate::tiered::Layer;

/// A large body of a batch.
struct Large<'a> {
    /// Which item it belongs to.
    place: usize,
    register: RegisterRef<'a>,
}

impl Layer {
    pub(crate) fn merge(&self, call: &Call, batch: &[Item<'_>]) -> Result<Vec<Answer>> {
        let large: Vec<Large<'_>> = batch
            .iter()
            .enumerate()
            .flat_map(|(place, item)| item.registers().iter().map(move |register| Large { place, register: *register }))
            .filter(|large| self.is_large(&large.register))
            .collect();
        if large.is_empty() {
            return self.primary.backend.merge(call, batch);
        }
        // Whatever becomes of the blobs, there is time left for the other items.
        let put_call = call.at_most(call.remaining() / 2);
        let moved = self.each_blob(&large, |large| self.move_body(&put_call, &large.register));
        let mut by_item: BTreeMap<usize, Result<Vec<(RegisterRef<'_>, Body)>>> = BTreeMap::new();
        for (Large { place, register }, moved) in large.into_iter().zip(moved) {
            let bodies = by_item.entry(place).or_insert_with(|| Ok(Vec::new()));
            match (bodies, moved) {
                (Ok(bodies), Ok(body)) => bodies.push((register, body)),
                (bodies @ Ok(_), Err(error)) => *bodies = Err(error),
                (Err(_), _) => {}
            }
        }
        self.merge_moved(call, batch, by_item)
    }

    /// Merges a batch of which some items have bodies that were moved, or that could not be.
    fn merge_moved(
        &self,
        call: &Call,
        batch: &[Item<'_>],
        by_item: BTreeMap<usize, Result<Vec<(RegisterRef<'_>, Body)>>>,
    ) -> Result<Vec<Answer>> {
        let mut refused: BTreeMap<usize, Error> = BTreeMap::new();
        let mut places = Vec::new();
        let mut states = Vec::new();
        for (place, bodies) in by_item {
            match bodies {
                Ok(bodies) => {
                    places.push(place);
                    states.push(with_references(&batch[place], bodies));
                }
                Err(error) => {
                    refused.insert(place, error);
                }
            }
        }
        let with_ids: Vec<(&str, &State)> =
            places.iter().zip(&states).map(|(place, state)| (batch[*place].id(), state)).collect();
        let answers = with_items(&with_ids, |replaced| {
            let mut replaced = places.iter().zip(replaced).peekable();
            let items: Vec<Item<'_>> = (0..batch.len())
                .filter(|place| !refused.contains_key(place))
                .map(|place| match replaced.next_if(|(own, _)| **own == place) {
                    Some((_, item)) => *item,
                    None => batch[place],
                })
                .collect();
            if items.is_empty() { Ok(Vec::new()) } else { self.primary.backend.merge(call, &items) }
        })?;
        let lasting = self.blobs.description.capabilities.durability();
        let mut answers = answers.into_iter();
        (0..batch.len())
            .map(|place| match refused.remove(&place) {
                Some(error) => Ok(Answer::rejected(error)),
                None => {
                    let missing = || Error::internal(format_args!("`{}` answered too few items", self.primary.name));
                    let mut answer = answers.next().ok_or_else(missing)?;
                    if places.binary_search(&place).is_ok() {
                        answer.durability = answer.durability.min(lasting);
                    }
                    Ok(answer)
                }
            })
            .collect()
    }

    fn is_large(&self, register: &RegisterRef<'_>) -> bool {
        register.kind() == ValueKind::Text && register.value().len() > self.options.threshold
    }

    /// Stores a body as a blob; gives the reference to it.
    fn move_body(&self, call: &Call, register: &RegisterRef<'_>) -> Result<Body> {
        let text = register.value();
        let hash = sha256(text.as_bytes());
        if register.known_hash().is_some_and(|known| known != hash) {
            // Under that name it would take the place of another body.
            return Err(Error::invalid_item(format_args!(
                "`{}` does not have the SHA-256 it came with",
                register.name()
            )));
        }
        let blobs = &self.blobs;
        let packed = blob::pack(text)?;
        blobs.backend.put_blob(call, &blob::key(&hash), &packed).map_err(|error| Error {
            message: format!("cannot store `{}` in `{}`: {error}", register.name(), blobs.name),
            ..error
        })?;
        self.host.count("bodies_moved", 1);
        self.host.count("bytes_moved", packed.len() as u64);
        Ok(blob::reference(text, hash, blob::location(&blobs.name, &hash), self.options.preview))
    }

    /// The primary knows states by other digests than those who see them whole.
    pub(crate) fn delete(&self, call: &Call, items: &[Delete<'_>]) -> Result<Vec<Deleted>> {
        let asked: Vec<&str> = items.iter().filter(|item| item.digest.is_some()).map(|item| item.id).collect();
        if asked.is_empty() {
            return self.primary.backend.delete(call, items);
        }
        let stored = self.primary.backend.get(call, &asked, Fields::Whole)?;
        let with_blobs: BTreeMap<&str, State> = asked
            .into_iter()
            .zip(stored)
            .filter_map(|(id, found)| found.map(|found| (id, found.state)))
            .filter(|(_, state)| crate::reads::elsewhere(state).next().is_some())
            .collect();
        let mut answers: Vec<Option<Deleted>> = Vec::with_capacity(items.len());
        let mut digests: Vec<Option<Hash>> = Vec::with_capacity(items.len());
        for item in items {
            let (answer, digest) = match (item.digest, with_blobs.get(item.id)) {
                (None, _) => (None, None),
                (Some(digest), None) => (None, Some(*digest)),
                (Some(digest), Some(state)) => match self.digest_of_whole(call, item.id, state) {
                    Err(error) => (Some(Deleted::Failed(error)), None),
                    Ok(whole) if whole != *digest => (Some(Deleted::Differs), None),
                    Ok(_) => (None, Some(state.digest())),
                },
            };
            answers.push(answer);
            digests.push(digest);
        }
        let passed: Vec<Delete<'_>> = items
            .iter()
            .zip(answers.iter().zip(&digests))
            .filter(|(_, (answer, _))| answer.is_none())
            .map(|(item, (_, digest))| Delete { id: item.id, digest: digest.as_ref() })
            .collect();
        let mut deleted = match passed.is_empty() {
            true => Vec::new(),
            false => self.primary.backend.delete(call, &passed)?,
        }
        .into_iter();
        let missing = || Deleted::Failed(Error::internal(format_args!("`{}` answered too few", self.primary.name)));
        Ok(answers.into_iter().map(|answer| answer.or_else(|| deleted.next()).unwrap_or_else(missing)).collect())
    }

    pub(crate) fn flush(&self, call: &Call) -> Result<()> {
        self.blobs.backend.flush(call)?;
        self.primary.backend.flush(call)
    }
}

/// The state of an item with references in the place of some of its bodies.
fn with_references(item: &Item<'_>, bodies: Vec<(RegisterRef<'_>, Body)>) -> State {
    let is_moved = |register: &RegisterRef<'_>| bodies.iter().any(|(moved, _)| moved.name() == register.name());
    let others: Vec<RegisterRef<'_>> = item.registers().iter().copied().filter(|own| !is_moved(own)).collect();
    let mut state = State::with_capacity(item.registers().len());
    state.merge_registers(others.into_iter());
    for (register, body) in bodies {
        state.set(Register {
            name: names::intern(register.name()),
            rule: register.rule(),
            stage: register.stage(),
            stamp: storage_plugin_api::EventStamp::new(register.time(), register.event_id()),
            value: Value::Body(body),
        });
    }
    state
}
