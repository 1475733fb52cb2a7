//! Where the letters are: with the worker that runs, or in the file if none does.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::Loaded;
use crate::http::client::{Client, ClientError};
use crate::http::handing::{EditLetters, Select, SettleLetters, SomeLetters};
use crate::letters::Letter;
use crate::letters::desk::{Desk, Done, Edit, Filter, Note, Selected};
use crate::letters::line::letter_of;
use crate::source::fed::Outcome;

/// See the head of this file.
pub(super) enum Bench {
    Worker(Client),
    Here(Desk),
}

impl Bench {
    pub(super) fn of(loaded: &Loaded) -> anyhow::Result<Self> {
        let client = Client::new(loaded.config.admin.listen);
        match client.get("/livez") {
            Ok(_) => Ok(Self::Worker(client)),
            Err(ClientError::NothingListens(_)) => Ok(Self::Here(Desk::new(&loaded.config.dead_letters))),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn select(&self, filter: &Filter, limit: usize, brief: bool) -> anyhow::Result<Selected> {
        match self {
            Self::Worker(client) => ask(client, "select", &Select { filter: filter.clone(), limit, brief }),
            Self::Here(desk) => Ok(desk.select(filter, limit, brief)?),
        }
    }

    pub(super) fn ids(&self, filter: &Filter, limit: usize) -> anyhow::Result<Vec<String>> {
        let letters = self.select(filter, limit, true)?.letters;
        Ok(letters.iter().filter_map(|letter| letter["id"].as_str().map(str::to_owned)).collect())
    }

    /// Those of these letters that there are, whole.
    pub(super) fn letters(&self, ids: &[String]) -> anyhow::Result<Vec<Letter>> {
        let mut letters: Vec<Letter> = Vec::with_capacity(ids.len());
        let mut left = ids.to_vec();
        // Where letters are large, only some come at once.
        while !left.is_empty() {
            let filter = Filter { ids: left.clone(), ..Filter::default() };
            let some: Vec<Letter> =
                self.select(&filter, left.len(), false)?.letters.into_iter().filter_map(letter_of).collect();
            if some.is_empty() {
                break;
            }
            left.retain(|id| !some.iter().any(|letter| letter.id == *id));
            letters.extend(some);
        }
        Ok(letters)
    }

    pub(super) fn edit(&self, edits: &[Edit], note: &Note) -> anyhow::Result<Vec<Done>> {
        match self {
            Self::Worker(client) => ask(client, "edit", &EditLetters { edits: edits.to_vec(), note: note.clone() }),
            Self::Here(desk) => Ok(desk.edit(edits, note)?),
        }
    }

    pub(super) fn drop_letters(&self, ids: &[String], note: &Note) -> anyhow::Result<Vec<Done>> {
        match self {
            Self::Worker(client) => ask(client, "drop", &SomeLetters { ids: ids.to_vec(), note: note.clone() }),
            Self::Here(desk) => Ok(desk.drop_letters(ids, note)?),
        }
    }

    pub(super) fn retry(&self, ids: &[String], note: &Note) -> anyhow::Result<Vec<Done>> {
        match self {
            Self::Worker(client) => ask(client, "retry", &SomeLetters { ids: ids.to_vec(), note: note.clone() }),
            Self::Here(_) => {
                anyhow::bail!(
                    "no worker listens on `admin.listen` to try letters; start it, or name a backend with `--into`"
                )
            }
        }
    }

    pub(super) fn settle(&self, tried: &[(String, Outcome)], note: &Note) -> anyhow::Result<Vec<Done>> {
        match self {
            Self::Worker(client) => ask(client, "settle", &SettleLetters { tried: tried.to_vec(), note: note.clone() }),
            Self::Here(desk) => Ok(desk.settle(tried, note)?),
        }
    }
}

fn ask<T: DeserializeOwned>(client: &Client, what: &str, asked: &impl Serialize) -> anyhow::Result<T> {
    Ok(client.ask(&format!("/dead-letters/{what}"), &serde_json::to_vec(asked)?)?)
}
