//! Goes through a backend in id order, page by page, with bodies left out.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use storage_plugin_api::{Backend, ErrorKind, Fields, Found, Order, Query, Result};

use super::Patience;

/// How many states are listed at once.
const PAGE: usize = 256;

/// Where a walk stands, for another one to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Place {
    /// What gave the page that the walk is in.
    pub(crate) cursor: Option<String>,
    /// The last id that is done with.
    pub(crate) after: Option<String>,
}

/// A walk through one backend.
pub(super) struct Walk<'a> {
    backend: &'a dyn Backend,
    patience: &'a Patience<'a>,
    query: Query,
    page: VecDeque<(String, Found)>,
    place: Place,
    ended: bool,
}

impl<'a> Walk<'a> {
    pub(super) fn new(backend: &'a dyn Backend, patience: &'a Patience<'a>, place: Place) -> Self {
        let query = Query { order: Order::Id, fields: Fields::WithoutBodies, limit: PAGE, ..Query::default() };
        Self::of(backend, patience, query, place)
    }

    /// A walk through what a query finds.
    pub(super) fn of(backend: &'a dyn Backend, patience: &'a Patience<'a>, query: Query, place: Place) -> Self {
        let query = Query { limit: PAGE, cursor: place.cursor.clone(), ..query };
        Self { backend, patience, query, page: VecDeque::new(), place, ended: false }
    }

    /// The rest of the page that is at hand, or else the next one; empty at the end.
    pub(super) fn page(&mut self) -> Result<Vec<(String, Found)>> {
        self.fill()?;
        Ok(self.page.drain(..).collect())
    }

    /// The next state.
    pub(super) fn next(&mut self) -> Result<Option<(String, Found)>> {
        self.fill()?;
        Ok(self.page.pop_front())
    }

    /// The place behind an id of the last page.
    pub(super) fn behind(&self, id: &str) -> Place {
        Place { cursor: self.place.cursor.clone(), after: Some(id.to_owned()) }
    }

    fn fill(&mut self) -> Result<()> {
        while self.page.is_empty() && !self.ended {
            let page = match self.patience.ask(|call| self.backend.list(call, &self.query)) {
                // A place out of another time: the ids say where to go on, too, only that takes longer.
                Err(error) if error.kind == ErrorKind::Configuration && self.is_at_given_cursor() => {
                    self.place.cursor = None;
                    self.query.cursor = None;
                    continue;
                }
                page => page?,
            };
            self.place.cursor = self.query.cursor.take();
            let after = self.place.after.as_deref();
            self.page.extend(page.entries.into_iter().filter(|(id, _)| after.is_none_or(|after| id.as_str() > after)));
            if let Some((id, _)) = self.page.back() {
                self.place.after = Some(id.clone());
            }
            self.ended = page.cursor.is_none();
            self.query.cursor = page.cursor;
        }
        Ok(())
    }

    fn is_at_given_cursor(&self) -> bool {
        self.query.cursor.is_some() && self.query.cursor == self.place.cursor
    }
}
