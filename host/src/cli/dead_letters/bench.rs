//! Where the letters are: with the worker that runs, or in the file or the stream if none does.

use std::collections::BTreeSet;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::super::UsageError;
use crate::config::Loaded;
use crate::http::client::{Client, ClientError};
use crate::http::handing::{EditLetters, Select, SettleLetters, SomeLetters};
use crate::letters::desk::{Desk, Done, Edit, Filter, Note, Selected, Tried};
use crate::letters::line::letter_of;
use crate::letters::{Destination, Letter};

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
            Err(ClientError::NothingListens(_)) => {
                let config = &loaded.config;
                let destination = Destination::new(&config.dead_letters, &config.redis);
                Ok(Self::Here(Desk::new(destination.map_err(|error| UsageError(error.to_string()))?)))
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn select(&self, filter: &Filter, limit: usize, brief: bool) -> anyhow::Result<Selected> {
        match self {
            Self::Worker(client) => ask(client, "select", &Select { filter: filter.clone(), limit, brief }),
            Self::Here(desk) => Ok(desk.select(filter, limit, brief)?),
        }
    }

    /// The ids of the letters that are meant. Those that are named are, whether there are such letters or not.
    pub(super) fn ids(&self, filter: &Filter, limit: usize) -> anyhow::Result<Vec<String>> {
        if !filter.ids.is_empty() && (Filter { ids: Vec::new(), ..filter.clone() }) == Filter::default() {
            let named: BTreeSet<&String> = filter.ids.iter().collect();
            return Ok(named.into_iter().take(limit).cloned().collect());
        }
        match self {
            Self::Worker(client) => ask(client, "ids", &Select { filter: filter.clone(), limit, brief: true }),
            Self::Here(desk) => Ok(desk.ids(filter, limit)?),
        }
    }

    /// Some of these letters, whole, as many as are handed out at once; and the ids that are left.
    pub(super) fn some_letters<'a>(&self, ids: &'a [String]) -> anyhow::Result<(Vec<Letter>, &'a [String])> {
        match self {
            Self::Here(desk) => {
                let (letters, looked_at) = desk.first_letters(ids)?;
                Ok((letters, &ids[looked_at..]))
            }
            Self::Worker(client) => {
                let (letters, looked_at): (Vec<serde_json::Value>, usize) = ask(client, "first", &ids)?;
                Ok((letters.into_iter().filter_map(letter_of).collect(), ids.get(looked_at..).unwrap_or_default()))
            }
        }
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

    pub(super) fn settle(&self, tried: &[Tried], note: &Note) -> anyhow::Result<Vec<Done>> {
        match self {
            Self::Worker(client) => ask(client, "settle", &SettleLetters { tried: tried.to_vec(), note: note.clone() }),
            Self::Here(desk) => Ok(desk.settle(tried, note)?),
        }
    }
}

fn ask<T: DeserializeOwned>(client: &Client, what: &str, asked: &impl Serialize) -> anyhow::Result<T> {
    Ok(client.ask(&format!("/dead-letters/{what}"), &serde_json::to_vec(asked)?)?)
}
