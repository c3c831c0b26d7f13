//! Windows: a count that holds in every true window, and the plain calendar-aligned counter.

use super::{Decision, Gcra, Rate};
use crate::policy::Millis;

/// A window is cut into so many buckets …
const PARTS: u64 = 16;
/// … and one more is counted: the oldest, which the window may have left in part, counts whole.
pub const LIVE_BUCKETS: usize = PARTS as usize + 1;

/// Counts stay far below 2^53, and fit the packed words of shared memory.
const COUNT_MAX: u64 = (1 << 27) - 1;

/// Requests counted in one bucket of a window. `Default` is one that never counted anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// Its start divided by its length.
    pub tick: u64,
    pub count: u64,
}

/// The limit cannot be kept by a window.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    #[error("rate \"{0}\" is too large for a window: more than 134217727 requests")]
    TooLarge(Rate),
    #[error("rate \"{0}\" needs a period of at least one second")]
    TooShort(Rate),
}

fn checked(rate: Rate) -> Result<Rate, WindowError> {
    match rate {
        Rate { period: ..1_000, .. } => Err(WindowError::TooShort(rate)),
        Rate { count, .. } if count > COUNT_MAX || count == 0 => Err(WindowError::TooLarge(rate)),
        _ => Ok(rate),
    }
}

/// `sliding_window`: never more than the rate's count in any window of the rate's period.
///
/// Sixteen buckets of a sixteenth of the period, rounded up. Live are the current one and the sixteen before
/// it, which together cover whatever the last period can have seen. The price is the rate under saturation:
/// 16/17 of what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    rate: Rate,
    tick: Millis,
}

/// What a window holds at some instant: counts of the live buckets, oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The current bucket: that of `now`, or a newer one that a worker with a faster clock has begun.
    pub newest: u64,
    /// Sum over the live buckets.
    pub used: u64,
    counts: [u64; LIVE_BUCKETS],
}

impl Usage {
    /// The bucket that `counts` begins with.
    const fn oldest(&self) -> u64 {
        self.newest.saturating_sub(PARTS)
    }

    fn add(&mut self, bucket: Bucket) {
        let place = bucket.tick.checked_sub(self.oldest()).map(|place| place as usize);
        if let Some(count) = place.and_then(|place| self.counts.get_mut(place)) {
            *count = count.saturating_add(bucket.count);
            self.used = self.used.saturating_add(bucket.count);
        }
    }
}

impl Window {
    /// # Errors
    /// [`WindowError`] for a period under a second or a count of 2^27 and more.
    pub fn new(rate: Rate) -> Result<Self, WindowError> {
        checked(rate).map(|rate| Self { rate, tick: rate.period.div_ceil(PARTS) })
    }

    pub const fn rate(&self) -> Rate {
        self.rate
    }

    /// Length of one bucket in milliseconds, at least 63.
    pub const fn tick(&self) -> Millis {
        self.tick
    }

    /// When, on the clock of `now`, a bucket stops counting.
    pub const fn leaves_at(&self, tick: u64) -> Millis {
        tick.saturating_add(LIVE_BUCKETS as u64).saturating_mul(self.tick)
    }

    /// Adds up the live ones among `buckets`, in any order.
    pub fn usage<I>(&self, buckets: I, now: Millis) -> Usage
    where
        I: IntoIterator<Item = Bucket>,
        I::IntoIter: Clone,
    {
        let buckets = buckets.into_iter().filter(|bucket| bucket.count > 0);
        let newest = buckets.clone().map(|bucket| bucket.tick).fold(now / self.tick, u64::max);
        let mut usage = Usage { newest, used: 0, counts: [0; LIVE_BUCKETS] };
        buckets.for_each(|bucket| usage.add(bucket));
        usage
    }

    /// Whether `cost` requests fit; cost 0 only looks.
    pub const fn fits(&self, usage: &Usage, cost: u64) -> bool {
        cost == 0 || usage.used.saturating_add(cost) <= self.rate.count
    }

    /// The decision for `cost` requests at `now`. The caller adds them to bucket `usage.newest` if it admits.
    pub fn decide(&self, usage: &Usage, now: Millis, cost: u64) -> Decision {
        self.report(usage, now, cost, self.fits(usage, cost))
    }

    /// As [`Window::decide`], with a burst limit beside it whose bucket holds `level` ticks: both or neither.
    pub fn decide_with(
        &self,
        burst: Option<&Gcra>,
        usage: &Usage,
        level: u64,
        now: Millis,
        cost: u64,
    ) -> Decision {
        let Some(gcra) = burst else { return self.decide(usage, now, cost) };
        let fits = self.fits(usage, cost) && gcra.fits(level, cost);
        self.report(usage, now, cost, fits).and(gcra.report(level, cost, fits))
    }

    /// As [`Window::decide`], with the verdict already made.
    pub fn report(&self, usage: &Usage, now: Millis, cost: u64, admitted: bool) -> Decision {
        let mut after = *usage;
        if admitted {
            after.add(Bucket { tick: usage.newest, count: cost });
        }
        let reset_after = self.until_left(&after, after.used, now);
        let excess = after.used.saturating_add(cost).saturating_sub(self.rate.count);
        let retry_after = match cost {
            0 => 0,
            _ if cost > self.rate.count => reset_after.max(1),
            _ => self.until_left(&after, excess, now),
        };
        let remaining = self.rate.count.saturating_sub(after.used);
        Decision { admitted, wait: 0, remaining, retry_after, reset_after }
    }

    /// Milliseconds until at least `requests` of those counted no longer count.
    fn until_left(&self, usage: &Usage, requests: u64, now: Millis) -> Millis {
        let mut left = 0_u64;
        for (tick, count) in (usage.oldest()..).zip(usage.counts) {
            if left >= requests {
                break;
            }
            left = left.saturating_add(count);
            if left >= requests {
                return self.leaves_at(tick).saturating_sub(now);
            }
        }
        0
    }
}

/// `fixed_window`: a counter that starts again at each multiple of the period since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedWindow {
    rate: Rate,
}

impl FixedWindow {
    /// # Errors
    /// As [`Window::new`].
    pub fn new(rate: Rate) -> Result<Self, WindowError> {
        checked(rate).map(|rate| Self { rate })
    }

    pub const fn rate(&self) -> Rate {
        self.rate
    }

    /// The window to count in at `wall`, given the stored one: its `tick` is the window's number.
    ///
    /// The next window is taken as it is, because another worker's clock may be a little ahead. One still
    /// further ahead was written before the clock was set back, and must not lock its key for that long.
    pub const fn current(&self, stored: Bucket, wall: Millis) -> Bucket {
        let tick = wall / self.rate.period;
        if stored.count > 0 && (stored.tick == tick || stored.tick == tick + 1) {
            return stored;
        }
        Bucket { tick, count: 0 }
    }

    /// When, on the wall clock, a window ends.
    pub const fn ends_at(&self, tick: u64) -> Millis {
        (tick + 1).saturating_mul(self.rate.period)
    }

    /// Whether `cost` requests fit into the current window; cost 0 only looks.
    pub const fn fits(&self, current: Bucket, cost: u64) -> bool {
        cost == 0 || current.count.saturating_add(cost) <= self.rate.count
    }

    /// The decision for `cost` requests at `wall` in the current window. The caller adds them if it admits.
    pub fn decide(&self, current: Bucket, wall: Millis, cost: u64) -> Decision {
        let admitted = self.fits(current, cost);
        let used = if admitted { current.count + cost } else { current.count };
        let end = self.ends_at(current.tick).saturating_sub(wall);
        let reset_after = if used > 0 { end } else { 0 };
        let retry_after = match cost {
            0 => 0,
            _ if used.saturating_add(cost) <= self.rate.count => 0,
            _ => reset_after.max(1),
        };
        let remaining = self.rate.count.saturating_sub(used);
        Decision { admitted, wait: 0, remaining, retry_after, reset_after }
    }
}
