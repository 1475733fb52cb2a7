//! Evaluations that alone could not be merged back: the primary may be away, or they may be too much for it.

use std::collections::VecDeque;

use crate::catch_up::{Moved, Pass, is_over, later, move_some, probe, refused};
use crate::composite::{Fallback, Layer};
use crate::primary::{Merges, Tried};

/// So many are remembered.
const MOST: usize = 1000;

/// Their ids.
#[derive(Default)]
pub(crate) struct Suspects {
    ids: VecDeque<String>,
    /// What the primary had taken when the last pass ended.
    before: Merges,
}

impl Suspects {
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(crate) fn has(&self, id: &String) -> bool {
        self.ids.contains(id)
    }

    pub(crate) fn add(&mut self, id: String) {
        if self.ids.len() >= MOST {
            self.ids.pop_front();
        }
        self.ids.push_back(id);
    }

    /// What is merged from now on is merged by others.
    pub(crate) fn end_pass(&mut self, layer: &Layer) {
        self.before = layer.primary.merges();
    }

    /// Tries all, the one that failed last at last. Gives why it ended before all were tried.
    pub(crate) fn try_all(
        &mut self,
        layer: &Layer,
        fallback: &Fallback,
        total: &mut u64,
        sum: &mut Moved,
    ) -> Option<Pass> {
        // In this pass all others were moved.
        let mut is_there = sum.moved > 0;
        for id in std::mem::take(&mut self.ids) {
            if let Some(end) = is_over(fallback) {
                return Some(end);
            }
            match move_some(layer, fallback, &[&id], Tried::Suspect) {
                Ok(moved) => {
                    *total += moved.moved;
                    sum.moved += moved.moved;
                    sum.refused += moved.refused;
                    is_there |= moved.moved > 0;
                }
                // The primary is there, and away for that one alone.
                Err(error) if is_there || self.is_primary_there(layer) => {
                    is_there = true;
                    layer.primary.is_there_to_merge();
                    refused(layer, fallback, &id, &error, sum);
                    self.add(id);
                }
                Err(error) => {
                    self.add(id);
                    return Some(later(&layer.primary.child.name, &error));
                }
            }
        }
        None
    }

    /// Whether it took what came since the last pass; where nothing came, whether it can be read.
    fn is_primary_there(&self, layer: &Layer) -> bool {
        let Merges { taken, failed } = layer.primary.merges();
        taken > self.before.taken || failed == self.before.failed && probe(layer).is_none()
    }
}
