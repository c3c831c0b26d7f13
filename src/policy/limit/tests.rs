//! Properties of the policies against plain sequential models.

use proptest::prelude::*;

use super::gcra::CLOCK_SLACK;
use super::*;

fn rate(text: &str) -> Rate {
    Rate::parse(text).unwrap()
}

fn gcra(text: &str, burst: u64) -> Gcra {
    Gcra::new(rate(text), burst, Delay::None).unwrap()
}

fn any_rate() -> impl Strategy<Value = Rate> {
    let period = prop_oneof![Just(1_000), Just(60_000), Just(3_600_000), (1..100u64).prop_map(|s| s * 1_000)];
    (1..5_000u64, period).prop_map(|(count, period)| Rate { count, period })
}

fn any_gcra() -> impl Strategy<Value = Gcra> {
    let delay = prop_oneof![Just(Delay::None), (0..20u64).prop_map(Delay::After)];
    (any_rate(), 0..30u64, delay).prop_map(|(rate, burst, delay)| Gcra::new(rate, burst, delay).unwrap())
}

fn any_steps(longest: u64) -> impl Strategy<Value = Vec<(u64, u64)>> {
    let pause = prop_oneof![3 => Just(0), 3 => 0..20u64, 2 => 0..longest];
    prop::collection::vec((pause, prop_oneof![4 => Just(1), 1 => 0..6u64]), 1..200)
}

/// `limit_req` as its documentation tells it, in wide numbers and without its truncations.
struct LimitReq {
    /// Excess after the last admitted request, in 1/period requests; None before the first.
    excess: Option<u128>,
    last: u64,
}

impl LimitReq {
    /// None: refused; otherwise the delay in milliseconds.
    fn request(&mut self, limit: &Gcra, delay: u64, now: u64) -> Option<u64> {
        let (count, period) = (u128::from(limit.rate().count), u128::from(limit.rate().period));
        let passed = u128::from(now - self.last);
        let excess = self.excess.map_or(0, |excess| (excess + period).saturating_sub(count * passed));
        if excess > u128::from(limit.burst()) * period {
            return None;
        }
        (self.excess, self.last) = (Some(excess), now);
        Some((excess.saturating_sub(u128::from(delay) * period) / count) as u64)
    }
}

proptest! {
    #[test]
    fn gcra_decides_as_limit_req(limit in any_gcra(), start in 0..1u64 << 41, steps in any_steps(100_000)) {
        let (mut model, mut tat, mut now) = (LimitReq { excess: None, last: 0 }, Tat::EMPTY, start);
        for (pause, _) in steps {
            now += pause;
            let (decision, next) = limit.admit(tat, now, 1);
            let expected = model.request(&limit, limit.delay(), now);
            prop_assert_eq!(decision.admitted.then_some(decision.wait), expected);
            tat = next;
        }
    }

    #[test]
    fn gcra_tells_times_exactly(limit in any_gcra(), steps in any_steps(10_000)) {
        let (mut tat, mut now) = (Tat::EMPTY, 1_000_000);
        for (pause, cost) in steps {
            now += pause;
            let (decision, next) = limit.admit(tat, now, cost);
            tat = next;
            prop_assert_eq!(limit.level(tat, now + decision.reset_after), 0);
            if decision.reset_after > 0 {
                prop_assert!(limit.level(tat, now + decision.reset_after - 1) > 0);
            }
            prop_assert!((0..=decision.remaining).all(|n| limit.fits(limit.level(tat, now), n)));
            prop_assert!(!limit.fits(limit.level(tat, now), decision.remaining + 1));
            if cost > limit.burst() + 1 {
                prop_assert!(!decision.admitted);
                prop_assert_eq!(decision.retry_after, decision.reset_after.max(1));
                continue;
            }
            prop_assert!(limit.fits(limit.level(tat, now + decision.retry_after), cost));
            if decision.retry_after > 0 {
                prop_assert!(!limit.fits(limit.level(tat, now + decision.retry_after - 1), cost));
            }
        }
    }

    #[test]
    fn gcra_refund_restores(limit in any_gcra(), steps in any_steps(1_000)) {
        let (mut tat, mut now) = (Tat::EMPTY, 1_000_000);
        for (pause, cost) in steps {
            now += pause;
            let (decision, next) = limit.admit(tat, now, cost);
            let charged = if decision.admitted { cost } else { 0 };
            let back = limit.refund(next, now, charged);
            prop_assert_eq!(limit.level(back, now), limit.level(tat, now));
            // Later, never below what it would have been without the charge.
            let later = now + 500;
            prop_assert_eq!(limit.level(limit.refund(next, later, charged), later), limit.level(tat, later));
            tat = next;
        }
    }

    #[test]
    fn gcra_is_monotonic(limit in any_gcra(), level in 0..1u64 << 30, less in 0..1u64 << 30, cost in 1..40u64) {
        if limit.fits(level, cost) {
            prop_assert!(limit.fits(level.saturating_sub(less), cost));
            prop_assert!(limit.fits(level, cost - 1));
        }
    }

    #[test]
    fn gcra_loses_nothing_to_lagging_clocks(
        limit in any_gcra(),
        steps in prop::collection::vec((0..50u64, 0..CLOCK_SLACK), 1..300),
    ) {
        let (mut tat, mut now, mut admitted) = (Tat::EMPTY, 1_000_000, 0);
        let start = now;
        for (pause, lag) in steps {
            now += pause;
            let (decision, next) = limit.admit(tat, now - lag, 1);
            prop_assert!(next >= tat);
            admitted += u64::from(decision.admitted);
            tat = next;
        }
        let earned = (now - start + CLOCK_SLACK) * limit.n() / limit.p();
        prop_assert!(admitted <= limit.burst() + 1 + earned);
    }

    #[test]
    fn gcra_stays_exact_in_doubles(count in 1..u64::MAX, period in 1..u64::MAX, burst in any::<u64>(), shift in 0..63u32) {
        let rate = Rate { count: (count >> shift).max(1), period: (period >> shift).max(1) };
        if let Ok(limit) = Gcra::new(rate, burst >> shift, Delay::None) {
            let level = limit.horizon() * limit.n() + limit.n() - 1;
            prop_assert!(level.max(limit.capacity()) + limit.capacity() < 1 << 53);
            prop_assert!(limit.n() <= 1 << 22);
        }
    }

    #[test]
    fn sliding_window_holds_in_every_true_window(
        count in 1..40u64, seconds in 1..5u64, start in 0..100_000u64, steps in any_steps(1_500),
    ) {
        let window = Window::new(Rate { count, period: seconds * 1_000 }).unwrap();
        let (mut buckets, mut log, mut now) = (Vec::<Bucket>::new(), Vec::new(), start);
        for (pause, cost) in steps {
            now += pause;
            let usage = window.usage(buckets.clone(), now);
            let decision = window.decide(&usage, now, cost);
            if decision.admitted {
                buckets.push(Bucket { tick: usage.newest, count: cost });
                log.push((now, cost));
            }
            let seen: u64 = log.iter().filter(|(at, _)| at + seconds * 1_000 > now).map(|(_, cost)| cost).sum();
            prop_assert!(seen <= count);
            prop_assert_eq!(decision.remaining, count - window.usage(buckets.clone(), now).used);
            let at = |time| window.usage(buckets.clone(), time);
            prop_assert_eq!(at(now + decision.reset_after).used, 0);
            prop_assert!(decision.reset_after == 0 || at(now + decision.reset_after - 1).used > 0);
            if cost <= count {
                prop_assert!(window.fits(&at(now + decision.retry_after), cost));
                prop_assert!(decision.retry_after == 0 || !window.fits(&at(now + decision.retry_after - 1), cost));
            }
        }
    }

    #[test]
    fn fixed_window_counts_by_the_calendar(count in 1..20u64, steps in any_steps(1_500)) {
        let window = FixedWindow::new(Rate { count, period: 2_000 }).unwrap();
        let (mut stored, mut log, mut now) = (Bucket::default(), Vec::new(), 1_700_000_000_000);
        for (pause, cost) in steps {
            now += pause;
            let current = window.current(stored, now);
            let decision = window.decide(current, now, cost);
            if decision.admitted && cost > 0 {
                stored = Bucket { tick: current.tick, count: current.count + cost };
                log.push((now / 2_000, cost));
            }
            let seen: u64 = log.iter().filter(|(tick, _)| *tick == now / 2_000).map(|(_, cost)| cost).sum();
            prop_assert!(seen <= count);
            prop_assert_eq!(decision.remaining, count - seen);
            let at = |time| window.current(stored, time);
            if cost <= count {
                prop_assert!(window.fits(at(now + decision.retry_after), cost));
                prop_assert!(decision.retry_after == 0 || !window.fits(at(now + decision.retry_after - 1), cost));
            }
            prop_assert_eq!(at(now + decision.reset_after).count, 0);
        }
    }
}

/// Admissions of a limit asked every millisecond in (0, `span`], after its burst was spent at 0.
fn saturated(limit: &Gcra, span: u64) -> u64 {
    let start = 1_000_000;
    let mut tat = Tat::EMPTY;
    let mut ask = |at| {
        let (decision, next) = limit.admit(tat, at, 1);
        tat = next;
        u64::from(decision.admitted)
    };
    let at_once: u64 = (0..limit.burst() + 5).map(|_| ask(start)).sum();
    assert_eq!(at_once, limit.burst() + 1);
    (1..=span).map(|ms| ask(start + ms)).sum()
}

#[test]
fn the_long_run_is_the_rate_without_drift() {
    assert_eq!(saturated(&gcra("100r/m", 20), 600_000), 1_000);
    assert_eq!(saturated(&gcra("1r/m", 0), 600_000), 10);
    assert_eq!(saturated(&gcra("7r/s", 3), 100_000), 700);
    assert_eq!(saturated(&gcra("999r/s", 30), 100_000), 99_900);
}

#[test]
fn gcra_in_numbers() {
    let limit = Gcra::new(rate("100r/m"), 20, Delay::After(8)).unwrap();
    assert_eq!((limit.n(), limit.p(), limit.capacity()), (1, 600, 12_600));
    let now = 1_700_000_000_000;
    let (mut tat, mut waits) = (Tat::EMPTY, Vec::new());
    for _ in 0..21 {
        let (decision, next) = limit.admit(tat, now, 1);
        waits.push(decision.wait);
        tat = next;
    }
    assert_eq!(waits[..10], [0, 0, 0, 0, 0, 0, 0, 0, 0, 600]);
    assert_eq!(waits[20], 7_200);
    let refused = Decision { admitted: false, wait: 0, remaining: 0, retry_after: 600, reset_after: 12_600 };
    assert_eq!(limit.admit(tat, now, 1), (refused, tat));
    assert_eq!(limit.admit(tat, now, 0).0, Decision { admitted: true, retry_after: 0, ..refused });
}

#[test]
fn a_changed_rate_clamps_and_does_not_refill() {
    let (slow, fast, now) = (gcra("1r/d", 9), gcra("100r/s", 10), 1_000_000);
    let full = slow.tat(slow.capacity(), now);
    let (refused, cut) = fast.admit(full, now, 1);
    assert_eq!((refused.admitted, refused.retry_after, cut), (false, 10, Tat::new(now + 110, 0)));
    assert!(fast.admit(cut, now + 10, 1).0.admitted);
    // The other way the bucket keeps the little it held.
    assert_eq!(slow.admit(fast.tat(fast.capacity(), now), now, 1).0.remaining, 8);
}

#[test]
fn what_cannot_be_exact_is_refused() {
    let text = |rate: &str, burst| {
        Gcra::new(Rate::parse(rate).unwrap(), burst, Delay::None).unwrap_err().to_string()
    };
    assert_eq!(
        text("5000000003r/s", 0),
        "rate \"5000000003r/s\" is too fine: in lowest terms it has more than 4194304 requests"
    );
    assert_eq!(text("1r/d", 1 << 40), "burst \"1099511627776\" is too large for rate \"1r/d\"");
    assert_eq!(text("1r/s", u64::MAX), "burst \"18446744073709551615\" is too large for rate \"1r/s\"");
    let window = |rate| Window::new(Rate::parse(rate).unwrap()).map(drop).unwrap_err().to_string();
    assert_eq!(
        window("134217728r/d"),
        "rate \"134217728r/d\" is too large for a window: more than 134217727 requests"
    );
}

#[test]
fn rules_say_what_goes_together() {
    let new = |algorithm, burst, delay| Rule::new(algorithm, rate("10r/s"), burst, delay);
    let (sliding, fixed) = (Algorithm::SlidingWindow, Algorithm::FixedWindow);
    assert_eq!(new(fixed, Some(1), Delay::None), Err(RuleError::BurstOfFixed));
    assert_eq!(new(fixed, None, Delay::After(0)), Err(RuleError::DelayWithoutBurst));
    assert_eq!(new(sliding, None, Delay::After(0)), Err(RuleError::DelayWithoutBurst));
    let idle = |rule: Result<Rule, RuleError>| rule.unwrap().fresh(&Now { mono: 5_000, wall: 7_000 }, 1);
    let left =
        |rule| Some(idle(rule)).filter(|decision| decision.admitted).map(|decision| decision.remaining);
    assert_eq!(left(new(sliding, Some(4), Delay::After(1))), Some(4));
    assert_eq!(left(new(sliding, Some(40), Delay::None)), Some(9));
    assert_eq!(left(new(Algorithm::Gcra, None, Delay::After(0))), Some(0));
    for (algorithm, remaining) in [(Algorithm::Gcra, 0), (sliding, 9), (fixed, 9)] {
        assert_eq!(Algorithm::parse(algorithm.name()), Some(algorithm));
        assert_eq!(left(new(algorithm, None, Delay::None)), Some(remaining));
    }
    assert_eq!(Algorithm::parse("GCRA"), None);
}

#[test]
fn a_burst_beside_the_window_decides_with_it() {
    let (window, burst) = (Window::new(rate("100r/m")).unwrap(), gcra("100r/m", 20));
    let now = 60_000;
    let none = window.usage([], now);
    let decision = window.decide_with(Some(&burst), &none, burst.capacity(), now, 1);
    assert_eq!((decision.admitted, decision.retry_after, decision.remaining), (false, 600, 0));
    let full = window.usage([Bucket { tick: 16, count: 100 }], now);
    let decision = window.decide_with(Some(&burst), &full, 0, now, 1);
    // Bucket 16 began at 60 s and leaves 17 ticks of 3.75 s later.
    assert_eq!((decision.admitted, decision.retry_after, decision.remaining), (false, 63_750, 0));
}

#[test]
fn a_saturated_sliding_window_gives_sixteen_seventeenths() {
    let window = Window::new(rate("160r/16s")).unwrap();
    let (mut buckets, mut admitted) = (Vec::new(), 0);
    for now in 0..1_700_000 {
        let usage = window.usage(buckets.iter().copied(), now);
        if window.decide(&usage, now, 1).admitted {
            buckets.push(Bucket { tick: usage.newest, count: 1 });
            admitted += 1;
            buckets.drain(..buckets.len().saturating_sub(160));
        }
    }
    assert_eq!(admitted, 160 * 100);
}

#[test]
fn a_wall_clock_set_back_locks_nobody_out() {
    let window = FixedWindow::new(rate("10r/m")).unwrap();
    let full = Bucket { tick: 1_000, count: 10 };
    let at = |tick: u64| window.decide(window.current(full, tick * 60_000), tick * 60_000, 1);
    assert!(!at(1_000).admitted);
    assert_eq!((at(999).admitted, at(999).retry_after), (false, 120_000));
    assert!(at(998).admitted);
    assert!(at(1_001).admitted);
}

#[test]
fn the_state_fits_its_word() {
    let tat = Tat::new(1_700_000_000_123, 4_194_303);
    assert_eq!((tat.ms(), tat.fraction()), (1_700_000_000_123, 4_194_303));
    assert_eq!(Tat::from_bits(tat.to_bits()), tat);
    assert_eq!(Tat::new(u64::MAX, u64::MAX).to_bits(), u64::MAX);
    assert!(Tat::EMPTY.is_empty_at(0) && !Tat::new(5, 1).is_empty_at(5) && Tat::new(5, 1).is_empty_at(6));
}

#[test]
fn debts_fill_a_bucket_beyond_full_and_no_further_than_the_horizon() {
    for limit in [gcra("100r/m", 20), gcra("7r/s", 3), gcra("999r/s", 30), gcra("1r/d", 0)] {
        let (now, horizon) = (1_000_000, limit.horizon());
        let deep = limit.raised(Tat::EMPTY, now, horizon);
        let level = limit.level(deep, now);
        assert_eq!(level, horizon * limit.n());
        assert!(level > limit.capacity() && level <= limit.capacity() + CLOCK_SLACK * limit.n());
        assert_eq!(limit.raised(Tat::EMPTY, now, u64::MAX), deep);
        // Refused for longer than by a full bucket, told exactly, and not cut down.
        let (refused, kept) = limit.admit(deep, now, 1);
        assert_eq!((refused.admitted, refused.remaining, kept), (false, 0, deep));
        assert_eq!(refused.reset_after, horizon);
        assert!(!limit.admit(deep, now + refused.retry_after - 1, 1).0.admitted);
        assert!(limit.admit(deep, now + refused.retry_after, 1).0.admitted);
        assert_eq!(limit.level(limit.refund(deep, now, 1), now), level - limit.p());
        // What is already deeper stays; what is less is raised.
        assert_eq!(limit.raised(deep, now, 1), deep);
        assert_eq!(limit.raised(limit.tat(1, now), now, horizon), deep);
        // Beyond the horizon it is another configuration's, and only full.
        assert_eq!(limit.level(Tat::new(now + horizon + 1, 0), now), limit.capacity());
    }
}
