//! `get` and `list`: the primary's states, with the bodies that were moved put back.

use std::collections::BTreeMap;
use std::sync::Arc;

use storage_plugin_api::{Body, Call, Error, Fields, Found, Hash, Page, Query, Reference, Result, State};
use tracing::{error, warn};

use crate::blob;
use crate::tiered::Layer;

/// What came of looking for a blob.
enum Fetched {
    Text(Arc<str>),
    Missing,
    Damaged(String),
    /// It may be there.
    Failed(Error),
}

impl Layer {
    pub(crate) fn get(&self, call: &Call, ids: &[&str], fields: Fields) -> Result<Vec<Option<Found>>> {
        let mut found = self.primary.backend.get(call, ids, fields)?;
        let seen = ids.iter().zip(&mut found).filter_map(|(id, found)| Some((*id, found.as_mut()?)));
        self.complete(call, seen.collect(), fields);
        Ok(found)
    }

    pub(crate) fn list(&self, call: &Call, query: &Query) -> Result<Page> {
        let mut page = self.primary.backend.list(call, query)?;
        let seen = page.entries.iter_mut().map(|(id, found)| (&**id, found));
        self.complete(call, seen.collect(), query.fields);
        Ok(page)
    }

    /// The digest of a state as it is read here. An error where a blob may be there but could not be had.
    pub(crate) fn digest_of_whole(&self, call: &Call, id: &str, state: &State) -> Result<Hash> {
        let mut found = Found { state: state.clone(), incomplete: false };
        self.put_back(call, vec![(id, &mut found)])?;
        Ok(found.state.digest())
    }

    /// Makes of states with references what was merged.
    fn complete(&self, call: &Call, seen: Vec<(&str, &mut Found)>, fields: Fields) {
        match fields {
            Fields::WithoutBodies => seen.into_iter().for_each(|(_, found)| leave_out(&mut found.state)),
            Fields::Whole => {
                if let Err(error) = self.put_back(call, seen) {
                    warn!(blobs = %self.blobs.name, %error, "bodies are left out of an answer");
                }
            }
        }
    }

    /// Puts bodies back into states; those that cannot be had are left out. The last error where some may be there.
    fn put_back(&self, call: &Call, mut seen: Vec<(&str, &mut Found)>) -> Result<()> {
        let wanted: BTreeMap<Hash, Reference> = seen
            .iter()
            .flat_map(|(_, found)| elsewhere(&found.state))
            .map(|reference| (reference.sha256, reference.clone()))
            .collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let references: Vec<Reference> = wanted.into_values().collect();
        let fetched = self.each_blob(&references, |reference| self.fetch(call, reference));
        let fetched: BTreeMap<Hash, Fetched> =
            references.into_iter().map(|reference| reference.sha256).zip(fetched).collect();
        for (id, found) in &mut seen {
            let mut is_incomplete = false;
            found.state.map_bodies(|name, body| {
                let reference = body.as_reference().filter(|reference| reference.location.is_some())?;
                match fetched.get(&reference.sha256)? {
                    Fetched::Text(text) => return Some(Body::text_with_hash(Arc::clone(text), reference.sha256)),
                    // Somebody else's, who knows where it is.
                    Fetched::Missing if self.is_others(reference) => {}
                    Fetched::Missing => {
                        is_incomplete = true;
                        let (blob, stored_in) = (blob::key(&reference.sha256), blob::place(reference));
                        error!(evaluation = id, body = name, blob, stored_in, blobs = %self.blobs.name, "the blob of a body is missing");
                    }
                    Fetched::Damaged(reason) => {
                        is_incomplete = true;
                        let blob = blob::key(&reference.sha256);
                        error!(evaluation = id, body = name, blob, reason, blobs = %self.blobs.name, "the blob of a body is damaged");
                    }
                    Fetched::Failed(_) => is_incomplete = true,
                }
                None
            });
            found.incomplete |= is_incomplete;
        }
        let mut failed = fetched.into_values().filter_map(|fetched| match fetched {
            Fetched::Failed(error) => Some(error),
            Fetched::Text(_) | Fetched::Missing | Fetched::Damaged(_) => None,
        });
        failed.next_back().map_or(Ok(()), Err)
    }

    fn fetch(&self, call: &Call, reference: &Reference) -> Fetched {
        match self.blobs.backend.get_blob(call, &blob::key(&reference.sha256)) {
            Ok(Some(blob)) => match blob::unpack(&blob, reference) {
                Ok(text) => Fetched::Text(text),
                Err(reason) => {
                    self.host.count("blobs_damaged", 1);
                    Fetched::Damaged(reason)
                }
            },
            Ok(None) => {
                if !self.is_others(reference) {
                    self.host.count("blobs_missing", 1);
                }
                Fetched::Missing
            }
            Err(error) => Fetched::Failed(error),
        }
    }

    /// True if the body is for somebody else to put back: whoever made such a reference, or another instance of this
    /// layer that stands above or below this one.
    fn is_others(&self, reference: &Reference) -> bool {
        blob::place(reference).is_none_or(|blobs| *blobs != self.blobs.name && self.place.is_of_another(blobs))
    }
}

/// The references of a state to bodies that somebody keeps somewhere.
pub(crate) fn elsewhere(state: &State) -> impl Iterator<Item = &Reference> {
    let references = state.registers().iter().filter_map(|register| register.value.as_body()?.as_reference());
    references.filter(|reference| reference.location.is_some())
}

/// An answer without bodies says nothing of where they are, as if they had never been moved.
fn leave_out(state: &mut State) {
    state.map_bodies(|_, body| {
        let reference = body.as_reference().filter(|reference| blob::is_moved(reference))?;
        Some(Body::reference(Reference { location: None, preview: String::new(), ..reference.clone() }))
    });
}
