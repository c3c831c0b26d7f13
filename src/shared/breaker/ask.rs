//! What a breaker is asked and told, and what it answers.

use std::num::NonZeroU32;

use crate::policy::Millis;
use crate::policy::breaker::words::{self, Permit};
use crate::policy::breaker::{Kept, Outcome};

/// The right to send one request, to be given back with `record` or `abort` exactly once; 16 bytes, also in an
/// `Option`. One that is no test holds nothing: nobody misses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// The word of its permit; 0: it has none.
    word: u64,
    pub(super) generation: u32,
    slot: u8,
    pub(super) suppressed: bool,
}

impl Token {
    pub(super) const fn plain(generation: u32) -> Self {
        Self { word: 0, generation, slot: 0, suppressed: false }
    }

    pub(super) const fn suppressed(generation: u32) -> Self {
        Self { suppressed: true, ..Self::plain(generation) }
    }

    /// `word` is a permit's while it is leased, so not 0.
    pub(super) const fn test(generation: u32, slot: u8, word: u64) -> Self {
        Self { word, generation, slot, suppressed: false }
    }

    /// The permit: which it is, and its word.
    pub(super) const fn permit(&self) -> Option<(u8, u64)> {
        if self.word == 0 { None } else { Some((self.slot, self.word)) }
    }

    /// Whether this is a test request of HALF_OPEN.
    #[must_use]
    pub const fn is_test(&self) -> bool {
        self.word != 0
    }

    /// Milliseconds until its permit may be given to another; `None`: it has none.
    #[must_use]
    pub fn left(&self, now: Millis) -> Option<Millis> {
        let (_, word) = self.permit()?;
        Some(words::ahead(Permit::unpack(word).expiry, now).max(0).unsigned_abs())
    }

    /// Whether only `dry_run` let this request pass; its result is not counted.
    #[must_use]
    #[cfg(test)]
    pub const fn is_suppressed(&self) -> bool {
        self.suppressed
    }
}

/// The admission by a breaker that is calm: of which generation. 4 bytes, also in an `Option`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Era(NonZeroU32);

impl Era {
    /// `generation` has 20 bits.
    pub(super) const fn new(generation: u32) -> Option<Self> {
        match NonZeroU32::new(generation.wrapping_add(1)) {
            Some(successor) => Some(Self(successor)),
            None => None,
        }
    }
}

impl From<Era> for Token {
    fn from(era: Era) -> Self {
        Self::plain(era.0.get() - 1)
    }
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The index of this worker.
    pub worker: u16,
    /// How long it waits for an answer at most: the lease of its permit, where the settings give none.
    pub patience: Millis,
    /// Whether this request may be a test of HALF_OPEN; one that may not is refused until the breaker is closed.
    pub may_test: bool,
}

/// The answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    Allow(Token),
    /// Milliseconds until a request may pass; 0: nobody knows (forced open without an end).
    Reject {
        retry_after: Millis,
    },
}

/// How an admitted request ended.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    pub outcome: Outcome,
    /// The header took longer than `Settings::slow_call` (`Settings::is_slow`).
    pub slow: bool,
    /// Uniform; spreads the stay in OPEN when `jitter` is set.
    pub random: u32,
    /// Why CLOSED may not become OPEN, if so: a trip is then reported as kept, and the window starts anew.
    pub kept: Option<Kept>,
}
