//! Threads in the place of workers.

use std::sync::Barrier;
use std::sync::atomic::AtomicUsize;
use std::thread;

use super::*;

/// Calls `work` on each of `count` threads that start together.
fn together<T: Send>(count: u8, work: impl Fn(u8) -> T + Sync) -> Vec<T> {
    let barrier = Barrier::new(usize::from(count));
    thread::scope(|scope| {
        let start = |index| {
            let (barrier, work) = (&barrier, &work);
            scope.spawn(move || {
                barrier.wait();
                work(index)
            })
        };
        let all: Vec<_> = (0..count).map(start).collect();
        all.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn exactly_half_open_requests_pass_of_500_at_one_instant() {
    for half_open in [1, 2, 3, 8] {
        for round in 0..20 {
            let s = Settings { half_open, ..Settings::default() };
            let breaker = Breaker::default();
            open(&breaker, &s, round);
            let now = round + 30_000;
            let passed = AtomicUsize::new(0);
            let made = together(8, |worker| {
                let ask = |_| {
                    let (admission, made) = breaker.admit(&s, now, of(worker.into()));
                    if let Admission::Allow(token) = admission {
                        assert!(token.is_test());
                        passed.fetch_add(1, SeqCst);
                    }
                    usize::from(made.is_some())
                };
                (0..500).map(ask).sum::<usize>()
            });
            assert_eq!(passed.into_inner(), half_open as usize);
            assert_eq!(made.into_iter().sum::<usize>(), 1);
            assert_eq!(breaker.view(&s, now).rejected, 8 * 500 - u64::from(half_open));
        }
    }
}

#[test]
fn the_last_of_racing_failures_always_trips() {
    for round in 0..300 {
        let s =
            Settings { failures: 8, consecutive: if round % 2 == 0 { 0 } else { 8 }, ..Settings::default() };
        let breaker = Breaker::default();
        let token = token(&breaker, &s, round);
        let trips = together(8, |_| breaker.record(&s, round, token, report(false)).is_some());
        assert_eq!(trips.into_iter().filter(|tripped| *tripped).count(), 1);
    }
}

#[test]
fn results_of_all_tests_at_one_instant_close_it_once() {
    for round in 0..200 {
        let s = Settings { half_open: 8, ..Settings::default() };
        let breaker = Breaker::default();
        open(&breaker, &s, round);
        let tests = [round + 30_000; 8].map(|now| token(&breaker, &s, now));
        let made = together(8, |index| {
            let test = tests[usize::from(index)];
            breaker.record(&s, round + 30_001, test, report(true))
        });
        assert_eq!(made.into_iter().flatten().map(|made| made.to).collect::<Vec<_>>(), [State::Closed]);
    }
}

#[test]
fn eight_workers_hammer_through_many_rounds_and_no_quota_is_overrun() {
    for half_open in [1, 3] {
        let s = Settings {
            failures: 3,
            window: 1_000,
            open: 50,
            lease: Some(1 << 30),
            half_open,
            ..Settings::default()
        };
        let breaker = Breaker::default();
        let clock = AtomicU64::new(1);
        // By generation: a bad result begins the next era while other tests of this one are still out.
        let testing = [const { AtomicUsize::new(0) }; 1 << 12];
        let transitions: u64 = together(8, |worker| {
            let mut made = 0;
            for turn in 0..20_000u32 {
                let now = clock.fetch_add(1, SeqCst);
                let (admission, moved) = breaker.admit(&s, now, of(worker.into()));
                made += u64::from(moved.is_some());
                let Admission::Allow(token) = admission else { continue };
                if token.is_test() {
                    let slot = if half_open == 1 { 0 } else { token.generation as usize % testing.len() };
                    assert!(testing[slot].fetch_add(1, SeqCst) < half_open as usize);
                    thread::yield_now();
                    // Before the permit is given back, or the next one could come in between.
                    testing[slot].fetch_sub(1, SeqCst);
                }
                if turn % 11 == 0 {
                    breaker.abort(token);
                } else {
                    let good = (turn ^ u32::from(worker)) % 5 != 0;
                    made += u64::from(breaker.record(&s, now, token, report(good)).is_some());
                }
            }
            made
        })
        .into_iter()
        .sum();
        let view = breaker.view(&s, clock.load(SeqCst));
        assert_eq!(transitions, view.opened + view.half_opened + view.closed);
        assert!(view.half_opened > 2, "{view:?}");
        let (at_most, at_least) = (view.closed + view.half_opened + 1, view.half_opened);
        assert!((at_least..=at_most).contains(&view.opened), "{view:?}");
    }
}
