//! The breaker's other side: the operator, the housekeeper, the observer, the zone.

use crate::shared::cell::atomic::Ordering::{Relaxed, SeqCst};
use crate::shared::cell::atomic::{AtomicU32, AtomicU64};

use super::{Breaker, RING, is_dry, scatter};
use crate::policy::Millis;
use crate::policy::breaker::words::{self, Bucket, Override, Permit, PermitState, Run, StateWord};
use crate::policy::breaker::{
    BUCKETS, Cause, Failure, Forced, Settings, State, Tally, Transition, bucket_millis,
};

const DAY: i64 = 86_400_000;

/// A breaker at one moment, for the API and the metrics. Counters never go back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    pub state: State,
    /// What the operator decided; wins over `state`.
    pub forced: Option<Forced>,
    /// Refusals are only told of: by configuration or by the operator.
    pub dry_run: bool,
    /// End of `forced`; 0: none.
    pub forced_until: Millis,
    /// Milliseconds until a request may pass; 0 when it may now, or when nobody knows.
    pub retry_after: Millis,
    /// When the state last changed; 0: never.
    pub changed: Millis,
    pub attempts: u8,
    /// Failures within the window, at most 32.
    pub failures: u32,
    /// Failures in a row.
    pub consecutive: u32,
    /// Results in the window; all 0 unless a rate rule is on.
    pub window: Tally,
    /// Why it opened last.
    pub why: Option<Cause>,
    pub last: Option<Failure>,
    /// When `last` was seen.
    pub last_at: Millis,
    pub ok: u64,
    pub fail: u64,
    pub slow: u64,
    pub rejected: u64,
    pub opened: u64,
    pub half_opened: u64,
    pub closed: u64,
    pub late: u64,
    pub suppressed: u64,
}

impl View {
    /// The value of `$circuit_breaker_state`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match (self.forced, self.state) {
            (Some(Forced::Open), _) => "forced_open",
            (Some(Forced::Closed), _) => "forced_closed",
            (_, State::Closed) => "closed",
            (_, State::Open) => "open",
            (_, State::HalfOpen) => "half_open",
        }
    }
}

impl Breaker {
    /// The breaker as it stands.
    pub fn view(&self, s: &Settings, now: Millis) -> View {
        let (state, over) = (self.load(), self.over());
        let forced = over.at(now);
        let retry_after = match forced {
            Some(Forced::Open) => self.forced_for(s, now, state),
            Some(Forced::Closed) => 0,
            _ => self.retry_after(state, now),
        };
        let run = Run::unpack(self.run.load(Relaxed));
        let window = if s.rated() { self.tally(s, now, state.generation, None) } else { Tally::default() };
        View {
            state: state.state,
            forced,
            dry_run: is_dry(s, forced),
            forced_until: if forced.is_some() { over.until } else { 0 },
            retry_after,
            changed: self.changed.load(Relaxed),
            attempts: state.attempts,
            failures: self.failures(s.window, now).0,
            consecutive: if run.generation == state.generation & 0xFFF { run.count } else { 0 },
            window,
            why: Cause::from_bits(self.why.load(Relaxed)),
            last: Failure::from_bits(self.last.load(Relaxed)),
            last_at: self.failed_at.load(Relaxed),
            ok: self.ok.load(Relaxed),
            fail: self.fail.load(Relaxed),
            slow: self.slow.load(Relaxed),
            rejected: self.rejected.load(Relaxed),
            opened: self.opened.load(Relaxed).into(),
            half_opened: self.half_opened.load(Relaxed).into(),
            closed: self.closed.load(Relaxed).into(),
            late: self.late.load(Relaxed),
            suppressed: self.suppressed.load(Relaxed).into(),
        }
    }

    fn over(&self) -> Override {
        Override::unpack(self.over.load(Relaxed))
    }

    /// The operator's override in force.
    pub fn forced(&self, now: Millis) -> Option<Forced> {
        self.over().at(now)
    }

    /// Whether refusals are only told of: by configuration, or by the operator.
    pub fn is_dry(&self, s: &Settings, now: Millis) -> bool {
        is_dry(s, self.forced(now))
    }

    /// Whether what refuses is HALF_OPEN.
    pub fn is_testing(&self, now: Millis) -> bool {
        self.load().state == State::HalfOpen && !self.is_held(now)
    }

    /// Whether the operator holds the machine where it is.
    pub(super) fn is_held(&self, now: Millis) -> bool {
        matches!(self.forced(now), Some(Forced::Open | Forced::Closed))
    }

    /// Milliseconds until a request may pass what the operator forced open, if that has an end; else 0. The
    /// machine below may be open for longer.
    pub(super) fn forced_for(&self, s: &Settings, now: Millis, state: StateWord) -> Millis {
        let until = self.over().until;
        if until == 0 {
            return 0;
        }
        let below = if state.state == State::Open && !s.dry_run { self.retry_after(state, now) } else { 0 };
        until.saturating_sub(now).max(below)
    }

    /// Milliseconds until a request may pass as a test, at least 1.
    pub(super) fn retry_after(&self, state: StateWord, now: Millis) -> Millis {
        let left = match state.state {
            State::Closed => return 0,
            State::Open => words::ahead(state.deadline, now),
            State::HalfOpen => {
                let permits = self.permits.iter().map(|permit| Permit::unpack(permit.load(SeqCst)));
                let leased = |p: &Permit| p.state == PermitState::Leased && p.generation == state.generation;
                permits.filter(leased).map(|permit| words::ahead(permit.expiry, now)).min().unwrap_or(1)
            }
        };
        left.max(1).unsigned_abs()
    }

    /// Puts the operator over the machine, or takes him off it. `until` is the end in time; 0: none. Below,
    /// the state stays and under [`Forced::Closed`] the windows keep counting.
    pub fn force(&self, forced: Option<Forced>, until: Millis) {
        self.over.store(Override { forced, until }.pack(), SeqCst);
    }

    /// Takes an override off that is over; what it was, told to one caller only. Nothing waits for it: an
    /// override ends at its time.
    pub fn lapse(&self, now: Millis) -> Option<Forced> {
        let word = self.over.load(SeqCst);
        let over = Override::unpack(word);
        let forced = over.forced.filter(|_| over.at(now).is_none())?;
        // Lost to a new override, which stays.
        self.over.compare_exchange(word, 0, SeqCst, SeqCst).is_ok().then_some(forced)
    }

    /// Back to CLOSED with an empty window, no attempts and no override, by the operator.
    pub fn reset(&self, now: Millis) -> Option<Transition> {
        // Past what was logged since another reset in this very millisecond, too. Never refused.
        let _ = self.floor.fetch_update(SeqCst, SeqCst, |floor| Some(floor.max(now) + 1));
        self.over.store(0, SeqCst);
        let from = self.update(|at| Some(StateWord { attempts: 0, ..at.next(State::Closed) }))?;
        self.changed.store(now, Relaxed);
        if from.state == State::Closed {
            return None;
        }
        self.closed.fetch_add(1, Relaxed);
        self.details.changed(from.state, Cause::Reset);
        Some(self.transition(from, State::Closed, Cause::Reset))
    }

    /// Frees the permits of a worker that is dead. Its successor of the same index calls this when it starts;
    /// after a reload the predecessor still lives: do not call it then (`Store::enter` tells the two apart).
    ///
    /// The workers that share [`words::CROWD`] have no successors: their permits end with their leases.
    pub fn reclaim(&self, worker: u16) {
        let tag = words::tag(worker);
        if tag == words::CROWD {
            return;
        }
        for permit in &self.permits {
            let word = permit.load(SeqCst);
            let held = Permit::unpack(word);
            if held.state == PermitState::Leased && held.worker == tag {
                // Lost only to whoever takes the permit over.
                let _ = permit.compare_exchange(word, 0, SeqCst, SeqCst);
            }
        }
    }

    /// Once a second, by one worker: lets attempts decay by one per `window` spent CLOSED, finishes what a dead
    /// worker left, and wipes what is about to look young again (35 bits of milliseconds are 397 days, 32 are 49).
    pub fn housekeep(&self, s: &Settings, now: Millis) -> Option<Transition> {
        self.decay(s, now);
        self.wipe(s, now);
        let state = self.load();
        if self.is_held(now) {
            return None;
        }
        self.settle(s, now, state, Cause::TestFailed, scatter(state.pack()))
    }

    fn decay(&self, s: &Settings, now: Millis) {
        let since = self.changed.load(Relaxed).max(self.calm.load(Relaxed));
        let state = self.load();
        let periods = now.saturating_sub(since) / s.window.max(1);
        if state.state != State::Closed || state.attempts == 0 || periods == 0 {
            return;
        }
        let attempts = state.attempts - periods.min(u64::from(state.attempts)) as u8;
        let next = StateWord { attempts, ..state };
        if self.state.compare_exchange(state.pack(), next.pack(), SeqCst, SeqCst).is_ok() {
            self.calm.store(since + periods * s.window.max(1), Relaxed);
        }
    }

    fn wipe(&self, s: &Settings, now: Millis) {
        self.update(|at| {
            let long_past = at.state == State::Open && words::ahead(at.deadline, now) < -DAY;
            long_past.then_some(StateWord { deadline: words::stamp(now), ..at })
        });
        for entry in &self.log {
            let stamp = entry.load(SeqCst);
            if stamp != 0 && words::log_age(stamp, now, s.window).is_none() {
                let _ = entry.compare_exchange(stamp, 0, SeqCst, SeqCst);
            }
        }
        for permit in &self.permits {
            let word = permit.load(SeqCst);
            let held = Permit::unpack(word);
            if held.state == PermitState::Leased && words::ahead(held.expiry, now) < -DAY {
                let _ = permit.compare_exchange(word, 0, SeqCst, SeqCst);
            }
        }
        self.wipe_buckets(s, now);
    }

    fn wipe_buckets(&self, s: &Settings, now: Millis) {
        let length = bucket_millis(s.window);
        let generation = self.load().generation;
        // A worker whose clock is ahead may have begun the next buckets.
        let newest = now / length + (RING as u64 - BUCKETS) / 2;
        for index in newest.saturating_sub(RING as u64 - 1)..=newest {
            let bucket = &self.buckets[(index % RING as u64) as usize];
            let word = bucket.load(SeqCst);
            if word != 0 && Bucket::unpack(word).tick != words::tick(index, length, generation) {
                let _ = bucket.compare_exchange(word, 0, SeqCst, SeqCst);
            }
        }
    }

    /// Rewrites the state word if `to` has something to say; returns what it was then.
    fn update(&self, to: impl Fn(StateWord) -> Option<StateWord>) -> Option<StateWord> {
        let change = |word| to(StateWord::unpack(word)).map(StateWord::pack);
        self.state.fetch_update(SeqCst, SeqCst, change).ok().map(StateWord::unpack)
    }

    /// Makes a used record as good as new. The generation moves on, so results for its former owner are late.
    pub(in crate::shared) fn clear(&self) {
        self.update(|at| {
            Some(StateWord { generation: at.next(State::Closed).generation, ..StateWord::unpack(0) })
        });
        let wide = self.buckets.iter().chain(&self.permits).chain(self.counters());
        wide.for_each(|word| word.store(0, SeqCst));
        let narrow = self.log.iter().chain([&self.run, &self.last, &self.why, &self.head, &self.expired]);
        let narrow = narrow.chain(self.changes());
        narrow.for_each(|word| word.store(0, SeqCst));
        self.details.clear();
        let times = [&self.changed, &self.floor, &self.over, &self.failed_at, &self.calm];
        times.into_iter().for_each(|word| word.store(0, SeqCst));
    }

    /// Takes over another zone's record. Permits still out stay behind: their results will go there.
    pub(in crate::shared) fn copy_from(&self, old: &Self) {
        let copy = |to: &AtomicU64, from: &AtomicU64| to.store(from.load(SeqCst), SeqCst);
        let copy32 = |to: &AtomicU32, from: &AtomicU32| to.store(from.load(SeqCst), SeqCst);
        for (to, from) in self.permits.iter().zip(&old.permits) {
            let word = from.load(SeqCst);
            let out = Permit::unpack(word).state == PermitState::Leased;
            to.store(if out { 0 } else { word }, SeqCst);
        }
        self.buckets.iter().zip(&old.buckets).for_each(|(to, from)| copy(to, from));
        self.log.iter().zip(&old.log).for_each(|(to, from)| copy32(to, from));
        self.counters().into_iter().zip(old.counters()).for_each(|(to, from)| copy(to, from));
        self.changes().into_iter().zip(old.changes()).for_each(|(to, from)| copy32(to, from));
        copy32(&self.run, &old.run);
        copy32(&self.last, &old.last);
        copy32(&self.head, &old.head);
        copy32(&self.why, &old.why);
        copy32(&self.expired, &old.expired);
        self.details.copy_from(&old.details);
        copy(&self.changed, &old.changed);
        copy(&self.floor, &old.floor);
        copy(&self.over, &old.over);
        copy(&self.failed_at, &old.failed_at);
        copy(&self.calm, &old.calm);
        copy(&self.state, &old.state);
    }

    const fn counters(&self) -> [&AtomicU64; 5] {
        [&self.ok, &self.fail, &self.slow, &self.rejected, &self.late]
    }

    const fn changes(&self) -> [&AtomicU32; 4] {
        [&self.opened, &self.half_opened, &self.closed, &self.suppressed]
    }
}
