//! Leases of a zone: what a request finds in hand, and what goes to Redis and comes back from there.

use std::sync::atomic::Ordering::SeqCst;

use super::grant::{Grant, Granted, Lease};
use super::{LimitZone, stands};
use crate::policy::Millis;
use crate::policy::limit::{Decision, KeyHash, Now, Rule, Tat};
use crate::shared::table::Slot;

/// How often a key's slot is looked for before the request goes without a lease.
const ATTEMPTS: usize = 4;

/// What a request that found nothing in hand takes along to Redis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Want {
    /// Requests to ask for beyond this one.
    pub more: u64,
    /// Requests of the former grant that nobody will spend any more, to be given back.
    pub unused: u64,
    /// The former grant's name; means nothing if `unused` is 0.
    pub stamp: u64,
    /// Whether the answer is to be told by [`LimitZone::grant`] or [`LimitZone::abandon`].
    pub asker: bool,
}

impl LimitZone {
    /// Takes `cost` requests from the grant in hand, with what to tell the client: `gateways` hosts share what
    /// is known to be left beyond it. `None`: there is too little or it is too old, so ask Redis.
    ///
    /// The delay is `limit_req`'s: the requests still in hand are charged already, but have not come yet.
    pub fn spend(&self, key: &KeyHash, rule: &Rule, now: &Now, cost: u64, gateways: u32) -> Option<Decision> {
        let (slot, id) = self.find(key, rule)?;
        let before = self.lease(slot, id)?.spend(now.mono, cost)?;
        let left = before - cost;
        let known = stands(slot, rule, now, 0);
        let retry_after = if left >= cost {
            0
        } else {
            let next = stands(slot, rule, now, cost);
            if next.admitted { 0 } else { next.retry_after }
        };
        Some(Decision {
            admitted: true,
            wait: wait(slot, rule, now, (before, cost)),
            remaining: left + known.remaining / u64::from(gateways.max(1)),
            retry_after,
            reset_after: known.reset_after,
        })
    }

    /// Gives back what [`LimitZone::spend`] took for a request that was refused elsewhere: into a grant that
    /// still lives, up to what was granted. Otherwise, or in a race, it is lost, which errs to the strict side.
    pub fn unspend(&self, key: &KeyHash, rule: &Rule, now: &Now, cost: u64) {
        if let Some(lease) = self.find(key, rule).and_then(|(slot, id)| self.lease(slot, id)) {
            lease.unspend(now.mono, cost);
        }
    }

    /// Before Redis is asked: how many requests beyond this one to ask for, to be spent within `life`
    /// milliseconds, and what to give back. Until `patience` milliseconds have passed, or the answer is here,
    /// other workers of this host are told to ask for themselves alone.
    pub fn want(&self, key: &KeyHash, rule: &Rule, now: &Now, life: Millis, patience: Millis) -> Want {
        if !self.shape.lease || !rule.leases(life) {
            return Want::default();
        }
        let claim = (0..ATTEMPTS).find_map(|_| self.claim(key, rule, now));
        let Some((slot, id)) = claim else { return Want::default() };
        slot.begin(self.clock(now));
        let Some(lease) = self.lease(slot, id) else { return Want::default() };
        let Some(total) = lease.mark(now.mono, now.mono.saturating_add(patience), rule.lease_cap(life))
        else {
            return Want::default();
        };
        let (unused, stamp) = lease.take_out();
        Want { more: total - 1, unused, stamp, asker: true }
    }

    /// Redis has answered the asker, and granted so many requests, maybe none. They live for `life`
    /// milliseconds from `asked`, the time *before* the question was sent: the clocks of Redis and of the
    /// host need not agree for the host's view to be the shorter one. `stamp` is 0 if they have no name.
    pub fn grant(&self, key: &KeyHash, rule: &Rule, asked: &Now, life: Millis, granted: u64, stamp: u64) {
        let found = self.find(key, rule).and_then(|(slot, id)| self.lease(slot, id));
        // A key that lost its slot meanwhile loses the grant with it.
        let Some(lease) = found else { return };
        let grant = Grant { until: asked.mono.saturating_add(life), tokens: granted };
        lease.put_in(&Granted { grant, asked: asked.mono, stamp, cap: rule.lease_cap(life) });
    }

    /// The asker got no answer.
    pub fn abandon(&self, key: &KeyHash) {
        let (id, group) = self.table.locate(key);
        let slot = self.table.find(group, id);
        if let Some(lease) = slot.and_then(|slot| self.lease(slot, id)) {
            lease.unmark();
        }
    }

    pub(super) fn lease(&self, slot: Slot, id: u64) -> Option<Lease> {
        Lease::of(slot, id, &self.header.serials)
    }
}

/// `limit_req`'s delay of a request that found so many in hand and takes so many.
fn wait(slot: Slot, rule: &Rule, now: &Now, (tokens, cost): (u64, u64)) -> Millis {
    let (gcra, tat) = match rule {
        Rule::Gcra(gcra) => (gcra, slot.tat()),
        Rule::Sliding { burst: Some(gcra), .. } => (gcra, Tat::from_bits(slot.word(0).load(SeqCst))),
        Rule::Sliding { burst: None, .. } | Rule::Fixed(_) => return 0,
    };
    let poured = gcra.level(tat, now.mono).saturating_sub(tokens.saturating_mul(gcra.p()));
    gcra.report(poured, cost, true).wait
}
