//! Many workers on one table.

mod denial;
mod lease;
mod model;
mod threads;

use std::sync::Barrier;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;

use super::*;
use crate::policy::limit::{Delay, Rate};

const NOW: Now = Now { mono: 5_000_000, wall: 1_700_000_040_000 };
const ALL: [Algorithm; 3] = [Algorithm::Gcra, Algorithm::SlidingWindow, Algorithm::FixedWindow];

fn later(ms: Millis) -> Now {
    Now { mono: NOW.mono + ms, wall: NOW.wall + ms }
}

fn rule(algorithm: Algorithm, rate: &str, burst: Option<u64>) -> Rule {
    Rule::new(algorithm, Rate::parse(rate).unwrap(), burst, Delay::None).unwrap()
}

/// One that admits ten at once.
fn ten(algorithm: Algorithm) -> Rule {
    rule(algorithm, "10r/m", if algorithm == Algorithm::Gcra { Some(9) } else { None })
}

fn shape(algorithm: Algorithm, lease: bool) -> Shape {
    Shape { algorithm, lease }
}

fn zone(algorithm: Algorithm, len: usize) -> LimitZone {
    LimitZone::create(Region::on_heap(len), shape(algorithm, false)).unwrap()
}

fn key(n: u64) -> KeyHash {
    KeyHash::new(&n.to_le_bytes())
}

/// Lets other threads run, by chance: threads that all step aside at each step do so in turn for ever, and then
/// nobody gets anything done.
pub fn step_aside() {
    static STEPS: AtomicU64 = AtomicU64::new(0);
    // splitmix64
    let mut x = STEPS.fetch_add(0x9e37_79b9_7f4a_7c15, Relaxed);
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    if x >> 63 == 0 {
        thread::yield_now();
    }
}

/// Threads that all ask the same, and how many were admitted in all.
fn hammer(threads: u64, asks: u64, ask: impl Fn(u64, u64) -> bool + Sync) -> u64 {
    let (barrier, ask) = (Barrier::new(threads as usize), &ask);
    let run = |thread| {
        let barrier = &barrier;
        move || {
            barrier.wait();
            (0..asks).filter(|i| ask(thread, *i)).count() as u64
        }
    };
    thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(run(thread))).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).sum()
    })
}

#[test]
fn one_key_is_counted_exactly_by_all_workers() {
    for algorithm in ALL {
        let rule = rule(algorithm, "5000r/d", (algorithm == Algorithm::Gcra).then_some(4_999));
        for round in 0..5 {
            let zone = zone(algorithm, LimitZone::MIN_SIZE);
            let admitted = hammer(4, 3_000, |_, _| zone.admit(&key(round), &rule, &NOW, 1).admitted);
            assert_eq!(admitted, 5_000, "{algorithm:?}");
        }
    }
}

#[test]
fn a_burst_beside_the_window_holds_for_all_workers() {
    let rule = rule(Algorithm::SlidingWindow, "5000r/d", Some(999));
    let zone = zone(Algorithm::SlidingWindow, LimitZone::MIN_SIZE);
    let admitted = hammer(4, 3_000, |_, _| zone.admit(&key(1), &rule, &NOW, 1).admitted);
    assert!((990..=1_000).contains(&admitted), "{admitted}");
    assert!(zone.peek(&key(1), &rule, &NOW, 0).remaining <= 10);
}

#[test]
fn workers_whose_clocks_differ_never_overfill_a_window() {
    let rule = rule(Algorithm::SlidingWindow, "2000r/s", None);
    for round in 0..20 {
        let zone = zone(Algorithm::SlidingWindow, LimitZone::MIN_SIZE);
        // All within one second, across bucket borders, each worker some milliseconds behind the next.
        let at = |thread: u64, i: u64| later(i * 200 / 2_000 + thread * 7);
        let admitted =
            hammer(4, 2_000, |thread, i| zone.admit(&key(round), &rule, &at(thread, i), 1).admitted);
        assert!((1_990..=2_000).contains(&admitted), "{admitted}");
    }
}

#[test]
fn new_keys_get_one_slot_each() {
    for algorithm in ALL {
        let zone = zone(algorithm, 1 << 20);
        let admitted = hammer(4, 1_000, |_, i| zone.admit(&key(i % 200), &ten(algorithm), &NOW, 1).admitted);
        assert_eq!(admitted, 2_000);
        assert_eq!((zone.used(&NOW), zone.evictions()), (200, 0));
    }
}

#[test]
fn a_full_zone_evicts_and_keeps_hot_keys_limited() {
    for algorithm in ALL {
        let zone = zone(algorithm, LimitZone::MIN_SIZE);
        let rule = rule(algorithm, "1000r/h", (algorithm == Algorithm::Gcra).then_some(999));
        let slots = zone.slots() as u64;
        let mut now = NOW;
        while zone.admit(&key(0), &rule, &now, 1).admitted {}
        // A flood of passing keys, the hot one asking in between.
        for n in 1..slots * 50 {
            now.mono += 1;
            now.wall += 1;
            assert!(zone.admit(&key(n), &rule, &now, 1).admitted);
            if algorithm == Algorithm::Gcra {
                assert!(!zone.admit(&key(0), &rule, &NOW, 1).admitted);
            }
        }
        assert!(zone.evictions() > slots * 40, "{algorithm:?}");
        assert!(zone.used(&now) as u64 <= slots);
        assert_eq!(zone.exhausted(), 0);
    }
}

#[test]
fn drained_keys_make_room_without_eviction() {
    for algorithm in ALL {
        let zone = zone(algorithm, LimitZone::MIN_SIZE);
        for n in 0..zone.slots() as u64 * 20 {
            let decision = zone.admit(&key(n), &ten(algorithm), &later(n * 120_000), 10);
            assert!(decision.admitted);
        }
        assert_eq!(zone.evictions(), 0, "{algorithm:?}");
    }
}

#[test]
fn workers_fighting_for_slots_stay_within_bounds() {
    for (algorithm, lease) in ALL.into_iter().flat_map(|algorithm| [(algorithm, false), (algorithm, true)]) {
        let region = Region::on_heap(LimitZone::MIN_SIZE);
        let zone = LimitZone::create(region, shape(algorithm, lease)).unwrap();
        let ask = |thread, i| zone.admit(&key((i * 7 + thread) % 500), &ten(algorithm), &later(i), 1);
        hammer(4, 20_000, |thread, i| {
            let decision = ask(thread, i);
            assert!(decision.remaining <= 10 && decision.retry_after <= 200_000);
            decision.admitted
        });
        assert!(zone.used(&NOW) <= zone.slots());
        assert_eq!(zone.exhausted(), 0);
        // Nothing is left stuck: each group still serves sixteen fresh keys.
        let now = later(1_000_000);
        (0..100).for_each(|n| assert!(zone.admit(&key(n), &ten(algorithm), &now, 10).admitted));
    }
}

#[test]
fn peek_charges_nothing_and_refund_restores() {
    for algorithm in ALL {
        let (zone, rule) = (zone(algorithm, LimitZone::MIN_SIZE), ten(algorithm));
        assert_eq!(zone.peek(&key(1), &rule, &NOW, 3), rule.fresh(&NOW, 3));
        assert_eq!(zone.used(&NOW), 0);
        for n in 0..7 {
            let told = zone.peek(&key(1), &rule, &NOW, 1);
            assert_eq!(zone.admit(&key(1), &rule, &NOW, 1), told);
            assert_eq!(told.remaining, 9 - n);
        }
        let before = zone.peek(&key(1), &rule, &NOW, 0);
        assert!(zone.admit(&key(1), &rule, &NOW, 3).admitted);
        let refused = zone.admit(&key(1), &rule, &NOW, 1);
        assert!(!refused.admitted && refused.retry_after > 0);
        zone.refund(&key(1), &rule, &NOW, 3);
        assert_eq!(zone.peek(&key(1), &rule, &NOW, 0), before, "{algorithm:?}");
        zone.refund(&key(1), &rule, &NOW, 1_000);
        assert_eq!(zone.peek(&key(1), &rule, &NOW, 0).remaining, 10);
        assert!(zone.reset(&key(1)) && !zone.reset(&key(2)));
    }
}

#[test]
fn times_told_are_exact() {
    for algorithm in ALL {
        let (zone, rule) = (zone(algorithm, LimitZone::MIN_SIZE), ten(algorithm));
        (0..10).for_each(|n| assert!(zone.admit(&key(1), &rule, &later(n), 1).admitted));
        let refused = zone.admit(&key(1), &rule, &later(10), 4);
        assert!(!refused.admitted);
        assert!(!zone.peek(&key(1), &rule, &later(9 + refused.retry_after), 4).admitted);
        assert!(zone.peek(&key(1), &rule, &later(10 + refused.retry_after), 4).admitted);
        assert_eq!(zone.peek(&key(1), &rule, &later(10 + refused.reset_after), 0).remaining, 10);
    }
}

#[test]
fn what_redis_said_is_where_the_fallback_begins() {
    for algorithm in ALL {
        let (theirs, ours, rule) = (zone(algorithm, 4096), zone(algorithm, 4096), ten(algorithm));
        for n in 0..7 {
            let told = theirs.admit(&key(1), &rule, &later(n), 1);
            ours.observe(&key(1), &rule, &later(n), &told, 1);
            ours.observe(&key(1), &rule, &later(n), &told, 1);
            assert_eq!(ours.peek(&key(1), &rule, &later(n), 0).remaining, told.remaining, "{algorithm:?}");
        }
        // Never lowered.
        let low = ours.peek(&key(1), &rule, &later(7), 0);
        ours.observe(&key(1), &rule, &later(7), &rule.fresh(&later(7), 1), 1);
        assert_eq!(ours.peek(&key(1), &rule, &later(7), 0), low);
        let refusal = theirs.admit(&key(1), &rule, &later(7), 9);
        ours.observe(&key(1), &rule, &later(7), &refusal, 9);
        assert!(!ours.admit(&key(1), &rule, &later(7), 4).admitted);
    }
}

#[test]
fn observing_a_burst_does_not_fill_the_window() {
    let rule = rule(Algorithm::SlidingWindow, "1000r/h", Some(4));
    let (theirs, ours) = (zone(Algorithm::SlidingWindow, 4096), zone(Algorithm::SlidingWindow, 4096));
    for _ in 0..6 {
        let told = theirs.admit(&key(1), &rule, &NOW, 1);
        ours.observe(&key(1), &rule, &NOW, &told, 1);
    }
    assert!(!ours.admit(&key(1), &rule, &NOW, 1).admitted);
    assert!(ours.admit(&key(1), &rule, &later(3_600), 1).admitted);
}

#[test]
fn a_zone_is_adopted_with_its_states() {
    for algorithm in ALL {
        let region = Region::on_heap(LimitZone::MIN_SIZE);
        assert_eq!(
            LimitZone::adopt(region, shape(algorithm, false)).err(),
            Some(LayoutError::Foreign("rate limits"))
        );
        let first = LimitZone::create(region, shape(algorithm, false)).unwrap();
        assert!(first.admit(&key(1), &ten(algorithm), &NOW, 6).admitted);
        let second = LimitZone::adopt(region, shape(algorithm, false)).unwrap();
        assert_eq!(second.peek(&key(1), &ten(algorithm), &NOW, 0).remaining, 4);
        let other = ALL.into_iter().find(|other| *other != algorithm).unwrap();
        assert_eq!(
            LimitZone::adopt(region, shape(other, false)).err(),
            Some(LayoutError::Otherwise("rate limits"))
        );
        let clean = LimitZone::create(region, shape(other, false)).unwrap();
        assert_eq!(clean.used(&NOW), 0);
    }
    let small = Region::on_heap(LimitZone::MIN_SIZE - 1);
    assert!(matches!(
        LimitZone::create(small, shape(Algorithm::Gcra, false)),
        Err(LayoutError::TooSmall { .. })
    ));
}

#[test]
fn slots_of_killed_workers_are_freed_on_adoption() {
    let region = Region::on_heap(LimitZone::MIN_SIZE);
    let zone = LimitZone::create(region, shape(Algorithm::SlidingWindow, false)).unwrap();
    let rule = ten(Algorithm::SlidingWindow);
    (0..16).for_each(|n| assert!(zone.admit(&key(n), &rule, &NOW, 10).admitted));
    // As if eight workers had died while they took over a slot, and then all sixteen.
    let keys = region.slice::<AtomicU64>(size_of::<Header>(), 16).unwrap();
    keys[..8].iter().for_each(|key| key.store(1, SeqCst));
    assert!(zone.admit(&key(99), &rule, &NOW, 10).admitted);
    keys.iter().for_each(|key| key.store(1, SeqCst));
    assert!(!zone.admit(&key(98), &rule, &NOW, 10).admitted);
    assert_eq!(zone.exhausted(), 1);
    let adopted = LimitZone::adopt(region, shape(Algorithm::SlidingWindow, false)).unwrap();
    let evicted = adopted.evictions();
    (100..116).for_each(|n| assert!(adopted.admit(&key(n), &rule, &NOW, 10).admitted));
    assert_eq!(adopted.evictions(), evicted);
}

#[test]
fn two_slots_of_one_key_become_one() {
    let region = Region::on_heap(LimitZone::MIN_SIZE);
    let zone = LimitZone::create(region, shape(Algorithm::Gcra, false)).unwrap();
    let rule = ten(Algorithm::Gcra);
    (0..zone.slots() as u64).for_each(|n| assert!(zone.admit(&key(n), &rule, &NOW, 10).admitted));
    let (id, group) = zone.table.locate(&key(1));
    let slots = group.keys();
    slots[3].store(id, SeqCst);
    slots[9].store(id, SeqCst);
    let claim = zone.table.find(group, id).unwrap();
    assert!(claim.still(id).is_ok());
    group.settle(claim, id);
    assert_eq!(slots.iter().filter(|slot| slot.load(SeqCst) == id).count(), 1);
}

#[test]
fn a_changed_period_keeps_what_was_used() {
    let zone = zone(Algorithm::SlidingWindow, LimitZone::MIN_SIZE);
    let (minute, second) =
        (rule(Algorithm::SlidingWindow, "10r/m", None), rule(Algorithm::SlidingWindow, "10r/s", None));
    assert!(zone.admit(&key(1), &second, &NOW, 6).admitted);
    assert_eq!(zone.admit(&key(1), &minute, &NOW, 2).remaining, 2);
    assert_eq!(zone.peek(&key(1), &minute, &later(30_000), 0).remaining, 2);
    // And locks nobody out for longer than the new period.
    assert_eq!(zone.peek(&key(1), &second, &later(1_100), 0).remaining, 10);
}

#[test]
fn a_rule_of_another_algorithm_is_refused() {
    for algorithm in ALL {
        let zone = zone(algorithm, LimitZone::MIN_SIZE);
        for other in ALL.into_iter().filter(|other| *other != algorithm) {
            assert!(!zone.admit(&key(1), &ten(other), &NOW, 1).admitted);
            zone.observe(&key(1), &ten(other), &NOW, &Decision { reset_after: 1, ..Decision::default() }, 1);
            zone.refund(&key(1), &ten(other), &NOW, 1);
        }
        assert_eq!(zone.used(&NOW), 0);
    }
}
