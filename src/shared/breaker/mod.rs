//! The circuit breaker all workers share: 512 bytes of atomics, one compare-and-swap per decision.
//!
//! Nothing is cleared at a transition. The generation in the state word makes old permits, buckets, runs and
//! late results void; a floor in time does it for the failure log. So there is no instant at which a killed
//! worker leaves half a change: whoever comes next finishes it or does not see it.
//!
//! Everything that decides is sequentially consistent: two workers that each log a failure and then count
//! them must not both miss the other's.

mod ask;
mod count;
mod details;
mod eject;
mod keep;
#[cfg(test)]
mod tests;

use crate::shared::cell::atomic::Ordering::{Relaxed, SeqCst};
use crate::shared::cell::atomic::fence;
use crate::shared::cell::atomic::{AtomicU32, AtomicU64};

pub use ask::{Admission, Caller, Era, Report, Token};
pub use details::{CHANGES, Detailed};
pub use eject::{Bar, Probed};
pub use keep::View;

use details::{Details, Refused};

use super::cell::shared_struct;
use crate::policy::Millis;
use crate::policy::breaker::words::{self, Permit, PermitState, StateWord};
use crate::policy::breaker::{
    BUCKETS, Cause, Failure, Forced, LOG, PERMITS, Settings, State, Transition, open_millis, trip,
};

shared_struct! {
    /// One breaker. Times are milliseconds of the host's monotonic clock.
    #[derive(Debug, Default)]
    #[repr(align(64))]
    pub struct Breaker {
        /// `StateWord`: what every request reads.
        state: AtomicU64,
        /// When the state last changed; for display and for the decay of attempts.
        changed: AtomicU64,
        /// Failures logged before this time belong to an earlier era.
        floor: AtomicU64,
        run: AtomicU32,
        /// The failure seen last, `Failure::to_bits`.
        last: AtomicU32,
        /// `Override`: what the operator decided.
        over: AtomicU64,
        failed_at: AtomicU64,
        /// Until when the decay of attempts has been reckoned.
        calm: AtomicU64,
        /// Trips that the caller did not allow, for want of another server or not; to 2³², and then from 0 again.
        suppressed: AtomicU32,
        /// `Cause::to_bits` of why it opened last, for display.
        why: AtomicU32,

        permits: [AtomicU64; PERMITS],

        /// Time buckets of the rate rules; only `BUCKETS` of them are of one window.
        buckets: [AtomicU64; RING],

        /// Where the next failure is logged, modulo `LOG`.
        head: AtomicU32,
        /// Permits whose lease ended without a result.
        expired: AtomicU32,
        details: Details,

        log: [AtomicU32; LOG],

        ok: AtomicU64,
        fail: AtomicU64,
        slow: AtomicU64,
        rejected: AtomicU64,
        late: AtomicU64,
        /// To 2³², and then from 0 again, as the next two.
        opened: AtomicU32,
        half_opened: AtomicU32,
        closed: AtomicU32,
    }
}

const RING: usize = if cfg!(sluice_loom) { 4 } else { 16 };
const _: () = assert!(cfg!(sluice_loom) || size_of::<Breaker>() == 512 && align_of::<Breaker>() == 64);
const _: () = assert!(BUCKETS < RING as u64);

/// What the search for a permit found.
enum Grant {
    Test(Token),
    /// Results are in that nobody drew the consequence of.
    Settle,
    /// The soonest end of a lease, milliseconds from now.
    Busy(Millis),
}

impl Breaker {
    /// May a request pass? The second part is a transition this call made, for the log.
    pub fn admit(&self, s: &Settings, now: Millis, caller: Caller) -> (Admission, Option<Transition>) {
        let mut made = None;
        loop {
            let (state, forced) = (self.load(), self.forced(now));
            let admission = match forced {
                Some(Forced::Open) => {
                    return (self.reject(self.forced_for(s, now, state), Refused::Forced), made);
                }
                Some(Forced::Closed) => Some(Admission::Allow(Token::plain(state.generation))),
                None | Some(Forced::DryRun) => {
                    let dry = is_dry(s, forced);
                    self.admit_unforced(s, now, caller, (state, dry), &mut made)
                }
            };
            match admission {
                Some(Admission::Reject { .. }) if is_dry(s, forced) => {
                    return (Admission::Allow(Token::suppressed(state.generation)), made);
                }
                Some(admission) => return (admission, made),
                // Somebody else, or this call, moved the state on.
                None => {}
            }
        }
    }

    /// Admission where nothing needs to be asked: CLOSED, and no word of the operator's. Two loads; changes and
    /// counts nothing. `None`: [`Self::admit`] knows.
    #[inline]
    pub fn calm(&self) -> Option<Era> {
        let state = self.load();
        if state.state == State::Closed && self.over.load(Relaxed) == 0 {
            Era::new(state.generation)
        } else {
            None
        }
    }

    fn admit_unforced(
        &self,
        s: &Settings,
        now: Millis,
        caller: Caller,
        (state, dry): (StateWord, bool),
        made: &mut Option<Transition>,
    ) -> Option<Admission> {
        match state.state {
            State::Closed => Some(Admission::Allow(Token::plain(state.generation))),
            State::Open => {
                let left = words::ahead(state.deadline, now);
                if left > 0 || !caller.may_test {
                    return Some(self.reject(left.max(1).unsigned_abs(), Refused::Open.unless(dry)));
                }
                if self.change(state, now, |at| at.next(State::HalfOpen)).is_some() {
                    *made = Some(self.transition(state, State::HalfOpen, Cause::Elapsed));
                }
                None
            }
            State::HalfOpen => match self.grant(s, now, caller, state) {
                Grant::Test(token) if self.load().generation == state.generation => {
                    Some(Admission::Allow(token))
                }
                Grant::Test(token) => {
                    self.free(token);
                    None
                }
                Grant::Settle => {
                    let done = self.settle(s, now, state, Cause::TestFailed, scatter(state.pack()));
                    *made = done.or(*made);
                    None
                }
                Grant::Busy(left) => Some(self.reject(left, Refused::HalfOpen.unless(dry))),
            },
        }
    }

    /// Would a request that takes no permit pass, a subrequest say? Changes and counts nothing.
    ///
    /// # Errors
    /// Milliseconds until a request may pass as in [`Admission::Reject`]. In OPEN past its deadline and in
    /// HALF_OPEN the answer is no, with at least 1: only [`Self::admit`] makes a test request.
    pub fn peek(&self, s: &Settings, now: Millis) -> Result<(), Millis> {
        let (state, forced) = (self.load(), self.forced(now));
        match forced {
            Some(Forced::Open) => Err(self.forced_for(s, now, state)),
            None if state.state != State::Closed && !s.dry_run => Err(self.retry_after(state, now)),
            _ => Ok(()),
        }
    }

    /// Counts the result of an admitted request; the transition it caused, if any, is for the log.
    ///
    /// A result of an earlier generation, or whose permit was given to somebody else, decides nothing.
    pub fn record(&self, s: &Settings, now: Millis, token: Token, report: Report) -> Option<Transition> {
        if token.suppressed {
            return None;
        }
        // Before the state: the floor of the era in which the token was given is set already.
        let floor = self.floor.load(SeqCst);
        let failed = self.count(now, report);
        let state = self.load();
        if state.generation != token.generation {
            self.late.fetch_add(1, Relaxed);
            return None;
        }
        match (state.state, token.permit()) {
            (State::Closed, _) => {
                let at = failed.then(|| now.max(floor));
                let evidence = self.evidence(s, now, state.generation, at, report.slow);
                let cause = trip(s, &evidence)?;
                self.trip(s, now, state, cause, report)
            }
            (State::HalfOpen, Some((slot, word))) => {
                let slow = report.slow && s.slow_rate > 0;
                let verdict = if failed || slow { PermitState::Bad } else { PermitState::Good };
                let decided = Permit { state: verdict, ..Permit::unpack(word) };
                if !self.replace(slot, word, decided.pack()) {
                    self.late.fetch_add(1, Relaxed);
                    return None;
                }
                let cause = if failed { Cause::TestFailed } else { Cause::TestSlow };
                self.settle(s, now, state, cause, report.random)
            }
            // Admitted by an override while the machine below was not closed.
            _ => None,
        }
    }

    /// An admitted request ends without a result: the client went away before the upstream answered, say. It decides
    /// nothing, and its permit is free again.
    pub fn abort(&self, token: Token) {
        if !token.suppressed {
            self.details.neutral();
        }
        self.free(token);
    }

    /// Another attempt of the same request: its permit is good for as long again. Where the settings say how long, they do.
    pub fn renew(&self, s: &Settings, now: Millis, token: Token, patience: Millis) -> Token {
        let Some((slot, word)) = token.permit().filter(|_| s.lease.is_none()) else { return token };
        let expiry = words::stamp(now.wrapping_add(patience.max(1)));
        let renewed = Permit { expiry, ..Permit::unpack(word) }.pack();
        if self.replace(slot, word, renewed) { Token::test(token.generation, slot, renewed) } else { token }
    }

    fn free(&self, token: Token) {
        if let Some((slot, word)) = token.permit() {
            self.replace(slot, word, 0);
        }
    }

    fn load(&self) -> StateWord {
        StateWord::unpack(self.state.load(SeqCst))
    }

    fn replace(&self, slot: u8, from: u64, to: u64) -> bool {
        let permit = self.permits.get(usize::from(slot));
        permit.is_some_and(|permit| permit.compare_exchange(from, to, SeqCst, SeqCst).is_ok())
    }

    fn reject(&self, retry_after: Millis, why: Refused) -> Admission {
        self.rejected.fetch_add(1, Relaxed);
        self.details.refused(why);
        Admission::Reject { retry_after }
    }

    /// Grants one of the first `half_open` permits. There are no others, so no count can be overrun.
    fn grant(&self, s: &Settings, now: Millis, caller: Caller, state: StateWord) -> Grant {
        let generation = state.generation;
        let (good, bad) = self.results(generation);
        if bad > 0 || good >= s.half_open.max(1) {
            return Grant::Settle;
        }
        if !caller.may_test {
            return Grant::Busy(self.retry_after(state, now));
        }
        let worker = words::tag(caller.worker);
        let expiry = words::stamp(now.wrapping_add(s.lease.unwrap_or(caller.patience).max(1)));
        let mine = Permit { state: PermitState::Leased, worker, expiry, generation }.pack();
        let mut soonest = i64::MAX;
        for (slot, permit) in (0u8..).zip(self.permits.iter().take(s.half_open.max(1) as usize)) {
            let word = permit.load(SeqCst);
            let held = Permit::unpack(word);
            if held.grantable(generation, now) && self.replace(slot, word, mine) {
                let lost = held.state == PermitState::Leased && held.generation == generation;
                self.expired.fetch_add(lost.into(), Relaxed);
                return Grant::Test(Token::test(generation, slot, mine));
            }
            if held.state == PermitState::Leased {
                soonest = soonest.min(words::ahead(held.expiry, now).max(1));
            }
        }
        Grant::Busy(if soonest == i64::MAX { 1 } else { soonest.unsigned_abs() })
    }

    /// Good and bad test results of `generation`.
    fn results(&self, generation: u32) -> (u32, u32) {
        self.permits.iter().fold((0, 0), |(good, bad), permit| {
            let permit = Permit::unpack(permit.load(SeqCst));
            match permit.state {
                PermitState::Good if permit.generation == generation => (good + 1, bad),
                PermitState::Bad if permit.generation == generation => (good, bad + 1),
                _ => (good, bad),
            }
        })
    }

    /// Draws the consequence of the test results, whoever brought them: the one who did may be dead.
    fn settle(
        &self,
        s: &Settings,
        now: Millis,
        state: StateWord,
        bad: Cause,
        random: u32,
    ) -> Option<Transition> {
        let (count, failed) = self.results(state.generation);
        if state.state != State::HalfOpen || (failed == 0 && count < s.half_open.max(1)) {
            return None;
        }
        if failed > 0 {
            let attempts = (state.attempts + 1).min(31);
            let open_for = open_millis(s, attempts, random);
            let deadline = words::stamp(now.wrapping_add(open_for));
            let from =
                self.change(state, now, |at| StateWord { attempts, deadline, ..at.next(State::Open) })?;
            self.opened_for(from.state, bad);
            return Some(Transition { attempts, open_for, ..self.transition(from, State::Open, bad) });
        }
        self.floor.fetch_max(now, SeqCst);
        let from = self.change(state, now, |at| at.next(State::Closed))?;
        self.details.changed(from.state, Cause::TestsPassed { count });
        Some(self.transition(from, State::Closed, Cause::TestsPassed { count }))
    }

    fn trip(
        &self,
        s: &Settings,
        now: Millis,
        state: StateWord,
        cause: Cause,
        report: Report,
    ) -> Option<Transition> {
        if self.is_held(now) {
            return None;
        }
        if let Some(why) = report.kept {
            // Past this very failure, or it would count again at once.
            self.floor.fetch_max(now + 1, SeqCst);
            let from = self.change(state, now, |at| at.next(State::Closed))?;
            self.suppressed(why);
            return Some(Transition { kept: Some(why), ..self.transition(from, State::Closed, cause) });
        }
        let deadline = |at: StateWord| open_millis(s, at.attempts, report.random);
        let from = self.change(state, now, |at| {
            let deadline = words::stamp(now.wrapping_add(deadline(at)));
            StateWord { deadline, ..at.next(State::Open) }
        })?;
        self.opened_for(from.state, cause);
        Some(Transition { open_for: deadline(from), ..self.transition(from, State::Open, cause) })
    }

    /// Moves the machine on from `from`'s generation, exactly once over all workers; returns what it was. A
    /// decay of attempts slipping in does not lose it.
    fn change(&self, from: StateWord, now: Millis, to: impl Fn(StateWord) -> StateWord) -> Option<StateWord> {
        let mut at = from;
        loop {
            let next = to(at);
            match self.state.compare_exchange(at.pack(), next.pack(), SeqCst, SeqCst) {
                Ok(_) => {
                    // Of two workers that change two breakers and then look at the other's, one sees the change.
                    fence(SeqCst);
                    self.changed.store(now, Relaxed);
                    self.count_change(at.state, next.state);
                    return Some(at);
                }
                Err(actual) => at = StateWord::unpack(actual),
            }
            if at.generation != from.generation {
                return None;
            }
        }
    }

    fn count_change(&self, from: State, to: State) {
        let counter = match to {
            State::Open => &self.opened,
            State::HalfOpen => &self.half_opened,
            // A trip that was not allowed has its own.
            State::Closed if from == State::Closed => return,
            State::Closed => &self.closed,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// Notes why. Who looks in between finds the cause before.
    fn opened_for(&self, from: State, cause: Cause) {
        self.why.store(cause.to_bits(), Relaxed);
        self.details.changed(from, cause);
    }

    fn transition(&self, from: StateWord, to: State, cause: Cause) -> Transition {
        Transition {
            from: from.state,
            to,
            cause,
            last: Failure::from_bits(self.last.load(Relaxed)),
            open_for: 0,
            attempts: from.attempts,
            kept: None,
        }
    }
}

/// Whether refusals are only told of.
const fn is_dry(s: &Settings, forced: Option<Forced>) -> bool {
    s.dry_run || matches!(forced, Some(Forced::DryRun))
}

/// A number that looks random, for those who must finish another's transition (SplitMix64's finalizer).
const fn scatter(word: u64) -> u32 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    (word >> 32) as u32
}
