//! All interleavings of a few steps, as far as memory orderings let them differ. With
//! `RUSTFLAGS="--cfg sluice_loom" cargo test --lib breaker::tests::loom`; the other tests do not run so.

use ::loom::model::Builder;
use ::loom::sync::Arc;
use ::loom::thread::{self, JoinHandle};

use super::*;

/// Explores `f` with at most so many preemptions. Most faults of this kind need two.
fn explore(preemptions: usize, f: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 100_000;
    builder.check(f);
}

fn settings() -> Settings {
    Settings { failures: 2, window: 100, open: 10, lease: Some(20), ..Settings::default() }
}

/// A breaker that is open until `now` 10.
fn opened(s: &Settings) -> Arc<Breaker> {
    let breaker = Arc::new(Breaker::default());
    let trips = (0..2).filter(|_| request(&breaker, s, 0, false).is_some()).count();
    assert_eq!(trips, 1);
    breaker
}

fn spawn<T: 'static>(breaker: &Arc<Breaker>, work: impl FnOnce(&Breaker) -> T + 'static) -> JoinHandle<T> {
    let breaker = Arc::clone(breaker);
    thread::spawn(move || work(&breaker))
}

fn tests(breaker: &Breaker, s: &Settings, now: Millis, worker: u16) -> (Option<Token>, usize) {
    match breaker.admit(s, now, of(worker)) {
        (Admission::Allow(token), made) => {
            assert!(token.is_test());
            (Some(token), made.map_or(0, |_| 1))
        }
        (Admission::Reject { .. }, made) => (None, made.map_or(0, |_| 1)),
    }
}

#[test]
fn two_failures_at_once_trip_once() {
    explore(5, || {
        let s = settings();
        let breaker = Arc::new(Breaker::default());
        let early = token(&breaker, &s, 0);
        let fail = move |breaker: &Breaker| breaker.record(&s, 1, early, report(false)).is_some();
        let other = spawn(&breaker, fail);
        let mine = fail(&breaker);
        assert!(mine ^ other.join().unwrap());
        assert_eq!(breaker.load().state, State::Open);
    });
}

#[test]
fn two_that_ask_at_the_end_of_open_get_one_permit() {
    explore(5, || {
        let s = settings();
        let breaker = opened(&s);
        let other = spawn(&breaker, move |breaker| tests(breaker, &s, 10, 1));
        let (mine, made) = tests(&breaker, &s, 10, 2);
        let (theirs, made_too) = other.join().unwrap();
        assert_eq!((usize::from(mine.is_some()) + usize::from(theirs.is_some()), made + made_too), (1, 1));
    });
}

#[test]
fn a_result_and_an_admission_settle_it_once() {
    explore(4, || {
        let s = settings();
        let breaker = opened(&s);
        let test = token(&breaker, &s, 10);
        let other = spawn(&breaker, move |breaker| breaker.record(&s, 11, test, report(true)));
        let (admission, made) = breaker.admit(&s, 11, of(1));
        let closed = other.join().unwrap();
        // Either found it closed, or was refused; whoever settled it did so alone.
        let settled = [made, closed].into_iter().flatten().filter(|made| made.to == State::Closed).count();
        assert_eq!((settled, breaker.load().state), (1, State::Closed));
        if let Admission::Allow(token) = admission {
            assert!(!token.is_test());
        }
    });
}

#[test]
fn a_lease_that_ends_as_its_result_comes_has_one_holder() {
    explore(4, || {
        let s = settings();
        let breaker = opened(&s);
        let test = token(&breaker, &s, 10);
        let late = spawn(&breaker, move |breaker| breaker.record(&s, 30, test, report(false)).is_some());
        let (admission, made) = breaker.admit(&s, 30, of(1));
        let opened = [late.join().unwrap(), made.is_some_and(|made| made.to == State::Open)];
        let second = if let Admission::Allow(token) = admission { Some(token) } else { None };
        // The result stands, whoever settled it, or the permit was taken over: never both.
        assert_eq!(opened.into_iter().filter(|opened| *opened).count() + usize::from(second.is_some()), 1);
        if let Some(second) = second {
            assert!(second.is_test());
            assert_eq!(breaker.record(&s, 31, second, report(true)).unwrap().to, State::Closed);
        }
    });
}

#[test]
fn the_permit_of_a_dead_worker_goes_to_one_of_two() {
    explore(3, || {
        let s = settings();
        let breaker = opened(&s);
        let (_, made) = breaker.admit(&s, 10, of(5));
        assert!(made.is_some());
        let successor = spawn(&breaker, |breaker| breaker.reclaim(5));
        let other = spawn(&breaker, move |breaker| tests(breaker, &s, 11, 1).0);
        let mine = tests(&breaker, &s, 11, 2).0;
        successor.join().unwrap();
        let granted: Vec<_> = [mine, other.join().unwrap()].into_iter().flatten().collect();
        assert!(granted.len() <= 1);
        // Whoever came too early finds it free now.
        let test = granted.first().copied().unwrap_or_else(|| token(&breaker, &s, 12));
        assert_eq!(breaker.record(&s, 12, test, report(true)).unwrap().to, State::Closed);
    });
}

#[test]
fn good_and_bad_results_at_once_decide_once() {
    explore(4, || {
        let s = Settings { half_open: 2, ..settings() };
        let breaker = opened(&s);
        let [one, two] = [token(&breaker, &s, 10), token(&breaker, &s, 10)];
        let other = spawn(&breaker, move |breaker| breaker.record(&s, 11, one, report(true)));
        let mine = breaker.record(&s, 11, two, report(false));
        let made: Vec<_> = [other.join().unwrap(), mine].into_iter().flatten().map(|made| made.to).collect();
        assert_eq!((made, breaker.load().state), (vec![State::Open], State::Open));
    });
}

#[test]
fn what_ends_an_era_leaves_nothing_of_it_to_the_next() {
    explore(4, || {
        let s = settings();
        let breaker = opened(&s);
        let test = token(&breaker, &s, 10);
        let other = spawn(&breaker, move |breaker| breaker.record(&s, 11, test, report(true)).is_some());
        // A failure of the next era, if it has begun; its first must not find those of the first era.
        if let Admission::Allow(token) = breaker.admit(&s, 12, of(1)).0 {
            assert!(!token.is_test());
            assert_eq!(breaker.record(&s, 12, token, report(false)), None);
        }
        other.join().unwrap();
        assert_eq!(breaker.load().state, State::Closed);
    });
}

#[test]
fn two_trips_of_two_breakers_are_seen_by_one_of_them() {
    explore(5, || {
        let s = Settings { failures: 1, ..settings() };
        let pair = Arc::new([Breaker::default(), Breaker::default()]);
        let trip = move |mine: &Breaker, its: &Breaker| {
            let trip = mine.record(&s, 1, token(mine, &s, 0), report(false)).unwrap();
            // As the glue does: one of the two may be out, not both.
            if its.is_out(&s, 1) {
                mine.retract(1, &trip, Kept::LastPeer);
            }
        };
        let theirs = Arc::clone(&pair);
        let other = thread::spawn(move || trip(&theirs[0], &theirs[1]));
        trip(&pair[1], &pair[0]);
        other.join().unwrap();
        assert!(!(pair[0].is_out(&s, 1) && pair[1].is_out(&s, 1)));
    });
}
