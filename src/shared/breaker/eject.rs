//! A breaker that takes a server out instead of refusing requests, and one that active checks test.

use crate::shared::cell::atomic::Ordering::SeqCst;

use super::{Admission, Breaker, Caller, Report};
use crate::policy::Millis;
use crate::policy::breaker::words::{self, Permit, StateWord};
use crate::policy::breaker::{Forced, Kept, Settings, State, Transition, Via};

/// Whether a balancer may pick the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bar {
    /// It may.
    None,
    /// Not before so many milliseconds have passed, unless the state changes.
    For(Millis),
    /// Not before the state changes.
    Set,
}

/// One finished probe of an active check.
#[derive(Clone, Copy, Debug)]
pub struct Probed {
    /// When it was sent.
    pub began: Millis,
    pub report: Report,
}

/// The permit of a probe, whose result is there already.
const MOMENT: Millis = 1_000;

impl Breaker {
    /// Whether the server of this breaker stays out of the balancer's choice. One that may be picked still has to
    /// be asked with [`Self::admit`]. Changes nothing.
    pub fn bar(&self, s: &Settings, now: Millis) -> Bar {
        let (state, forced) = (self.load(), self.forced(now));
        match forced {
            Some(Forced::Open) => return Bar::until(self.forced_for(s, now, state)),
            Some(Forced::Closed | Forced::DryRun) => return Bar::None,
            None if s.dry_run => return Bar::None,
            None => {}
        }
        match state.state {
            State::Closed => Bar::None,
            _ if s.via == Via::Probe => Bar::Set,
            State::Open => Bar::at(words::ahead(state.deadline, now)),
            State::HalfOpen if self.has_room(s, now, state) => Bar::None,
            State::HalfOpen => Bar::until(self.retry_after(state, now)),
        }
    }

    /// Whether the server is out: open or half-open, and not in a dry run; the operator's word stands above.
    pub fn is_out(&self, s: &Settings, now: Millis) -> bool {
        match self.forced(now) {
            Some(forced) => forced == Forced::Open,
            None => !s.dry_run && self.load().state != State::Closed,
        }
    }

    /// Whether a request that may be a test would become one now.
    pub fn is_due(&self, s: &Settings, now: Millis) -> bool {
        let state = self.load();
        let forced = self.forced(now).is_some_and(|forced| forced != Forced::DryRun);
        !forced
            && match state.state {
                State::Closed => false,
                State::Open => words::ahead(state.deadline, now) <= 0,
                State::HalfOpen => self.has_room(s, now, state),
            }
    }

    /// Whether a test request would get a permit, or would settle what a dead worker left.
    fn has_room(&self, s: &Settings, now: Millis, state: StateWord) -> bool {
        let (good, bad) = self.results(state.generation);
        let granted = self.permits.iter().take(s.half_open.max(1) as usize);
        let free = |word| Permit::unpack(word).grantable(state.generation, now);
        bad > 0 || good >= s.half_open.max(1) || granted.map(|permit| permit.load(SeqCst)).any(free)
    }

    /// Takes a trip back that took out more servers than may be: of two workers that each trip another server's
    /// breaker at one instant, neither sees the other's before its own. `trip` is what [`Self::record`] returned.
    /// `None`: the state has moved on meanwhile.
    pub fn retract(&self, now: Millis, trip: &Transition, why: Kept) -> Option<Transition> {
        let state = self.load();
        if trip.to != State::Open || trip.from != State::Closed || state.state != State::Open {
            return None;
        }
        self.floor.fetch_max(now + 1, SeqCst);
        self.change(state, now, |at| at.next(State::Closed))?;
        self.suppressed(why);
        Some(Transition { to: State::Closed, kept: Some(why), open_for: 0, ..*trip })
    }

    /// Lets a finished probe decide in the place of a test request; returns the transitions it made. It decides
    /// nothing while CLOSED, and nothing if it was sent before OPEN was over.
    pub fn probe(&self, s: &Settings, now: Millis, worker: u16, probed: Probed) -> [Option<Transition>; 2] {
        let state = self.load();
        let early = words::ahead(state.deadline, probed.began) > 0;
        if state.state == State::Closed || early || self.is_held(now) {
            return [None; 2];
        }
        let (admission, made) = self.admit(s, now, Caller { worker, patience: MOMENT, may_test: true });
        match admission {
            Admission::Allow(token) if token.is_test() => [made, self.record(s, now, token, probed.report)],
            _ => [made, None],
        }
    }
}

impl Bar {
    fn at(ahead: i64) -> Self {
        if ahead > 0 { Self::For(ahead.unsigned_abs()) } else { Self::None }
    }

    const fn until(left: Millis) -> Self {
        if left > 0 { Self::For(left) } else { Self::Set }
    }
}
