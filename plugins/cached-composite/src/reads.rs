//! `get`: the fallback while it holds something, then the cache, then the primary, joined.
//!
//! The order is what makes it right: see the module of the crate.

use std::time::Instant;

use storage_plugin_api::{Call, Error, ErrorKind, Fields, Found, Result};

use crate::cache::{Cache, Filling, Looked};
use crate::composite::Layer;
use crate::flights::{Boarding, Lead};

impl Layer {
    pub(crate) fn get(&self, call: &Call, ids: &[&str], fields: Fields) -> Result<Vec<Option<Found>>> {
        let is_taken = self.taken_meanwhile(ids);
        let held = self.held(call, ids, fields)?;
        let looked = match &self.cache {
            Some(cache) => cache.look(call, ids, fields),
            None => ids.iter().map(|_| Looked::default()).collect(),
        };
        let missed: Vec<Missed<'_>> = ids
            .iter()
            .zip(&looked)
            .filter(|(_, looked)| !looked.is_fresh)
            .map(|(id, looked)| Missed { id, replaces: looked.is_there })
            .collect();
        let (mut read, away) = match self.read_missed(call, &missed, fields) {
            Ok(read) => (read.into_iter(), None),
            Err(error) if error.kind == ErrorKind::Unavailable => (Vec::new().into_iter(), Some(error)),
            Err(error) => return Err(error),
        };
        let is_doubtful = held.is_some() && self.primary.is_away();
        let mut held = held.unwrap_or_default().into_iter();
        let mut answers = Vec::with_capacity(ids.len());
        for (place, looked) in looked.into_iter().enumerate() {
            let part = held.next().flatten();
            let is_fresh = looked.is_fresh;
            let base = match (is_fresh, &away) {
                (true, _) => looked.state.map(|state| Found { state, incomplete: is_doubtful }),
                (false, None) => read.next().flatten(),
                (false, Some(_)) => looked.state.map(|state| Found { state, incomplete: true }),
            };
            if let (None, Some(error), true) = (&base, &away, is_taken.get(place) == Some(&true)) {
                // The primary has more of it that was confirmed.
                return Err(error.clone());
            }
            let is_known = is_fresh || away.is_none();
            let found = joined(base, part, !is_known);
            if let (None, Some(error)) = (&found, &away) {
                // Nobody can say that there is nothing.
                return Err(error.clone());
            }
            answers.push(found);
        }
        Ok(answers)
    }

    /// What fallback and primary have, past the cache.
    pub(crate) fn get_whole(&self, call: &Call, ids: &[&str], fields: Fields) -> Result<Vec<Option<Found>>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let held = self.held(call, ids, fields)?.unwrap_or_default();
        let read = self.primary.get(call, ids, fields)?;
        let mut held = held.into_iter();
        Ok(read.into_iter().map(|base| joined(base, held.next().flatten(), false)).collect())
    }

    /// For each id whether the primary took something of it while the fallback held something.
    fn taken_meanwhile(&self, ids: &[&str]) -> Vec<bool> {
        match &self.fallback {
            Some(fallback) if !fallback.holding.is_empty() => {
                ids.iter().map(|id| fallback.holding.meanwhile().has(id)).collect()
            }
            _ => Vec::new(),
        }
    }

    /// What the fallback holds of the ids; none if it holds nothing at all.
    fn held(&self, call: &Call, ids: &[&str], fields: Fields) -> Result<Option<Vec<Option<Found>>>> {
        let Some(fallback) = self.fallback.as_ref().filter(|fallback| !fallback.holding.is_empty()) else {
            return Ok(None);
        };
        // Without it an answer might lack what was confirmed.
        fallback.child.backend.get(call, ids, fields).map(Some).map_err(|error| {
            Error::unavailable(format_args!("the fallback `{}` cannot be read: {error}", fallback.name))
        })
    }

    fn read_missed(&self, call: &Call, missed: &[Missed<'_>], fields: Fields) -> Result<Vec<Option<Found>>> {
        let call = self.primary_call(call);
        if missed.is_empty() {
            return Ok(Vec::new());
        }
        match &self.cache {
            Some(cache) if cache.is_filled(Instant::now()) => self.read_together(cache, &call, missed, fields),
            // A merge past a new cache makes no read outdated, so that none may be joined as long as there are such.
            Some(_) | None => {
                let ids: Vec<&str> = missed.iter().map(|missed| missed.id).collect();
                self.primary.get(&call, &ids, fields)
            }
        }
    }

    /// Reads what nobody reads already, fills the cache with it, and waits for the rest.
    fn read_together(
        &self,
        cache: &Cache,
        call: &Call,
        missed: &[Missed<'_>],
        fields: Fields,
    ) -> Result<Vec<Option<Found>>> {
        // Before the read begins, so that no entry outlives what makes all of them void.
        let epoch = cache.epoch();
        let mut answers: Vec<Option<Found>> = missed.iter().map(|_| None).collect();
        let (mut leads, mut followed) = (Vec::new(), Vec::new());
        for (place, missed) in missed.iter().enumerate() {
            match cache.flights.board(missed.id, fields) {
                Boarding::Lead(lead) => leads.push((place, lead)),
                Boarding::Follow(flight) => followed.push((place, flight)),
            }
        }
        if !leads.is_empty() {
            let ids: Vec<&str> = leads.iter().map(|(_, lead)| lead.id()).collect();
            let read = self.primary.get(call, &ids, fields).inspect_err(|error| {
                leads.iter().for_each(|(_, lead)| lead.answer(Err(error.clone())));
            })?;
            for ((place, lead), found) in leads.iter().zip(read) {
                lead.answer(Ok(found.clone()));
                answers[*place] = found;
            }
            if fields == Fields::Whole {
                let fillings: Vec<Filling<'_>> = leads
                    .iter()
                    .filter_map(|(place, lead)| filling(&missed[*place], lead, answers[*place].as_ref()?))
                    .collect();
                cache.fill(call, epoch, &fillings);
            }
            drop(leads);
        }
        for (place, flight) in followed {
            answers[place] = flight.wait(call.deadline)?;
        }
        Ok(answers)
    }
}

/// An id that the cache has no fresh entry of.
struct Missed<'a> {
    id: &'a str,
    /// It has something else.
    replaces: bool,
}

/// Only a whole state becomes an entry.
fn filling<'a>(missed: &Missed<'_>, lead: &'a Lead<'a>, found: &'a Found) -> Option<Filling<'a>> {
    (!found.incomplete).then_some(Filling { lead, state: &found.state, replaces: missed.replaces })
}

/// One state of what was found in two places; `is_part` says that there may be more in a third.
fn joined(base: Option<Found>, part: Option<Found>, is_part: bool) -> Option<Found> {
    match (base, part) {
        (Some(mut base), Some(part)) => {
            base.state.merge(&part.state);
            base.incomplete |= part.incomplete;
            Some(base)
        }
        (Some(found), None) => Some(found),
        (None, Some(part)) => Some(Found { incomplete: part.incomplete || is_part, ..part }),
        (None, None) => None,
    }
}
