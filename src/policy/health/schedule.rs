//! When the servers of a check are asked: whole intervals apart, the first round spread out.

use crate::policy::Millis;

/// The first round begins with one probe per this time.
const SPREAD: Millis = 5;

/// How long after the start number `number` of `count` first probes is due: all within one interval, and sooner
/// where few are to be made.
#[must_use]
pub fn first(number: usize, count: usize, interval: Millis) -> Millis {
    let (number, count) = (number as Millis, (count as Millis).max(1));
    number.saturating_mul(interval.min(count.saturating_mul(SPREAD))) / count
}

/// When the next probe is due after one that was due at `due` and has ended at `now`, and how many were due meanwhile
/// and are left out.
///
/// Probes keep their phase, however long each took: `due` is without the random while that one was put off.
#[must_use]
pub fn next(due: Millis, interval: Millis, now: Millis) -> (Millis, u64) {
    let interval = interval.max(1);
    let missed = now.saturating_sub(due) / interval;
    (due.saturating_add((missed + 1).saturating_mul(interval)), missed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn few_begin_soon_and_many_within_an_interval() {
        assert_eq!((0..4).map(|n| first(n, 4, 5_000)).collect::<Vec<_>>(), [0, 5, 10, 15]);
        let many: Vec<_> = (0..10_000).map(|n| first(n, 10_000, 1_000)).collect();
        assert!(many.is_sorted() && many[0] == 0 && many[9_999] == 999);
        assert!(many.chunk_by(|a, b| a == b).all(|same| same.len() == 10), "ten in each millisecond");
        assert_eq!(first(0, 0, 0), 0);
    }

    #[test]
    fn a_probe_that_takes_longer_than_the_interval_leaves_out_those_due_meanwhile() {
        assert_eq!(next(100, 50, 103), (150, 0));
        assert_eq!(next(100, 50, 149), (150, 0));
        assert_eq!(next(100, 50, 150), (200, 1), "due at this moment: left out, not made up for");
        assert_eq!(next(100, 50, 349), (350, 4));
        assert_eq!(next(100, 50, 90), (150, 0), "a clock of another worker");
    }

    proptest! {
        #[test]
        fn the_next_is_in_phase_and_within_an_interval(due in 0u64..1 << 40, interval in 0u64..1 << 27, late in 0u64..1 << 40) {
            let (at, missed) = next(due, interval, due + late);
            let interval = interval.max(1);
            prop_assert!(at > due + late && at - (due + late) <= interval);
            prop_assert_eq!(at - due, (missed + 1) * interval);
        }
    }
}
