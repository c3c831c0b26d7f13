//! Rate limit states of one host: a fixed table in a zone, shared by all workers, without a lock.
//!
//! A decision on gcra is one compare-and-swap; on a window it is one, and a second look. The policies decide,
//! this file only finds the state and stores what they say. Where a race cannot be ordered, it errs towards
//! refusing: a charge may be counted twice or land on a slot's next owner, none is forgotten except with the
//! state that an eviction drops.

mod sliding;
mod table;

use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use self::table::{Slot, Table};
use super::cell::{Region, RegionError, shared_struct};
use crate::policy::Millis;
use crate::policy::limit::{Algorithm, Bucket, Decision, FixedWindow, Gcra, KeyHash, Now, Rule, Tat};

/// "SLUICERL" in ASCII.
const MAGIC: u64 = 0x534c_5549_4345_524c;
/// Raised with every change to what the words of the zone mean.
const LAYOUT_VERSION: u64 = 1;
/// How often one decision starts over because its slot was taken away.
const ATTEMPTS: usize = 32;

shared_struct! {
    /// First cache line of a zone; the table follows.
    struct Header {
        /// Written last on creation.
        magic: AtomicU64,
        /// Layout version, then the algorithm in the low byte.
        layout: AtomicU64,
        evicted: AtomicU64,
        full: AtomicU64,
        reserved: [AtomicU64; 4],
    }
}

/// The zone cannot be used as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    #[error("{0} bytes are too few for a rate limit zone")]
    TooSmall(usize),
    #[error("not a rate limit zone of this layout")]
    Foreign,
    #[error("rate limit zone holds states of another algorithm")]
    OtherAlgorithm,
    #[error(transparent)]
    Region(#[from] RegionError),
}

/// The states of one `rate_limit_zone`.
#[derive(Clone, Copy)]
pub struct LimitZone {
    header: &'static Header,
    table: Table,
    algorithm: Algorithm,
}

/// One request before a limit.
#[derive(Clone, Copy)]
struct Ask<'a> {
    id: u64,
    now: &'a Now,
    cost: u64,
}

/// The slot was given to another key in the middle of a decision.
struct Moved;

impl LimitZone {
    /// Smallest region in bytes, for any algorithm.
    pub const MIN_SIZE: usize = size_of::<Header>() + table::group_size(sliding::WORDS);

    /// Starts a clean zone: whatever the region held is wiped.
    ///
    /// # Errors
    /// [`LayoutError`] when the region is smaller than [`LimitZone::MIN_SIZE`].
    pub fn create(region: Region, algorithm: Algorithm) -> Result<Self, LayoutError> {
        let zone = Self::view(region, algorithm)?;
        zone.header.magic.store(0, SeqCst);
        zone.table.wipe();
        zone.header.evicted.store(0, Relaxed);
        zone.header.full.store(0, Relaxed);
        zone.header.layout.store(layout(algorithm), Relaxed);
        zone.header.magic.store(MAGIC, SeqCst);
        Ok(zone)
    }

    /// Takes over a zone that lives: after a reload, or of another process. Slots that a killed worker left
    /// half taken are freed.
    ///
    /// # Errors
    /// [`LayoutError`] when the region is not a zone of this layout and algorithm; start clean then.
    pub fn adopt(region: Region, algorithm: Algorithm) -> Result<Self, LayoutError> {
        let zone = Self::view(region, algorithm)?;
        let found = zone.header.layout.load(SeqCst);
        if zone.header.magic.load(SeqCst) != MAGIC || found >> 8 != LAYOUT_VERSION {
            return Err(LayoutError::Foreign);
        }
        if found != layout(algorithm) {
            return Err(LayoutError::OtherAlgorithm);
        }
        zone.table.sweep();
        Ok(zone)
    }

    fn view(region: Region, algorithm: Algorithm) -> Result<Self, LayoutError> {
        if region.len() < Self::MIN_SIZE {
            return Err(LayoutError::TooSmall(region.len()));
        }
        let words = match algorithm {
            Algorithm::Gcra => 0,
            Algorithm::SlidingWindow => sliding::WORDS,
            Algorithm::FixedWindow => 1,
        };
        let table = Table::new(region, size_of::<Header>(), words)?;
        Ok(Self { header: region.get(0)?, table, algorithm })
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
                Rule::Gcra(gcra) => admit_gcra(slot, &ask, gcra),
                Rule::Sliding { window, burst } => sliding::admit(slot, &ask, window, burst.as_ref()),
                Rule::Fixed(window) => admit_fixed(slot, &ask, window),
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
        let Some((slot, _)) = self.find(key, rule) else { return rule.fresh(now, cost) };
        match rule {
            Rule::Gcra(gcra) => gcra.decide(gcra.level(slot.tat(), now.mono), cost),
            Rule::Sliding { window, burst } => sliding::peek(slot, now, cost, window, burst.as_ref()),
            Rule::Fixed(window) => {
                let stored = window.current(stored_window(slot, window), now.wall);
                window.decide(stored, now.wall, cost)
            }
        }
    }

    /// Takes back a charge of `cost`. `now` is the one it was charged with: then this restores the state
    /// exactly. Never gives back more than was charged to the key.
    pub fn refund(&self, key: &KeyHash, rule: &Rule, now: &Now, cost: u64) {
        let Some((slot, id)) = self.find(key, rule) else { return };
        match rule {
            Rule::Gcra(gcra) => slot.change(slot.until, id, |bits| {
                gcra.refund(Tat::from_bits(bits), now.mono, cost).to_bits().max(1)
            }),
            Rule::Sliding { window, burst } => {
                sliding::refund(slot, &Ask { id, now, cost }, window, burst.as_ref());
            }
            Rule::Fixed(window) => slot.change(slot.word(0), id, |bits| {
                let stored = Packed(bits).bucket(window.rate().period);
                let current = window.current(stored, now.wall);
                let count = current.count.saturating_sub(cost);
                if current.count == 0 {
                    bits
                } else {
                    Packed::new(current.tick, window.rate().period, count).0
                }
            }),
        }
    }

    /// Raises the state, never lowers it, to what Redis just decided for this key, so that limiting by this
    /// host alone, should Redis be lost, begins where Redis stopped and not with a full quota.
    ///
    /// With a burst beside a sliding window the decision does not tell which of the two it speaks of. The
    /// burst is taken at its word; the window is counted up by what this host saw admitted, and is full when
    /// the time to wait is one that only the window explains.
    pub fn observe(&self, key: &KeyHash, rule: &Rule, now: &Now, decision: &Decision) {
        if decision.reset_after == 0 {
            return;
        }
        let Some((slot, id)) = self.claim(key, rule, now) else { return };
        match rule {
            Rule::Gcra(gcra) => slot.change(slot.until, id, |bits| {
                gcra.raised(Tat::from_bits(bits), now.mono, decision.reset_after).to_bits()
            }),
            Rule::Sliding { window, burst } => {
                let ask = Ask { id, now, cost: 1 };
                sliding::observe(slot, &ask, (window, burst.as_ref()), decision);
            }
            Rule::Fixed(window) => raise_fixed(slot, &Ask { id, now, cost: 0 }, window, decision.remaining),
        }
    }

    /// Forgets what a key has used. False if nothing was known of it.
    #[allow(dead_code, reason = "for the API, which is to come")]
    pub fn reset(&self, key: &KeyHash) -> bool {
        let (id, group) = self.table.locate(key);
        self.table.find(group, id).is_some_and(|slot| slot.release(id))
    }

    /// Keys that fit, if they spread evenly.
    #[allow(dead_code, reason = "for the API, which is to come")]
    pub const fn slots(&self) -> usize {
        self.table.slots()
    }

    /// Keys with quota in use at `now`. Reads the whole zone: for the API, not for requests.
    #[allow(dead_code, reason = "for the API, which is to come")]
    pub fn used(&self, now: &Now) -> usize {
        self.table.used(self.clock(now))
    }

    /// Keys put out before their quota was back, because the zone was too small.
    #[allow(dead_code, reason = "for the API, which is to come")]
    pub fn evictions(&self) -> u64 {
        self.header.evicted.load(Relaxed)
    }

    /// Requests refused because no slot could be had.
    #[allow(dead_code, reason = "for the API, which is to come")]
    pub fn exhausted(&self) -> u64 {
        self.header.full.load(Relaxed)
    }

    /// The key's slot, if it has one. A rule of another algorithm than the zone's finds nothing.
    fn find(&self, key: &KeyHash, rule: &Rule) -> Option<(Slot, u64)> {
        let (id, group) = self.table.locate(key);
        let slot = self.table.find(group, id).filter(|_| rule.algorithm() == self.algorithm);
        slot.map(|slot| (slot, id))
    }

    /// The key's slot, given to it if need be.
    fn claim(&self, key: &KeyHash, rule: &Rule, now: &Now) -> Option<(Slot, u64)> {
        if rule.algorithm() != self.algorithm {
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
        match self.algorithm {
            Algorithm::FixedWindow => now.wall,
            Algorithm::Gcra | Algorithm::SlidingWindow => now.mono,
        }
    }
}

const fn layout(algorithm: Algorithm) -> u64 {
    let code = match algorithm {
        Algorithm::Gcra => 1,
        Algorithm::SlidingWindow => 2,
        Algorithm::FixedWindow => 3,
    };
    LAYOUT_VERSION << 8 | code
}

fn admit_gcra(slot: Slot, ask: &Ask, gcra: &Gcra) -> Result<Decision, Moved> {
    loop {
        let tat = slot.tat();
        // Read after the state: the state was this key's.
        slot.still(ask.id)?;
        let (decision, next) = gcra.admit(tat, ask.now.mono, ask.cost);
        if next == tat {
            return Ok(decision);
        }
        if slot.until.compare_exchange_weak(tat.to_bits(), next.to_bits(), SeqCst, Relaxed).is_ok() {
            return slot.still(ask.id).map(|()| decision);
        }
    }
}

fn admit_fixed(slot: Slot, ask: &Ask, window: &FixedWindow) -> Result<Decision, Moved> {
    let (word, period) = (slot.word(0), window.rate().period);
    loop {
        let bits = word.load(SeqCst);
        slot.still(ask.id)?;
        let current = window.current(Packed(bits).bucket(period), ask.now.wall);
        let decision = window.decide(current, ask.now.wall, ask.cost);
        if !decision.admitted {
            return Ok(decision);
        }
        slot.keep_until(window.ends_at(current.tick));
        let next = Packed::new(current.tick, period, current.count + ask.cost);
        if word.compare_exchange_weak(bits, next.0, SeqCst, Relaxed).is_ok() {
            return slot.still(ask.id).map(|()| decision);
        }
    }
}

fn raise_fixed(slot: Slot, ask: &Ask, window: &FixedWindow, remaining: u64) {
    let period = window.rate().period;
    let used = window.rate().count.saturating_sub(remaining);
    slot.keep_until(window.ends_at(ask.now.wall / period));
    slot.change(slot.word(0), ask.id, |bits| {
        let current = window.current(Packed(bits).bucket(period), ask.now.wall);
        Packed::new(current.tick, period, current.count.max(used)).0
    });
}

fn stored_window(slot: Slot, window: &FixedWindow) -> Bucket {
    Packed(slot.word(0).load(SeqCst)).bucket(window.rate().period)
}

/// A bucket in one word: 37 bits of start, in units of 32 ms, and below them 27 bits of count.
///
/// The start is a time and not the bucket's number, so that it means the same under a changed period.
/// Rounded up to its unit it still lies in the bucket, as buckets are at least 63 ms long.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Packed(u64);

impl Packed {
    const COUNT_BITS: u32 = 27;
    const COUNT_MASK: u64 = (1 << Self::COUNT_BITS) - 1;
    const UNIT: Millis = 32;

    fn new(tick: u64, length: Millis, count: u64) -> Self {
        let start = tick.saturating_mul(length).div_ceil(Self::UNIT).min(u64::MAX >> Self::COUNT_BITS);
        Self(start << Self::COUNT_BITS | count.min(Self::COUNT_MASK))
    }

    const fn bucket(self, length: Millis) -> Bucket {
        let start = (self.0 >> Self::COUNT_BITS) * Self::UNIT;
        Bucket { tick: start / length, count: self.0 & Self::COUNT_MASK }
    }
}

#[cfg(test)]
mod tests;
