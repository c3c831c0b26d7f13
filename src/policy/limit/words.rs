//! Where a key stands, and why its requests are refused, in words for people.

use super::{Decision, Rule};
use crate::policy::Millis;

/// Where a key stands under `rule`, `at` by a peek; `next` is what one more request would be told.
#[must_use]
pub fn why(rule: &Rule, at: &Decision, next: &Decision) -> String {
    let allowed = allowed(rule);
    if !next.admitted {
        let wait = seconds(next.retry_after);
        return format!("no request is left of {allowed}; the next one passes in {wait}");
    }
    let left = at.remaining;
    if next.wait > 0 {
        let wait = seconds(next.wait);
        return format!("{left} left of {allowed}; the next one passes, but is held back for {wait}");
    }
    if at.reset_after == 0 {
        return format!("nothing is used of {allowed}");
    }
    format!("{left} left of {allowed}; all are back in {}", seconds(at.reset_after))
}

/// What a rule lets through.
fn allowed(rule: &Rule) -> String {
    let rate = rule.rate();
    match rule {
        Rule::Gcra(gcra) => format!("{} at once and {rate} after that", gcra.burst() + 1),
        Rule::Sliding { burst: Some(gcra), .. } => {
            format!("{rate} in any such time, {} of them at once", gcra.burst() + 1)
        }
        Rule::Sliding { burst: None, .. } => format!("{rate} in any such time"),
        Rule::Fixed(_) => format!("{rate} by the calendar"),
    }
}

/// Never too short.
fn seconds(time: Millis) -> String {
    match time {
        0..1_000 => format!("{time} ms"),
        _ => format!("{}.{} s", time.div_ceil(100) / 10, time.div_ceil(100) % 10),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Algorithm, Delay, Now, Rate};
    use super::*;

    fn rule(algorithm: Algorithm, burst: Option<u64>, delay: Delay) -> Rule {
        Rule::new(algorithm, Rate::parse("10r/m").unwrap(), burst, delay).unwrap()
    }

    #[test]
    fn a_fresh_key_has_used_nothing() {
        let now = Now { mono: 1_000_000, wall: 1_000_000 };
        for (algorithm, burst, text) in [
            (Algorithm::Gcra, Some(4), "nothing is used of 5 at once and 10r/m after that"),
            (Algorithm::SlidingWindow, None, "nothing is used of 10r/m in any such time"),
            (
                Algorithm::SlidingWindow,
                Some(2),
                "nothing is used of 10r/m in any such time, 3 of them at once",
            ),
            (Algorithm::FixedWindow, None, "nothing is used of 10r/m by the calendar"),
        ] {
            let rule = rule(algorithm, burst, Delay::None);
            assert_eq!(why(&rule, &rule.fresh(&now, 0), &rule.fresh(&now, 1)), text);
        }
    }

    #[test]
    fn a_refusal_says_until_when() {
        let rule = rule(Algorithm::Gcra, Some(4), Delay::After(0));
        let at = Decision { admitted: true, remaining: 3, reset_after: 12_001, ..Decision::default() };
        let told = |decision| why(&rule, &at, &decision);
        let next = Decision { remaining: 2, reset_after: 18_001, ..at };
        assert_eq!(told(next), "3 left of 5 at once and 10r/m after that; all are back in 12.1 s");
        let held = Decision { wait: 6_000, ..next };
        assert_eq!(
            told(held),
            "3 left of 5 at once and 10r/m after that; the next one passes, but is held back for 6.0 s"
        );
        let none = Decision { admitted: false, remaining: 0, retry_after: 320, ..next };
        assert_eq!(
            told(none),
            "no request is left of 5 at once and 10r/m after that; the next one passes in 320 ms"
        );
    }
}
