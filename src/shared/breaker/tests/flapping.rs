//! An upstream that fails and recovers in turns.

use super::*;

/// An hour of ten requests a second to an upstream that is bad for `period` milliseconds, then good for as long.
/// Returns how often the breaker opened, and the longest stay.
fn flap(s: &Settings, period: Millis, breaker: &Breaker) -> (usize, Millis) {
    let mut stays = vec![];
    for now in (0..3_600_000).step_by(100) {
        if let (Admission::Allow(token), _) = breaker.admit(s, now, of(0)) {
            let good = now / period % 2 == 1;
            stays.extend(breaker.record(s, now, token, report(good)).filter(|made| made.to == State::Open));
        }
        if now % 1_000 == 0 {
            breaker.housekeep(s, now);
        }
    }
    (stays.len(), stays.iter().map(|made| made.open_for).max().unwrap_or(0))
}

#[test]
fn a_flapping_upstream_is_left_alone_for_longer_and_longer() {
    let plain = Settings { window: 10_000, open: 1_000, max_open: 60_000, ..Settings::default() };
    let growing = Settings { backoff: 2_000, ..plain };
    for period in [5_000, 10_000, 20_000] {
        let (often, stay) = flap(&plain, period, &Breaker::default());
        assert_eq!(stay, 1_000);
        let breaker = Breaker::default();
        let (seldom, longest) = flap(&growing, period, &breaker);
        assert!(longest > 4_000 && longest <= 60_000, "{period}: {longest}");
        assert!(seldom * 2 < often, "{period}: {seldom} instead of {often}");
        // Never more than one line for opening, one for the test, one for closing, per stay of a second at least.
        let view = breaker.view(&growing, 3_600_000);
        assert!(view.opened + view.half_opened + view.closed <= 3 * 3_600, "{view:?}");
        // Calm brings it back to where it began, and not before.
        let attempts = u64::from(view.attempts);
        let calm = 3_600_000 + 70_000;
        while state(&breaker, calm) != "closed" {
            request(&breaker, &growing, calm, true);
        }
        breaker.housekeep(&growing, calm + attempts * 10_000);
        assert_eq!(breaker.view(&growing, calm).attempts, 0, "{period}");
        open(&breaker, &growing, calm + 400_000);
        assert_eq!(admit(&breaker, &growing, calm + 400_000), Admission::Reject { retry_after: 1_000 });
    }
}
