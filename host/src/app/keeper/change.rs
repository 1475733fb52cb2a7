//! One change of storage from beginning to end: from the tree that is in use to the one that the configuration asks for.
//!
//! What can be opened beside the old tree is; lanes notice nothing. They are held only where they must be: while a backend
//! is handed over to itself, and for a last look at a fallback, or a store in memory, that goes. `storage/change.rs` says
//! what is carried over.

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use tracing::{info, warn};

use super::super::waiting::Waiting;
use super::{Parts, Running, STEP};
use crate::config::{Config, ConfigError, Loaded};
use crate::storage::explain::Setting;
use crate::storage::{Carried, CloseFailure, Guard, Patience, Plan, ReloadError, Reloaded, Tree};
use crate::worker::Served;

impl Running {
    /// After an error everything is as it was before.
    pub(super) fn change(&mut self, force: bool) -> Result<Reloaded, ReloadError> {
        let began = Instant::now();
        let outcome = match self.read_again() {
            Ok((loaded, plan)) => self.change_to(plan, &loaded, force),
            Err(error) => Err(ReloadError::Config(error.problems().iter().map(ToString::to_string).collect())),
        };
        if outcome.is_err() && self.tree.is_none() && self.rest.is_some() {
            self.reopen();
        }
        match &outcome {
            Ok(Reloaded { generation, opened, closed, .. }) => {
                let took_ms = began.elapsed().as_millis();
                info!(generation, ?opened, ?closed, took_ms = %took_ms, "storage.reloaded");
            }
            Err(error) => warn!(%error, generation = self.parts.generation, "storage.not_reloaded"),
        }
        outcome
    }

    fn read_again(&self) -> Result<(Loaded, Plan), ConfigError> {
        let loaded = (self.parts.reread)()?;
        for note in &loaded.notes {
            warn!(note, "configuration");
        }
        let plan = super::super::plan_with(&loaded, &self.parts.loader)?;
        Ok((loaded, plan))
    }

    fn change_to(&mut self, plan: Plan, loaded: &Loaded, force: bool) -> Result<Reloaded, ReloadError> {
        let restart = needing_a_restart(&self.parts.config, &loaded.config);
        let Some(old) = self.tree.clone().or_else(|| self.rest.clone()) else {
            let tree = self.open_beside(&plan, &Carried::nothing(&plan))?;
            let opened = names(&tree, &|_| true);
            self.adopt(plan, loaded);
            self.serve(Arc::new(tree));
            return Ok(Reloaded { generation: self.parts.generation, opened, restart, ..Reloaded::default() });
        };
        let carried = Carried::from(&old, &plan);
        let is_same = carried.is_whole(&old) && self.parts.config.storage == loaded.config.storage;
        if is_same && self.tree.is_some() {
            return Ok(Reloaded { generation: self.parts.generation, restart, ..Reloaded::default() });
        }
        let leaving = if force { Vec::new() } else { old.left_behind(&carried, &plan) };
        // Before anything is opened, since most likely this is the answer; what comes meanwhile is looked for below.
        self.must_be_empty(&leaving)?;
        let handed_over = carried.handed_over(&old, &plan);
        let tree = match handed_over.is_empty() {
            true => self.open_and_look(&plan, &old, &carried, &leaving)?,
            false => self.hand_over(&plan, &old, &carried, &handed_over, &leaving)?,
        };
        let opened = names(&tree, &|guard| !carried.has(guard));
        let closed = names(&old, &|guard| !carried.has(guard));
        self.adopt(plan, loaded);
        let before = self.serve(Arc::new(tree));
        self.rest = None;
        let mut notes = Vec::new();
        if handed_over.is_empty() {
            self.wait_for_readers(&old);
            if !self.wait_for_lanes(&before) {
                let limit = self.parts.config.storage.call_timeout;
                warn!(?limit, "storage.still_in_the_tree_before");
                notes.push(format!(
                    "a merge into the tree before has not come back within {limit:?}; what it may still store is there alone"
                ));
            }
            drop(before);
            self.close_but(&old, &carried);
        }
        self.forget_backends(&old);
        Ok(Reloaded { generation: self.parts.generation, opened, closed, restart, notes })
    }

    /// Opens what is new beside the old tree. If something leaves with it that must be empty, nobody is let in any more and
    /// it is looked at again. On success that stays so until the new tree is served.
    fn open_and_look(
        &self,
        plan: &Plan,
        old: &Arc<Tree>,
        carried: &Carried,
        leaving: &[Arc<Guard>],
    ) -> Result<Tree, ReloadError> {
        let tree = self.open_beside(plan, carried)?;
        if leaving.is_empty() {
            return Ok(tree);
        }
        let before = self.hold_lanes(old);
        if let Err(error) = self.look_again(old, &before, leaving) {
            self.close_but(&tree, carried);
            return Err(error);
        }
        Ok(tree)
    }

    /// Nobody comes into the old tree any more, and once nobody is in it what leaves is looked at. If it does not leave
    /// everybody is let in again.
    fn look_again(&self, old: &Arc<Tree>, before: &Arc<Served>, leaving: &[Arc<Guard>]) -> Result<(), ReloadError> {
        let Some(first) = leaving.first() else { return Ok(()) };
        let was_open = self.parts.current.clear("storage is being changed").is_some();
        let is_alone = self.wait_for_lanes(before) && self.wait_for_readers(old);
        let looked = match is_alone {
            true => self.must_be_empty(leaving),
            // What a call that hangs puts into it could not be seen.
            false => Err(ReloadError::Busy(first.instance().to_string(), self.parts.config.storage.call_timeout)),
        };
        if looked.is_err() {
            if was_open {
                self.parts.current.put(Arc::clone(old));
            }
            self.parts.worker.replace((**before).clone());
        }
        looked
    }

    fn open_beside(&self, plan: &Plan, carried: &Carried) -> Result<Tree, ReloadError> {
        let stopping = || self.is_stopping();
        Ok(plan.open_beside(carried, Patience::None, &self.parts.metrics, None, &stopping)?)
    }

    /// Closes what only one can have open, then opens it as the plan asks. Events wait meanwhile, and for nothing else:
    /// what does not stand on it is opened before.
    fn hand_over(
        &mut self,
        plan: &Plan,
        old: &Arc<Tree>,
        carried: &Carried,
        names: &[Arc<str>],
        leaving: &[Arc<Guard>],
    ) -> Result<Tree, ReloadError> {
        let is_late = plan.standing_on(names);
        let (metrics, stopping) = (&self.parts.metrics, || self.is_stopping());
        let there = plan.open_some(carried, &|node| !is_late[node], Patience::None, metrics, None, &stopping)?;
        let tree = self.hand_over_now(plan, old, carried, &there, names, leaving);
        if tree.is_err() {
            plan.close_new(&there, carried);
        }
        tree
    }

    fn hand_over_now(
        &mut self,
        plan: &Plan,
        old: &Arc<Tree>,
        carried: &Carried,
        there: &Carried,
        names: &[Arc<str>],
        leaving: &[Arc<Guard>],
    ) -> Result<Tree, ReloadError> {
        let before = self.hold_lanes(old);
        self.look_again(old, &before, leaving)?;
        self.parts.current.clear(format!("storage is being handed over: {} is opened anew", names.join(", ")));
        self.tree = None;
        self.rest = Some(Arc::clone(old));
        // One that does not come back keeps what it is in from being closed.
        self.wait_for_lanes(&before);
        drop(before);
        if let Some(failure) = self.close_but(old, carried).into_iter().next() {
            // Its successor could not have what it still holds.
            return Err(ReloadError::NotClosed(failure.instance.to_string(), failure.reason));
        }
        self.open_beside(plan, there)
    }

    /// Opens again what a failed change has closed, within the time that one opening may take; `run` goes on with it
    /// where that is not enough.
    fn reopen(&mut self) {
        let deadline = Instant::now() + self.parts.config.storage.open_timeout;
        if let Err(error) = self.open(&|running| running.is_stopping() || Instant::now() >= deadline) {
            warn!(%error, "storage.not_opened_again");
        }
    }

    /// From their next call on lanes are told that storage is away. What they merged into, to go on with.
    fn hold_lanes(&self, old: &Tree) -> Arc<Served> {
        let Parts { worker, current, config, generation, .. } = &self.parts;
        worker.replace(Served {
            backend: Arc::new(Waiting::new(Arc::clone(current))),
            name: Arc::clone(old.root().instance()),
            generation: *generation,
            call_timeout: config.storage.call_timeout,
        })
    }

    /// Waits until no lane is in a tree that they were taken from; false if one still is.
    fn wait_for_lanes(&self, served: &Arc<Served>) -> bool {
        self.wait_at_most(&|| Arc::strong_count(served) > 1)
    }

    /// Waits until nobody reads from a tree that is no longer found, or calls a backend of it; false if somebody still does.
    fn wait_for_readers(&self, old: &Arc<Tree>) -> bool {
        let is_same = |tree: &&Arc<Tree>| Arc::ptr_eq(tree, old);
        // The caller has it, and this may.
        let kept = 1 + self.tree.iter().chain(&self.rest).filter(is_same).count();
        self.wait_at_most(&|| Arc::strong_count(old) > kept)
    }

    fn wait_at_most(&self, waits: &dyn Fn() -> bool) -> bool {
        let deadline = Instant::now() + self.parts.config.storage.call_timeout;
        while waits() && Instant::now() < deadline && !self.is_closing() {
            thread::sleep(STEP / 20);
        }
        !waits()
    }

    fn must_be_empty(&self, leaving: &[Arc<Guard>]) -> Result<(), ReloadError> {
        leaving.iter().try_for_each(|fallback| fallback.must_be_empty(self.parts.config.storage.call_timeout))
    }

    fn close_but(&self, tree: &Tree, carried: &Carried) -> Vec<CloseFailure> {
        let failures = tree.close_rest(carried, self.parts.config.storage.close_timeout);
        for failure in &failures {
            warn!(backend = %failure.instance, reason = failure.reason, "storage.close_failed");
        }
        failures
    }

    /// What a gauge says last of a backend that is gone must not stay.
    fn forget_backends(&self, old: &Tree) {
        let is_there = |name: &str| {
            let mut guards = self.tree.iter().flat_map(|tree| tree.guards());
            guards.any(|guard| **guard.instance() == *name)
        };
        for guard in old.guards().filter(|guard| !is_there(guard.instance())) {
            self.parts.metrics.forget_backend(guard.instance());
        }
    }

    /// From now on this is the configuration in force, as far as it can change while the worker runs.
    fn adopt(&mut self, plan: Plan, loaded: &Loaded) {
        let parts = &mut self.parts;
        parts.generation += 1;
        parts.plan = plan;
        parts.config.storage = loaded.config.storage.clone();
        parts.config.backends = loaded.config.backends.clone();
        let is_changed = |setting: &Setting| ["storage.", "backends."].iter().any(|part| setting.key.starts_with(part));
        let mut settings = parts.settings.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        settings.retain(|setting| !is_changed(setting));
        settings.extend(loaded.settings().into_iter().map(Setting::from).filter(is_changed));
    }
}

fn names(tree: &Tree, wanted: &dyn Fn(&Arc<Guard>) -> bool) -> Vec<String> {
    tree.guards().filter(|guard| wanted(guard)).map(|guard| guard.instance().to_string()).collect()
}

/// The sections, other than storage, in which two configurations differ.
fn needing_a_restart(now: &Config, new: &Config) -> Vec<String> {
    // Taken apart, so that a section that is added is not forgotten here.
    let Config { redis, http, admin, source, events, worker, journal, dead_letters, storage: _, backends: _ } = now;
    let differs = [
        ("redis", *redis != new.redis),
        ("http", *http != new.http),
        ("admin", *admin != new.admin),
        ("source", *source != new.source),
        ("events", *events != new.events),
        ("worker", *worker != new.worker),
        ("journal", *journal != new.journal),
        ("dead_letters", *dead_letters != new.dead_letters),
    ];
    differs.into_iter().filter(|(_, differs)| *differs).map(|(section, _)| section.to_owned()).collect()
}
