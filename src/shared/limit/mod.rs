//! Rate limit states of one host: a fixed table in a zone, shared by all workers, without a lock.
//!
//! A decision on gcra is one compare-and-swap; on a window it is one, and a second look; spending from a lease
//! is one. The policies decide, this folder only finds the state and stores what they say. Where a race cannot
//! be ordered, it errs towards refusing: a charge may be counted twice or land on a slot's next owner, a grant
//! may be lost; none is forgotten except with the state that an eviction drops, and none is spent twice.
//!
//! Bytes a key, key and drained-at time included: gcra 16, sliding_window 168, fixed_window 32; with leases 24
//! more.

mod count;
mod denial;
mod grant;
mod lease;
mod packed;
mod plain;
mod sliding;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub use self::count::Pressure;
use super::cell::{Region, shared_struct};
use super::seal::{Format, LayoutError, Seal};
use super::table::{Slot, Table, Words};
use crate::policy::Millis;
use crate::policy::limit::{Algorithm, Decision, KeyHash, Now, Rule, Tat};

const FORMAT: Format = Format::new(*b"sluiceRL", 3, "rate limits");
/// How often one decision starts over because its slot was taken away.
const ATTEMPTS: usize = 32;

shared_struct! {
    /// First cache line of a zone; the table follows.
    struct Header {
        seal: Seal,
        /// Of each key.
        shape: AtomicU64,
        evicted: AtomicU64,
        full: AtomicU64,
        /// How much of the two counts has been reported.
        evicted_told: AtomicU64,
        full_told: AtomicU64,
        /// Numbers that are given out once. Never set back, whatever becomes of the zone.
        serials: AtomicU64,
    }
}

/// What a zone keeps of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub algorithm: Algorithm,
    /// Grants are kept beside each state: three words more a key.
    pub lease: bool,
}

impl Shape {
    const fn words(self) -> Words {
        let state = match self.algorithm {
            Algorithm::Gcra => 0,
            Algorithm::SlidingWindow => sliding::WORDS + denial::WORDS,
            Algorithm::FixedWindow => plain::WORDS + denial::WORDS,
        };
        Words { state, lease: if self.lease { grant::WORDS } else { 0 } }
    }

    const fn to_bits(self) -> u64 {
        let code = match self.algorithm {
            Algorithm::Gcra => 1,
            Algorithm::SlidingWindow => 2,
            Algorithm::FixedWindow => 3,
        };
        (self.lease as u64) << 4 | code
    }
}

/// The states of one `rate_limit_zone`.
#[derive(Clone, Copy)]
pub struct LimitZone {
    header: &'static Header,
    table: Table,
    shape: Shape,
}

/// One request before a limit.
#[derive(Clone, Copy)]
struct Ask<'a> {
    id: u64,
    now: &'a Now,
    cost: u64,
}

impl LimitZone {
    /// Smallest region in bytes, for any shape.
    pub const MIN_SIZE: usize =
        size_of::<Header>() + Shape { algorithm: Algorithm::SlidingWindow, lease: true }.words().group_size();

    /// Starts a clean zone: whatever the region held is wiped.
    ///
    /// # Errors
    /// [`LayoutError`] when the region is smaller than [`LimitZone::MIN_SIZE`].
    pub fn create(region: Region, shape: Shape) -> Result<Self, LayoutError> {
        let zone = Self::view(region, shape)?;
        let Header { seal, evicted, full, evicted_told, full_told, .. } = zone.header;
        seal.lift();
        zone.table.wipe();
        [evicted, full, evicted_told, full_told].into_iter().for_each(|count| count.store(0, Relaxed));
        zone.header.shape.store(shape.to_bits(), Relaxed);
        seal.set(&FORMAT);
        Ok(zone)
    }

    /// Takes over a zone that lives: after a reload, or of another process. Slots that a killed worker left
    /// half taken are freed.
    ///
    /// # Errors
    /// [`LayoutError`] when the region is not a zone of this layout and shape; start clean then.
    pub fn adopt(region: Region, shape: Shape) -> Result<Self, LayoutError> {
        let zone = Self::view(region, shape)?;
        zone.header.seal.check(&FORMAT)?;
        FORMAT.laid_out_so(zone.header.shape.load(Relaxed) == shape.to_bits())?;
        zone.table.sweep();
        Ok(zone)
    }

    fn view(region: Region, shape: Shape) -> Result<Self, LayoutError> {
        FORMAT.fits(region, Self::MIN_SIZE)?;
        let table = Table::new(region, size_of::<Header>()..region.len(), shape.words())?;
        Ok(Self { header: region.get(0)?, table, shape })
    }

    /// Decides, and charges `cost` if it admits. Cost 0 only looks.
    ///
    /// Should no slot be had for the key, which takes workers killed in the same few instructions again and
    /// again, the request is refused, as `limit_req` refuses when its zone is exhausted.
    pub fn admit(&self, key: &KeyHash, rule: &Rule, now: &Now, cost: u64) -> Decision {
        if cost == 0 {
            return self.peek(key, rule, now, cost);
        }
        for _ in 0..ATTEMPTS {
            let Some((slot, id)) = self.claim(key, rule, now) else { continue };
            let ask = Ask { id, now, cost };
            let decided = match rule {
                Rule::Gcra(gcra) => plain::admit_gcra(slot, &ask, gcra),
                Rule::Sliding { window, burst } => sliding::admit(slot, &ask, window, burst.as_ref()),
                Rule::Fixed(window) => plain::admit(slot, &ask, window),
            };
            if let Ok(decision) = decided {
                return decision;
            }
        }
        self.header.full.fetch_add(1, Relaxed);
        Decision { admitted: false, retry_after: 1, reset_after: 1, ..Decision::default() }
    }

    /// Decides as [`LimitZone::admit`] would, and charges nothing.
    pub fn peek(&self, key: &KeyHash, rule: &Rule, now: &Now, cost: u64) -> Decision {
        self.find(key, rule).map_or_else(|| rule.fresh(now, cost), |(slot, _)| stands(slot, rule, now, cost))
    }

    /// Takes back a charge of `cost`. `now` is the one it was charged with: then this restores the state
    /// exactly. Never gives back more than was charged to the key.
    pub fn refund(&self, key: &KeyHash, rule: &Rule, now: &Now, cost: u64) {
        let Some((slot, id)) = self.find(key, rule) else { return };
        let ask = Ask { id, now, cost };
        match rule {
            Rule::Gcra(gcra) => slot.change(slot.until, id, |bits| {
                gcra.refund(Tat::from_bits(bits), now.mono, cost).to_bits().max(1)
            }),
            Rule::Sliding { window, burst } => sliding::refund(slot, &ask, window, burst.as_ref()),
            Rule::Fixed(window) => plain::refund(slot, &ask, window),
        }
        denial::forget(slot, id, rule);
    }

    /// Raises the state, never lowers it, to what Redis just decided for this key, so that limiting by this
    /// host alone, should Redis be lost, begins where Redis stopped and not with a full quota. A refusal is
    /// kept for [`LimitZone::denied`]. `now` is when Redis was asked, `cost` the requests that the decision
    /// speaks of; where it admitted, with those that it granted in advance.
    ///
    /// With a burst beside a sliding window the decision does not tell which of the two it speaks of. The
    /// burst is taken at its word; the window is counted up by what this host saw admitted, and is full when
    /// the time to wait is one that only the window explains.
    pub fn observe(&self, key: &KeyHash, rule: &Rule, now: &Now, decision: &Decision, cost: u64) {
        if decision.reset_after == 0 {
            return;
        }
        let Some((slot, id)) = self.claim(key, rule, now) else { return };
        let ask = Ask { id, now, cost };
        match rule {
            Rule::Gcra(gcra) => slot.change(slot.until, id, |bits| {
                gcra.raised(Tat::from_bits(bits), now.mono, decision.reset_after).to_bits()
            }),
            Rule::Sliding { window, burst } => {
                sliding::observe(slot, &ask, (window, burst.as_ref()), decision);
            }
            Rule::Fixed(window) => plain::raise(slot, &ask, window, decision.remaining),
        }
        denial::observe(slot, &ask, rule, decision);
    }

    /// What Redis is known to refuse now; `None` if it has to be asked. Charges nothing.
    ///
    /// Never refuses what Redis would admit, but for quota that comes back otherwise than by time (a refund, a
    /// reset, what other hosts give back of their leases): what Redis said is booked as of when it was asked.
    /// Of gcra the state tells all; of a window, what Redis said of the same rule and cost. What this host
    /// could give back of a lease itself counts as room.
    pub fn denied(&self, key: &KeyHash, rule: &Rule, now: &Now, cost: u64) -> Option<Decision> {
        if cost == 0 {
            return None;
        }
        let (slot, id) = self.find(key, rule)?;
        let unspent = self.lease(slot, id).map_or(0, |lease| lease.tokens());
        if let Rule::Gcra(gcra) = rule {
            let level = gcra.level(slot.tat(), now.mono);
            let level = level.saturating_sub(unspent.saturating_mul(gcra.p()));
            return Some(gcra.decide(level, cost)).filter(|decision| !decision.admitted);
        }
        let left = denial::left(slot, &Ask { id, now, cost }, rule).filter(|_| unspent == 0)?;
        let known = stands(slot, rule, now, 0);
        Some(Decision {
            admitted: false,
            wait: 0,
            remaining: known.remaining.min(cost - 1),
            retry_after: left,
            reset_after: known.reset_after.max(left),
        })
    }

    /// What the key has in use at least, as far as this host knows, to tell a Redis that forgot: ticks of
    /// level for gcra, requests for a window; 0 if nothing is known.
    pub fn known(&self, key: &KeyHash, rule: &Rule, now: &Now) -> u64 {
        let Some((slot, _)) = self.find(key, rule) else { return 0 };
        match rule {
            Rule::Gcra(gcra) => gcra.level(slot.tat(), now.mono),
            Rule::Sliding { window, .. } => sliding::used(slot, now, window),
            Rule::Fixed(window) => plain::current(slot, now, window).count,
        }
    }

    /// Forgets what a key has used. False if nothing was known of it.
    pub fn reset(&self, key: &KeyHash) -> bool {
        let (id, group) = self.table.locate(key);
        self.table.find(group, id).is_some_and(|slot| slot.release(id))
    }

    /// Keys in the zone, used or not, places for keys, and keys dropped before their quota was back. Of a large zone
    /// the first number is an estimate.
    pub fn keys(&self) -> (u64, u64, u64) {
        let (taken, slots) = (self.table.taken(), self.table.slots());
        (taken as u64, slots as u64, self.header.evicted.load(Relaxed))
    }

    /// The key's slot, if it has one. A rule of another algorithm than the zone's finds nothing.
    fn find(&self, key: &KeyHash, rule: &Rule) -> Option<(Slot, u64)> {
        let (id, group) = self.table.locate(key);
        let slot = self.table.find(group, id).filter(|_| rule.algorithm() == self.shape.algorithm);
        slot.map(|slot| (slot, id))
    }

    /// The key's slot, given to it if need be.
    fn claim(&self, key: &KeyHash, rule: &Rule, now: &Now) -> Option<(Slot, u64)> {
        if rule.algorithm() != self.shape.algorithm {
            return None;
        }
        let (id, group) = self.table.locate(key);
        let claim = self.table.claim(group, id, self.clock(now))?;
        if claim.evicted {
            self.header.evicted.fetch_add(1, Relaxed);
        }
        Some((claim.slot, id))
    }

    const fn clock(&self, now: &Now) -> Millis {
        match self.shape.algorithm {
            Algorithm::FixedWindow => now.wall,
            Algorithm::Gcra | Algorithm::SlidingWindow => now.mono,
        }
    }
}

/// Where a slot stands: as `cost` more would be decided.
fn stands(slot: Slot, rule: &Rule, now: &Now, cost: u64) -> Decision {
    match rule {
        Rule::Gcra(gcra) => gcra.decide(gcra.level(slot.tat(), now.mono), cost),
        Rule::Sliding { window, burst } => sliding::peek(slot, now, cost, window, burst.as_ref()),
        Rule::Fixed(window) => window.decide(plain::current(slot, now, window), now.wall, cost),
    }
}

#[cfg(test)]
mod tests;
