//! `sliding_window` in shared memory: seventeen buckets in a ring, and beside them the burst's TAT.
//!
//! One word cannot hold a window, so a request is added first and checked again: every worker reads all
//! buckets after it has added to one, and whoever finds them over the limit takes its own back. Of any set of
//! requests the one that was added last sees all others, so no window is ever over. Each request counts in the
//! newest bucket that any worker has begun for the key, since workers cache the time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use super::Ask;
use super::packed::Packed;
use crate::policy::limit::{Bucket, Decision, Gcra, LIVE_BUCKETS, Now, Tat, Usage, Window};
use crate::shared::table::Moved;
use crate::shared::table::Slot;

/// Words of a slot besides key and `until`: the TAT of the burst, then the ring.
pub const WORDS: usize = 1 + LIVE_BUCKETS;
/// How often a request that raced others over the limit is tried again before it is refused.
const RETRIES: usize = 16;

type Ring = [u64; LIVE_BUCKETS];

pub fn admit(slot: Slot, ask: &Ask, window: &Window, burst: Option<&Gcra>) -> Result<Decision, Moved> {
    let mut retries = 0;
    loop {
        let (ring, usage) = read(slot, window, ask.now);
        let tat = slot.word(0).load(SeqCst);
        slot.still(ask.id)?;
        let level = burst.map_or(0, |gcra| gcra.level(Tat::from_bits(tat), ask.now.mono));
        let decision = window.decide_with(burst, &usage, level, ask.now.mono, ask.cost);
        if !decision.admitted || retries == RETRIES {
            return Ok(refused(slot, ask, burst, decision));
        }
        if !pour(slot, ask, burst, tat) {
            continue;
        }
        if !add(slot, ask, window, (&ring, &usage)) {
            pour_back(slot, ask, burst);
            continue;
        }
        slot.still(ask.id)?;
        if read(slot, window, ask.now).1.used <= window.rate().count {
            return Ok(decision);
        }
        take_back(slot, ask, window, usage.newest);
        pour_back(slot, ask, burst);
        retries += 1;
    }
}

pub fn peek(slot: Slot, now: &Now, cost: u64, window: &Window, burst: Option<&Gcra>) -> Decision {
    let (_, usage) = read(slot, window, now);
    let level = burst.map_or(0, |gcra| gcra.level(Tat::from_bits(slot.word(0).load(SeqCst)), now.mono));
    window.decide_with(burst, &usage, level, now.mono, cost)
}

/// Requests that the window holds.
pub fn used(slot: Slot, now: &Now, window: &Window) -> u64 {
    read(slot, window, now).1.used
}

/// Takes back from the bucket of `now` and, should that have less, from older ones. Never from newer ones:
/// they would then count less than was admitted in them once the older are gone.
pub fn refund(slot: Slot, ask: &Ask, window: &Window, burst: Option<&Gcra>) {
    pour_back(slot, ask, burst);
    let newest = ask.now.mono / window.tick();
    let mut owed = ask.cost;
    for tick in (newest.saturating_sub(LIVE_BUCKETS as u64 - 1)..=newest).rev() {
        if owed == 0 {
            break;
        }
        let here = Packed(place(slot, tick).load(SeqCst)).bucket(window.tick());
        let part = if here.tick == tick { owed.min(here.count) } else { 0 };
        take_back(slot, &Ask { cost: part, ..*ask }, window, tick);
        owed -= part;
    }
}

/// Raises the state to what Redis said: see [`super::LimitZone::observe`].
pub fn observe(slot: Slot, ask: &Ask, rule: (&Window, Option<&Gcra>), seen: &Decision) {
    let (window, burst) = rule;
    let (_, usage) = read(slot, window, ask.now);
    slot.keep_until(window.leaves_at(usage.newest));
    let mut missing = window.rate().count.saturating_sub(seen.remaining).saturating_sub(usage.used);
    if let Some(gcra) = burst {
        let requests = (gcra.burst() + 1).saturating_sub(seen.remaining);
        let drained_in = (requests * gcra.p()).div_ceil(gcra.n());
        slot.keep_until(ask.now.mono + drained_in);
        slot.change(slot.word(0), ask.id, |tat| {
            gcra.raised(Tat::from_bits(tat), ask.now.mono, drained_in).to_bits()
        });
        let by_window = !seen.admitted && seen.retry_after > gcra.capacity().div_ceil(gcra.n());
        missing = if by_window { missing } else { missing.min(if seen.admitted { ask.cost } else { 0 }) };
    }
    if missing > 0 {
        slot.change(place(slot, usage.newest), ask.id, |bits| more(bits, window, &usage, missing).0);
    }
}

/// All buckets of a slot, as stored and added up.
fn read(slot: Slot, window: &Window, now: &Now) -> (Ring, Usage) {
    let mut ring = [0; LIVE_BUCKETS];
    for (bits, word) in ring.iter_mut().zip(&slot.state()[1..WORDS]) {
        *bits = word.load(SeqCst);
    }
    let usage = window.usage(ring.map(|bits| Packed(bits).bucket(window.tick())), now.mono);
    (ring, usage)
}

fn place(slot: Slot, tick: u64) -> &'static AtomicU64 {
    slot.word(1 + (tick % LIVE_BUCKETS as u64) as usize)
}

/// The word of the newest bucket with `cost` more. What it held counts on if it is live, which a bucket of
/// another number can only be under a changed period.
fn more(bits: u64, window: &Window, usage: &Usage, cost: u64) -> Packed {
    let Bucket { tick, count } = Packed(bits).bucket(window.tick());
    let live = tick.saturating_add(LIVE_BUCKETS as u64) > usage.newest;
    Packed::new(usage.newest, window.tick(), if live { count + cost } else { cost })
}

/// Adds to the newest bucket, if that still holds what the decision was made on.
fn add(slot: Slot, ask: &Ask, window: &Window, (ring, usage): (&Ring, &Usage)) -> bool {
    slot.keep_until(window.leaves_at(usage.newest));
    let seen = ring[(usage.newest % LIVE_BUCKETS as u64) as usize];
    let next = more(seen, window, usage, ask.cost);
    place(slot, usage.newest).compare_exchange(seen, next.0, SeqCst, Relaxed).is_ok()
}

fn take_back(slot: Slot, ask: &Ask, window: &Window, tick: u64) {
    slot.change(place(slot, tick), ask.id, |bits| {
        let here = Packed(bits).bucket(window.tick());
        let count = here.count.saturating_sub(ask.cost);
        if here.tick == tick { Packed::new(tick, window.tick(), count).0 } else { bits }
    });
}

/// Charges the burst, if it still holds what the decision was made on.
fn pour(slot: Slot, ask: &Ask, burst: Option<&Gcra>, tat: u64) -> bool {
    let Some(gcra) = burst else { return true };
    let (decision, next) = gcra.admit(Tat::from_bits(tat), ask.now.mono, ask.cost);
    slot.keep_until(next.ms() + 1);
    decision.admitted && slot.word(0).compare_exchange(tat, next.to_bits(), SeqCst, Relaxed).is_ok()
}

fn pour_back(slot: Slot, ask: &Ask, burst: Option<&Gcra>) {
    if let Some(gcra) = burst {
        slot.change(slot.word(0), ask.id, |tat| {
            gcra.refund(Tat::from_bits(tat), ask.now.mono, ask.cost).to_bits()
        });
    }
}

/// A refusal stores nothing, but for a TAT that a changed configuration cuts down.
fn refused(slot: Slot, ask: &Ask, burst: Option<&Gcra>, decision: Decision) -> Decision {
    if let Some(gcra) = burst {
        let word = slot.word(0);
        let tat = Tat::from_bits(word.load(SeqCst));
        let (_, cut) = gcra.admit(tat, ask.now.mono, 0);
        if cut != tat {
            // Lost races leave it to the next refusal.
            let _ = word.compare_exchange(tat.to_bits(), cut.to_bits(), SeqCst, Relaxed);
        }
    }
    Decision { admitted: false, wait: 0, ..decision }
}
