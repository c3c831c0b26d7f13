//! What Redis refused, what is known to be used, and what a zone says of itself.

use super::*;

/// A Redis, its clock, and a host that asks it: what the host denies must be what Redis refuses.
#[test]
fn a_refusal_holds_for_as_long_as_redis_said_and_no_longer() {
    for algorithm in ALL {
        for cost in [1, 4, 11] {
            let (redis, host, rule) = (zone(algorithm, 4096), zone(algorithm, 4096), ten(algorithm));
            (0..9).for_each(|n| assert!(redis.admit(&key(1), &rule, &later(n * 50), 1).admitted));
            redis.admit(&key(1), &rule, &later(450), 1);
            let asked = later(500);
            let refused = redis.admit(&key(1), &rule, &later(501), cost);
            assert!(!refused.admitted);
            assert_eq!(host.denied(&key(1), &rule, &asked, cost), None);
            host.observe(&key(1), &rule, &asked, &refused, cost);
            let told = host.denied(&key(1), &rule, &later(502), cost).unwrap();
            assert!(!told.admitted && told.wait == 0 && told.remaining < cost, "{algorithm:?} {told:?}");
            assert!(told.retry_after <= refused.retry_after - 2 + u64::from(algorithm == Algorithm::Gcra));
            assert!(told.reset_after >= told.retry_after);
            for ms in (0..refused.retry_after + 3).step_by(7) {
                let now = later(500 + ms);
                let denied = host.denied(&key(1), &rule, &now, cost).is_some();
                assert!(!denied || !redis.peek(&key(1), &rule, &now, cost).admitted, "{algorithm:?} at {ms}");
            }
            if algorithm != Algorithm::Gcra {
                assert!(host.denied(&key(1), &rule, &later(499 + refused.retry_after), cost).is_some());
                assert_eq!(host.denied(&key(1), &rule, &later(500 + refused.retry_after), cost), None);
            }
            assert_eq!(host.denied(&key(1), &rule, &asked, 0), None);
        }
    }
}

#[test]
fn a_refusal_is_of_one_key_rule_and_cost() {
    for (algorithm, other) in [
        (Algorithm::SlidingWindow, rule(Algorithm::SlidingWindow, "10r/m", Some(3))),
        (Algorithm::FixedWindow, rule(Algorithm::FixedWindow, "11r/m", None)),
    ] {
        let (zone, rule) = (zone(algorithm, 4096), ten(algorithm));
        let refused = Decision { retry_after: 900, reset_after: 1_000, ..Decision::default() };
        zone.observe(&key(1), &rule, &NOW, &refused, 2);
        let denied = |key_, rule, cost| zone.denied(&key(key_), rule, &NOW, cost).is_some();
        assert!(denied(1, &rule, 2));
        assert!(
            !denied(1, &rule, 1) && !denied(1, &rule, 3) && !denied(1, &other, 2) && !denied(2, &rule, 2)
        );
        // An admission of the same shows that it is over, and so does a refund; one of another does not.
        let admitted = Decision { admitted: true, remaining: 1, reset_after: 1_000, ..Decision::default() };
        zone.observe(&key(1), &rule, &NOW, &admitted, 1);
        assert!(denied(1, &rule, 2));
        zone.observe(&key(1), &rule, &NOW, &admitted, 2);
        assert!(!denied(1, &rule, 2));
        zone.observe(&key(1), &rule, &NOW, &refused, 2);
        assert!(denied(1, &rule, 2));
        zone.refund(&key(1), &rule, &NOW, 1);
        assert!(!denied(1, &rule, 2));
        assert!(zone.reset(&key(1)));
    }
}

#[test]
fn a_refusal_goes_with_the_slot() {
    for algorithm in [Algorithm::SlidingWindow, Algorithm::FixedWindow] {
        let (zone, rule) = (zone(algorithm, LimitZone::MIN_SIZE), ten(algorithm));
        let refused = Decision { retry_after: 900, reset_after: 1_000, ..Decision::default() };
        zone.observe(&key(1), &rule, &NOW, &refused, 1);
        for n in 2..zone.slots() as u64 * 20 {
            assert_eq!(zone.denied(&key(n), &rule, &later(1), 1), None, "{algorithm:?}");
            zone.observe(&key(n), &rule, &later(1), &refused, 1);
        }
        assert_eq!(zone.denied(&key(1), &rule, &later(1), 1), None);
    }
}

#[test]
fn what_is_known_to_be_used_is_what_was_charged() {
    for algorithm in ALL {
        let (redis, host, rule) = (zone(algorithm, 4096), zone(algorithm, 4096), ten(algorithm));
        assert_eq!(host.known(&key(1), &rule, &NOW), 0);
        let told = redis.admit(&key(1), &rule, &NOW, 7);
        host.observe(&key(1), &rule, &NOW, &told, 7);
        let one = if algorithm == Algorithm::Gcra { 6_000 } else { 1 };
        assert_eq!(host.known(&key(1), &rule, &NOW), 7 * one, "{algorithm:?}");
        assert_eq!(host.known(&key(1), &rule, &later(200_000)), 0);
    }
}

#[test]
fn debts_of_gcra_deny_for_longer_than_a_full_bucket() {
    let (zone, rule) = (zone(Algorithm::Gcra, 4096), ten(Algorithm::Gcra));
    let deep = Decision { reset_after: 60_700, ..Decision::default() };
    zone.observe(&key(1), &rule, &NOW, &deep, 1);
    let told = zone.denied(&key(1), &rule, &NOW, 1).unwrap();
    assert_eq!((told.retry_after, told.reset_after, told.remaining), (6_700, 60_700, 0));
    assert_eq!(zone.admit(&key(1), &rule, &NOW, 1), told);
    assert_eq!(zone.known(&key(1), &rule, &NOW), 60_700);
}

#[test]
fn a_full_zone_says_so_once() {
    let region = Region::on_heap(LimitZone::MIN_SIZE);
    let zone = LimitZone::create(region, shape(Algorithm::Gcra, false)).unwrap();
    let rule = ten(Algorithm::Gcra);
    assert_eq!(zone.report(), None);
    let fill = |from: u64| {
        for n in from..from + zone.slots() as u64 * 3 {
            assert!(zone.admit(&key(n), &rule, &NOW, 10).admitted);
        }
    };
    fill(0);
    // Another process is told the rest, and nobody the same again.
    let first = zone.report().unwrap();
    assert_eq!((first.evicted, first.exhausted), (zone.evictions(), 0));
    let other = LimitZone::adopt(region, shape(Algorithm::Gcra, false)).unwrap();
    assert_eq!(other.report(), None);
    fill(100_000);
    let second = other.report().unwrap();
    assert_eq!(second.evicted + first.evicted, zone.evictions());
    assert_eq!(zone.report(), None);
    let told = AtomicU64::new(first.evicted + second.evicted);
    let tell = || told.fetch_add(zone.report().map_or(0, |told| told.evicted), SeqCst);
    hammer(4, 3_000, |thread, i| {
        zone.admit(&key(thread * 1_000_000 + i), &rule, &later(i), 10);
        tell() > 0
    });
    tell();
    assert_eq!(told.into_inner(), zone.evictions());
}
