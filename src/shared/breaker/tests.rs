//! The trace of the specification, what a dead worker leaves behind, and threads that meet at one instant.

mod flapping;
#[cfg(sluice_loom)]
mod loom;
mod model;
mod operator;
mod processes;
mod threads;

use super::*;
use crate::policy::breaker::{Kept, Outcome, Told, Via};

/// Any request of a worker.
const fn of(worker: u16) -> Caller {
    Caller { worker, patience: 60_000, may_test: true }
}

fn admit(breaker: &Breaker, s: &Settings, now: Millis) -> Admission {
    breaker.admit(s, now, of(0)).0
}

fn token(breaker: &Breaker, s: &Settings, now: Millis) -> Token {
    match admit(breaker, s, now) {
        Admission::Allow(token) => token,
        Admission::Reject { retry_after } => panic!("rejected at {now} for {retry_after} ms"),
    }
}

const fn report(good: bool) -> Report {
    let outcome = if good { Outcome::Success } else { Outcome::Failure(Failure::Http(502)) };
    Report { outcome, slow: false, random: 0, kept: None }
}

/// One request that ends when it began.
fn request(breaker: &Breaker, s: &Settings, now: Millis, good: bool) -> Option<Transition> {
    breaker.record(s, now, token(breaker, s, now), report(good))
}

fn state(breaker: &Breaker, now: Millis) -> &'static str {
    breaker.view(&Settings::default(), now).name()
}

/// Opens a breaker at `now` with failures in a row.
fn open(breaker: &Breaker, s: &Settings, now: Millis) {
    let trips = (0..s.failures).filter_map(|_| request(breaker, s, now, false)).count();
    assert_eq!((trips, state(breaker, now)), (1, "open"));
}

fn told(transition: Transition) -> String {
    Told { transition, dry_run: false }.to_string()
}

#[test]
fn the_walk_of_the_specification_to_the_millisecond() {
    // The second start walks over the wrap of 32 bits, the third over that of 35.
    for start in [0, (1 << 32) - 20_000, (1 << 35) - 70_000, u64::from(u32::MAX) * 977] {
        let s = Settings::default();
        let breaker = Breaker::default();
        for at in [0, 7_000, 14_000, 21_000] {
            assert_eq!(request(&breaker, &s, start + at, false), None);
        }
        let straggler = token(&breaker, &s, start + 27_000);
        let trip = request(&breaker, &s, start + 28_000, false).unwrap();
        assert_eq!(told(trip), "is open for 30.0 s: 5 failures in 28.0 s, last http_502");
        assert_eq!(admit(&breaker, &s, start + 28_000), Admission::Reject { retry_after: 30_000 });
        assert_eq!(admit(&breaker, &s, start + 57_999), Admission::Reject { retry_after: 1 });
        assert_eq!(breaker.peek(&s, start + 58_000), Err(1));

        let (admission, elapsed) = breaker.admit(&s, start + 58_000, of(3));
        let Admission::Allow(test) = admission else { panic!("no test request") };
        assert!(test.is_test());
        assert_eq!(told(elapsed.unwrap()), "is half-open: time for a test request");
        assert_eq!(admit(&breaker, &s, start + 58_001), Admission::Reject { retry_after: 59_999 });
        assert_eq!(breaker.record(&s, start + 58_050, straggler, report(true)), None);
        assert_eq!(breaker.view(&s, start + 58_050).late, 1);
        let again = breaker.record(&s, start + 58_100, test, report(false)).unwrap();
        assert_eq!(told(again), "is open for 30.0 s: test request failed, last http_502");

        assert_eq!(admit(&breaker, &s, start + 88_099), Admission::Reject { retry_after: 1 });
        let closed = request(&breaker, &s, start + 88_100, true).unwrap();
        assert_eq!(told(closed), "is closed: test request passed");
        assert_eq!(breaker.view(&s, start + 88_100).failures, 0);
        for round in 1..100 {
            assert_eq!(request(&breaker, &s, start + 88_100 + round * 7_600, false), None);
        }
    }
}

#[test]
fn the_window_is_exact_at_its_edge() {
    for (last, tripped) in [(29_999, true), (30_000, true), (30_001, false)] {
        let (s, breaker) = (Settings::default(), Breaker::default());
        for at in [1, 2, 3, 4] {
            assert_eq!(request(&breaker, &s, 999 + at, false), None);
        }
        assert_eq!(request(&breaker, &s, 1_000 + last, false).is_some(), tripped);
    }
}

#[test]
fn a_success_does_not_end_the_window_but_ends_a_run() {
    let s = Settings { failures: 3, consecutive: 0, ..Settings::default() };
    let breaker = Breaker::default();
    let trips = [false, true, false, true, false].map(|good| request(&breaker, &s, 5, good).is_some());
    assert_eq!(trips, [false, false, false, false, true]);
    let s = Settings { failures: 0, consecutive: 3, ..Settings::default() };
    let breaker = Breaker::default();
    let results = [false, false, true, false, false, false];
    let trips = results.map(|good| request(&breaker, &s, 5, good).is_some());
    assert_eq!(trips, [false, false, false, false, false, true]);
}

#[test]
fn rates_forget_what_left_the_window() {
    let s = Settings { failures: 0, failure_rate: 50, min_calls: 10, window: 1_000, ..Settings::default() };
    let breaker = Breaker::default();
    assert!((0..9).all(|at| request(&breaker, &s, at, false).is_none()));
    assert!((0..9).all(|at| request(&breaker, &s, 1_100 + at, at % 3 == 0).is_none()));
    let trip = request(&breaker, &s, 1_110, true).unwrap();
    assert_eq!(trip.cause, Cause::FailureRate { percent: 60, calls: 10 });
}

#[test]
fn slow_answers_trip_and_fail_the_test() {
    let settings = Settings { failures: 0, slow_call: 100, slow_rate: 50, ..Settings::default() };
    let s = Settings { min_calls: 4, ..settings };
    let breaker = Breaker::default();
    let ask = |now, slow| breaker.record(&s, now, token(&breaker, &s, now), Report { slow, ..report(true) });
    assert!([false, true, false].iter().all(|slow| ask(5, *slow).is_none()));
    assert_eq!(ask(5, true).unwrap().cause, Cause::SlowRate { percent: 50, calls: 4 });
    assert_eq!(ask(30_005, true).unwrap().cause, Cause::TestSlow);
    assert_eq!(ask(60_005, false).unwrap().to, State::Closed);
}

#[test]
fn all_of_several_tests_must_pass() {
    let s = Settings { half_open: 3, ..Settings::default() };
    let breaker = Breaker::default();
    open(&breaker, &s, 0);
    let tests = [30_000; 3].map(|now| token(&breaker, &s, now));
    assert!(matches!(admit(&breaker, &s, 30_000), Admission::Reject { .. }));
    assert_eq!(breaker.record(&s, 30_001, tests[0], report(true)), None);
    assert!(matches!(admit(&breaker, &s, 30_001), Admission::Reject { .. }));
    assert_eq!(breaker.record(&s, 30_002, tests[1], report(true)), None);
    let closed = breaker.record(&s, 30_003, tests[2], report(true)).unwrap();
    assert_eq!(closed.cause, Cause::TestsPassed { count: 3 });
}

#[test]
fn a_lost_permit_is_granted_again_when_its_lease_ends() {
    let s = Settings { lease: Some(5_000), ..Settings::default() };
    let breaker = Breaker::default();
    open(&breaker, &s, 0);
    let lost = token(&breaker, &s, 30_000);
    assert_eq!(admit(&breaker, &s, 34_999), Admission::Reject { retry_after: 1 });
    let test = token(&breaker, &s, 35_000);
    assert_eq!(breaker.record(&s, 35_001, lost, report(false)), None);
    assert_eq!((breaker.view(&s, 35_001).late, state(&breaker, 35_001)), (1, "half_open"));
    breaker.abort(lost);
    assert!(matches!(admit(&breaker, &s, 35_002), Admission::Reject { .. }));
    assert_eq!(breaker.record(&s, 35_003, test, report(true)).unwrap().to, State::Closed);
}

#[test]
fn a_slow_test_still_counts_while_nobody_took_its_permit() {
    let s = Settings { lease: Some(5_000), ..Settings::default() };
    let breaker = Breaker::default();
    open(&breaker, &s, 0);
    let test = token(&breaker, &s, 30_000);
    assert_eq!(breaker.record(&s, 50_000, test, report(true)).unwrap().to, State::Closed);
}

#[test]
fn an_abort_frees_the_permit_and_a_successor_reclaims_it() {
    let s = Settings::default();
    let breaker = Breaker::default();
    open(&breaker, &s, 0);
    breaker.abort(token(&breaker, &s, 30_000));
    assert_eq!(breaker.view(&s, 30_000).late, 0);
    let Admission::Allow(_) = breaker.admit(&s, 30_001, of(5)).0 else { panic!("not freed") };
    breaker.reclaim(4);
    assert!(matches!(admit(&breaker, &s, 30_002), Admission::Reject { .. }));
    breaker.reclaim(5);
    assert!(token(&breaker, &s, 30_002).is_test());
}

#[test]
fn nobody_takes_the_permit_of_a_worker_that_only_looks_like_its_own() {
    let s = Settings { half_open: 2, ..Settings::default() };
    let breaker = Breaker::default();
    open(&breaker, &s, 0);
    for worker in [130, 255] {
        assert!(matches!(breaker.admit(&s, 30_000, of(worker)).0, Admission::Allow(_)));
    }
    for worker in [2, 127, 130, 255, 999] {
        breaker.reclaim(worker);
        assert!(matches!(admit(&breaker, &s, 30_001), Admission::Reject { .. }), "{worker}");
    }
    // The lease ends them.
    assert!(token(&breaker, &s, 90_000).is_test());
}

#[test]
fn a_request_that_may_not_test_waits_for_one_that_may() {
    let s = Settings { via: Via::Safe, lease: Some(9_000), ..Settings::default() };
    let breaker = Breaker::default();
    open(&breaker, &s, 0);
    let unsafe_one = Caller { worker: 0, patience: 60_000, may_test: false };
    let ask = |now| breaker.admit(&s, now, unsafe_one);
    assert_eq!(ask(29_000), (Admission::Reject { retry_after: 1_000 }, None));
    assert_eq!(ask(30_000), (Admission::Reject { retry_after: 1 }, None));
    assert_eq!(state(&breaker, 30_000), "open");
    let test = token(&breaker, &s, 30_001);
    assert_eq!(ask(30_002), (Admission::Reject { retry_after: 8_999 }, None));
    breaker.abort(test);
    assert_eq!(ask(30_003), (Admission::Reject { retry_after: 1 }, None));
    // What a dead worker left is settled by whoever comes.
    let (slot, word) = token(&breaker, &s, 30_004).permit().unwrap();
    assert!(breaker.replace(slot, word, Permit { state: PermitState::Good, ..Permit::unpack(word) }.pack()));
    let (admission, made) = ask(30_005);
    assert!(matches!(admission, Admission::Allow(_)) && made.unwrap().to == State::Closed);
}

#[test]
fn a_probe_decides_in_the_place_of_requests() {
    let s = Settings { via: Via::Probe, half_open: 2, ..Settings::default() };
    let breaker = Breaker::default();
    let probe = |now, began, good| breaker.probe(&s, now, 1, Probed { began, report: report(good) });
    assert_eq!(probe(0, 0, false), [None; 2]);
    assert_eq!(breaker.view(&s, 0).fail, 0);
    open(&breaker, &s, 0);
    assert_eq!((probe(29_999, 29_999, true), breaker.bar(&s, 29_999)), ([None; 2], Bar::Set));
    assert_eq!(probe(30_500, 29_999, true), [None; 2]);
    let [half_open, open] = probe(30_500, 30_000, false).map(Option::unwrap);
    assert_eq!((half_open.to, open.to, open.cause), (State::HalfOpen, State::Open, Cause::TestFailed));
    let [half_open, none] = probe(60_500, 60_500, true);
    assert_eq!((half_open.unwrap().to, none, breaker.bar(&s, 60_501)), (State::HalfOpen, None, Bar::Set));
    let [none, closed] = probe(60_600, 60_550, true);
    assert_eq!((none, closed.unwrap().cause), (None, Cause::TestsPassed { count: 2 }));
    assert_eq!(breaker.bar(&s, 60_600), Bar::None);
}

#[test]
fn a_server_is_barred_until_it_may_be_tested() {
    let s = Settings { lease: Some(5_000), ..Settings::default() };
    let breaker = Breaker::default();
    assert_eq!((breaker.bar(&s, 0), breaker.is_out(&s, 0)), (Bar::None, false));
    open(&breaker, &s, 0);
    assert_eq!((breaker.bar(&s, 1), breaker.is_out(&s, 1)), (Bar::For(29_999), true));
    assert_eq!(breaker.bar(&Settings { dry_run: true, ..s }, 1), Bar::None);
    assert_eq!(breaker.bar(&s, 30_000), Bar::None);
    let test = token(&breaker, &s, 30_000);
    assert_eq!((breaker.bar(&s, 30_001), breaker.is_out(&s, 30_001)), (Bar::For(4_999), true));
    breaker.abort(test);
    assert_eq!(breaker.bar(&s, 30_001), Bar::None);
    let forced = [
        (Forced::Open, Bar::Set, true),
        (Forced::Closed, Bar::None, false),
        (Forced::DryRun, Bar::None, false),
    ];
    for (forced, bar, out) in forced {
        breaker.force(Some(forced), 0);
        assert_eq!((breaker.bar(&s, 5), breaker.is_out(&s, 5)), (bar, out), "{forced:?}");
    }
    breaker.force(Some(Forced::Open), 31_000);
    assert_eq!(breaker.bar(&s, 30_001), Bar::For(999));
}

#[test]
fn a_trip_too_many_is_taken_back() {
    let (s, breaker) = (Settings::default(), Breaker::default());
    let trip = (0..5).find_map(|now| request(&breaker, &s, now, false)).unwrap();
    let back = breaker.retract(5, &trip, Kept::MaxOpen).unwrap();
    assert_eq!((back.kept, back.cause, state(&breaker, 5)), (Some(Kept::MaxOpen), trip.cause, "closed"));
    assert_eq!((breaker.view(&s, 5).failures, breaker.retract(6, &trip, Kept::MaxOpen)), (0, None));
}

#[test]
fn a_worker_killed_before_it_settles_blocks_nobody() {
    for (verdict, passes) in [(PermitState::Good, true), (PermitState::Bad, false)] {
        for housekeeper in [false, true] {
            let s = Settings::default();
            let breaker = Breaker::default();
            open(&breaker, &s, 0);
            let (slot, word) = token(&breaker, &s, 30_000).permit().unwrap();
            // What `record` does first; then the worker is gone.
            let left = Permit { state: verdict, ..Permit::unpack(word) }.pack();
            assert!(breaker.replace(slot, word, left));
            let done =
                if housekeeper { breaker.housekeep(&s, 30_001) } else { breaker.admit(&s, 30_001, of(1)).1 };
            assert_eq!(done.unwrap().to == State::Closed, passes);
            assert_eq!(breaker.peek(&s, 30_001).is_ok(), passes);
        }
    }
}

#[test]
fn backoff_grows_and_decays_only_in_calm() {
    let s = Settings { backoff: 2_000, ..Settings::default() };
    let breaker = Breaker::default();
    open(&breaker, &s, 0);
    let open_for = |now| request(&breaker, &s, now, false).unwrap().open_for;
    assert_eq!([open_for(30_000), open_for(90_000), open_for(210_000)], [60_000, 120_000, 240_000]);
    assert_eq!(request(&breaker, &s, 450_000, true).unwrap().to, State::Closed);
    // A flapping upstream keeps its long stay.
    breaker.housekeep(&s, 479_999);
    assert_eq!(breaker.view(&s, 479_999).attempts, 3);
    breaker.housekeep(&s, 480_000);
    breaker.housekeep(&s, 480_001);
    assert_eq!(breaker.view(&s, 480_001).attempts, 2);
    breaker.housekeep(&s, 1_000_000);
    assert_eq!(breaker.view(&s, 1_000_000).attempts, 0);
}

#[test]
fn a_dry_run_tells_but_never_refuses() {
    let s = Settings { dry_run: true, ..Settings::default() };
    let breaker = Breaker::default();
    open(&breaker, &s, 0);
    let free = token(&breaker, &s, 1);
    assert!(free.is_suppressed() && breaker.peek(&s, 1).is_ok());
    assert_eq!(breaker.record(&s, 2, free, report(false)), None);
    assert_eq!((breaker.view(&s, 2).rejected, breaker.view(&s, 2).fail), (1, 5));
    assert_eq!(request(&breaker, &s, 30_000, true).unwrap().to, State::Closed);
}

#[test]
fn a_trip_that_is_not_allowed_starts_the_window_anew() {
    let s = Settings::default();
    let breaker = Breaker::default();
    let kept = Report { kept: Some(Kept::MaxOpen), ..report(false) };
    let fail = |now| breaker.record(&s, now, token(&breaker, &s, now), kept);
    for round in 0..3 {
        assert!((0..4).all(|_| fail(round * 10).is_none()));
        let trip = fail(round * 10).unwrap();
        assert!(trip.kept.is_some() && trip.to == State::Closed);
    }
    assert_eq!((breaker.view(&s, 30).suppressed, breaker.view(&s, 30).opened), (3, 0));
    let last = Report { kept: Some(Kept::LastPeer), ..kept };
    assert!((40..45).filter_map(|now| breaker.record(&s, now, token(&breaker, &s, now), last)).count() == 1);
    assert_eq!((breaker.view(&s, 50).suppressed, breaker.details(50).last_peer), (4, 1));
    breaker.clear();
    assert_eq!((breaker.view(&s, 50).suppressed, breaker.details(50).last_peer), (0, 0));
    assert_eq!(breaker.view(&s, 50).why, None);
}

#[test]
fn changed_thresholds_judge_the_failures_there_are() {
    let breaker = Breaker::default();
    let lax = Settings { failures: 20, ..Settings::default() };
    assert!((0..10).all(|at| request(&breaker, &lax, at * 1_000, false).is_none()));
    let strict = Settings { failures: 3, window: 2_000, ..Settings::default() };
    assert_eq!(breaker.view(&strict, 10_000).failures, 2);
    assert_eq!(
        request(&breaker, &strict, 10_000, false).unwrap().cause,
        Cause::Failures { count: 3, over: 2_000 }
    );
}

#[test]
fn what_is_very_old_never_looks_young() {
    let s = Settings::default();
    let breaker = Breaker::default();
    assert!((0..4).all(|at| request(&breaker, &s, 1 + at, false).is_none()));
    breaker.housekeep(&s, 1_000_000);
    assert_eq!(request(&breaker, &s, (1 << 32) + 5, false), None);
    assert_eq!(breaker.view(&s, (1 << 32) + 5).failures, 1);
    let breaker = Breaker::default();
    open(&breaker, &s, 0);
    // Nobody asks for a year, but the housekeeper comes by.
    (0..5_000).for_each(|step| assert_eq!(breaker.housekeep(&s, step * 7_000_000), None));
    assert!(token(&breaker, &s, 5_000 * 7_000_000).is_test());
    (5_000..10_000).for_each(|step| assert_eq!(breaker.housekeep(&s, step * 7_000_000), None));
    assert!(token(&breaker, &s, 10_000 * 7_000_000).is_test());
}
