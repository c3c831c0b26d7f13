//! The log of one key's hits under one rule: a ring of times, newest last.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::Slot;
use crate::policy::Millis;
use crate::policy::ban::{Hits, RING, Terms};
use crate::shared::table::Moved;

/// Words of a slot: entries so far, when a ban was last made of them, then the ring.
pub const WORDS: usize = 2 + RING;

/// Bits of an entry for the number of hits, below the time.
const COUNT_BITS: u32 = 22;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

/// Enters a hit at `now`. True for the one worker that is to ban the key for it: hits up to then count no more.
///
/// A hit that meets a slot on its way to another key may be counted there. A worker killed between drawing a place
/// and filling it leaves there what lay there before, which is older than any other.
pub fn enter(slot: Slot, id: u64, terms: &Terms, since: Millis, now: Millis) -> Result<bool, Moved> {
    slot.keep_until(now + terms.window);
    slot.still(id)?;
    if !join(slot, terms, now) {
        let drawn = head(slot).fetch_add(1, SeqCst);
        place(slot, drawn).store(pack(Hits { at: now, count: 1 }), SeqCst);
    }
    loop {
        let made = slot.word(1).load(SeqCst);
        let entries = slot.state().iter().skip(2).map(|word| unpack(word.load(SeqCst)));
        let enough = terms.reached(terms.counted(entries, since.max(made), now));
        slot.still(id)?;
        if !enough {
            return Ok(false);
        }
        if slot.word(1).compare_exchange(made, now, SeqCst, SeqCst).is_ok() {
            return Ok(true);
        }
    }
}

/// Counts the hit in the newest entry, if it belongs there.
fn join(slot: Slot, terms: &Terms, now: Millis) -> bool {
    let Some(newest) = head(slot).load(SeqCst).checked_sub(1).map(|last| place(slot, last)) else {
        return false;
    };
    let mut bits = newest.load(SeqCst);
    loop {
        let hits = unpack(bits);
        if !terms.joins(hits, now) {
            return false;
        }
        match newest.compare_exchange_weak(bits, pack(Hits { count: hits.count + 1, ..hits }), SeqCst, SeqCst)
        {
            Ok(_) => return true,
            Err(found) => bits = found,
        }
    }
}

fn head(slot: Slot) -> &'static AtomicU64 {
    slot.word(0)
}

fn place(slot: Slot, number: u64) -> &'static AtomicU64 {
    slot.word(2 + (number % RING as u64) as usize)
}

const fn pack(hits: Hits) -> u64 {
    let count = hits.count as u64;
    hits.at << COUNT_BITS | if count > COUNT_MASK { COUNT_MASK } else { count }
}

const fn unpack(bits: u64) -> Hits {
    Hits { at: bits >> COUNT_BITS, count: (bits & COUNT_MASK) as u32 }
}
