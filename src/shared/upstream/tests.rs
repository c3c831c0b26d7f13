//! Adoption, cycles, full zones, resizing.

use super::claims::Claim;
use super::*;
use crate::policy::breaker::{Failure, Forced, Outcome, Settings, State};
use crate::shared::breaker::{Admission, Caller, Report, Token};
use crate::shared::health::{Judgement, Probe, Prober};

fn key(name: u64) -> Key {
    [name, name.wrapping_mul(0x9E37_79B9_7F4A_7C15)]
}

fn claim(store: &Store) -> Claims<'_> {
    Claims::new(store, 1)
}

fn told(claim: Claim) -> (usize, bool) {
    (claim.index, claim.found == Found::New)
}

fn check_of(store: &Store, key: Key) -> Result<(usize, bool), Full> {
    claim(store).check(7, key, 0).map(told)
}

fn server_of(store: &Store, key: Key) -> Result<(usize, bool), Full> {
    claim(store).server(7, key).map(told)
}

fn breaker_of(store: &Store, key: Key) -> Result<(usize, bool), Full> {
    claim(store).breaker(7, key).map(told)
}

fn fresh(checks: usize, breakers: usize) -> Store {
    Store::create(Region::on_heap(Store::size_for(checks, breakers))).unwrap()
}

/// A zone with room for exactly so many, not twice.
fn tight(checks: usize, breakers: usize) -> Store {
    let size = (HEADER + checks * CHECK).next_multiple_of(Region::ALIGN) + breakers * BREAKER;
    Store::create(Region::on_heap(size)).unwrap()
}

fn admit(breaker: &Breaker, now: u64) -> Token {
    let caller = Caller { worker: 0, patience: 60_000, may_test: true };
    match breaker.admit(&Settings::default(), now, caller).0 {
        Admission::Allow(token) => token,
        Admission::Reject { retry_after } => panic!("rejected for {retry_after} ms"),
    }
}

fn open(breaker: &Breaker) {
    for now in 0..5 {
        let outcome = Outcome::Failure(Failure::Timeout);
        let report = Report { outcome, slow: false, random: 0, kept: None };
        breaker.record(&Settings::default(), now, admit(breaker, now), report);
    }
    assert_eq!(breaker.view(&Settings::default(), 5).state, State::Open);
}

#[test]
fn a_reload_finds_its_records_by_key() {
    let region = Region::on_heap(Store::size_for(3, 3));
    let store = Store::create(region).unwrap();
    assert_eq!(store.begin_cycle(), 1);
    let indices = [7, 8, 9].map(|name| breaker_of(&store, key(name)).unwrap());
    assert!(indices.iter().all(|(_, new)| *new));
    open(store.breaker_at(indices[1].0).unwrap());
    let (check, _) = check_of(&store, key(8)).unwrap();
    store.check_at(check).unwrap().set_state(|_| 42);

    let adopted = Store::adopt(region).unwrap();
    assert_eq!(adopted.begin_cycle(), 2);
    assert_eq!(breaker_of(&adopted, key(8)), Ok((indices[1].0, false)));
    assert_eq!(breaker_of(&adopted, key(1)), Ok((3, true)));
    assert_eq!(check_of(&adopted, key(8)), Ok((check, false)));
    assert_eq!(adopted.check_at(check).unwrap().state(), 42);
    let view = adopted.breaker_at(indices[1].0).unwrap().view(&Settings::default(), 5);
    assert_eq!((view.state, view.fail), (State::Open, 5));
    assert!(adopted.breaker_at(4).is_none() && adopted.check_at(1).is_none());
}

#[test]
fn what_is_not_ours_is_refused() {
    let region = Region::on_heap(Store::size_for(1, 1));
    assert_eq!(Store::adopt(region).unwrap_err(), LayoutError::Foreign("upstream state"));
    Store::create(region).unwrap();
    region.get::<AtomicU64>(16).unwrap().store(1, Relaxed);
    assert_eq!(Store::adopt(region).unwrap_err(), LayoutError::Otherwise("upstream state"));
    let small = Region::on_heap(1_000);
    let too_small = LayoutError::TooSmall { what: "upstream state", size: 1_000, needed: LEAST };
    assert_eq!(Store::create(small).unwrap_err(), too_small);
    assert_eq!(Store::adopt(small).unwrap_err(), too_small);
}

#[test]
fn the_two_kinds_share_the_room_and_never_meet() {
    for breakers in 1..6 {
        let store = tight(12, 5);
        store.begin_cycle();
        for name in 0..breakers {
            let (index, _) = breaker_of(&store, key(name)).unwrap();
            store.breaker_at(index).unwrap().force(Some(Forced::Closed), u64::MAX);
        }
        let mut checks = 0;
        while let Ok((index, _)) = check_of(&store, key(checks)) {
            store.check_at(index).unwrap().set_state(|_| u64::MAX);
            checks += 1;
        }
        let size = store.region.len() as u64;
        assert_eq!(checks, (size - HEADER as u64 - breakers * BREAKER as u64) / CHECK as u64);
        for index in 0..breakers as usize {
            let view = store.breaker_at(index).unwrap().view(&Settings::default(), 0);
            assert_eq!((view.fail, view.ok, view.state), (0, 0, State::Closed));
            assert!(store.slot::<BreakerSlot>(index).unwrap().ident.key() == key(index as u64));
        }
    }
}

#[test]
fn a_full_zone_says_so_and_keeps_what_it_has() {
    let store = tight(1, 2);
    store.begin_cycle();
    assert_eq!(breaker_of(&store, key(1)), Ok((0, true)));
    assert_eq!(breaker_of(&store, key(2)), Ok((1, true)));
    let full = breaker_of(&store, key(3)).unwrap_err();
    assert_eq!(
        full.to_string(),
        "no room for another circuit breaker in 0 health checks and 2 circuit breakers"
    );
    assert_eq!(breaker_of(&store, key(1)), Ok((0, false)));
}

#[test]
fn records_are_freed_after_two_cycles() {
    let store = tight(1, 1);
    store.begin_cycle();
    let (index, _) = breaker_of(&store, key(1)).unwrap();
    let breaker = store.breaker_at(index).unwrap();
    let late = admit(breaker, 0);
    open(breaker);
    // The old workers of the first cycle are still at it.
    store.begin_cycle();
    assert!(breaker_of(&store, key(2)).is_err());
    // Room is short, and the cycle before did not use it.
    store.begin_cycle();
    assert_eq!(breaker_of(&store, key(2)), Ok((index, true)));
    assert_eq!(breaker.view(&Settings::default(), 9).state, State::Closed);
    let report = Report { outcome: Outcome::Success, slow: false, random: 0, kept: None };
    breaker.record(&Settings::default(), 9, late, report);
    assert_eq!(breaker.view(&Settings::default(), 9).late, 1);
}

#[test]
fn a_record_outlives_one_cycle_without_it_but_not_three() {
    let store = fresh(1, 1);
    store.begin_cycle();
    let (index, _) = check_of(&store, key(1)).unwrap();
    store.check_at(index).unwrap().set_state(|_| 1);
    store.begin_cycle();
    store.begin_cycle();
    assert_eq!(check_of(&store, key(1)), Ok((index, false)));
    assert_eq!(store.check_at(index).unwrap().state(), 1);
    for _ in 0..3 {
        store.begin_cycle();
    }
    assert_eq!(check_of(&store, key(1)), Ok((index, true)));
    assert_eq!(store.check_at(index).unwrap().state(), 0);
}

#[test]
fn hundreds_of_reloads_that_rename_everything_fit_the_default_size() {
    let store = fresh(10, 10);
    for cycle in 0..300 {
        store.begin_cycle();
        for name in 0..10 {
            assert!(check_of(&store, key(cycle * 10 + name)).unwrap().1);
            assert!(breaker_of(&store, key(cycle * 10 + name)).unwrap().1);
        }
    }
}

#[test]
fn a_resized_zone_carries_everything_over() {
    let old = fresh(2, 2);
    old.begin_cycle();
    let prober = Prober { worker: 0, generation: 1, preferred: true };
    for name in 0..2 {
        let (index, _) = check_of(&old, key(name)).unwrap();
        let check = old.check_at(index).unwrap();
        let lease = check.claim(prober, 1, 10, 5).unwrap();
        let probe = Probe { now: 2, passed: false, next: 11, overdue: 3 };
        check.complete(lease, probe, |_| Judgement { state: name + 5, changed: true, fell: true }).unwrap();
        old.note_change();
    }
    open(old.breaker_at(breaker_of(&old, key(0)).unwrap().0).unwrap());
    breaker_of(&old, key(1)).unwrap();
    assert!(!old.enter(0, 1) && old.enter(0, 1));

    let new = fresh(20, 20);
    assert_eq!(new.copy_from(&old), 0);
    assert_eq!((new.begin_cycle(), new.changes()), (2, 2));
    let (index, fresh) = check_of(&new, key(1)).unwrap();
    assert!(!fresh);
    let view = new.check_at(index).unwrap().view();
    assert_eq!((view.state, view.unhealthy, view.last_passed, view.overdue), (6, 1, Some(false), 3));
    let (index, fresh) = breaker_of(&new, key(0)).unwrap();
    assert!(!fresh);
    let s = Settings::default();
    let view = new.breaker_at(index).unwrap().view(&s, 5);
    assert_eq!((view.state, view.opened, view.retry_after), (State::Open, 1, 29_999));
    assert!(!new.enter(0, 2) && new.enter(0, 2));

    let shrunk = tight(1, 1);
    assert_eq!(shrunk.copy_from(&old), 2);
}

#[test]
fn a_successor_frees_what_its_predecessor_held() {
    let store = fresh(0, 2);
    store.begin_cycle();
    let breakers = [1, 2].map(|name| store.breaker_at(breaker_of(&store, key(name)).unwrap().0).unwrap());
    for breaker in breakers {
        open(breaker);
        admit(breaker, 40_000);
        assert!(breaker.peek(&Settings::default(), 40_000).is_err_and(|wait| wait > 1));
    }
    breakers.iter().for_each(|breaker| breaker.reclaim(0));
    breakers.iter().for_each(|breaker| assert!(admit(breaker, 40_001).is_test()));
}

#[test]
fn servers_lie_among_the_checks_and_are_none() {
    let store = fresh(2, 1);
    store.begin_cycle();
    let (check, _) = check_of(&store, key(1)).unwrap();
    let (server, new) = server_of(&store, key(2)).unwrap();
    assert!(new && server != check);
    store.check_at(check).unwrap().set_state(|_| u64::MAX);
    let record = store.server_at(server).unwrap();
    assert_eq!(record.began(), None);
    record.begin(17);
    let larger = fresh(20, 1);
    assert_eq!(larger.copy_from(&store), 0);
    larger.begin_cycle();
    let (server, new) = server_of(&larger, key(2)).unwrap();
    assert!(!new);
    assert_eq!(larger.server_at(server).unwrap().began(), Some(17));
    assert!(larger.server_at(2).is_none());
}

/// What a group of these servers would claim, at a time.
fn settle(store: &Store, now: u64, names: impl IntoIterator<Item = u64>) -> Result<Vec<Claim>, Full> {
    let mut claims = Claims::new(store, now);
    let checks =
        names.into_iter().map(|name| claims.check(7, key(name), 3)).collect::<Result<Vec<_>, _>>()?;
    let kept = checks.iter().map(|claim| claim.index).collect();
    claims.release_others(7, [&kept, &std::collections::HashSet::new()]);
    Ok(checks)
}

#[test]
fn a_server_that_leaves_is_remembered_for_a_while_and_then_its_record_is_another_s() {
    let store = tight(2, 1);
    store.begin_cycle();
    claim(&store).breaker(0, key(1)).unwrap();
    let before = settle(&store, 100, [1, 2]).unwrap();
    assert!(before.iter().all(|claim| claim.found == Found::New));
    assert_eq!(store.check_at(before[1].index).unwrap().state(), 3, "as it begins");
    store.check_at(before[1].index).unwrap().set_state(|_| 42);
    settle(&store, 200, [1]).unwrap();
    let back = settle(&store, 201, [1, 2]).unwrap();
    assert_eq!(back[1], Claim { index: before[1].index, found: Found::Returned });
    assert_eq!(store.check_at(back[1].index).unwrap().state(), 42);
    assert_eq!(settle(&store, 202, [1, 2]).unwrap()[1].found, Found::Kept);
    settle(&store, 300, [1]).unwrap();
    assert!(settle(&store, 302, [1, 3]).is_err(), "it has only just left");
    let another = settle(&store, 303, [1, 3]).unwrap();
    assert_eq!(another[1], Claim { index: before[1].index, found: Found::New });
    assert_eq!(store.check_at(another[1].index).unwrap().state(), 3);
}

#[test]
fn servers_that_come_and_go_for_ever_use_no_more_than_those_that_are_there() {
    let store = fresh(10, 0);
    store.begin_cycle();
    for now in 0..1_000 {
        settle(&store, 100 + now * 30, now..now + 10).unwrap();
    }
    assert!(store.counts()[0] <= 14, "{:?}", store.counts());
}

#[test]
fn only_the_group_s_own_records_of_this_cycle_are_let_go() {
    let store = fresh(4, 1);
    store.begin_cycle();
    let (old, _) = check_of(&store, key(9)).unwrap();
    store.begin_cycle();
    let other = claim(&store).check(8, key(1), 0).unwrap().index;
    let route = claim(&store).breaker(0, key(1)).unwrap().index;
    settle(&store, 50, [2]).unwrap();
    let released = |index| store.slot::<FrontSlot>(index).unwrap().ident.usage().released;
    assert_eq!((released(old), released(other)), (0, 0));
    assert_eq!(store.slot::<BreakerSlot>(route).unwrap().ident.usage().released, 0);
}

#[test]
fn a_claimer_that_dies_half_way_costs_nothing_but_its_record() {
    let store = fresh(2, 1);
    store.begin_cycle();
    // It had taken a fresh record and cleared it, and no more.
    store.extend::<FrontSlot>().unwrap();
    assert_eq!(check_of(&store, key(1)), Ok((0, true)), "the next one has it");
    // It had given up an old one for another.
    store.slot::<FrontSlot>(0).unwrap().ident.vacate();
    assert_eq!(check_of(&store, key(1)), Ok((0, true)));
}
