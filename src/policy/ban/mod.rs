//! Bans: when a key has misbehaved often enough, for how long it is put away, and what it is called.
//!
//! Whole numbers only, and the clock is an argument. The Redis script is another writing of the same arithmetic,
//! tested against this one.

mod name;
mod statuses;
#[cfg(test)]
mod tests;

pub use name::Name;
pub use statuses::Statuses;

use super::Millis;

/// Entries of a log of hits. Up to so many hits each has an entry of its own.
pub const RING: usize = 32;
/// Greatest `count`.
pub const MAX_COUNT: u32 = 1_000_000;
/// Longest `window`, `duration` and `max_duration`: a year.
pub const MAX_TIME: Millis = 366 * 86_400_000;
/// A ban's length doubles at most so often: from a millisecond to the longest.
const MAX_LEVEL: u32 = 40;

/// What puts a key away, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// So many hits within `window`: from 1.
    pub count: u32,
    pub window: Millis,
    /// Of the first ban.
    pub duration: Millis,
    /// Of any ban, and how long a key must keep quiet for one doubling to be forgotten. At least `duration`.
    pub max_duration: Millis,
}

/// Hits that are remembered together, as of the first of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hits {
    pub at: Millis,
    pub count: u32,
}

/// The last ban of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Past {
    pub level: u32,
    pub ended: Millis,
}

/// A ban that begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sentence {
    /// How many in a row, from 1.
    pub level: u32,
    pub length: Millis,
}

/// Why a key was put away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Status,
    RateLimited,
    Manual,
}

impl Terms {
    /// Hits no further apart than this share an entry of the log, so that [`RING`] of them cover the window. With
    /// up to [`RING`] hits only those of one millisecond do, which changes nothing. With more, a hit may be
    /// forgotten early by so much, never late: a ban may come late, never early.
    pub const fn granule(&self) -> Millis {
        if self.count as usize <= RING { 0 } else { self.window.div_ceil(RING as Millis - 1) }
    }

    /// Whether a hit at `now` shares the newest entry.
    pub const fn joins(&self, newest: Hits, now: Millis) -> bool {
        newest.count > 0 && now.saturating_sub(newest.at) <= self.granule()
    }

    /// Hits that count at `now`: within the window, and after `since`.
    pub fn counted(&self, log: impl IntoIterator<Item = Hits>, since: Millis, now: Millis) -> u64 {
        let counts = |hits: &Hits| hits.at > since && now.saturating_sub(hits.at) < self.window;
        log.into_iter().filter(counts).map(|hits| u64::from(hits.count)).sum()
    }

    /// Whether so many are enough.
    pub fn reached(&self, counted: u64) -> bool {
        counted >= u64::from(self.count)
    }

    /// The next ban. Each is twice as long as the one before; a doubling is forgotten with each `max_duration`
    /// without a ban.
    pub fn sentence(&self, past: Option<Past>, now: Millis) -> Sentence {
        let left = past.map_or(0, |Past { level, ended }| {
            let quiet = now.saturating_sub(ended) / self.max_duration.max(1);
            level.saturating_sub(u32::try_from(quiet).unwrap_or(u32::MAX))
        });
        let level = (left + 1).min(self.highest());
        Sentence { level, length: self.length(level) }
    }

    /// How long the ban of this level is.
    fn length(&self, level: u32) -> Millis {
        let doubled = u128::from(self.duration) << level.clamp(1, MAX_LEVEL).saturating_sub(1);
        u64::try_from(doubled).unwrap_or(u64::MAX).min(self.max_duration)
    }

    /// The first level that is as long as any: beyond it there is nothing to remember.
    pub fn highest(&self) -> u32 {
        (1..MAX_LEVEL).find(|level| self.length(*level) >= self.max_duration).unwrap_or(MAX_LEVEL)
    }
}

impl Cause {
    const ALL: [Self; 3] = [Self::Status, Self::RateLimited, Self::Manual];

    /// From 1.
    pub const fn code(self) -> u8 {
        self as u8 + 1
    }

    /// The inverse of [`Cause::code`].
    pub fn from_code(code: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| u64::from(cause.code()) == code)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::RateLimited => "rate_limited",
            Self::Manual => "manual",
        }
    }
}
