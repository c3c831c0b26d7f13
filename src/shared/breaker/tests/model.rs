//! The breaker against a single-threaded model that keeps plain lists.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Copy, Debug)]
enum Step {
    Admit {
        worker: u8,
    },
    Record {
        pick: usize,
        good: bool,
        slow: bool,
    },
    Abort {
        pick: usize,
    },
    /// A worker dies with all it has, its successor reclaims.
    Die {
        worker: u8,
    },
    Wait {
        millis: u64,
    },
    Housekeep,
    /// The operator decides, for so long; 0: until he decides otherwise.
    Force {
        forced: Option<Forced>,
        ttl: u64,
    },
    Reset,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0u8..4).prop_map(|worker| Step::Admit { worker }),
        6 => (any::<usize>(), 0..3, any::<bool>())
            .prop_map(|(pick, good, slow)| Step::Record { pick, good: good == 0, slow }),
        1 => any::<usize>().prop_map(|pick| Step::Abort { pick }),
        1 => (0u8..4).prop_map(|worker| Step::Die { worker }),
        4 => (0u64..60).prop_map(|millis| Step::Wait { millis }),
        1 => Just(Step::Housekeep),
        1 => (0..7usize, 0u64..3).prop_map(|(kind, ttl)| Step::Force {
            forced: [Forced::Open, Forced::Closed, Forced::DryRun].get(kind).copied(),
            ttl: ttl * 40,
        }),
    ];
    let step = prop_oneof![40 => step, 1 => Just(Step::Reset)];
    prop::collection::vec(step, 1..300)
}

fn settings() -> impl Strategy<Value = Settings> {
    let rules = (0u32..5, 10u64..120, 0u32..5, 0u32..=60, 1u32..8, 0u32..=60);
    let stay = (1u64..100, 1_000u32..3_000, 100u64..300, 1u32..=3, 5u64..80, any::<bool>());
    (rules, stay).prop_map(|(rules, stay)| {
        let (failures, window, consecutive, failure_rate, min_calls, slow_rate) = rules;
        let (open, backoff, max_open, half_open, lease, dry_run) = stay;
        let rules = Settings {
            failures,
            window,
            consecutive,
            failure_rate,
            min_calls,
            slow_rate,
            ..Settings::default()
        };
        Settings { slow_call: 1, open, backoff, max_open, half_open, lease: Some(lease), dry_run, ..rules }
    })
}

#[derive(Clone, Copy, PartialEq)]
enum Slot {
    Free,
    Leased { id: usize, worker: u8, expiry: u64 },
    Good,
}

/// A request that is out.
#[derive(Clone, Copy)]
struct Out {
    id: usize,
    worker: u8,
    era: u64,
    slot: Option<usize>,
    suppressed: bool,
}

struct Model {
    s: Settings,
    now: u64,
    state: State,
    era: u64,
    attempts: u8,
    deadline: u64,
    changed: u64,
    calm: u64,
    failures: Vec<u64>,
    run: u32,
    results: Vec<(u64, bool, bool)>,
    slots: Vec<Slot>,
    ids: usize,
    late: u64,
    rejected: u64,
    over: Option<(Forced, u64)>,
    /// Failures are not logged before.
    floor: u64,
}

impl Model {
    fn new(s: Settings, now: u64) -> Self {
        Self {
            s,
            now,
            state: State::Closed,
            era: 0,
            attempts: 0,
            deadline: 0,
            changed: 0,
            calm: 0,
            failures: vec![],
            run: 0,
            results: vec![],
            slots: vec![],
            ids: 0,
            late: 0,
            rejected: 0,
            over: None,
            floor: 0,
        }
    }

    fn forced(&self) -> Option<Forced> {
        self.over.filter(|(_, until)| *until == 0 || self.now < *until).map(|(forced, _)| forced)
    }

    /// How long who is refused by the operator has to wait, as far as anybody knows.
    fn operator_wait(&self) -> u64 {
        let until = self.over.map_or(0, |(_, until)| until);
        let below = if self.state == State::Open && !self.s.dry_run {
            self.deadline.saturating_sub(self.now).max(1)
        } else {
            0
        };
        if until == 0 { 0 } else { (until - self.now).max(below) }
    }

    fn go(&mut self, to: State) -> Option<State> {
        self.state = to;
        self.era += 1;
        self.changed = self.now;
        self.failures.clear();
        self.results.clear();
        self.run = 0;
        self.slots = vec![Slot::Free; self.s.half_open as usize];
        if to == State::Open {
            self.deadline = self.now + open_millis(&self.s, self.attempts, 0);
        }
        Some(to)
    }

    fn admit(&mut self, worker: u8) -> (Result<Out, u64>, Option<State>) {
        self.ids += 1;
        let out = Out { id: self.ids, worker, era: self.era, slot: None, suppressed: false };
        let mut made = None;
        match self.forced() {
            Some(Forced::Open) => {
                self.rejected += 1;
                return (Err(self.operator_wait()), made);
            }
            Some(Forced::Closed) => return (Ok(out), made),
            Some(Forced::DryRun) | None => {}
        }
        if self.state == State::Open && self.now >= self.deadline {
            made = self.go(State::HalfOpen);
        }
        let wait = match self.state {
            State::Closed => return (Ok(out), made),
            State::Open => self.deadline - self.now,
            State::HalfOpen => {
                let free = |slot: &Slot| match *slot {
                    Slot::Free => true,
                    Slot::Leased { expiry, .. } => expiry <= self.now,
                    Slot::Good => false,
                };
                if let Some(slot) = self.slots.iter().position(free) {
                    self.slots[slot] =
                        Slot::Leased { id: self.ids, worker, expiry: self.now + self.s.lease.unwrap() };
                    return (Ok(Out { era: self.era, slot: Some(slot), ..out }), made);
                }
                let ends = self.slots.iter().filter_map(|slot| match *slot {
                    Slot::Leased { expiry, .. } => Some(expiry - self.now),
                    _ => None,
                });
                ends.min().unwrap_or(1)
            }
        };
        self.rejected += 1;
        let dry = self.s.dry_run || self.forced() == Some(Forced::DryRun);
        if dry { (Ok(Out { suppressed: true, ..out }), made) } else { (Err(wait), made) }
    }

    fn record(&mut self, out: Out, good: bool, slow: bool) -> Option<State> {
        if out.suppressed {
            return None;
        }
        let mine = |slot: usize| matches!(self.slots[slot], Slot::Leased { id, .. } if id == out.id);
        if out.era != self.era || out.slot.is_some_and(|slot| !mine(slot)) {
            self.late += 1;
            return None;
        }
        if let Some(slot) = out.slot {
            if !good || (slow && self.s.slow_rate > 0) {
                self.attempts = (self.attempts + 1).min(31);
                return self.go(State::Open);
            }
            self.slots[slot] = Slot::Good;
            let done = self.slots.iter().all(|slot| *slot == Slot::Good);
            return if done { self.go(State::Closed) } else { None };
        }
        if self.state != State::Closed {
            return None;
        }
        self.results.push((self.now, !good, slow));
        self.run = if good { 0 } else { self.run + 1 };
        if !good {
            let at = self.now.max(self.floor);
            // The one instant in 49 days that is logged late.
            self.failures.push(at + u64::from(at as u32 == 1 << 31));
        }
        let held = matches!(self.forced(), Some(Forced::Open | Forced::Closed));
        if !held && self.trips(good) { self.go(State::Open) } else { None }
    }

    fn trips(&self, good: bool) -> bool {
        let s = &self.s;
        let recent = self.failures.iter().filter(|at| **at + s.window >= self.now).count() as u32;
        let failures = !good && s.failures > 0 && recent >= s.failures;
        let consecutive = !good && s.consecutive > 0 && self.run >= s.consecutive;
        let length = s.window.div_ceil(10);
        let in_window = |at: u64| at / length + 10 > self.now / length;
        let window: Vec<_> = self.results.iter().filter(|result| in_window(result.0)).collect();
        let share = |count: usize, rate| rate > 0 && count * 100 >= window.len() * rate as usize;
        let judged = window.len() >= s.min_calls as usize;
        let fail = judged && share(window.iter().filter(|result| result.1).count(), s.failure_rate);
        let slow = judged && share(window.iter().filter(|result| result.2).count(), s.slow_rate);
        failures || consecutive || fail || slow
    }

    fn free(&mut self, gone: impl Fn(usize, u8) -> bool) {
        for slot in &mut self.slots {
            if matches!(*slot, Slot::Leased { id, worker, .. } if gone(id, worker)) {
                *slot = Slot::Free;
            }
        }
    }

    fn reset(&mut self) -> Option<State> {
        let was = self.state;
        self.go(State::Closed);
        (self.attempts, self.over, self.floor) = (0, None, self.floor.max(self.now) + 1);
        (was != State::Closed).then_some(State::Closed)
    }

    fn housekeep(&mut self) {
        let since = self.changed.max(self.calm);
        let periods = (self.now - since) / self.s.window;
        if self.state == State::Closed && self.attempts > 0 && periods > 0 {
            self.attempts -= periods.min(u64::from(self.attempts)) as u8;
            self.calm = since + periods * self.s.window;
        }
    }
}

/// What can be seen of both is the same.
fn agrees(model: &Model, breaker: &Breaker) -> Result<(), TestCaseError> {
    let view = breaker.view(&model.s, model.now);
    prop_assert_eq!((view.state, view.forced), (model.state, model.forced()));
    prop_assert_eq!(breaker.calm().is_some(), model.state == State::Closed && model.over.is_none());
    prop_assert_eq!(view.attempts, model.attempts);
    prop_assert_eq!((view.late, view.rejected), (model.late, model.rejected));
    Ok(())
}

fn run(s: Settings, start: u64, steps: &[Step]) -> Result<(), TestCaseError> {
    let breaker = Breaker::default();
    let mut model = Model::new(s, start);
    let mut out: Vec<(Out, Token)> = vec![];
    for step in steps {
        let now = model.now;
        match *step {
            Step::Wait { millis } => model.now += millis,
            Step::Admit { worker } => {
                let (expected, moved) = model.admit(worker);
                let (admission, made) = breaker.admit(&s, now, of(worker.into()));
                prop_assert_eq!(made.map(|made| made.to), moved);
                match (expected, admission) {
                    (Ok(expected), Admission::Allow(token)) => {
                        prop_assert_eq!(token.is_test(), expected.slot.is_some());
                        prop_assert_eq!(token.is_suppressed(), expected.suppressed);
                        out.push((expected, token));
                    }
                    (Err(wait), Admission::Reject { retry_after }) => prop_assert_eq!(retry_after, wait),
                    (expected, got) => prop_assert!(false, "{:?} instead of {:?}", got, expected.map(|_| ())),
                }
            }
            Step::Record { pick, good, slow } if !out.is_empty() => {
                let (which, token) = out.swap_remove(pick % out.len());
                let expected = model.record(which, good, slow);
                let made = breaker.record(&s, now, token, Report { slow, ..report(good) });
                prop_assert_eq!(made.map(|made| made.to), expected);
            }
            Step::Abort { pick } if !out.is_empty() => {
                let (which, token) = out.swap_remove(pick % out.len());
                model.free(|id, _| id == which.id);
                breaker.abort(token);
            }
            Step::Die { worker } => {
                out.retain(|(which, _)| which.worker != worker);
                model.free(|_, of| of == worker);
                breaker.reclaim(worker.into());
            }
            Step::Housekeep => {
                model.housekeep();
                let over = model.over.filter(|_| model.forced().is_none());
                model.over = model.over.filter(|_| over.is_none());
                prop_assert_eq!(breaker.lapse(now), over.map(|(forced, _)| forced));
                prop_assert_eq!(breaker.housekeep(&s, now), None);
            }
            Step::Force { forced, ttl } => {
                let until = if ttl == 0 { 0 } else { now + ttl };
                model.over = forced.map(|forced| (forced, until));
                breaker.force(forced, until);
            }
            Step::Reset => {
                let expected = model.reset();
                prop_assert_eq!(breaker.reset(now).map(|made| made.to), expected);
            }
            Step::Record { .. } | Step::Abort { .. } => {}
        }
        agrees(&model, &breaker)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn decides_as_the_model_does(
        s in settings(),
        start in prop_oneof![0u64..1_000_000, (31u32..=35).prop_map(|bit| (1 << bit) - 500), 0u64..1 << 50],
        steps in steps(),
    ) {
        run(s, start, &steps)?;
    }
}
