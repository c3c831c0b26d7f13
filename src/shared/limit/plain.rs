//! `gcra` and `fixed_window` in shared memory: one word each, so one compare-and-swap decides.

use std::sync::atomic::{Ordering::Relaxed, Ordering::SeqCst};

use super::Ask;
use super::packed::Packed;
use crate::policy::limit::{Bucket, Decision, FixedWindow, Gcra, Now};
use crate::shared::table::Moved;
use crate::shared::table::Slot;

/// Words of a fixed window's slot besides key and `until`: its count.
pub const WORDS: usize = 1;

pub fn admit_gcra(slot: Slot, ask: &Ask, gcra: &Gcra) -> Result<Decision, Moved> {
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

pub fn admit(slot: Slot, ask: &Ask, window: &FixedWindow) -> Result<Decision, Moved> {
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

/// The window to count in.
pub fn current(slot: Slot, now: &Now, window: &FixedWindow) -> Bucket {
    window.current(Packed(slot.word(0).load(SeqCst)).bucket(window.rate().period), now.wall)
}

pub fn refund(slot: Slot, ask: &Ask, window: &FixedWindow) {
    let period = window.rate().period;
    slot.change(slot.word(0), ask.id, |bits| {
        let current = window.current(Packed(bits).bucket(period), ask.now.wall);
        if current.count == 0 {
            bits
        } else {
            Packed::new(current.tick, period, current.count.saturating_sub(ask.cost)).0
        }
    });
}

/// Raises the count to what leaves only `remaining`.
pub fn raise(slot: Slot, ask: &Ask, window: &FixedWindow, remaining: u64) {
    let period = window.rate().period;
    let used = window.rate().count.saturating_sub(remaining);
    slot.keep_until(window.ends_at(ask.now.wall / period));
    slot.change(slot.word(0), ask.id, |bits| {
        let current = window.current(Packed(bits).bucket(period), ask.now.wall);
        Packed::new(current.tick, period, current.count.max(used)).0
    });
}
