//! The three words of a lease: requests that Redis has charged already and this host may spend.
//!
//! - **grant**: until when it lives, and how many requests are left of it; or a *blank*, which holds none.
//! - **pace**: until when a worker is on its way to Redis, how many requests it asks for, how many it got.
//! - **stamp**: Redis's name for the grant, for giving back what is left of it.
//!
//! Spending is one compare-and-swap that takes. Whoever puts something in takes everything out first, and
//! leaves a blank that bears a serial number nobody else has; then he looks whether the slot is still the
//! key's, and puts in only if his blank still lies there. Slots change hands only wiped, so what he puts in
//! comes to the key it was granted to, or to nobody; and a worker killed in between takes the quota with him.
//!
//! The stamp is written between blank and grant, by the same rule: first one that says nothing and bears the
//! serial number, then, only from that one, the true one. Had another worker gone through the same steps at
//! the same time, then either his blank came after ours and we do not put in, or his stamp came before ours
//! and he does not. So a stamp that names a grant lies beside that grant's requests and no others.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::packed::Until;
use crate::policy::Millis;
use crate::policy::limit::{Former, Pace};
use crate::shared::table::Slot;

/// Words of a lease.
pub const WORDS: usize = 3;
/// In place of the number of requests: a blank, whose time is a serial number.
const BLANK: u64 = Until::LOW_MASK;
/// Set in a stamp that names nothing. Redis's are times, and far below.
const UNNAMED: u64 = 1 << 63;
/// Bits of the pace's word for the number of requests that were granted.
const GRANTED_BITS: u32 = 17;
/// How often a worker that met others starts over, before what it holds is lost.
const ATTEMPTS: usize = 8;

/// Requests in hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// On the monotonic clock; from then on it is worth nothing to this host.
    pub until: Millis,
    pub tokens: u64,
}

/// What Redis granted, and the most that may then be in hand.
#[derive(Clone, Copy)]
pub struct Granted {
    pub grant: Grant,
    /// When it was asked for.
    pub asked: Millis,
    pub stamp: u64,
    pub cap: u64,
}

/// The slowness of a start: pace, and what was granted at that pace.
#[derive(Clone, Copy)]
struct Paced {
    /// A worker is on its way to Redis until then.
    mark: Millis,
    pace: Pace,
    granted: u64,
}

/// The words of one key.
#[derive(Clone, Copy)]
pub struct Lease {
    slot: Slot,
    id: u64,
    serials: &'static AtomicU64,
    words: &'static [AtomicU64; WORDS],
}

/// Somebody else was there at the same time.
struct Disturbed;

impl Lease {
    /// The lease in a slot; `None` where the zone keeps none.
    pub fn of(slot: Slot, id: u64, serials: &'static AtomicU64) -> Option<Self> {
        Some(Self { slot, id, serials, words: slot.lease().try_into().ok()? })
    }

    const fn grant(&self) -> &'static AtomicU64 {
        &self.words[0]
    }

    const fn pace(&self) -> &'static AtomicU64 {
        &self.words[1]
    }

    const fn stamp(&self) -> &'static AtomicU64 {
        &self.words[2]
    }

    /// Requests in hand, whether the grant still lives or not.
    pub fn tokens(&self) -> u64 {
        Grant::from_bits(self.grant().load(SeqCst)).map_or(0, |grant| grant.tokens)
    }

    /// Takes `cost` requests, and says how many there were before.
    pub fn spend(&self, now: Millis, cost: u64) -> Option<u64> {
        let stamp = self.stamp().load(SeqCst);
        loop {
            let bits = self.grant().load(SeqCst);
            let grant = Grant::from_bits(bits).filter(|grant| grant.until > now && grant.tokens >= cost)?;
            self.slot.still(self.id).ok()?;
            between();
            let next = Grant { tokens: grant.tokens - cost, ..grant };
            if self.grant().compare_exchange_weak(bits, next.to_bits(), SeqCst, SeqCst).is_ok() {
                // Had the slot gone to another key and come back, the stamp would not be the same.
                let mine = self.slot.still(self.id).is_ok() && self.stamp().load(SeqCst) == stamp;
                return mine.then_some(grant.tokens);
            }
        }
    }

    /// Puts back `cost` requests that were spent, if the grant still lives.
    pub fn unspend(&self, now: Millis, cost: u64) {
        for _ in 0..ATTEMPTS {
            let bits = self.grant().load(SeqCst);
            let most = self.paced().granted;
            let Some(grant) = Grant::from_bits(bits).filter(|grant| grant.until > now) else { return };
            let tokens = grant.tokens.saturating_add(cost);
            if tokens > most {
                return;
            }
            let blank = self.blank();
            if self.grant().compare_exchange(bits, blank, SeqCst, SeqCst).is_ok() {
                if self.slot.still(self.id).is_ok() {
                    between();
                    let next = Grant { tokens, ..grant }.to_bits();
                    // If others were there meanwhile, it is lost: the strict side.
                    let _ = self.grant().compare_exchange(blank, next, SeqCst, SeqCst);
                }
                return;
            }
        }
    }

    /// Makes the caller the one who asks Redis until `mark`, unless there is one, and says for how many.
    pub fn mark(&self, now: Millis, mark: Millis, cap: u64) -> Option<u64> {
        let word = self.pace();
        let mut bits = word.load(SeqCst);
        loop {
            let paced = Paced::from_bits(bits);
            if paced.mark > now || self.slot.still(self.id).is_err() {
                return None;
            }
            let pace = paced.pace.after(self.former(now, paced.granted), cap);
            match word.compare_exchange(bits, Paced { mark, pace, ..paced }.to_bits(), SeqCst, SeqCst) {
                Ok(_) => return Some(pace.total(cap)),
                Err(found) => bits = found,
            }
        }
    }

    /// Takes out what is left, once: how many requests of the grant with which stamp. Nothing if the two
    /// cannot be told to belong together.
    pub fn take_out(&self) -> (u64, u64) {
        let mut bits = self.grant().load(SeqCst);
        let blank = self.blank();
        let tokens = loop {
            let Some(grant) = Grant::from_bits(bits) else { return (0, 0) };
            match self.grant().compare_exchange(bits, blank, SeqCst, SeqCst) {
                Ok(_) => break grant.tokens,
                Err(found) => bits = found,
            }
        };
        between();
        let stamp = self.stamp().swap(unnamed(blank), SeqCst);
        between();
        // In this order: the slot was the key's while the blank lay there, and nobody's steps began or ended.
        let mine = self.slot.still(self.id).is_ok() && self.grant().load(SeqCst) == blank;
        if mine && tokens > 0 && stamp != 0 && stamp & UNNAMED == 0 { (tokens, stamp) } else { (0, 0) }
    }

    /// Puts in what Redis granted, and ends the mark.
    pub fn put_in(&self, granted: &Granted) {
        for _ in 0..ATTEMPTS {
            if self.slot.still(self.id).is_err() {
                return;
            }
            if let Ok(tokens) = self.try_put_in(granted) {
                self.change_pace(|paced| Paced { mark: 0, granted: tokens, ..paced });
                return;
            }
        }
        self.unmark();
    }

    /// Ends the mark.
    pub fn unmark(&self) {
        self.change_pace(|paced| Paced { mark: 0, ..paced });
    }

    /// One attempt; how many requests are then in hand.
    ///
    /// Requests that were there before, which takes an answer that comes later than another worker asked
    /// again, add up with the new ones. All of them then live as long as those that die first, so that none
    /// outlives what it was granted for, and nobody can tell any more which stamp they have.
    fn try_put_in(&self, granted: &Granted) -> Result<u64, Disturbed> {
        let blank = self.blank();
        self.stamp().swap(unnamed(blank), SeqCst);
        between();
        let before = Grant::from_bits(self.grant().swap(blank, SeqCst));
        self.slot.still(self.id).map_err(|_| Disturbed)?;
        let before = before.filter(|before| before.tokens > 0 && before.until > granted.asked);
        let known = granted.stamp != 0 && granted.stamp & UNNAMED == 0 && before.is_none();
        let stamp = if known { granted.stamp } else { unnamed(blank) };
        let next = before.map_or(granted.grant, |before| Grant {
            until: before.until.min(granted.grant.until),
            tokens: before.tokens.saturating_add(granted.grant.tokens),
        });
        let next = Grant { tokens: next.tokens.min(granted.cap), ..next };
        let exchange = |word: &AtomicU64, from, to| word.compare_exchange(from, to, SeqCst, SeqCst);
        between();
        exchange(self.stamp(), unnamed(blank), stamp).map_err(|_| Disturbed)?;
        between();
        exchange(self.grant(), blank, next.to_bits()).map_err(|_| Disturbed)?;
        Ok(next.tokens)
    }

    /// What became of the grant that is there.
    fn former(&self, now: Millis, granted: u64) -> Former {
        match Grant::from_bits(self.grant().load(SeqCst)) {
            None => Former::Idle,
            Some(grant) if grant.until > now => Former::Short { granted },
            Some(Grant { tokens: 0, .. }) => Former::Idle,
            Some(grant) => Former::Left { used: granted.saturating_sub(grant.tokens) },
        }
    }

    fn paced(&self) -> Paced {
        Paced::from_bits(self.pace().load(SeqCst))
    }

    fn change_pace(&self, change: impl Fn(Paced) -> Paced) {
        self.slot.change(self.pace(), self.id, |bits| change(Paced::from_bits(bits)).to_bits());
    }

    /// A blank like no other of this zone.
    fn blank(&self) -> u64 {
        let serial = self.serials.fetch_add(1, SeqCst);
        // The time's bits, and in 139 years of one a millisecond they begin again.
        Until { ms: serial & u64::MAX >> 22, low: BLANK }.to_bits()
    }
}

/// Between two steps. In tests, where other workers come in between now and then.
fn between() {
    #[cfg(test)]
    super::tests::step_aside();
}

/// The stamp that goes with a blank.
const fn unnamed(blank: u64) -> u64 {
    blank >> 22 | UNNAMED
}

impl Grant {
    fn from_bits(bits: u64) -> Option<Self> {
        let Until { ms, low } = Until::from_bits(bits);
        (low != BLANK).then_some(Self { until: ms, tokens: low })
    }

    fn to_bits(self) -> u64 {
        Until { ms: self.until, low: self.tokens.min(BLANK - 1) }.to_bits()
    }
}

impl Paced {
    fn from_bits(bits: u64) -> Self {
        let Until { ms, low } = Until::from_bits(bits);
        let granted = low & ((1 << GRANTED_BITS) - 1);
        Self { mark: ms, pace: Pace::new(low >> GRANTED_BITS), granted }
    }

    fn to_bits(self) -> u64 {
        let granted = self.granted.min((1 << GRANTED_BITS) - 1);
        Until { ms: self.mark, low: self.pace.exponent() << GRANTED_BITS | granted }.to_bits()
    }
}

const _: () = assert!(Pace::BITS + GRANTED_BITS == 22);
