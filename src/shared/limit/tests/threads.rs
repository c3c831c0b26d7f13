//! Leases with many workers on one table.

use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use super::super::lease::Want;
use super::lease::{LIFE, PATIENCE, hundred, leasing};
use super::*;

fn counters(keys: usize) -> Vec<AtomicU64> {
    (0..keys).map(|_| AtomicU64::new(0)).collect()
}

#[test]
fn a_grant_is_spent_exactly_by_all_workers() {
    for algorithm in ALL {
        for round in 0..5 {
            let zone = leasing(algorithm, LimitZone::MIN_SIZE);
            let rule = rule(algorithm, "50000r/s", (algorithm == Algorithm::Gcra).then_some(49_999));
            assert!(zone.want(&key(round), &rule, &NOW, LIFE, PATIENCE).asker);
            zone.grant(&key(round), &rule, &NOW, LIFE, 5_000, 1);
            let admitted = hammer(4, 3_000, |_, _| zone.spend(&key(round), &rule, &NOW, 1, 1).is_some());
            assert_eq!(admitted, 5_000, "{algorithm:?}");
        }
    }
}

#[test]
fn one_of_all_workers_asks() {
    for round in 0..50 {
        let (zone, rule) = (leasing(Algorithm::Gcra, LimitZone::MIN_SIZE), hundred(Algorithm::Gcra));
        let asks = hammer(4, 100, |_, _| zone.want(&key(round), &rule, &NOW, LIFE, PATIENCE).asker);
        assert_eq!(asks, 1);
    }
}

/// What each thread did with each key, all of it counted before it can be spent and after it was.
struct Books {
    granted: Vec<AtomicU64>,
    spent: Vec<AtomicU64>,
    /// Of each stamp: its key, what was granted, what came back.
    stamps: Mutex<Vec<(usize, u64, u64)>>,
}

impl Books {
    fn new(keys: usize) -> Self {
        Self { granted: counters(keys), spent: counters(keys), stamps: Mutex::new(vec![(0, 0, 0)]) }
    }

    fn grant(&self, name: usize, number: u64) -> u64 {
        self.granted[name].fetch_add(number, SeqCst);
        let mut stamps = self.stamps.lock().unwrap();
        stamps.push((name, number, 0));
        stamps.len() as u64 - 1
    }

    fn take_back(&self, name: usize, want: &Want) {
        if want.unused > 0 {
            self.spent[name].fetch_add(want.unused, SeqCst);
            let stamp = &mut self.stamps.lock().unwrap()[want.stamp as usize];
            assert_eq!(stamp.0, name, "a stamp of another key");
            stamp.2 += want.unused;
            assert!(stamp.2 <= stamp.1, "more came back than was granted: {stamp:?}");
        }
    }

    fn close(&self) -> (u64, u64) {
        let sums = self.granted.iter().zip(&self.spent).map(|(granted, spent)| {
            let (granted, spent) = (granted.load(SeqCst), spent.load(SeqCst));
            assert!(spent <= granted, "{spent} of {granted}");
            (granted, spent)
        });
        sums.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    }
}

/// Workers that all do all there is to do, with patience so short that answers overlap, and marks and slots
/// change hands all the time. Returns how many were granted and spent.
fn bustle(zone: LimitZone, algorithm: Algorithm, keys: usize, asks: u64) -> (u64, u64) {
    let (rule, books) = (hundred(algorithm), Books::new(keys));
    hammer(4, asks, |thread, i| {
        let random = (i * 4 + thread).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let (name, now) = (random as usize % keys, later(i / 64));
        let key = key(name as u64);
        if zone.spend(&key, &rule, &now, 1 + random % 3, 4).is_some() {
            books.spent[name].fetch_add(1 + random % 3, SeqCst);
            if random.is_multiple_of(5) {
                // What was not needed counts as granted anew, for it may be lost, but never doubled.
                books.spent[name].fetch_sub(1 + random % 3, SeqCst);
                zone.unspend(&key, &rule, &now, 1 + random % 3);
            }
            return true;
        }
        let want = zone.want(&key, &rule, &now, LIFE, random % 2);
        books.take_back(name, &want);
        if want.asker && random.is_multiple_of(7) {
            zone.abandon(&key);
        } else if want.asker {
            // To every other key Redis grants nothing, but keeps it long: whatever it spends was another's.
            let granted = if name.is_multiple_of(2) { want.more + 5 } else { 0 };
            let stamp = books.grant(name, granted);
            zone.grant(&key, &rule, &now, LIFE, granted, stamp);
            let used = if granted > 0 { 1 } else { 90 };
            zone.observe(&key, &rule, &now, &rule.fresh(&now, used), used);
        }
        false
    });
    books.close()
}

#[test]
fn no_worker_spends_what_was_not_granted_to_that_key() {
    for algorithm in ALL {
        let (granted, spent) = bustle(leasing(algorithm, 1 << 15), algorithm, 8, 10_000);
        // Few are lost where there is room.
        assert!(spent > granted / 20, "{algorithm:?}: {spent} of {granted}");
    }
}

#[test]
fn nor_when_slots_change_hands_all_the_time() {
    for algorithm in ALL {
        let zone = leasing(algorithm, LimitZone::MIN_SIZE);
        let (granted, spent) = bustle(zone, algorithm, zone.slots() * 3 / 2, 10_000);
        assert!(granted > 0 && spent > 0, "{algorithm:?}: {spent} of {granted}");
        assert!(zone.evictions() > 100, "{algorithm:?}: {}", zone.evictions());
    }
}

#[test]
fn nor_when_all_fight_for_one_key() {
    for algorithm in ALL {
        let (granted, spent) = bustle(leasing(algorithm, 1 << 15), algorithm, 1, 10_000);
        assert!(granted > 0 && spent > 0, "{algorithm:?}: {spent} of {granted}");
    }
}
