//! Slow start: a server that has come back gets, of its share, a part that grows linearly with time.
//!
//! The balancer goes on choosing by its own method; what is decided here is which of its picks may fall on a server
//! that ramps. Each pick of the group earns such a server what its share of one pick is at that moment; it may be
//! chosen once it has earned a whole pick, and pays for it. So its part of the traffic is right for every method,
//! whatever its weight, and by fewest connections too, where a server without any would else get the lot. Nothing
//! is random.

use crate::policy::Millis;

/// A share that is not reduced.
pub const FULL: u32 = 1 << 16;
/// What one pick costs.
pub const PICK: i64 = 1 << 32;
/// A server may be this many picks ahead: the balancer need not choose it as soon as it could.
const MOST: i64 = 16 * PICK;

/// The part of its share that a server gets `now` which came back at `began` and takes `length` to warm up, from 0 to
/// [`FULL`].
#[must_use]
pub fn share(began: Millis, now: Millis, length: Millis) -> u32 {
    let elapsed = now.saturating_sub(began);
    if elapsed >= length {
        return FULL;
    }
    // Below FULL, because elapsed < length.
    u32::try_from(u128::from(elapsed) * u128::from(FULL) / u128::from(length)).unwrap_or(FULL)
}

/// What one pick of the group earns a server of `weight` and `share`, where the servers that can be chosen weigh
/// `total` and the one with most of its share has `reference` of it: when all ramp, that one counts as warm.
#[must_use]
pub fn earned(share: u32, reference: u32, weight: u64, total: u64) -> i64 {
    let whole = u128::from(reference.max(1)) * u128::from(total.max(1));
    let part = u128::from(share.min(reference)) * u128::from(weight.min(total));
    i64::try_from(PICK.unsigned_abs() as u128 * part / whole).unwrap_or(PICK)
}

/// The credit after earning so much.
#[must_use]
pub fn deposit(credit: i64, earned: i64) -> i64 {
    credit.saturating_add(earned).clamp(-MOST, MOST)
}
