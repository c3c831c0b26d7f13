//! The trip rules and the length of OPEN.

use super::super::Millis;
use super::{BUCKETS, Cause, Settings};

/// Results of the window, added up over its buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub total: u32,
    pub fail: u32,
    pub slow: u32,
}

/// What the rules judge after one result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// This result was a failure.
    pub failed: bool,
    /// Failures logged within the window, this one included.
    pub failures: u32,
    /// Age of the oldest of them.
    pub over: Millis,
    /// Failures in a row, this one included.
    pub run: u32,
    pub tally: Tally,
}

/// The rule that fires, if any does. They are tried in the order of the directive's text, 0 switches one off.
#[must_use]
pub fn trip(settings: &Settings, evidence: &Evidence) -> Option<Cause> {
    let Evidence { failed, failures, over, run, tally } = *evidence;
    if failed && settings.failures > 0 && failures >= settings.failures {
        return Some(Cause::Failures { count: failures, over });
    }
    if failed && settings.consecutive > 0 && run >= settings.consecutive {
        return Some(Cause::Consecutive { count: run });
    }
    let calls = tally.total;
    if calls < settings.min_calls.max(1) {
        return None;
    }
    if settings.failure_rate > 0 && reaches(tally.fail, calls, settings.failure_rate) {
        return Some(Cause::FailureRate { percent: percent(tally.fail, calls), calls });
    }
    if settings.slow_rate > 0 && reaches(tally.slow, calls, settings.slow_rate) {
        return Some(Cause::SlowRate { percent: percent(tally.slow, calls), calls });
    }
    None
}

fn reaches(part: u32, whole: u32, percent: u32) -> bool {
    u64::from(part) * 100 >= u64::from(whole) * u64::from(percent)
}

/// `part` of `whole` in whole percent, rounded down; 0 of nothing.
fn percent(part: u32, whole: u32) -> u32 {
    (u64::from(part) * 100).checked_div(u64::from(whole)).map_or(0, |share| share.min(100) as u32)
}

/// Length of one bucket of the rate rules, at least a millisecond.
#[must_use]
pub fn bucket_millis(window: Millis) -> Millis {
    window.div_ceil(BUCKETS).max(1)
}

/// How long OPEN lasts after `attempts` failed recoveries: `open` · `backoff`^`attempts`, at most `max_open`
/// (which never shortens `open` itself), plus 0 to `jitter` percent of it. `random` is uniform.
#[must_use]
pub fn open_millis(settings: &Settings, attempts: u8, random: u32) -> Millis {
    let cap = settings.max_open.max(settings.open);
    let mut length = settings.open.min(cap);
    // A factor of 1 never grows; any other reaches the cap or runs out of attempts.
    for _ in 0..attempts {
        if length >= cap || settings.backoff <= 1_000 {
            break;
        }
        length = (length.saturating_mul(u64::from(settings.backoff)) / 1_000).min(cap);
    }
    let most = length.saturating_mul(u64::from(settings.jitter)) / 100;
    length + ((u128::from(most + 1) * u128::from(random)) >> 32) as u64
}

/// Why a breaker stays closed although a rule of it has fired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// As many servers as `max_ejected` allows are out.
    MaxOpen,
    /// Its server is the last one.
    LastPeer,
}

/// Whether one more of `servers` may be taken out when `out` of them are: `max_ejected` percent of them, but at
/// least one, and never the last.
///
/// # Errors
/// Why it may not.
pub fn may_eject(settings: &Settings, out: usize, servers: usize) -> Result<(), Kept> {
    let share = servers.saturating_mul(settings.max_ejected as usize) / 100;
    if out + 1 >= servers {
        Err(Kept::LastPeer)
    } else if out >= share.max(1) {
        Err(Kept::MaxOpen)
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn failures_need_the_full_count_and_a_failure() {
        let settings = Settings::default();
        let four = Evidence { failed: true, failures: 4, over: 1, ..Evidence::default() };
        assert_eq!(trip(&settings, &four), None);
        let five = Evidence { failures: 5, over: 28_000, ..four };
        assert_eq!(trip(&settings, &five), Some(Cause::Failures { count: 5, over: 28_000 }));
        assert_eq!(trip(&settings, &Evidence { failed: false, ..five }), None);
        assert_eq!(trip(&Settings { failures: 0, ..settings }, &five), None);
    }

    #[test]
    fn rates_wait_for_min_calls() {
        let settings = Settings { failures: 0, failure_rate: 50, ..Settings::default() };
        let with = |total, fail| Evidence { tally: Tally { total, fail, slow: 0 }, ..Evidence::default() };
        assert_eq!(trip(&settings, &with(19, 19)), None);
        assert_eq!(trip(&settings, &with(20, 9)), None);
        assert_eq!(trip(&settings, &with(20, 10)), Some(Cause::FailureRate { percent: 50, calls: 20 }));
        let settings = Settings { failures: 0, slow_rate: 30, slow_call: 1, ..Settings::default() };
        let slow = Evidence { tally: Tally { total: 100, fail: 0, slow: 30 }, ..Evidence::default() };
        assert_eq!(trip(&settings, &slow), Some(Cause::SlowRate { percent: 30, calls: 100 }));
    }

    #[test]
    fn runs_trip_at_their_length() {
        let settings = Settings { failures: 0, consecutive: 3, ..Settings::default() };
        let run = |run| Evidence { failed: true, run, ..Evidence::default() };
        assert_eq!(trip(&settings, &run(2)), None);
        assert_eq!(trip(&settings, &run(3)), Some(Cause::Consecutive { count: 3 }));
    }

    #[test]
    fn open_grows_by_backoff_to_its_cap() {
        let settings = Settings { backoff: 1_500, ..Settings::default() };
        let lengths: Vec<_> = [0, 1, 2, 3, 31].map(|attempts| open_millis(&settings, attempts, 0)).into();
        assert_eq!(lengths, [30_000, 45_000, 67_500, 101_250, 300_000]);
        let long = Settings { open: 600_000, ..settings };
        assert_eq!(open_millis(&long, 9, 0), 600_000);
    }

    #[test]
    fn some_server_always_stays() {
        let most = |max_ejected, servers| {
            let settings = Settings { max_ejected, ..Settings::default() };
            (0..=servers).take_while(|out| may_eject(&settings, *out, servers).is_ok()).count()
        };
        assert_eq!([0, 1, 2, 3, 4, 10].map(|servers| most(50, servers)), [0, 0, 1, 1, 2, 5]);
        assert_eq!([2, 3, 10].map(|servers| most(0, servers)), [1, 1, 1]);
        assert_eq!([1, 2, 10].map(|servers| most(100, servers)), [0, 1, 9]);
        let settings = Settings::default();
        assert_eq!(may_eject(&settings, 2, 4), Err(Kept::MaxOpen));
        assert_eq!([may_eject(&settings, 0, 1), may_eject(&settings, 1, 2)], [Err(Kept::LastPeer); 2]);
    }

    proptest! {
        #[test]
        fn jitter_only_adds_and_never_more_than_its_share(
            open in 1u64..2_592_000_000,
            jitter in 0u32..=100,
            random: u32,
        ) {
            let settings = Settings { open, jitter, ..Settings::default() };
            let length = open_millis(&settings, 3, random);
            prop_assert!(length >= open && length <= open + open * u64::from(jitter) / 100);
        }
    }
}
