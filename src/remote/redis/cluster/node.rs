//! One primary: its connection, what waits for it, and what is on its way.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use ::redis::aio::MultiplexedConnection;
use ::redis::{RedisError, RedisResult, Value};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::sleep;

use super::super::batch::{Batch, Terms};
use super::super::link::{BATCH, GULP};
use super::super::script;
use super::super::{Call, Server};

/// A call with all keys in one slot, under the desk's ticket.
pub(super) struct Item {
    pub(super) at: Instant,
    pub(super) call: Call,
    pub(super) slot: u16,
    /// Where an ASK has sent it.
    pub(super) asking: Option<Server>,
    /// How often it was sent on.
    pub(super) hops: u8,
}

impl Item {
    pub(super) fn new(at: Instant, call: Call, slot: u16) -> Self {
        Self { at, call, slot, asking: None, hops: 0 }
    }
}

/// Calls of one slot that one script call decides.
pub(super) struct Parcel {
    pub(super) batch: Batch,
    pub(super) slot: u16,
    pub(super) asking: bool,
    pub(super) hops: u8,
}

impl Parcel {
    /// The calls again, to be sent `to` another server after an ASK, or to the owner of the slot.
    pub(super) fn into_items(self, to: Option<Server>) -> Vec<Item> {
        let (slot, hops) = (self.slot, self.hops + 1);
        let (at, calls) = self.batch.into_calls();
        let item = |call| Item { at, call, slot, asking: to.clone(), hops };
        calls.into_iter().map(item).collect()
    }
}

/// Makes one parcel for each slot, of at most [`BATCH`] limits. What was sent on before goes alone: a slot on the
/// move may have one call's keys and not the other's.
pub(super) fn pack(items: Vec<Item>, terms: Terms) -> Vec<Parcel> {
    let mut parcels: Vec<Parcel> = Vec::new();
    let mut places: HashMap<u16, usize> = HashMap::new();
    for Item { at, call, slot, asking, hops } in items {
        let place = places.get(&slot).copied().filter(|&place| {
            hops == 0 && parcels.get(place).is_some_and(|p| p.batch.limits() + call.limits.len() <= BATCH)
        });
        let place = place.unwrap_or_else(|| {
            parcels.push(Parcel { batch: Batch::new(terms), slot, asking: asking.is_some(), hops });
            if hops == 0 {
                places.insert(slot, parcels.len() - 1);
            }
            parcels.len() - 1
        });
        if let Some(parcel) = parcels.get_mut(place) {
            parcel.batch.push(at, call);
        }
    }
    parcels
}

/// One primary.
#[derive(Default)]
pub(super) struct Node {
    pub(super) state: State,
    pub(super) queue: Vec<Item>,
    /// Pipelines on their way.
    pub(super) flying: usize,
    /// What the last one took.
    pub(super) took: Duration,
    /// Attempts to reach it.
    pub(super) dials: u32,
}

/// Whether a node can serve.
#[derive(Default)]
pub(super) enum State {
    Up(Line),
    /// On the way up; with `hold` calls wait for it, as it was not seen down.
    Dialing {
        hold: bool,
    },
    #[default]
    Down,
}

/// A proven connection. Dropping it gives up what is on its way.
pub(super) struct Line {
    pub(super) redis: MultiplexedConnection,
    /// Tells this connection from the next one to the same server.
    pub(super) number: u64,
    pub(super) cancel: watch::Sender<()>,
    /// Waits for the end of the connection.
    pub(super) guard: AbortHandle,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.guard.abort();
    }
}

impl Node {
    pub(super) fn line(&self) -> Option<&Line> {
        match &self.state {
            State::Up(line) => Some(line),
            _ => None,
        }
    }

    /// Whether calls may be queued here.
    pub(super) fn takes(&self) -> bool {
        matches!(self.state, State::Up(_) | State::Dialing { hold: true })
    }

    /// Takes from the queue what one pipeline is to carry: about [`BATCH`] limits, where calls of one limit that
    /// name the same key count as one, and at most [`GULP`] calls.
    pub(super) fn take(&mut self) -> Vec<Item> {
        let (mut limits, mut seen) = (0, HashSet::new());
        let fitting = self.queue.iter().take(GULP).take_while(|item| {
            let again = matches!(&item.call.limits[..], [limit] if !seen.insert(limit.key.as_str()));
            limits += if again { 0 } else { item.call.limits.len() };
            limits <= BATCH
        });
        let count = fitting.count();
        self.queue.drain(..count).collect()
    }

    /// A pipeline is back.
    pub(super) fn landed(&mut self, took: Duration) {
        self.flying -= 1;
        self.took = took;
    }

    /// Whether nothing is queued or on its way.
    pub(super) fn idle(&self) -> bool {
        self.flying == 0 && self.queue.is_empty()
    }
}

/// Why a parcel has no answer.
#[derive(Clone)]
pub(super) enum Trouble {
    Error(RedisError),
    /// The connection was given up.
    Cancelled,
    /// Longer than any answer may take.
    Overdue,
}

/// What came back, parcel by parcel.
pub(super) type Landed = Vec<(Parcel, Result<Value, Trouble>)>;

/// One pipeline, from sending to its answers or the end of the connection.
pub(super) async fn fly(
    mut redis: MultiplexedConnection,
    parcels: Vec<Parcel>,
    mut cancelled: watch::Receiver<()>,
    overdue: Duration,
) -> Landed {
    let batches: Vec<_> = parcels.iter().map(|parcel| (&parcel.batch, parcel.asking)).collect();
    let result = tokio::select! {
        biased;
        result = script::execute_all(&mut redis, &batches) => result.map_err(Trouble::Error),
        // Nothing is ever sent on this channel: it changes by closing.
        _ = cancelled.changed() => Err(Trouble::Cancelled),
        () = sleep(overdue) => Err(Trouble::Overdue),
    };
    let one = |result: RedisResult<Value>| result.map_err(Trouble::Error);
    match result {
        Ok(results) => parcels.into_iter().zip(results.into_iter().map(one)).collect(),
        Err(trouble) => parcels.into_iter().map(|parcel| (parcel, Err(trouble.clone()))).collect(),
    }
}
