//! Moving averages of times, as the core's `least_time` keeps them: each sample counts a twentieth.

use crate::policy::Millis;

/// Fractions that an average is kept in, so that it comes to rest at its samples.
const FRACTION: u64 = 1_024;

/// The average after one more sample; 0 stands for no sample yet.
#[must_use]
pub fn moved(average: u64, sample: Millis) -> u64 {
    let sample = sample.min(u64::from(u32::MAX)) * FRACTION + 1;
    if average == 0 { sample } else { average - average / 20 + sample / 20 }.max(1)
}

/// An average in milliseconds; `None` without samples.
#[must_use]
pub fn shown(average: u64) -> Option<Millis> {
    (average != 0).then(|| (average + FRACTION / 2) / FRACTION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_average_follows_its_samples() {
        let mut average = 0;
        assert_eq!(shown(average), None);
        average = moved(average, 100);
        assert_eq!(shown(average), Some(100));
        for _ in 0..1_000 {
            average = moved(average, 100);
        }
        assert_eq!(shown(average), Some(100));
        average = moved(average, 300);
        assert_eq!(shown(average), Some(110));
        for _ in 0..1_000 {
            average = moved(average, 0);
        }
        assert_eq!(shown(average), Some(0));
        assert!(moved(u64::MAX / 2, Millis::MAX) > 0);
    }
}
