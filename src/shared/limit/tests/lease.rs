//! Leases of one worker, step by step.

use super::super::lease::Want;
use super::*;

pub const LIFE: Millis = 1_000;
pub const PATIENCE: Millis = 60;

pub fn leasing(algorithm: Algorithm, len: usize) -> LimitZone {
    LimitZone::create(Region::on_heap(len), shape(algorithm, true)).unwrap()
}

/// A hundred requests in a second: as many may be leased at once.
pub fn hundred(algorithm: Algorithm) -> Rule {
    rule(algorithm, "100r/s", (algorithm == Algorithm::Gcra).then_some(99))
}

fn spends(zone: &LimitZone, rule: &Rule, now: &Now) -> u64 {
    (0..).take_while(|_| zone.spend(&key(1), rule, now, 1, 1).is_some()).count() as u64
}

#[test]
fn asks_slowly_at_first_and_for_twice_as_much_when_it_was_too_little() {
    for algorithm in ALL {
        let (zone, rule) = (leasing(algorithm, 8192), hundred(algorithm));
        assert_eq!(zone.spend(&key(1), &rule, &NOW, 1, 1), None);
        for (round, more) in [0, 1, 3, 7, 15, 31, 63, 99, 99].into_iter().enumerate() {
            let now = later(round as u64);
            let want = zone.want(&key(1), &rule, &now, LIFE, PATIENCE);
            assert_eq!(want, Want { more, unused: 0, stamp: want.stamp, asker: true }, "{algorithm:?}");
            // Others ask for themselves alone, and change nothing.
            assert_eq!(zone.want(&key(1), &rule, &now, LIFE, PATIENCE), Want::default());
            zone.grant(&key(1), &rule, &now, LIFE, more, 7);
            assert_eq!(spends(&zone, &rule, &now), more);
        }
        // Redis gave less than was asked for: no reason to ask for more. Idle: no reason to ask for less.
        let now = later(10);
        assert_eq!(zone.want(&key(1), &rule, &now, LIFE, PATIENCE).more, 99);
        zone.grant(&key(1), &rule, &now, LIFE, 5, 8);
        assert_eq!(spends(&zone, &rule, &now), 5);
        assert_eq!(zone.want(&key(1), &rule, &later(5_000), LIFE, PATIENCE).more, 99);
        // Used for less than half: half.
        zone.grant(&key(1), &rule, &later(5_000), LIFE, 99, 9);
        (0..49).for_each(|_| assert!(zone.spend(&key(1), &rule, &later(5_000), 1, 1).is_some()));
        let want = zone.want(&key(1), &rule, &later(5_000 + LIFE), LIFE, PATIENCE);
        assert_eq!(want, Want { more: 63, unused: 50, stamp: 9, asker: true });
    }
}

#[test]
fn a_grant_lives_from_before_it_was_asked_for() {
    let (zone, rule) = (leasing(Algorithm::Gcra, 4096), hundred(Algorithm::Gcra));
    zone.want(&key(1), &rule, &NOW, LIFE, PATIENCE);
    zone.grant(&key(1), &rule, &NOW, LIFE, 10, 77);
    assert!(zone.spend(&key(1), &rule, &later(LIFE - 1), 4, 1).is_some());
    assert_eq!(zone.spend(&key(1), &rule, &later(LIFE), 1, 1), None);
    assert_eq!(zone.spend(&key(1), &rule, &later(LIFE - 1), 7, 1), None);
    assert!(zone.spend(&key(1), &rule, &later(LIFE - 1), 6, 1).is_some());
    // Back into one that lives, up to what was granted.
    zone.unspend(&key(1), &rule, &later(LIFE - 1), 4);
    zone.unspend(&key(1), &rule, &later(LIFE - 1), 7);
    zone.unspend(&key(1), &rule, &later(LIFE), 2);
    let want = zone.want(&key(1), &rule, &later(LIFE), LIFE, PATIENCE);
    assert_eq!((want.unused, want.stamp), (4, 77));
    // Taken out: gone.
    assert_eq!(zone.spend(&key(1), &rule, &later(LIFE - 1), 1, 1), None);
    zone.unspend(&key(1), &rule, &later(LIFE - 1), 1);
    let later_ = later(LIFE + PATIENCE);
    assert_eq!(zone.want(&key(1), &rule, &later_, LIFE, PATIENCE).unused, 0);
}

#[test]
fn one_worker_asks_until_it_is_answered_gives_up_or_is_overdue() {
    let (zone, rule) = (leasing(Algorithm::FixedWindow, 4096), hundred(Algorithm::FixedWindow));
    let ask = |ms| zone.want(&key(1), &rule, &later(ms), LIFE, PATIENCE).asker;
    assert!(ask(0) && !ask(0) && !ask(PATIENCE - 1));
    assert!(ask(PATIENCE) && !ask(PATIENCE));
    zone.abandon(&key(1));
    assert!(ask(PATIENCE) && !ask(PATIENCE));
    zone.grant(&key(1), &rule, &later(PATIENCE), LIFE, 0, 0);
    assert!(ask(PATIENCE));
    zone.abandon(&key(2));
}

#[test]
fn answers_that_overlap_add_up_and_die_with_the_first() {
    let (zone, rule) = (leasing(Algorithm::SlidingWindow, 8192), hundred(Algorithm::SlidingWindow));
    zone.want(&key(1), &rule, &NOW, LIFE, PATIENCE);
    let second = later(PATIENCE);
    assert!(zone.want(&key(1), &rule, &second, LIFE, PATIENCE).asker);
    zone.grant(&key(1), &rule, &second, LIFE, 20, 2);
    zone.grant(&key(1), &rule, &NOW, LIFE, 10, 1);
    assert_eq!(zone.spend(&key(1), &rule, &later(LIFE), 1, 1), None);
    assert!(zone.spend(&key(1), &rule, &later(LIFE - 1), 25, 1).is_some());
    // Nobody knows what they are called.
    assert_eq!(zone.want(&key(1), &rule, &later(LIFE - 1), LIFE, PATIENCE).unused, 0);
    // And never more than may be leased.
    let third = later(LIFE);
    zone.grant(&key(1), &rule, &third, LIFE, 60, 3);
    zone.grant(&key(1), &rule, &third, LIFE, 60, 4);
    assert_eq!(spends(&zone, &rule, &third), 100);
    // One that was dead when the next was asked for does not shorten that.
    zone.grant(&key(1), &rule, &later(LIFE * 2), LIFE, 5, 5);
    zone.grant(&key(1), &rule, &later(LIFE * 3), LIFE, 6, 6);
    let now = later(LIFE * 4 - 1);
    assert_eq!(spends(&zone, &rule, &now), 6);
}

#[test]
fn a_key_that_lost_its_slot_loses_its_grant() {
    for algorithm in ALL {
        let (zone, rule) = (leasing(algorithm, LimitZone::MIN_SIZE), hundred(algorithm));
        zone.want(&key(1), &rule, &NOW, LIFE, PATIENCE);
        zone.grant(&key(1), &rule, &NOW, LIFE, 10, 1);
        let others = 2..zone.slots() as u64 * 20;
        for n in others.clone() {
            assert!(zone.want(&key(n), &rule, &later(n), LIFE, PATIENCE).asker);
        }
        let now = later(1);
        assert_eq!(zone.spend(&key(1), &rule, &now, 1, 1), None);
        zone.unspend(&key(1), &rule, &now, 1);
        zone.grant(&key(1), &rule, &now, LIFE, 10, 1);
        assert_eq!(zone.spend(&key(1), &rule, &now, 1, 1), None);
        assert!(others.into_iter().all(|n| zone.spend(&key(n), &rule, &now, 1, 1).is_none()));
        // Asking charges nothing, so nothing was put out before its time.
        assert_eq!((zone.evictions(), zone.used(&later(2_000))), (0, 0), "{algorithm:?}");
    }
}

#[test]
fn tells_what_is_in_hand_and_a_share_of_the_rest() {
    let limit = |delay| Rule::new(Algorithm::Gcra, Rate::parse("10r/s").unwrap(), Some(19), delay).unwrap();
    let (zone, rule) = (leasing(Algorithm::Gcra, 4096), limit(Delay::After(0)));
    zone.want(&key(1), &rule, &NOW, LIFE, PATIENCE);
    // Redis charged this request and four more: half a second's worth.
    let after = rule.fresh(&NOW, 5);
    zone.observe(&key(1), &rule, &NOW, &after, 5);
    zone.grant(&key(1), &rule, &NOW, LIFE, 4, 1);
    let mut told = (0..4).map(|_| zone.spend(&key(1), &rule, &NOW, 1, 4).unwrap());
    // The delays that limit_req gives the second to fifth request.
    let first =
        Decision { admitted: true, wait: 100, remaining: 3 + 15 / 4, retry_after: 0, reset_after: 500 };
    assert_eq!(told.next(), Some(first));
    let rest: Vec<_> = told.map(|told| (told.wait, told.remaining)).collect();
    assert_eq!(rest, [(200, 5), (300, 4), (400, 3)]);
    assert_eq!(zone.spend(&key(1), &rule, &NOW, 1, 4), None);
    // A window that is full but for the grant: when the next is admitted is Redis's to say.
    let (zone, rule) = (leasing(Algorithm::FixedWindow, 4096), hundred(Algorithm::FixedWindow));
    zone.want(&key(1), &rule, &NOW, LIFE, PATIENCE);
    zone.observe(&key(1), &rule, &later(100), &rule.fresh(&later(100), 100), 100);
    zone.grant(&key(1), &rule, &later(100), LIFE, 1, 1);
    let last = zone.spend(&key(1), &rule, &later(100), 1, 0).unwrap();
    assert_eq!(last, Decision { admitted: true, wait: 0, remaining: 0, retry_after: 900, reset_after: 900 });
}

#[test]
fn what_can_be_given_back_is_no_reason_to_refuse() {
    let (zone, rule) = (leasing(Algorithm::Gcra, 4096), hundred(Algorithm::Gcra));
    zone.want(&key(1), &rule, &NOW, LIFE, PATIENCE);
    zone.observe(&key(1), &rule, &NOW, &rule.fresh(&NOW, 98), 98);
    zone.grant(&key(1), &rule, &NOW, LIFE, 3, 1);
    assert_eq!(zone.spend(&key(1), &rule, &NOW, 5, 1), None);
    assert_eq!(zone.denied(&key(1), &rule, &NOW, 5), None);
    assert!(zone.denied(&key(1), &rule, &NOW, 6).is_some());
}

#[test]
fn without_leases_nothing_is_leased() {
    for algorithm in ALL {
        for (zone, rule) in
            [(zone(algorithm, 4096), hundred(algorithm)), (leasing(algorithm, 8192), ten(algorithm))]
        {
            assert_eq!(zone.want(&key(1), &rule, &NOW, LIFE, PATIENCE), Want::default());
        }
        let (zone, rule) = (zone(algorithm, 4096), hundred(algorithm));
        assert!(zone.admit(&key(1), &rule, &NOW, 1).admitted);
        zone.grant(&key(1), &rule, &NOW, LIFE, 10, 1);
        assert_eq!(zone.spend(&key(1), &rule, &NOW, 1, 1), None);
        zone.unspend(&key(1), &rule, &NOW, 1);
        zone.abandon(&key(1));
    }
    let other = Shape { algorithm: Algorithm::Gcra, lease: true };
    let region = Region::on_heap(8192);
    LimitZone::create(region, shape(Algorithm::Gcra, false)).unwrap();
    assert_eq!(LimitZone::adopt(region, other).err(), Some(LayoutError::Otherwise("rate limits")));
}

#[test]
fn states_have_the_size_that_is_promised() {
    let bytes = |algorithm, lease| shape(algorithm, lease).words().group_size() / 16;
    assert_eq!(ALL.map(|algorithm| bytes(algorithm, false)), [16, 168, 32]);
    assert_eq!(ALL.map(|algorithm| bytes(algorithm, true)), [40, 192, 56]);
}

#[test]
fn a_lease_survives_a_reload_and_not_a_merge() {
    let region = Region::on_heap(LimitZone::MIN_SIZE);
    let zone = LimitZone::create(region, shape(Algorithm::Gcra, true)).unwrap();
    let rule = hundred(Algorithm::Gcra);
    for n in 0..16 {
        zone.want(&key(n), &rule, &NOW, LIFE, PATIENCE);
        zone.observe(&key(n), &rule, &NOW, &rule.fresh(&NOW, 9), 9);
        zone.grant(&key(n), &rule, &NOW, LIFE, 8, 1);
    }
    let zone = LimitZone::adopt(region, shape(Algorithm::Gcra, true)).unwrap();
    assert!(zone.spend(&key(1), &rule, &NOW, 1, 1).is_some());
    // Two slots of one key.
    let (id, group) = zone.table.locate(&key(1));
    let slots = group.keys();
    let mine = slots.iter().position(|slot| slot.load(SeqCst) == id).unwrap();
    slots[if mine == 3 { 4 } else { 3 }].store(id, SeqCst);
    group.settle(zone.table.find(group, id).unwrap(), id);
    let now = NOW;
    let left = spends(&zone, &rule, &now);
    assert!(left == 7 || left == 8, "{left}");
}
