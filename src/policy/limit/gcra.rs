//! GCRA, the leaky bucket of `limit_req`, in exact whole numbers.
//!
//! ITU-T I.371's generic cell rate algorithm in the virtual-scheduling form: the state of a key is one point
//! in time, the theoretical arrival time (TAT), when its bucket will have run empty. With N requests per P
//! milliseconds in lowest terms, a request pours P ticks into the bucket and N ticks drain per millisecond,
//! so no rate is ever truncated. The level before a request is what `limit_req` calls `excess`.
//!
//! The state is a time and not a level, so a changed rate neither refills a bucket nor locks it up.

use super::{Decision, Delay, Rate};
use crate::policy::Millis;

/// How far a clock may lag behind the newest one that touched a key, in milliseconds, before the difference
/// counts as a changed configuration. Workers cache the time; cutting a full bucket down to what is full by a
/// lagging clock would hand out tokens at every such step back, without end.
pub const CLOCK_SLACK: Millis = 1_000;

/// Bits of [`Tat`] that hold the fraction of a millisecond.
const FRACTION_BITS: u32 = 22;
const FRACTION_MASK: u64 = (1 << FRACTION_BITS) - 1;
const TIME_MAX: Millis = u64::MAX >> FRACTION_BITS;

/// Twice a full bucket and the slack still stay below 2^53, where doubles (Redis's Lua) stop being exact.
const CAPACITY_MAX: u64 = 1 << 51;
/// A full bucket drains within 34 years, so a TAT fits its 42 bits on any clock until 2074.
const DRAIN_MAX: Millis = 1 << 40;

/// When a bucket will have run empty: 42 bits of milliseconds, and below them 22 bits of fraction in 1/N ms.
/// All zero is an empty bucket, and so is any time gone by. Later times compare greater.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tat(u64);

impl Tat {
    pub const EMPTY: Self = Self(0);

    /// `fraction` in 1/N ms, below 2^22; a time past the 42 bits is held at their end.
    pub fn new(ms: Millis, fraction: u64) -> Self {
        Self(ms.min(TIME_MAX) << FRACTION_BITS | fraction.min(FRACTION_MASK))
    }

    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    pub const fn to_bits(self) -> u64 {
        self.0
    }

    pub const fn ms(self) -> Millis {
        self.0 >> FRACTION_BITS
    }

    pub const fn fraction(self) -> u64 {
        self.0 & FRACTION_MASK
    }

    /// Whether this bucket is as good as new, whatever its rate.
    pub const fn is_empty_at(self, now: Millis) -> bool {
        self.ms() < now || self.ms() == now && self.fraction() == 0
    }
}

/// A rate and a burst, in lowest terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gcra {
    rate: Rate,
    n: u64,
    p: u64,
    burst: u64,
    /// Excess requests that pass without delay; at least `burst` is `nodelay`.
    delay: u64,
}

/// The limit cannot be decided in exact arithmetic.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GcraError {
    #[error("invalid rate \"{0}\"")]
    Invalid(Rate),
    #[error("rate \"{0}\" is too fine: in lowest terms it has more than 4194304 requests")]
    TooFine(Rate),
    #[error("burst \"{burst}\" is too large for rate \"{rate}\"")]
    BurstTooLarge { rate: Rate, burst: u64 },
}

impl Gcra {
    /// # Errors
    /// [`GcraError`] when N needs more than 22 bits, or a full bucket (burst + 1 requests) reaches 2^51 ticks
    /// or 34 years.
    pub fn new(rate: Rate, burst: u64, delay: Delay) -> Result<Self, GcraError> {
        if rate.count == 0 || rate.period == 0 {
            return Err(GcraError::Invalid(rate));
        }
        let common = gcd(rate.count, rate.period);
        let (n, p) = (rate.count / common, rate.period / common);
        if n > 1 << FRACTION_BITS {
            return Err(GcraError::TooFine(rate));
        }
        let capacity = burst.checked_add(1).and_then(|requests| requests.checked_mul(p));
        if !capacity.is_some_and(|ticks| ticks < CAPACITY_MAX && ticks / n < DRAIN_MAX) {
            return Err(GcraError::BurstTooLarge { rate, burst });
        }
        let delay = match delay {
            Delay::None => burst,
            Delay::After(requests) => requests.min(burst),
        };
        Ok(Self { rate, n, p, burst, delay })
    }

    pub const fn rate(&self) -> Rate {
        self.rate
    }

    /// Ticks drained per millisecond: requests in lowest terms.
    pub const fn n(&self) -> u64 {
        self.n
    }

    /// Ticks one request pours in: milliseconds in lowest terms.
    pub const fn p(&self) -> u64 {
        self.p
    }

    /// Requests admitted in excess of the rate: `burst + 1` at once.
    pub const fn burst(&self) -> u64 {
        self.burst
    }

    /// Excess requests that pass without delay, at most `burst` (which is `nodelay`).
    pub const fn delay(&self) -> u64 {
        self.delay
    }

    /// Ticks of a full bucket: `(burst + 1) * P`.
    pub const fn capacity(&self) -> u64 {
        (self.burst + 1) * self.p
    }

    /// A TAT further ahead than this, in milliseconds, was written under another configuration.
    pub const fn horizon(&self) -> Millis {
        self.capacity() / self.n + CLOCK_SLACK
    }

    /// Ticks in the bucket at `now`. May exceed a full bucket by what a clock lags; beyond the horizon it is
    /// a full bucket.
    pub fn level(&self, tat: Tat, now: Millis) -> u64 {
        let Some(ahead) = tat.ms().checked_sub(now) else { return 0 };
        if ahead > self.horizon() {
            return self.capacity();
        }
        // A fraction from another rate may exceed this one's: less than a millisecond either way.
        ahead * self.n + tat.fraction().min(self.n - 1)
    }

    /// The state of a bucket holding `level` ticks at `now`.
    pub fn tat(&self, level: u64, now: Millis) -> Tat {
        if level == 0 {
            return Tat::EMPTY;
        }
        Tat::new(now.saturating_add(level / self.n), level % self.n)
    }

    /// Whether `cost` requests fit on top of `level`. Nothing always fits: cost 0 only looks.
    pub const fn fits(&self, level: u64, cost: u64) -> bool {
        // The first test also keeps the product below a full bucket.
        cost == 0
            || cost <= self.burst + 1 && level.saturating_add((cost - 1) * self.p) <= self.burst * self.p
    }

    /// The decision for `cost` requests that find `level` ticks. The caller stores [`Gcra::poured`] if it admits.
    pub fn decide(&self, level: u64, cost: u64) -> Decision {
        self.report(level, cost, self.fits(level, cost))
    }

    /// Ticks after `cost` requests were admitted at `level`.
    pub const fn poured(&self, level: u64, cost: u64) -> u64 {
        level.saturating_add(cost.saturating_mul(self.p))
    }

    /// As [`Gcra::decide`], with the verdict already made (by a second limit beside this one, or by Redis).
    pub fn report(&self, level: u64, cost: u64, admitted: bool) -> Decision {
        let after = if admitted { self.poured(level, cost) } else { level };
        let reset_after = after.div_ceil(self.n);
        Decision {
            admitted,
            wait: if admitted { self.wait(level, cost) } else { 0 },
            remaining: (self.burst + 1).saturating_sub(after.div_ceil(self.p)),
            retry_after: self.retry_after(after, cost).unwrap_or(reset_after.max(1)),
            reset_after,
        }
    }

    /// One decision on a state: what is decided, and the state to store if it differs from `tat`. That can be
    /// so after a refusal too, when a changed configuration cut the state down.
    pub fn admit(&self, tat: Tat, now: Millis, cost: u64) -> (Decision, Tat) {
        let level = self.level(tat, now);
        let decision = self.decide(level, cost);
        let next = if decision.admitted && cost > 0 {
            self.tat(self.poured(level, cost), now)
        } else if tat.ms().saturating_sub(now) > self.horizon() {
            self.tat(level, now)
        } else {
            tat
        };
        (decision, next)
    }

    /// The state without `cost` requests that were admitted earlier. At the instant of the charge this
    /// restores the level exactly; later it never gives back more than `cost`, and never below empty.
    pub fn refund(&self, tat: Tat, now: Millis, cost: u64) -> Tat {
        self.tat(self.level(tat, now).saturating_sub(cost.saturating_mul(self.p)), now)
    }

    /// The state raised, never lowered, to one that is empty only `reset_after` ms from now. That may be more
    /// than full, by debts that were charged without asking, as far as it can still be told from a state of
    /// another configuration: up to the horizon.
    pub fn raised(&self, tat: Tat, now: Millis, reset_after: Millis) -> Tat {
        let ticks = reset_after.min(self.horizon()).saturating_mul(self.n);
        tat.max(self.tat(ticks, now))
    }

    /// `limit_req`'s delay in milliseconds: the excess above `delay` requests, rounded down.
    const fn wait(&self, level: u64, cost: u64) -> Millis {
        if cost == 0 {
            return 0;
        }
        let excess = level.saturating_add((cost - 1).saturating_mul(self.p));
        excess.saturating_sub(self.delay * self.p) / self.n
    }

    /// Milliseconds until `cost` fits on `level`; `None` if it never will.
    fn retry_after(&self, level: u64, cost: u64) -> Option<Millis> {
        if cost > self.burst + 1 {
            return None;
        }
        let room = (self.burst + 1 - cost) * self.p;
        Some(if cost == 0 { 0 } else { level.saturating_sub(room).div_ceil(self.n) })
    }
}

const fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
