//! The thread that reads one source: decodes each delivery and puts its event into the lane of its evaluation.
//!
//! It waits when the budget is used up, and so does its source. What is no event becomes a dead letter here.

use std::collections::HashMap;
use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use tracing::warn;

use super::dead_letter::DeadLetter;
use super::lane::LaneState;
use super::taken::{Company, Origin, Taken, cost_bytes};
use super::{Shared, source_now};
use crate::event::decode::{Arrival, Limits, decode};
use crate::event::identity::identify;
use crate::event::row::{EventRow, EventRows};
use crate::source::{Delivery, Read, Source};
use crate::telemetry::metrics::{ChannelLabel, Metrics};

/// After so many deliveries of a batch their events go to the lanes, so that these work while the rest is decoded.
const HAND_OVER: usize = 64;

/// What is done with the deliveries of a channel.
#[derive(Debug)]
struct Channel {
    row: EventRow,
    confirm: Arc<str>,
    received: Counter,
}

/// The channels that have a row.
#[derive(Debug)]
pub(super) struct Channels(HashMap<String, Channel>);

impl Channels {
    pub(super) fn new(rows: &EventRows, metrics: &Metrics) -> Self {
        let channel = |row: &EventRow| {
            let label = ChannelLabel { channel: row.channel.clone() };
            let received = metrics.events_received.get_or_create(&label).clone();
            Channel { confirm: Arc::from(&*row.confirm), row: row.clone(), received }
        };
        Self(rows.iter().map(|row| (row.channel.clone(), channel(row))).collect())
    }
}

/// The thread's state.
#[derive(Debug)]
pub(super) struct Intake {
    pub(super) source: usize,
    pub(super) channels: Arc<Channels>,
    pub(super) limits: Limits,
    pub(super) lanes: Vec<Arc<LaneState>>,
    /// Events on their way to the lanes, by lane.
    pub(super) outgoing: Vec<Vec<Taken>>,
    pub(super) shared: Arc<Shared>,
}

impl Intake {
    /// Reads until the source ends, or the worker gives up.
    pub(super) fn run(mut self, mut source: Box<dyn Source>) {
        let mut deliveries = Vec::new();
        while source.read(&mut deliveries) == Read::Deliveries {
            self.shared.counters.taken.add(deliveries.len());
            let kept = deliveries.iter().filter(|delivery| delivery.token.is_some()).count();
            self.shared.counters.taken_kept.add(kept);
            for (index, delivery) in deliveries.drain(..).enumerate() {
                if !self.make_room(&delivery) {
                    return;
                }
                self.take(delivery);
                if index % HAND_OVER == HAND_OVER - 1 {
                    self.hand_over();
                }
            }
            self.hand_over();
        }
    }

    /// Waits until the budget has room. False if the worker gives up.
    fn make_room(&mut self, delivery: &Delivery) -> bool {
        let bytes = cost_bytes(delivery.payload.len());
        self.shared.budget.try_acquire(bytes) || {
            // What is on its way may be what the room is needed by.
            self.hand_over();
            self.shared.budget.acquire(bytes)
        }
    }

    fn take(&mut self, delivery: Delivery) {
        let Some(Channel { row, confirm, received }) = self.channels.0.get(&*delivery.channel) else {
            let error = match &*delivery.channel {
                "" => "it names no channel; see `source.streams.channel_field`".to_owned(),
                channel => format!("channel `{channel}` has no row in `[events]`; add one, or stop sending it"),
            };
            self.reject(delivery, "unknown_channel", error);
            return;
        };
        received.inc();
        let arrival = arrival_of(&delivery);
        match decode(&delivery.channel, row, &delivery.payload, arrival, &self.limits) {
            Ok(event) => {
                let lane = lane_of(&event.evaluation_id, self.outgoing.len());
                let company = if delivery.alone { Company::Alone } else { Company::Joined };
                let taken = Taken::new(event, Arc::clone(confirm), Origin::of(delivery, self.source), company);
                self.outgoing[lane].push(taken);
            }
            Err(reject) => self.reject(delivery, reject.class(), reject.to_string()),
        }
    }

    fn reject(&self, delivery: Delivery, reason: &'static str, error: String) {
        let size = delivery.payload.len();
        warn!(channel = %delivery.channel, reason, error, size, "event rejected");
        self.shared.counters.rejected(reason);
        let row = self.channels.0.get(&*delivery.channel).map(|channel| &channel.row);
        let identity = identify(&delivery.channel, row, &delivery.payload, arrival_of(&delivery));
        let origin = Origin::of(delivery, self.source);
        let (last_at, generation) = (source_now(), self.shared.slot.current().generation);
        let letter = DeadLetter { origin, identity, reason, error, attempts: 0, last_at, generation };
        self.shared.postbox.push(letter);
    }

    fn hand_over(&mut self) {
        self.shared.spent.free();
        for (events, lane) in self.outgoing.iter_mut().zip(&self.lanes) {
            if !events.is_empty() {
                lane.queue.push_all(events);
            }
        }
    }
}

fn arrival_of(delivery: &Delivery) -> Arrival<'_> {
    let Delivery { received_at, entry_time, event_id, .. } = delivery;
    Arrival { received_at: *received_at, entry_time: *entry_time, event_id: event_id.as_deref() }
}

/// The lane of an evaluation: FNV-1a of its id, <http://www.isthe.com/chongo/tech/comp/fnv/>, folded.
fn lane_of(evaluation_id: &str, lanes: usize) -> usize {
    let hash = evaluation_id
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let folded = (hash >> 32) ^ (hash & 0xffff_ffff);
    usize::try_from(folded).unwrap_or_default() % lanes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_evaluation_has_one_lane_and_evaluations_spread_over_all() {
        let mut counts = [0; 4];
        for number in 0..10_000 {
            counts[lane_of(&format!("eval_{number}"), 4)] += 1;
        }

        assert_eq!(lane_of("a", 4), lane_of("a", 4));
        assert!(counts.iter().all(|count| (2_200..=2_800).contains(count)), "{counts:?}");
    }
}
