//! Buckets for lengths of time.

use crate::policy::Millis;

/// Upper bounds of a request's duration, in milliseconds and as Prometheus shows them; one more bucket is without
/// bound.
pub const DURATION: [(Millis, Seconds); 14] = [
    (1, "0.001"),
    (5, "0.005"),
    (10, "0.01"),
    (25, "0.025"),
    (50, "0.05"),
    (100, "0.1"),
    (250, "0.25"),
    (500, "0.5"),
    (1_000, "1"),
    (2_500, "2.5"),
    (5_000, "5"),
    (10_000, "10"),
    (30_000, "30"),
    (60_000, "60"),
];

/// A bound in seconds, as text.
pub type Seconds = &'static str;

/// Upper bounds of a server's response time in milliseconds, as NGINX Plus has them; one more bucket is without bound.
pub const RESPONSE: [Millis; 14] =
    [5, 10, 25, 50, 75, 100, 250, 500, 750, 1_000, 2_500, 5_000, 7_500, 10_000];

/// The bucket of a length of time: the first whose bound is not exceeded.
#[must_use]
pub fn bucket(bounds: impl IntoIterator<Item = Millis>, length: Millis) -> usize {
    bounds.into_iter().take_while(|bound| length > *bound).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let of = |length| bucket(RESPONSE, length);
        assert_eq!([of(0), of(5), of(6), of(10_000), of(10_001), of(Millis::MAX)], [0, 0, 1, 13, 14, 14]);
        let of = |length| bucket(DURATION.map(|(bound, _)| bound), length);
        assert_eq!([of(0), of(1), of(2), of(60_000), of(60_001)], [0, 0, 1, 13, 14]);
    }

    #[test]
    fn texts_are_the_bounds() {
        for (bound, text) in DURATION {
            assert_eq!((text.parse::<f64>().unwrap() * 1000.0).round() as Millis, bound);
        }
        assert!(DURATION.is_sorted() && RESPONSE.is_sorted());
    }
}
