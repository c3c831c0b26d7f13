//! The numbers: whole ones as they are, times in seconds without a detour over floats.

use std::fmt;

use super::super::Millis;

/// A sample's value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    Whole(u64),
    /// Written in seconds.
    Millis(Millis),
    Real(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Self {
        Self::Whole(value)
    }
}

impl From<u32> for Value {
    fn from(value: u32) -> Self {
        Self::Whole(value.into())
    }
}

impl From<usize> for Value {
    fn from(value: usize) -> Self {
        Self::Whole(value as u64)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Whole(value.into())
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Whole(value) => write!(f, "{value}"),
            Self::Millis(value) => seconds(f, value, false),
            Self::Real(value) if value.is_nan() => f.write_str("NaN"),
            Self::Real(value) if value.is_infinite() => {
                f.write_str(if value > 0.0 { "+Inf" } else { "-Inf" })
            }
            Self::Real(value) => write!(f, "{value}"),
        }
    }
}

/// `value` in seconds, without zeros that say nothing; with `.0` at least, if `point`.
fn seconds(f: &mut fmt::Formatter<'_>, value: Millis, point: bool) -> fmt::Result {
    let (whole, rest) = (value / 1_000, value % 1_000);
    match rest {
        0 if point => write!(f, "{whole}.0"),
        0 => write!(f, "{whole}"),
        _ if rest % 100 == 0 => write!(f, "{whole}.{}", rest / 100),
        _ if rest % 10 == 0 => write!(f, "{whole}.{:02}", rest / 10),
        _ => write!(f, "{whole}.{rest:03}"),
    }
}

/// The upper bound of a bucket, as the value of `le`: a float in OpenMetrics's canonical form (`1.0`), which
/// Prometheus 3 makes of any, so that a series is the same whichever format was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound(pub Option<Millis>);

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(bound) => seconds(f, bound, true),
            None => f.write_str("+Inf"),
        }
    }
}

/// A histogram of times.
#[derive(Clone, Copy, Debug)]
pub struct Buckets<'a> {
    /// Upper bounds, rising, each included.
    pub bounds: &'a [Millis],
    /// How many fell into each bucket alone; one more than bounds: the last is of those beyond.
    pub counts: &'a [u64],
    /// All of them added up.
    pub sum: Millis,
}

impl Buckets<'_> {
    /// Each bound with how many lie at or below it.
    pub(super) fn cumulative(&self) -> impl Iterator<Item = (Bound, u64)> {
        let bounds = self.bounds.iter().map(|bound| Bound(Some(*bound)));
        let bounds = bounds.chain(std::iter::once(Bound(None)));
        let counts = self.counts.iter().copied().chain(std::iter::repeat(0));
        bounds.zip(counts).scan(0_u64, |total, (bound, count)| {
            *total = total.saturating_add(count);
            Some((bound, *total))
        })
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.counts.iter().take(self.bounds.len() + 1).fold(0, |sum, count| sum.saturating_add(*count))
    }
}
