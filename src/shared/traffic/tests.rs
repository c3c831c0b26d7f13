//! The zone of counters: keys, shards, resets, processes, and other sizes.

use std::sync::atomic::Ordering::Relaxed;

use super::cells::{Group, Host, Http, Peer, Zone};
use super::*;

const PLAN: Plan = Plan { shards: 4, processes: 3, records: 8, words: 1_200 };

fn store() -> Store {
    let store = Store::create(Region::on_heap(PLAN.size()), PLAN).unwrap();
    store.begin_cycle();
    store
}

#[test]
fn series_are_found_again_whatever_moves() {
    let store = store();
    let one = store.claim::<Zone>([1, 1], 0).unwrap();
    let two = store.claim::<Zone>([2, 2], 0).unwrap();
    count(&one.shard(0).requests);
    add(&one.shard(3).requests, 2);
    store.begin_cycle();
    let (again, other) = (store.claim::<Zone>([2, 2], 0).unwrap(), store.claim::<Zone>([1, 1], 0).unwrap());
    assert_eq!((again.number, other.number), (two.number, one.number));
    assert_eq!((other.sum(|z| &z.requests), again.sum(|z| &z.requests)), (3, 0));
    // The same key of another kind is another series.
    assert_ne!(store.claim::<Host>([1, 1], 0).unwrap().number, one.number);
}

#[test]
fn workers_count_on_lines_of_their_own() {
    let store = store();
    let series = store.claim::<Http>([1, 1], 0).unwrap();
    let lines = |worker: usize| {
        let shard: *const Http = series.shard(worker);
        (shard as usize / 64)..=((shard as usize + size_of::<Http>() - 1) / 64)
    };
    for (one, other) in [(0, 1), (1, 2), (2, 3)] {
        assert!(lines(one).end() < lines(other).start() || lines(other).end() < lines(one).start());
    }
    assert!(std::ptr::eq(series.shard(1), series.shard(5)));
}

#[test]
fn codes_of_no_registry_get_a_few_cells() {
    let store = store();
    let series = store.claim::<Zone>([1, 1], 0).unwrap();
    let codes = (540..=560).chain([200, 200, 404, 499, 600, 0]);
    for (worker, code) in codes.enumerate() {
        series.count_code(&series.shard(worker).codes, code);
    }
    let (codes, classes) = series.codes(|zone| &zone.codes);
    let expected: Vec<_> =
        [(200, 2), (404, 1), (499, 1)].into_iter().chain((540..548).map(|c| (c, 1))).collect();
    assert_eq!(codes, expected);
    assert_eq!(classes, [0, 2, 0, 2, 21]);
}

#[test]
fn a_reset_takes_counters_to_zero_and_leaves_states() {
    let store = store();
    let series = store.claim::<Peer>([1, 1], 0).unwrap();
    for worker in 0..4 {
        add(&series.shard(worker).requests, 10);
        series.count_code(&series.shard(worker).codes, 599);
        series.shard(worker).selected.store(7, Relaxed);
    }
    series.whole().downtime.store(5, Relaxed);
    series.whole().id.store(3, Relaxed);
    series.reset();
    assert_eq!((series.sum(|p| &p.requests), series.codes(|p| &p.codes).1), (0, [0; 5]));
    assert_eq!((series.whole().id.load(Relaxed), series.shard(2).selected.load(Relaxed)), (3, 7));
    count(&series.shard(1).requests);
    assert_eq!(series.sum(|p| &p.requests), 1);
    series.reset();
    assert_eq!(series.sum(|p| &p.requests), 0);
}

#[test]
fn a_series_nobody_asked_for_in_three_cycles_is_another_s() {
    let plan = Plan { records: 1, ..PLAN };
    let store = Store::create(Region::on_heap(plan.size()), plan).unwrap();
    store.begin_cycle();
    let old = store.claim::<Zone>([1, 1], 0).unwrap();
    count(&old.shard(2).sent);
    old.count_code(&old.shard(1).codes, 577);
    for _ in 0..2 {
        assert_eq!(store.claim::<Zone>([2, 2], 0).err(), Some(Full { words: Zone::WORDS, records: 1 }));
        store.begin_cycle();
    }
    assert!(store.claim::<Zone>([2, 2], 0).is_err());
    store.begin_cycle();
    assert!(store.claim::<Host>([2, 2], 0).is_err());
    let new = store.claim::<Zone>([2, 2], 0).unwrap();
    assert_eq!((new.sum(|z| &z.sent), new.codes(|z| &z.codes)), (0, (vec![], [0; 5])));
}

#[test]
fn what_was_counted_moves_to_a_zone_of_another_size() {
    let old = store();
    let peer = old.claim::<Peer>([1, 1], 0).unwrap();
    let gone = old.claim::<Zone>([9, 9], 0).unwrap();
    for worker in 0..4 {
        add(&peer.shard(worker).requests, 5);
        peer.count_code(&peer.shard(worker).codes, 577);
        peer.shard(worker).selected.store(worker as u64, Relaxed);
    }
    peer.reset();
    add(&peer.shard(3).requests, 2);
    peer.whole().id.store(4, Relaxed);
    count(&gone.shard(0).sent);
    old.claim::<Group>([3, 3], 0).unwrap().whole().next_id.store(9, Relaxed);
    let plan = Plan { shards: 2, processes: 1, records: 4, words: 1_000 };
    let new = Store::create(Region::on_heap(plan.size()), plan).unwrap();
    assert_eq!(new.copy_from(&old), 0);
    assert_eq!(new.begin_cycle(), 2);
    let peer = new.claim::<Peer>([1, 1], 0).unwrap();
    assert_eq!((peer.sum(|p| &p.requests), peer.whole().id.load(Relaxed)), (2, 4));
    assert_eq!(peer.all().map(|p| p.selected.load(Relaxed)).max(), Some(3));
    peer.count_code(&peer.shard(0).codes, 577);
    assert_eq!(peer.codes(|p| &p.codes).0, vec![(577, 1)]);
    assert_eq!(new.claim::<Group>([3, 3], 0).unwrap().whole().next_id.load(Relaxed), 9);
    assert_eq!(new.claim::<Zone>([9, 9], 0).unwrap().sum(|z| &z.sent), 1);
    // Too small a zone loses some, and says so.
    let plan = Plan { shards: 1, processes: 1, records: 1, words: 1_000 };
    assert_eq!(Store::create(Region::on_heap(plan.size()), plan).unwrap().copy_from(&old), 2);
}

#[test]
fn a_dead_process_has_nothing_open() {
    let store = store();
    let zone = store.claim::<Zone>([1, 1], 0).unwrap();
    let all = |_| true;
    let first = store.seat(100, (0, 1), all).unwrap();
    let second = store.seat(200, (1, 1), all).unwrap();
    assert!(!store.enter(0, 1) && !store.enter(1, 1));
    for presence in [first, second] {
        up(presence.gauge(zone.number).unwrap());
        up(&presence.process().current);
    }
    down(second.gauge(zone.number).unwrap());
    up(second.gauge(zone.number).unwrap());
    assert_eq!(store.gauge(zone.number, all), 2);
    // The first is killed: left out at once, and its place is its successor's, empty.
    let lives = |pid| pid != 100;
    assert_eq!(store.gauge(zone.number, lives), 1);
    assert!(store.enter(0, 1));
    let third = store.seat(300, (0, 1), lives).unwrap();
    assert_eq!(store.gauge(zone.number, all), 1);
    assert_eq!(third.place(), (0, 1));
    assert_eq!(third.process().current.load(Relaxed), 0);
    // A reload is no respawn; with all places taken there is none.
    store.begin_cycle();
    assert!(!store.enter(0, 2));
    assert!(store.seat(400, (0, 2), all).is_some());
    assert!(store.seat(500, (1, 2), all).is_none());
    third.leave();
    assert!(store.seat(500, (1, 2), all).is_some());
}

#[test]
fn the_series_of_what_has_gone_is_another_s_after_a_minute() {
    let plan = Plan { records: 1, ..PLAN };
    let store = Store::create(Region::on_heap(plan.size()), plan).unwrap();
    store.begin_cycle();
    let old = store.claim::<Peer>([1, 1], 1_000).unwrap();
    count(&old.shard(0).requests);
    old.leave(2_000);
    old.leave(50_000);
    assert!(store.claim::<Peer>([2, 2], 62_000).is_err());
    // It is there again, with all that was counted, and goes again.
    assert_eq!(store.find::<Peer>([1, 1]).unwrap().sum(|p| &p.requests), 1);
    assert!(store.claim::<Peer>([2, 2], 63_000).is_err());
    old.leave(64_000);
    let new = store.claim::<Peer>([2, 2], 124_001).unwrap();
    assert_eq!(new.sum(|p| &p.requests), 0);
    // Whoever still thinks of the old one does not send the new one away.
    old.leave(125_000);
    assert!(store.claim::<Peer>([3, 3], 999_999).is_err());
    assert!(store.find::<Peer>([1, 1]).is_none());
}

#[test]
fn a_gauge_never_goes_below_nothing() {
    let cell = AtomicU64::new(0);
    down(&cell);
    up(&cell);
    assert_eq!(cell.load(Relaxed), 1);
}

#[test]
fn eight_threads_lose_no_count() {
    let store = store();
    let series = store.claim::<Zone>([1, 1], 0).unwrap();
    std::thread::scope(|scope| {
        for worker in 0..8 {
            let series = &series;
            scope.spawn(move || {
                for round in 0..10_000u16 {
                    let zone = series.shard(worker);
                    count(&zone.requests);
                    // Ten codes for eight cells, of all threads at once.
                    series.count_code(&zone.codes, 570 + round % 10);
                }
            });
        }
    });
    assert_eq!(series.sum(|z| &z.requests), 80_000);
    let (codes, classes) = series.codes(|z| &z.codes);
    assert_eq!((codes.len(), classes), (8, [0, 0, 0, 0, 80_000]));
    assert!(codes.iter().all(|(_, times)| *times == 8_000), "{codes:?}");
}

#[test]
fn sixteen_processes_each_have_a_place_of_their_own() {
    let plan = Plan { processes: 16, ..PLAN };
    let store = Store::create(Region::on_heap(plan.size()), plan).unwrap();
    let taken = std::thread::scope(|scope| {
        let threads = (1..=16).map(|pid| scope.spawn(move || store.seat(pid, (pid, 1), |_| true).unwrap()));
        let threads: Vec<_> = threads.collect();
        threads
            .into_iter()
            .map(|thread| std::ptr::from_ref(thread.join().unwrap().process()) as usize)
            .collect::<Vec<_>>()
    });
    let distinct: std::collections::HashSet<_> = taken.iter().collect();
    assert_eq!(distinct.len(), 16);
}

#[test]
fn what_is_no_zone_of_ours_is_refused() {
    let region = Region::on_heap(PLAN.size());
    assert_eq!(Store::adopt(region).unwrap_err(), LayoutError::Foreign("counters"));
    assert!(matches!(Store::adopt(Region::on_heap(64)).unwrap_err(), LayoutError::TooSmall { .. }));
    let small = Region::on_heap(PLAN.size() - 64);
    assert!(matches!(Store::create(small, PLAN).unwrap_err(), LayoutError::TooSmall { .. }));
    let store = Store::create(region, PLAN).unwrap();
    assert_eq!(Store::adopt(region).unwrap().plan, PLAN);
    store.header.records.store(1 << 40, Relaxed);
    assert_eq!(Store::adopt(region).unwrap_err(), LayoutError::Otherwise("counters"));
}

#[test]
fn room_is_made_in_place_of_those_that_have_gone() {
    const NOW: u64 = 1_000_000;
    let plan = Plan { shards: 1, processes: 2, records: 2, words: 2 * Peer::WORDS };
    let store = Store::create(Region::on_heap(plan.size()), plan).unwrap();
    store.begin_cycle();
    let [first, second] = [1, 2].map(|n| store.claim::<Peer>([n, n], NOW).unwrap());
    first.leave(NOW);
    assert!(store.claim::<Peer>([3, 3], NOW).is_err());
    store.make_room::<Peer>(NOW, |_| true);
    assert!(store.claim::<Peer>([3, 3], NOW).is_ok());
    assert!(store.find::<Peer>([1, 1]).is_none() && store.find::<Peer>([2, 2]).is_some());
    // One that serves still counts.
    let presence = store.seat(7, (0, 1), |_| true).unwrap();
    presence.gauge(second.number).unwrap().store(1, Relaxed);
    second.leave(NOW);
    store.make_room::<Peer>(NOW, |_| true);
    assert!(store.claim::<Peer>([4, 4], NOW).is_err());
}
