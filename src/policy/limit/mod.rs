//! Rate limiting: what a rate is, and whether one more request fits.
//!
//! Whole numbers only, and the clock is an argument. The same functions decide over shared memory and are
//! the oracle of the Redis scripts, whose numbers are doubles: nothing here reaches 2^53.

mod gcra;
mod key;
mod lease;
mod rate;
mod share;
mod window;
mod words;

pub use gcra::{CLOCK_SLACK, Gcra, GcraError, Tat};
pub use key::{KeyHash, redis_key};
pub use lease::{Former, Pace};
pub use rate::Rate;
pub use share::Share;
pub use window::{Bucket, FixedWindow, LIVE_BUCKETS, Usage, Window, WindowError};
pub use words::why;

use super::Millis;

/// What was decided about one request, and where its key stands after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    pub admitted: bool,
    /// Milliseconds an admitted request is held back (`limit_req`'s delay); 0 when refused.
    pub wait: Millis,
    /// Requests of cost 1 that would be admitted at once after this one.
    pub remaining: u64,
    /// Milliseconds until the same cost would be admitted again, exact: one millisecond earlier it would not
    /// be. May be above 0 for an admitted request, when it took the last of the quota. A cost that can never
    /// be admitted is told `reset_after`, at least 1: a bigger number would only mislead whoever caches it.
    pub retry_after: Millis,
    /// Milliseconds until all quota is back.
    pub reset_after: Millis,
}

impl Decision {
    /// Two limits on one request: the stricter of each number.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let admitted = self.admitted && other.admitted;
        Self {
            admitted,
            wait: if admitted { self.wait.max(other.wait) } else { 0 },
            remaining: self.remaining.min(other.remaining),
            retry_after: self.retry_after.max(other.retry_after),
            reset_after: self.reset_after.max(other.reset_after),
        }
    }
}

/// `algorithm=` of `rate_limit_zone`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    #[default]
    Gcra,
    SlidingWindow,
    FixedWindow,
}

impl Algorithm {
    /// Reads `gcra`, `sliding_window` or `fixed_window`.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Gcra, Self::SlidingWindow, Self::FixedWindow].into_iter().find(|a| a.name() == text)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Gcra => "gcra",
            Self::SlidingWindow => "sliding_window",
            Self::FixedWindow => "fixed_window",
        }
    }
}

/// `nodelay` or `delay=N` of `rate_limit`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delay {
    /// Whatever is admitted passes at once.
    None,
    /// Requests beyond so many in excess of the rate are held back; 0 is gcra's default.
    After(u64),
}

/// Both clocks, in milliseconds. `fixed_window` follows the calendar, everything else the monotonic clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    pub mono: Millis,
    /// Since the Unix epoch, UTC.
    pub wall: Millis,
}

/// One limit, ready to decide: a few words, cheap to copy, built once per configuration or variable rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    Gcra(Gcra),
    Sliding { window: Window, burst: Option<Gcra> },
    Fixed(FixedWindow),
}

/// Rate, burst and delay do not go together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    #[error(transparent)]
    Gcra(#[from] GcraError),
    #[error(transparent)]
    Window(#[from] WindowError),
    #[error("\"burst\" has no meaning with fixed_window")]
    BurstOfFixed,
    #[error("\"delay\" needs \"burst\" with sliding_window and has no meaning with fixed_window")]
    DelayWithoutBurst,
}

impl Rule {
    /// Checks and prepares a limit. `burst` counts requests in excess of the rate; gcra's default is 0.
    ///
    /// # Errors
    /// [`RuleError`] when the numbers are too large to be decided exactly, or make no sense together.
    pub fn new(
        algorithm: Algorithm,
        rate: Rate,
        burst: Option<u64>,
        delay: Delay,
    ) -> Result<Self, RuleError> {
        match (algorithm, burst) {
            (Algorithm::Gcra, _) => Ok(Self::Gcra(Gcra::new(rate, burst.unwrap_or(0), delay)?)),
            (Algorithm::FixedWindow, Some(_)) => Err(RuleError::BurstOfFixed),
            (_, None) if delay != Delay::None => Err(RuleError::DelayWithoutBurst),
            (Algorithm::SlidingWindow, _) => Ok(Self::Sliding {
                window: Window::new(rate)?,
                burst: burst.map(|burst| Gcra::new(rate, burst, delay)).transpose()?,
            }),
            (Algorithm::FixedWindow, None) => Ok(Self::Fixed(FixedWindow::new(rate)?)),
        }
    }

    pub const fn algorithm(&self) -> Algorithm {
        match self {
            Self::Gcra(_) => Algorithm::Gcra,
            Self::Sliding { .. } => Algorithm::SlidingWindow,
            Self::Fixed(_) => Algorithm::FixedWindow,
        }
    }

    /// The rate as it was written.
    pub const fn rate(&self) -> Rate {
        match self {
            Self::Gcra(gcra) => gcra.rate(),
            Self::Sliding { window, .. } => window.rate(),
            Self::Fixed(window) => window.rate(),
        }
    }

    /// `burst=`, where it was given or has a default.
    pub const fn burst(&self) -> Option<u64> {
        match self {
            Self::Gcra(gcra) | Self::Sliding { burst: Some(gcra), .. } => Some(gcra.burst()),
            _ => None,
        }
    }

    /// What a key without any state is told: the same as an idle one.
    pub fn fresh(&self, now: &Now, cost: u64) -> Decision {
        match self {
            Self::Gcra(gcra) => gcra.decide(0, cost),
            Self::Sliding { window, burst } => {
                window.decide_with(burst.as_ref(), &window.usage([], now.mono), 0, now.mono, cost)
            }
            Self::Fixed(window) => window.decide(window.current(Bucket::default(), now.wall), now.wall, cost),
        }
    }
}

#[cfg(test)]
mod tests;
