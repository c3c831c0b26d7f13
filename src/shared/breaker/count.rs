//! What the trip rules look at: counters, the failure log, the run of failures, the time buckets.

use crate::shared::cell::atomic::Ordering::{Relaxed, SeqCst};
use crate::shared::cell::atomic::fence;

use super::{Breaker, RING, Report};
use crate::policy::Millis;
use crate::policy::breaker::words::{self, Bucket, Run};
use crate::policy::breaker::{BUCKETS, Evidence, LOG, Outcome, Settings, Tally, bucket_millis};

impl Breaker {
    /// Adds up the counters. Returns whether the result is a failure.
    pub(super) fn count(&self, now: Millis, report: Report) -> bool {
        if report.slow {
            self.slow.fetch_add(1, Relaxed);
        }
        match report.outcome {
            Outcome::Success => {
                self.ok.fetch_add(1, Relaxed);
                false
            }
            Outcome::Failure(failure) => {
                self.fail.fetch_add(1, Relaxed);
                if report.slow {
                    self.details.slow_failure();
                }
                self.last.store(failure.to_bits(), Relaxed);
                self.failed_at.store(now, Relaxed);
                true
            }
        }
    }

    /// Writes one result of CLOSED where the rules look, and looks. `failed_at`: when, if it is a failure.
    pub(super) fn evidence(
        &self,
        s: &Settings,
        now: Millis,
        generation: u32,
        failed_at: Option<Millis>,
        slow: bool,
    ) -> Evidence {
        let failed = failed_at.is_some();
        let tally =
            if s.rated() { self.tally(s, now, generation, Some((failed, slow))) } else { Tally::default() };
        let run = self.run(generation, failed);
        let Some(at) = failed_at else { return Evidence { tally, ..Evidence::default() } };
        let slot = self.head.fetch_add(1, SeqCst) as usize % LOG;
        self.log[slot].store(words::log_stamp(at), SeqCst);
        // Of two workers that each log one, at least the later sees both: its own is out before it looks.
        fence(SeqCst);
        let (failures, over) = self.failures(s.window, now);
        Evidence { failed, failures, over, run, tally }
    }

    /// Failures of this era within `window`, and the age of the oldest. All entries are looked at, not the
    /// N-th last: whichever of two racing workers stores last then sees them all, and `failures=` may change.
    pub(super) fn failures(&self, window: Millis, now: Millis) -> (u32, Millis) {
        let floor = self.floor.load(SeqCst).cast_signed();
        let ages = self.log.iter().filter_map(|entry| words::log_age(entry.load(SeqCst), now, window));
        ages.filter(|age| now.cast_signed() - age >= floor)
            .fold((0, 0), |(count, over), age| (count + 1, over.max(age.max(0).unsigned_abs())))
    }

    /// Failures in a row with this result. A success writes only if there is a run to end.
    fn run(&self, generation: u32, failed: bool) -> u32 {
        let mut word = self.run.load(SeqCst);
        loop {
            let run = Run::unpack(word);
            let next =
                if failed { run.with(generation) } else { Run { generation: run.generation, count: 0 } };
            if run == next {
                return next.count;
            }
            match self.run.compare_exchange_weak(word, next.pack(), SeqCst, SeqCst) {
                Ok(_) => return next.count,
                Err(actual) => word = actual,
            }
        }
    }

    /// Adds a result to its bucket, if given, and sums up the window.
    pub(super) fn tally(
        &self,
        s: &Settings,
        now: Millis,
        generation: u32,
        result: Option<(bool, bool)>,
    ) -> Tally {
        let length = bucket_millis(s.window);
        let index = now / length;
        let bucket_of = |index: u64| &self.buckets[(index % RING as u64) as usize];
        if let Some((failed, slow)) = result {
            let tick = words::tick(index, length, generation);
            let add = |word| Some(Bucket::unpack(word).with(tick, failed, slow).pack());
            // Never refused: the closure always returns a value.
            let _ = bucket_of(index).fetch_update(SeqCst, SeqCst, add);
        }
        (index.saturating_sub(BUCKETS - 1)..=index).fold(Tally::default(), |sum, index| {
            let bucket = Bucket::unpack(bucket_of(index).load(SeqCst));
            if bucket.tick != words::tick(index, length, generation) {
                return sum;
            }
            Tally {
                total: sum.total + bucket.total,
                fail: sum.fail + bucket.fail,
                slow: sum.slow + bucket.slow,
            }
        })
    }
}
