//! What only an observer wants to tell apart: why a breaker refused, and why it changed its state.

use crate::shared::cell::atomic::Ordering::Relaxed;
use crate::shared::cell::atomic::{AtomicU32, AtomicU64};

use super::Breaker;
use crate::policy::Millis;
use crate::policy::breaker::words::{Permit, PermitState, ahead};
use crate::policy::breaker::{Cause, Kept, State};
use crate::shared::cell::shared_struct;

/// Changes of state that are counted each for itself: from, to, and why. That OPEN is over is all that leads to
/// HALF_OPEN, and has the counter of that.
pub const CHANGES: [(State, State, &str); 8] = [
    (State::Closed, State::Open, "failures"),
    (State::Closed, State::Open, "consecutive"),
    (State::Closed, State::Open, "rate"),
    (State::Closed, State::Open, "slow_rate"),
    (State::HalfOpen, State::Open, "probe_failed"),
    (State::HalfOpen, State::Closed, "probes_passed"),
    (State::Open, State::Closed, "operator"),
    (State::HalfOpen, State::Closed, "operator"),
];

shared_struct! {
    /// Counters that no decision reads.
    #[derive(Debug, Default)]
    pub(super) struct Details {
        /// Refused by the operator's word.
        forced: AtomicU64,
        /// Would have been refused, were it not for a dry run.
        pretended: AtomicU64,
        /// Refused in HALF_OPEN, all permits being out; to 2³², and then from 0 again, as those below.
        full: AtomicU32,
        /// Slow answers that failed as well.
        slow_failures: AtomicU32,
        /// Admitted, and ended without a result.
        neutral: AtomicU32,
        /// Trips that were not allowed since no other server would be left; `Breaker::suppressed` has these too.
        last_peer: AtomicU32,
        changes: [AtomicU32; CHANGES.len()],
    }
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Open,
    HalfOpen,
    Forced,
    /// Only in a dry run, which lets it pass.
    Pretended,
}

impl Refused {
    pub fn unless(self, dry: bool) -> Self {
        if dry { Self::Pretended } else { self }
    }
}

/// The details at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Detailed {
    pub slow_failures: u64,
    /// Admitted, and ended without a result.
    pub neutral: u64,
    /// Trips that were not allowed, for want of another server.
    pub last_peer: u64,
    pub rejected_forced: u64,
    pub rejected_full: u64,
    /// Counted as rejected, and let pass in a dry run.
    pub pretended: u64,
    /// In the order of [`CHANGES`].
    pub changes: [u64; CHANGES.len()],
    /// Permits whose result never came.
    pub expired: u64,
    /// Test requests under way.
    pub permits: u64,
}

impl Details {
    pub fn refused(&self, why: Refused) {
        match why {
            Refused::Open => {}
            Refused::HalfOpen => {
                self.full.fetch_add(1, Relaxed);
            }
            Refused::Forced => {
                self.forced.fetch_add(1, Relaxed);
            }
            Refused::Pretended => {
                self.pretended.fetch_add(1, Relaxed);
            }
        }
    }

    pub fn slow_failure(&self) {
        self.slow_failures.fetch_add(1, Relaxed);
    }

    pub fn neutral(&self) {
        self.neutral.fetch_add(1, Relaxed);
    }

    pub fn changed(&self, from: State, cause: Cause) {
        let at = match cause {
            Cause::Failures { .. } => 0,
            Cause::Consecutive { .. } => 1,
            Cause::FailureRate { .. } => 2,
            Cause::SlowRate { .. } => 3,
            // A slow test has failed too.
            Cause::TestFailed | Cause::TestSlow => 4,
            Cause::TestsPassed { .. } => 5,
            Cause::Reset if from == State::Open => 6,
            Cause::Reset => 7,
            Cause::Elapsed => return,
        };
        self.changes[at].fetch_add(1, Relaxed);
    }

    pub fn clear(&self) {
        [&self.pretended, &self.forced].into_iter().for_each(|cell| cell.store(0, Relaxed));
        self.narrow().for_each(|cell| cell.store(0, Relaxed));
    }

    pub fn copy_from(&self, old: &Self) {
        self.pretended.store(old.pretended.load(Relaxed), Relaxed);
        self.forced.store(old.forced.load(Relaxed), Relaxed);
        self.narrow().zip(old.narrow()).for_each(|(to, from)| to.store(from.load(Relaxed), Relaxed));
    }

    fn narrow(&self) -> impl Iterator<Item = &AtomicU32> {
        self.changes.iter().chain([&self.full, &self.slow_failures, &self.neutral, &self.last_peer])
    }
}

impl Breaker {
    /// Counts a trip that was not allowed.
    pub(super) fn suppressed(&self, why: Kept) {
        self.suppressed.fetch_add(1, Relaxed);
        if why == Kept::LastPeer {
            self.details.last_peer.fetch_add(1, Relaxed);
        }
    }

    /// What [`Breaker::view`] leaves out, for the metrics.
    pub fn details(&self, now: Millis) -> Detailed {
        let generation = self.load().generation;
        let out = |word: &AtomicU64| {
            let permit = Permit::unpack(word.load(Relaxed));
            permit.state == PermitState::Leased
                && permit.generation == generation
                && ahead(permit.expiry, now) > 0
        };
        Detailed {
            slow_failures: self.details.slow_failures.load(Relaxed).into(),
            neutral: self.details.neutral.load(Relaxed).into(),
            last_peer: self.details.last_peer.load(Relaxed).into(),
            pretended: self.details.pretended.load(Relaxed),
            rejected_forced: self.details.forced.load(Relaxed),
            rejected_full: self.details.full.load(Relaxed).into(),
            changes: std::array::from_fn(|at| self.details.changes[at].load(Relaxed).into()),
            expired: self.expired.load(Relaxed).into(),
            permits: self.permits.iter().filter(|word| out(word)).count() as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::breaker::{Failure, Outcome, Settings};
    use crate::shared::breaker::{Admission, Caller, Report};

    fn settings() -> Settings {
        Settings { failures: 2, open: 1_000, lease: Some(500), ..Settings::default() }
    }

    const ME: Caller = Caller { worker: 1, patience: 60_000, may_test: true };

    fn report(outcome: Outcome, slow: bool) -> Report {
        Report { outcome, slow, random: 0, kept: None }
    }

    fn token(breaker: &Breaker, now: Millis) -> crate::shared::breaker::Token {
        match breaker.admit(&settings(), now, ME).0 {
            Admission::Allow(token) => token,
            Admission::Reject { .. } => panic!("refused at {now}"),
        }
    }

    fn trip(breaker: &Breaker, now: Millis) {
        for slow in [false, true] {
            let failed = report(Outcome::Failure(Failure::Error), slow);
            breaker.record(&settings(), now, token(breaker, now), failed);
        }
    }

    #[test]
    fn every_change_and_refusal_has_its_reason() {
        let breaker = Breaker::default();
        trip(&breaker, 1_000);
        assert!(matches!(breaker.admit(&settings(), 1_500, ME).0, Admission::Reject { .. }));
        // The first test's result never comes; the second fails, the third passes.
        let lost = token(&breaker, 2_000);
        assert_eq!(breaker.details(2_000).permits, 1);
        assert!(matches!(breaker.admit(&settings(), 2_100, ME).0, Admission::Reject { .. }));
        let test = token(&breaker, 2_600);
        breaker.record(&settings(), 2_600, test, report(Outcome::Failure(Failure::Timeout), false));
        breaker.record(&settings(), 2_600, lost, report(Outcome::Success, false));
        let test = token(&breaker, 3_600);
        breaker.record(&settings(), 3_600, test, report(Outcome::Success, false));
        trip(&breaker, 4_000);
        breaker.reset(4_100);
        breaker.force(Some(crate::policy::breaker::Forced::Open), 0);
        assert!(matches!(breaker.admit(&settings(), 4_200, ME).0, Admission::Reject { .. }));

        breaker.force(None, 0);
        trip(&breaker, 5_000);
        let dry = Settings { dry_run: true, ..settings() };
        let Admission::Allow(free) = breaker.admit(&dry, 5_100, ME).0 else { panic!("refused") };
        breaker.abort(free);

        // A client that leaves, twice; in a dry run nobody was admitted who might.
        breaker.reset(5_200);
        (0..2).for_each(|_| breaker.abort(token(&breaker, 5_300)));
        let details = breaker.details(5_300);
        let expected = Detailed {
            slow_failures: 3,
            neutral: 2,
            last_peer: 0,
            rejected_forced: 1,
            rejected_full: 1,
            pretended: 1,
            changes: [3, 0, 0, 0, 1, 1, 2, 0],
            expired: 1,
            permits: 0,
        };
        assert_eq!(details, expected);
        assert_eq!(breaker.view(&settings(), 5_100).rejected, 4);
        let copy = Breaker::default();
        copy.copy_from(&breaker);
        assert_eq!(copy.details(5_100), expected);
        copy.clear();
        assert_eq!(copy.details(5_100), Detailed::default());
    }
}
