//! What Redis refused of a window: one word that says until when.
//!
//! The counts of a window tell a sum and not when which of it leaves, so the time that Redis told is kept as
//! it was told. It holds for one rule and one cost, named in the word by a hash, with the key in it too: a
//! word that a stalled worker leaves in a slot's next owner denies nobody anything.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::Ask;
use super::packed::Until;
use crate::policy::Millis;
use crate::policy::limit::{Decision, Rule};
use crate::shared::table::Slot;

/// Words of a window's slot, after those of its state.
pub const WORDS: usize = 1;

/// Keeps a refusal, and forgets one that an admission shows to be over: by a refund, or a reset.
pub fn observe(slot: Slot, ask: &Ask, rule: &Rule, decision: &Decision) {
    let Some(word) = word(slot, rule) else { return };
    let name = name(ask, rule);
    if !decision.admitted {
        let until = Until { ms: ask.now.mono.saturating_add(decision.retry_after), low: name };
        slot.change(word, ask.id, |_| until.to_bits());
    } else if Until::from_bits(word.load(SeqCst)).low == name {
        forget(slot, ask.id, rule);
    }
}

/// Milliseconds for which Redis goes on refusing.
pub fn left(slot: Slot, ask: &Ask, rule: &Rule) -> Option<Millis> {
    let until = Until::from_bits(word(slot, rule)?.load(SeqCst));
    let left = until.ms.saturating_sub(ask.now.mono);
    (left > 0 && until.low == name(ask, rule)).then_some(left)
}

/// Quota has come back, no matter how.
pub fn forget(slot: Slot, id: u64, rule: &Rule) {
    if let Some(word) = word(slot, rule).filter(|word| word.load(SeqCst) != 0) {
        slot.change(word, id, |_| 0);
    }
}

fn word(slot: Slot, rule: &Rule) -> Option<&'static AtomicU64> {
    match rule {
        Rule::Gcra(_) => None,
        Rule::Sliding { .. } | Rule::Fixed(_) => slot.state().last(),
    }
}

/// 22 bits for all that a refusal depends on, mixed as `SplitMix64` does.
fn name(ask: &Ask, rule: &Rule) -> u64 {
    let rate = rule.rate();
    let burst = rule.burst().map_or(0, |burst| burst + 1);
    let mixed = [rate.count, rate.period, burst, ask.cost].into_iter().fold(ask.id, |hash, part| {
        let hash = (hash ^ part).wrapping_add(0x9e37_79b9_7f4a_7c15);
        let hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        hash ^ hash >> 31
    });
    mixed & Until::LOW_MASK
}
