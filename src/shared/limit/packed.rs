//! What shares a word with a time.

use crate::policy::Millis;
use crate::policy::limit::Bucket;

/// A bucket in one word: 37 bits of start, in units of 32 ms, and below them 27 bits of count.
///
/// The start is a time and not the bucket's number, so that it means the same under a changed period.
/// Rounded up to its unit it still lies in the bucket, as buckets are at least 63 ms long.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Packed(pub u64);

impl Packed {
    const COUNT_BITS: u32 = 27;
    const COUNT_MASK: u64 = (1 << Self::COUNT_BITS) - 1;
    const UNIT: Millis = 32;

    pub fn new(tick: u64, length: Millis, count: u64) -> Self {
        let start = tick.saturating_mul(length).div_ceil(Self::UNIT).min(u64::MAX >> Self::COUNT_BITS);
        Self(start << Self::COUNT_BITS | count.min(Self::COUNT_MASK))
    }

    pub const fn bucket(self, length: Millis) -> Bucket {
        let start = (self.0 >> Self::COUNT_BITS) * Self::UNIT;
        Bucket { tick: start / length, count: self.0 & Self::COUNT_MASK }
    }
}

/// A deadline in one word: 42 bits of milliseconds, and below them 22 bits of something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Until {
    pub ms: Millis,
    /// Below 2^22.
    pub low: u64,
}

impl Until {
    const LOW_BITS: u32 = 22;
    pub const LOW_MASK: u64 = (1 << Self::LOW_BITS) - 1;
    const MS_MAX: Millis = u64::MAX >> Self::LOW_BITS;

    pub const fn from_bits(bits: u64) -> Self {
        Self { ms: bits >> Self::LOW_BITS, low: bits & Self::LOW_MASK }
    }

    /// A time past the 42 bits is held at their end.
    pub fn to_bits(self) -> u64 {
        self.ms.min(Self::MS_MAX) << Self::LOW_BITS | self.low.min(Self::LOW_MASK)
    }
}
