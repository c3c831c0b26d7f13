//! A zone against the rules written out plainly, and by several workers at once.

use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;

use proptest::prelude::*;

use super::*;

fn key(n: u64) -> KeyHash {
    KeyHash::new(&n.to_be_bytes())
}

fn zone(size: usize) -> BanZone {
    BanZone::create(Region::on_heap(size)).unwrap()
}

fn rule(count: u32, window: Millis, duration: Millis, max_duration: Millis) -> Rule {
    let terms = Terms { count, window, duration, max_duration };
    Rule { terms, id: KeyHash::new(b"rule"), cause: Cause::Status, dry: false }
}

fn new(until: Millis, since: Millis) -> New<'static> {
    New {
        until,
        since,
        level: 1,
        cause: Cause::Manual,
        origin: Origin::Own,
        dry: false,
        told: false,
        force: false,
        address: None,
        reason: "",
    }
}

/// One key, as a person would count.
#[derive(Default)]
struct Model {
    hits: Vec<Millis>,
    past: Option<Past>,
    until: Millis,
}

impl Model {
    fn hit(&mut self, terms: &Terms, now: Millis) -> Hit {
        if self.until > now {
            return Hit::Ignored;
        }
        self.hits.push(now);
        let since = self.past.map_or(0, |past| past.ended);
        let counted = self.hits.iter().filter(|at| **at > since && now - **at < terms.window).count();
        if counted < terms.count as usize {
            return Hit::Counted;
        }
        let sentence = terms.sentence(self.past, now);
        self.until = now + sentence.length;
        self.past = Some(Past { level: sentence.level, ended: self.until });
        self.hits.clear();
        Hit::Banned(sentence)
    }

    fn lift(&mut self, now: Millis) -> bool {
        let running = self.until > now;
        if running {
            self.until = now;
            self.past = Some(Past { level: 0, ended: now });
        }
        running
    }
}

proptest! {
    #[test]
    fn decides_as_the_model_does(
        count in 1..12u32,
        steps in prop::collection::vec((0..4u64, 0..120u64, 0..10u8), 1..200),
    ) {
        let (zone, rule) = (zone(1 << 20), rule(count, 300, 40, 400));
        let (mut models, mut now) = (HashMap::<u64, Model>::new(), 10_000);
        for (who, step, what) in steps {
            now += step;
            let model = models.entry(who).or_default();
            if what == 0 {
                prop_assert_eq!(zone.lift(&key(who), now, true, now), model.lift(now));
                // The model has no two things in one millisecond.
                now += 1;
            } else {
                prop_assert_eq!(zone.hit(&key(who), &rule, None, now), model.hit(&rule.terms, now));
            }
            for (who, model) in &models {
                prop_assert_eq!(zone.banned(&key(*who), now), (model.until > now).then_some(model.until));
            }
        }
    }
}

#[test]
fn one_worker_bans_of_many_that_see_enough() {
    for round in 0..50 {
        let (zone, bans) = (zone(1 << 20), AtomicUsize::new(0));
        let rule = rule(20, 1_000, 100, 100);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..5 {
                        if let Hit::Banned(_) = zone.hit(&key(round), &rule, None, 5_000) {
                            bans.fetch_add(1, SeqCst);
                        }
                    }
                });
            }
        });
        assert_eq!(bans.into_inner(), 1, "forty hits of twenty in one instant are one ban");
        assert_eq!(zone.banned(&key(round), 5_001), Some(5_100));
        assert_eq!(zone.counters().by_status, 1);
    }
}

#[test]
fn no_hit_is_lost_between_workers() {
    for round in 0..50 {
        let zone = zone(1 << 20);
        let rule = rule(32, 1_000_000, 100, 100);
        std::thread::scope(|scope| {
            for thread in 0..4u64 {
                let rule = &rule;
                scope.spawn(move || {
                    (0..8).for_each(|n| {
                        zone.hit(&key(round), rule, None, 5_000 + n * 4 + thread);
                    });
                });
            }
        });
        assert!(zone.banned(&key(round), 5_040).is_some(), "thirty-two hits of thirty-two");
    }
}

#[test]
fn the_later_end_holds_but_an_operator_sets_it() {
    let zone = zone(BanZone::MIN_SIZE);
    let placed = zone.ban(&key(1), &new(200, 100), 100).unwrap();
    assert_eq!(placed, Placed { fresh: true, until: 200 });
    assert_eq!(zone.ban(&key(1), &new(150, 110), 110), Some(Placed { fresh: false, until: 200 }));
    assert_eq!(zone.ban(&key(1), &new(250, 110), 110), Some(Placed { fresh: false, until: 250 }));
    let forced = New { force: true, reason: "ü".repeat(40).leak(), ..new(160, 120) };
    assert_eq!(zone.ban(&key(1), &forced, 120), Some(Placed { fresh: false, until: 160 }));
    let entry = zone.get(&key(1)).unwrap();
    assert_eq!((entry.key, entry.since, entry.until), (key(1), 120, 160));
    assert_eq!(entry.reason, "ü".repeat(32), "cut where a character ends");
}

#[test]
fn what_was_lifted_is_not_put_into_force_by_what_began_before() {
    let zone = zone(BanZone::MIN_SIZE);
    zone.ban(&key(1), &new(900, 100), 100);
    assert!(!zone.lift(&key(1), 99, true, 150), "a ban that began later stays");
    assert!(zone.lift(&key(1), 150, false, 150));
    assert_eq!(zone.banned(&key(1), 151), None);
    assert!(zone.take_untold() && !zone.take_untold());
    let entry = zone.get(&key(1)).unwrap();
    assert_eq!((entry.lifted, entry.sentence, entry.told), (Some(150), 900, false));
    assert_eq!(zone.ban(&key(1), &new(900, 100), 160), None);
    assert!(zone.ban(&key(1), &new(900, 151), 160).unwrap().fresh);
    assert_eq!(zone.banned(&key(1), 161), Some(900));
}

/// A ban that Redis tells of under this stamp.
fn heard(stamp: u64, until: Millis) -> Told {
    let (since, ends, level, cause, origin) = (100, until + 7_000, 2, Cause::Status, Origin::Other);
    Told {
        stamp,
        answers: None,
        listed: false,
        what: Word::Banned { since, until, ends, level, cause, origin },
    }
}

fn lifted(stamp: u64, at: Millis) -> Told {
    Told { what: Word::Lifted { at }, ..heard(stamp, 0) }
}

#[test]
fn the_word_with_the_greatest_stamp_holds_in_whatever_order_they_come() {
    let words = [heard(11, 900), lifted(12, 300), heard(13, 500), heard(14, 700)];
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]] {
        let zone = zone(BanZone::MIN_SIZE);
        for (now, at) in (400..).zip(order) {
            zone.hear(&key(1), &words[at], now);
            zone.hear(&key(1), &words[at], now);
        }
        assert_eq!(zone.banned(&key(1), 410), Some(700), "{order:?}");
        assert_eq!(
            (zone.get(&key(1)).unwrap().stamp, zone.counters().by_others),
            (14, zone.counters().lifted + 1)
        );
        zone.hear(&key(1), &lifted(15, 420), 420);
        assert_eq!(zone.banned(&key(1), 420), None);
    }
}

#[test]
fn what_is_said_here_holds_until_redis_has_answered_it() {
    let zone = zone(BanZone::MIN_SIZE);
    zone.hear(&key(1), &heard(20, 900), 200);
    // A shorter one, by hand.
    zone.ban(&key(1), &New { force: true, ..new(300, 200) }, 200);
    assert_eq!(zone.hear(&key(1), &heard(21, 800), 201), Some(Heeded::Pending));
    let seq = zone.get(&key(1)).unwrap().seq;
    assert!(seq >= 200_000 && zone.banned(&key(1), 202) == Some(300));
    // The answer to an earlier word says nothing of this one.
    let answer = |seq| Told { answers: Some(seq), ..heard(22, 300) };
    assert_eq!(zone.hear(&key(1), &answer(seq - 1), 202), Some(Heeded::Pending));
    assert_eq!(zone.hear(&key(1), &answer(seq), 202), Some(Heeded::Kept));
    assert_eq!(zone.hear(&key(1), &heard(23, 950), 203), Some(Heeded::Kept));
    assert_eq!(zone.banned(&key(1), 204), Some(950));
    // Lifted and banned anew in one millisecond: the later word has the greater number.
    zone.lift(&key(1), 300, false, 300);
    let first = zone.get(&key(1)).unwrap().seq;
    zone.ban(&key(1), &New { force: true, ..new(700, 300) }, 300);
    assert!(zone.get(&key(1)).unwrap().seq > first && first > seq);
    let echo = Told { answers: Some(first), ..lifted(24, 300) };
    assert_eq!(zone.hear(&key(1), &echo, 301), Some(Heeded::Pending));
    assert_eq!(zone.banned(&key(1), 302), Some(700));
}

#[test]
fn what_was_said_here_and_is_over_makes_nobody_deaf() {
    let zone = zone(BanZone::MIN_SIZE);
    // Counted here while Redis was away, and over.
    zone.ban(&key(1), &New { cause: Cause::Status, ..new(300, 200) }, 200);
    assert_eq!(zone.hear(&key(1), &heard(10, 900), 250), Some(Heeded::Pending));
    assert_eq!(zone.hear(&key(1), &heard(10, 900), 301), Some(Heeded::Turned));
    // A word by hand is told even then: it may have set aside what Redis still has.
    zone.ban(&key(2), &New { force: true, ..new(300, 200) }, 200);
    assert_eq!(zone.hear(&key(2), &heard(10, 900), 301), Some(Heeded::Pending));
    let seq = zone.get(&key(2)).unwrap().seq;
    assert_eq!(zone.hear(&key(2), &Told { answers: Some(seq), ..lifted(11, 250) }, 302), Some(Heeded::Kept));
    assert_eq!(zone.hear(&key(2), &heard(12, 900), 303), Some(Heeded::Turned));
    // The answer says what was known before: what was said here had no effect there.
    zone.ban(&key(3), &New { force: true, ..new(9_000, 200) }, 200);
    let seq = zone.get(&key(3)).unwrap().seq;
    zone.hear(&key(3), &Told { answers: Some(seq), ..heard(10, 700) }, 201);
    zone.ban(&key(3), &New { force: true, ..new(9_000, 202) }, 202);
    zone.hear(&key(3), &Told { answers: Some(seq + 1), ..heard(10, 700) }, 203);
    zone.hear(&key(3), &Told { answers: Some(zone.get(&key(3)).unwrap().seq), ..heard(10, 700) }, 204);
    assert_eq!(zone.banned(&key(3), 205), Some(700));
}

#[test]
fn a_smaller_zone_keeps_what_ends_last() {
    let large = zone(1 << 18);
    (0..600).for_each(|n| {
        large.ban(&key(n), &new(10_000 + (n * 7_919) % 600, 100), 100);
    });
    let small = zone(BanZone::MIN_SIZE);
    small.copy_from(&large, 200);
    for n in 0..600 {
        let (_, group) = small.bans.locate(&key(n));
        let lost = large.banned(&key(n), 200).filter(|_| small.banned(&key(n), 200).is_none());
        let soonest = small.bans.soonest(group).map_or(0, |tat| tat.ms());
        assert!(lost.is_none_or(|until| until <= soonest), "{n}: {lost:?} of {soonest}");
    }
}

#[test]
fn a_reason_stays_with_its_ban() {
    let zone = zone(BanZone::MIN_SIZE);
    zone.ban(&key(1), &New { force: true, reason: "scans", ..new(900_000, 1_000) }, 1_000);
    let seq = zone.get(&key(1)).unwrap().seq;
    let word = |since| Word::Banned {
        since,
        until: 900_000,
        ends: 1,
        level: 1,
        cause: Cause::Manual,
        origin: Origin::Own,
    };
    let told = |stamp, answers, since| Told { what: word(since), answers, ..heard(stamp, 0) };
    let reason = || zone.get(&key(1)).unwrap().reason;
    zone.hear(&key(1), &told(5, Some(seq), 1_001), 1_002);
    assert_eq!(reason(), "scans");
    zone.hear(&key(1), &told(6, None, 1_003), 1_010);
    assert_eq!(reason(), "scans", "told again");
    zone.hear(&key(1), &told(7, None, 50_000), 50_000);
    assert_eq!(reason(), "", "another one");
}

#[test]
fn a_list_corrects_ends_and_what_is_over_ends() {
    let zone = zone(BanZone::MIN_SIZE);
    zone.hear(&key(1), &heard(30, 5_000), 1_000);
    assert_eq!(zone.hear(&key(1), &Told { listed: true, ..heard(30, 4_990) }, 1_001), Some(Heeded::Known));
    assert_eq!(zone.hear(&key(1), &Told { listed: true, ..heard(30, 3_000) }, 1_001), Some(Heeded::Kept));
    assert_eq!(zone.banned(&key(1), 1_002), Some(3_000), "this host had stood still when it heard of it");
    let over = |stamp| Told { what: Word::Over, ..heard(stamp, 0) };
    assert_eq!(zone.hear(&key(1), &over(29), 1_003), Some(Heeded::Known), "of an earlier ban");
    assert_eq!(zone.hear(&key(1), &over(30), 1_003), Some(Heeded::Turned));
    assert_eq!((zone.banned(&key(1), 1_004), zone.get(&key(1)).unwrap().stamp), (None, 30));
    assert_eq!(zone.hear(&key(2), &over(30), 1_003), Some(Heeded::Known), "and of one that is not known");
}

#[test]
fn workers_that_hear_the_same_at_once_count_it_once() {
    for round in 0..200 {
        let zone = zone(1 << 16);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    zone.hear(&key(round), &heard(40, 900), 200);
                    zone.hear(&key(round), &lifted(41, 200), 200);
                    zone.hear(&key(round), &heard(42, 800), 200);
                });
            }
        });
        // Whatever they have spoiled for each other, the list mends.
        zone.hear(&key(round), &Told { listed: true, ..heard(42, 800) }, 201);
        assert_eq!(zone.banned(&key(round), 202), Some(800));
    }
}

#[test]
fn what_redis_has_too_much_of_pushes_nobody_out() {
    let zone = zone(BanZone::MIN_SIZE);
    let room = zone.capacity() as u64;
    for _ in 0..3 {
        (0..room * 8).rev().for_each(|n| {
            zone.hear(&key(n), &Told { listed: true, ..heard(1, 10_000 + 100 * n) }, 200);
        });
    }
    assert_eq!((zone.counters().evicted, zone.counters().by_others), (0, room));
    let other = Told { listed: true, ..heard(1, 9_000) };
    let refused = (room * 8..room * 9).filter(|n| zone.hear(&key(*n), &other, 200).is_none()).count();
    assert_eq!(refused as u64, room);
}

#[test]
fn a_full_zone_lets_go_of_what_ends_soonest_and_never_for_a_hit() {
    let zone = zone(BanZone::MIN_SIZE);
    let room = zone.capacity() as u64;
    (0..room * 8).for_each(|n| {
        zone.ban(&key(n), &new(10_000 + n, 100), 100);
    });
    assert_eq!(zone.counters().evicted, room * 7);
    assert_eq!(zone.report(), Some(room * 7));
    assert_eq!(zone.report(), None);
    let held: Vec<_> = (0..room * 8).filter(|n| zone.banned(&key(*n), 200).is_some()).collect();
    assert_eq!(held.len() as u64, room);
    let rule = rule(5, 1_000, 100, 100);
    (0..10_000).for_each(|n| {
        zone.hit(&key(1 << 40 | n), &rule, None, 200);
    });
    assert!(held.iter().all(|n| zone.banned(&key(*n), 200).is_some()), "hits take no ban's room");
}

#[test]
fn reloads_keep_and_other_sizes_carry_over() {
    let region = Region::on_heap(BanZone::MIN_SIZE);
    assert_eq!(BanZone::adopt(region).err(), Some(LayoutError::Foreign("bans")));
    let zone = BanZone::create(region).unwrap();
    let address = Some("2001:db8::1".parse().unwrap());
    zone.ban(&key(1), &New { address, level: 3, ..new(900, 100) }, 100);
    zone.ban(&key(2), &new(900, 100), 100);
    zone.lift(&key(2), 200, false, 200);
    let adopted = BanZone::adopt(region).unwrap();
    assert_eq!(adopted.banned(&key(1), 300), Some(900));
    let larger = self::zone(1 << 16);
    larger.copy_from(&adopted, 300);
    let entry = larger.get(&key(1)).unwrap();
    assert_eq!((entry.address, entry.level, entry.until), (address, 3, 900));
    assert_eq!(larger.banned(&key(2), 300), None);
    assert_eq!(larger.ban(&key(2), &new(900, 150), 300), None, "what was lifted stays so");
    assert_eq!(larger.counters().by_hand, zone.counters().by_hand);
    let said = |zone: &BanZone| zone.get(&key(2)).map(|entry| (entry.seq, entry.stamp, entry.told));
    assert!(said(&larger).is_some_and(|(seq, ..)| seq > 0) && said(&larger) == said(&zone));
    assert!(larger.origin() == zone.origin() && self::zone(1 << 16).origin() != zone.origin());
    let too_small = LayoutError::TooSmall { what: "bans", size: 100, needed: BanZone::MIN_SIZE };
    assert_eq!(BanZone::create(Region::on_heap(100)).err(), Some(too_small));
}

#[test]
fn a_worker_killed_in_the_middle_leaves_nothing_stuck() {
    let zone = zone(BanZone::MIN_SIZE);
    let room = zone.capacity() as u64;
    // Claimed and never filled, as by workers that were killed just then.
    for n in 0..room {
        let (id, group) = zone.bans.locate(&key(n));
        if let Some(claim) = zone.bans.claim(group, id, 100) {
            claim.slot.begin(100);
        }
    }
    (1_000..1_000 + room * 4).for_each(|n| {
        zone.ban(&key(n), &new(9_000, 5_000), 5_000);
    });
    let held = (1_000..1_000 + room * 4).filter(|n| zone.banned(&key(*n), 5_001).is_some()).count();
    assert_eq!(held as u64, room);
}

#[test]
fn one_of_all_workers_has_the_turn() {
    let zone = zone(BanZone::MIN_SIZE);
    let turns = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                (1..=100).for_each(|n| {
                    turns.fetch_add(usize::from(zone.take_turn(10_000 + n, 1_000)), SeqCst);
                })
            });
        }
    });
    assert_eq!(turns.into_inner(), 1);
    assert!(!zone.take_turn(10_900, 1_000) && zone.take_turn(11_200, 1_000));
}
