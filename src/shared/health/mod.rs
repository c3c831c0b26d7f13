//! One health check of one server: who probes it, what came of it.
//!
//! Exactly one worker of the host probes at a time. Its right is one word, a lease taken, kept and given
//! back by compare-and-swap: while a probe runs it holds the end of the lease, between probes the time the
//! next one is due. A worker that dies or is stopped loses it; what it says afterwards is dropped.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicU32, AtomicU64};

use super::cell::shared_struct;
use crate::policy::Millis;
use crate::policy::breaker::words::{ahead, stamp};

shared_struct! {
    /// The record of one (server, check). Times are milliseconds of the host's monotonic clock.
    #[derive(Debug, Default)]
    pub struct Check {
        /// `Hold`: who may probe, and until or from when.
        lease: AtomicU64,
        /// The verdict; its bits belong to the policy of health.
        state: AtomicU64,
        last_probe: AtomicU64,
        last_change: AtomicU64,
        checks: AtomicU64,
        fails: AtomicU64,
        unhealthy: AtomicU64,
        /// 0: no probe yet; 1: the last one failed; 2: it passed.
        passed: AtomicU32,
        overdue: AtomicU32,
    }
}

const _: () = assert!(size_of::<Check>() == 64);

/// A worker that would probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prober {
    /// Its index, modulo 1024.
    pub worker: u16,
    /// Of its cycle, as `Store::begin_cycle` counts.
    pub generation: u32,
    /// Whether this server falls to this worker when all workers live.
    pub preferred: bool,
}

/// The right to probe once. Give it to `complete` or `abandon`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    word: u64,
    /// When this probe was due: the next is due one interval after that, however late this one began.
    pub due: Millis,
}

/// A finished probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    pub now: Millis,
    pub passed: bool,
    /// When the next one is due.
    pub next: Millis,
    /// Probes that were due before this one ended, and are left out.
    pub overdue: u64,
}

/// What a probe makes of the verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// The new state bits.
    pub state: u64,
    /// The verdict is another than before.
    pub changed: bool,
    /// It became unhealthy with this probe.
    pub fell: bool,
}

/// A check at one moment, for the API and the metrics. Counters never go back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    pub state: u64,
    /// Probes finished.
    pub checks: u64,
    /// Probes failed.
    pub fails: u64,
    /// How often the server became unhealthy.
    pub unhealthy: u64,
    /// Probes left out because the one before them took longer than an interval, or nobody was there to make them; to
    /// 2³², and then from 0 again.
    pub overdue: u32,
    pub last_passed: Option<bool>,
    /// When the last probe finished; 0: never.
    pub last_probe: Millis,
    /// When the verdict last changed; 0: never.
    pub last_change: Millis,
}

impl Check {
    /// May this worker probe now? `interval` between probes, `timeout` of a whole probe.
    ///
    /// When a probe is due, the preferred worker has it at once; so has the last prober, a moment later;
    /// others step in after half an interval, at most 2 s. While a probe runs, a worker of the same index (the
    /// prober's successor: one process never asks twice at a time) and the preferred worker of a newer cycle
    /// take over at once, others when the lease ends. A worker of an older cycle never takes from a newer one.
    pub fn claim(&self, me: Prober, now: Millis, interval: Millis, timeout: Millis) -> Option<Lease> {
        let word = self.lease.load(SeqCst);
        let held = Hold::unpack(word);
        if word == 0 && !me.preferred {
            // Nobody ever held it: from now on it is overdue.
            self.swap(
                word,
                Hold { busy: false, time: stamp(now), ..held.taken(Prober { worker: NOBODY, ..me }) },
            );
            return None;
        }
        if word != 0 && held.wait(me, now, interval) > 0 {
            return None;
        }
        let slack = (interval / 4).clamp(50, 1_000);
        let expiry = stamp(now.wrapping_add(timeout).wrapping_add(slack));
        let taken = Hold { busy: true, time: expiry, ..held.taken(me) };
        let due = if word == 0 || held.busy { now } else { now.saturating_add_signed(ahead(held.time, now)) };
        self.swap(word, taken).then(|| Lease { word: taken.pack(), due })
    }

    /// Milliseconds until `claim` may succeed for this worker as things stand, 0 for now: how long to sleep.
    pub fn due(&self, me: Prober, now: Millis, interval: Millis) -> Millis {
        match self.lease.load(SeqCst) {
            0 => 0,
            word => Hold::unpack(word).wait(me, now, interval).max(0).unsigned_abs(),
        }
    }

    /// Books a finished probe. `judge` makes the new state of the present one.
    ///
    /// `None`: the lease was taken over meanwhile, and the result is dropped.
    pub fn complete(
        &self,
        lease: Lease,
        probe: Probe,
        judge: impl FnOnce(u64) -> Judgement,
    ) -> Option<Judgement> {
        let before = self.state.load(SeqCst);
        let judgement = judge(before);
        let idle = Hold { busy: false, time: stamp(probe.next), ..Hold::unpack(lease.word) };
        if !self.swap(lease.word, idle) {
            return None;
        }
        // Nobody else may probe before `next`; stopped for longer than that, we must not undo his verdict.
        self.state.compare_exchange(before, judgement.state, SeqCst, SeqCst).ok()?;
        self.last_probe.store(probe.now, Relaxed);
        self.passed.store(1 + u32::from(probe.passed), Relaxed);
        self.checks.fetch_add(1, Relaxed);
        self.fails.fetch_add(u64::from(!probe.passed), Relaxed);
        self.unhealthy.fetch_add(u64::from(judgement.fell), Relaxed);
        self.overdue.fetch_add(u32::try_from(probe.overdue).unwrap_or(u32::MAX), Relaxed);
        if judgement.changed {
            self.last_change.store(probe.now, Relaxed);
        }
        Some(judgement)
    }

    /// Gives the lease back without a result (worker exits, no descriptors left): due again at `next`.
    pub fn abandon(&self, lease: Lease, next: Millis) {
        // Taken over already: nothing to give back.
        let _ = self.swap(lease.word, Hold { busy: false, time: stamp(next), ..Hold::unpack(lease.word) });
    }

    /// Makes the next probe due at `at`, whatever was planned; the result of one under way is dropped. Only the
    /// master, when cycle `generation` begins.
    pub fn hasten(&self, generation: u32, at: Millis) {
        let me = Prober { worker: NOBODY, generation, preferred: false };
        let due = |word| Hold { busy: false, time: stamp(at), ..Hold::unpack(word).taken(me) };
        let mut word = self.lease.load(SeqCst);
        while let Err(actual) = self.lease.compare_exchange(word, due(word).pack(), SeqCst, SeqCst) {
            word = actual;
        }
    }

    /// The verdict's bits: one load, for the request path.
    pub fn state(&self) -> u64 {
        self.state.load(SeqCst)
    }

    /// Rewrites the verdict outside a probe: the master at a reload, the operator. Returns the new bits.
    pub fn set_state(&self, to: impl Fn(u64) -> u64) -> u64 {
        let mut before = self.state.load(SeqCst);
        loop {
            let after = to(before);
            match self.state.compare_exchange(before, after, SeqCst, SeqCst) {
                Ok(_) => return after,
                Err(actual) => before = actual,
            }
        }
    }

    /// The worker that probes at this moment.
    pub fn prober(&self, now: Millis) -> Option<u16> {
        let word = self.lease.load(Relaxed);
        let held = Hold::unpack(word);
        (word != 0 && held.busy && ahead(held.time, now) > 0).then_some(held.worker)
    }

    /// The check as it stands.
    pub fn view(&self) -> View {
        View {
            state: self.state(),
            checks: self.checks.load(Relaxed),
            fails: self.fails.load(Relaxed),
            unhealthy: self.unhealthy.load(Relaxed),
            overdue: self.overdue.load(Relaxed),
            last_passed: match self.passed.load(Relaxed) {
                0 => None,
                passed => Some(passed == 2),
            },
            last_probe: self.last_probe.load(Relaxed),
            last_change: self.last_change.load(Relaxed),
        }
    }

    fn swap(&self, from: u64, to: Hold) -> bool {
        self.lease.compare_exchange(from, to.pack(), SeqCst, SeqCst).is_ok()
    }
}

/// A worker index that no worker has.
const NOBODY: u16 = 1_023;

/// The lease word: busy 1, time 35, worker 10, generation 10, nonce 8. The nonce is never 0, so that 0 stands
/// for a lease that nobody ever held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hold {
    busy: bool,
    /// Busy: end of the lease. Otherwise: when the next probe is due.
    time: u64,
    worker: u16,
    generation: u16,
    nonce: u8,
}

impl Hold {
    const fn unpack(word: u64) -> Self {
        Self {
            busy: word & 1 == 1,
            time: word >> 1 & ((1 << 35) - 1),
            worker: (word >> 36 & 1_023) as u16,
            generation: (word >> 46 & 1_023) as u16,
            nonce: (word >> 56) as u8,
        }
    }

    const fn pack(self) -> u64 {
        self.busy as u64
            | self.time << 1
            | (self.worker as u64 & 1_023) << 36
            | (self.generation as u64 & 1_023) << 46
            | (self.nonce as u64) << 56
    }

    const fn taken(self, me: Prober) -> Self {
        let nonce = if self.nonce == u8::MAX { 1 } else { self.nonce + 1 };
        Self { worker: me.worker & 1_023, generation: (me.generation & 1_023) as u16, nonce, ..self }
    }

    /// How many cycles newer than the holder `me` is, over the wrap; negative: older.
    const fn newer(self, me: Prober) -> i16 {
        (((me.generation as u16).wrapping_sub(self.generation)) << 6).cast_signed() >> 6
    }

    /// Milliseconds until `me` may take the lease, 0 or less: now.
    fn wait(self, me: Prober, now: Millis, interval: Millis) -> i64 {
        let left = ahead(self.time, now);
        let same = self.worker == me.worker & 1_023;
        match self.newer(me) {
            // Its workers are leaving. Look again in a while: the count of cycles could have wrapped.
            older if older < 0 => interval.clamp(1_000, 60_000).cast_signed(),
            newer if self.busy => {
                if same || (newer > 0 && me.preferred) {
                    0
                } else {
                    left
                }
            }
            _ if me.preferred => left,
            _ if same => left + (interval / 8).min(250).cast_signed(),
            _ => left + (interval / 2).min(2_000).cast_signed(),
        }
    }
}

#[cfg(test)]
mod tests;
