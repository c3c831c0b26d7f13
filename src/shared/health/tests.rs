//! Who may probe, when, and whose result counts.

use super::*;

const INTERVAL: Millis = 5_000;
const TIMEOUT: Millis = 3_000;

fn worker(worker: u16) -> Prober {
    Prober { worker, generation: 1, preferred: worker == 0 }
}

fn claim(check: &Check, me: Prober, now: Millis) -> Option<Lease> {
    check.claim(me, now, INTERVAL, TIMEOUT)
}

fn pass(check: &Check, lease: Lease, now: Millis) -> Option<Judgement> {
    let probe = Probe { now, passed: true, next: lease.due + INTERVAL, overdue: 0 };
    check.complete(lease, probe, |state| Judgement { state: state + 1, changed: state == 0, fell: false })
}

#[test]
fn the_preferred_worker_probes_and_the_others_wait() {
    let check = Check::default();
    let mut now = 1_000;
    for round in 1..=20 {
        assert_eq!(claim(&check, worker(1), now), None);
        let lease = claim(&check, worker(0), now).unwrap();
        assert_eq!(lease.due, now);
        assert_eq!(claim(&check, worker(1), now + TIMEOUT), None);
        pass(&check, lease, now + 10).unwrap();
        assert_eq!(check.view().checks, round);
        assert_eq!(check.due(worker(0), now + 10, INTERVAL), INTERVAL - 10);
        assert_eq!(claim(&check, worker(0), now + INTERVAL - 1), None);
        now += INTERVAL;
    }
    assert_eq!(check.view().last_change, 1_010);
    assert_eq!(check.view().last_passed, Some(true));
}

#[test]
fn a_prober_killed_between_probes_is_replaced_within_an_interval_of_the_missed_one() {
    let check = Check::default();
    let lease = claim(&check, worker(0), 1_000).unwrap();
    pass(&check, lease, 1_010).unwrap();
    let due = 1_000 + INTERVAL;
    assert_eq!(claim(&check, worker(1), due), None);
    let wait = check.due(worker(1), due, INTERVAL);
    assert!(wait > 0 && wait < INTERVAL, "{wait}");
    assert_eq!(claim(&check, worker(1), due + wait - 1), None);
    let lease = claim(&check, worker(1), due + wait).unwrap();
    assert_eq!(lease.due, due);
    // It keeps the server until the preferred one is back, and keeps time.
    pass(&check, lease, due + wait + 5).unwrap();
    assert!(claim(&check, worker(1), due + INTERVAL + 250).is_some());
}

#[test]
fn a_prober_stopped_in_a_probe_is_replaced_and_its_result_dropped() {
    let check = Check::default();
    let stopped = claim(&check, worker(0), 1_000).unwrap();
    let taken = (1_000..).find_map(|now| claim(&check, worker(1), now).map(|lease| (now, lease))).unwrap();
    assert!(taken.0 <= 1_000 + INTERVAL, "{}", taken.0);
    assert_eq!(pass(&check, stopped, taken.0), None);
    assert_eq!(check.state(), 0);
    assert!(pass(&check, taken.1, taken.0 + 5).is_some());
    assert_eq!(pass(&check, stopped, taken.0 + 9), None);
    assert_eq!(check.view().checks, 1);
}

#[test]
fn successors_take_over_at_once() {
    let check = Check::default();
    let dead = claim(&check, worker(0), 1_000).unwrap();
    let respawned = claim(&check, worker(0), 1_000).unwrap();
    assert_ne!(dead, respawned);
    assert_eq!(pass(&check, dead, 1_001), None);
    let next_cycle = Prober { worker: 3, generation: 2, preferred: true };
    let newer = claim(&check, next_cycle, 1_002).unwrap();
    assert_eq!(pass(&check, respawned, 1_003), None);
    assert_eq!(claim(&check, worker(0), 1_000_000), None);
    assert!(pass(&check, newer, 1_004).is_some());
    assert_eq!(claim(&check, worker(0), 1_000_000), None);
    assert!(check.due(worker(0), 1_000_000, INTERVAL) > 0);
}

#[test]
fn without_the_preferred_worker_somebody_starts() {
    let check = Check::default();
    assert_eq!(claim(&check, worker(1), 1_000), None);
    assert_eq!(claim(&check, worker(2), 1_001), None);
    let wait = check.due(worker(2), 1_001, INTERVAL);
    assert!(wait > 0 && wait <= INTERVAL);
    assert!(claim(&check, worker(2), 1_001 + wait).is_some());
}

#[test]
fn an_abandoned_probe_counts_nothing() {
    let check = Check::default();
    let lease = claim(&check, worker(0), 1_000).unwrap();
    check.abandon(lease, 1_100);
    assert_eq!(check.view().checks, 0);
    assert_eq!(claim(&check, worker(0), 1_099), None);
    assert!(claim(&check, worker(0), 1_100).is_some());
    check.abandon(lease, 0);
    assert_eq!(claim(&check, worker(1), 1_101), None);
}

#[test]
fn time_and_generation_wrap() {
    let check = Check::default();
    let edge = 1 << 35;
    let before = Prober { worker: 0, generation: 1_023, preferred: true };
    let lease = claim(&check, before, edge - 2_000).unwrap();
    assert_eq!(claim(&check, Prober { worker: 1, ..before }, edge + 1_000), None);
    pass(&check, lease, edge - 1_000).unwrap();
    assert_eq!(claim(&check, before, edge + 2_999), None);
    let after = Prober { worker: 5, generation: 1_024, preferred: true };
    let lease = claim(&check, after, edge + 3_000).unwrap();
    assert_eq!(lease.due, edge + 3_000);
    assert_eq!(claim(&check, before, edge + 60_000), None);
}

#[test]
fn eight_threads_never_probe_together() {
    use std::sync::atomic::AtomicBool;
    let check = Check::default();
    let clock = AtomicU64::new(1);
    let probing = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for index in 0..8 {
            let (check, clock, probing) = (&check, &clock, &probing);
            scope.spawn(move || {
                let me = Prober { worker: index, generation: 1, preferred: index == 0 };
                for _ in 0..20_000 {
                    let now = clock.fetch_add(1, SeqCst);
                    // A timeout no run reaches: only `complete` ends a lease here.
                    let Some(lease) = check.claim(me, now, 4, 1 << 30) else { continue };
                    assert!(!probing.swap(true, SeqCst));
                    probing.store(false, SeqCst);
                    let probe = Probe { now, passed: true, next: now + 4, overdue: 0 };
                    let next = |state| Judgement { state: state + 1, changed: false, fell: false };
                    // Four ticks pass quickly here: a result that comes too late is dropped.
                    let _ = check.complete(lease, probe, next);
                }
            });
        }
    });
    assert!(check.view().checks > 100);
    assert_eq!(check.view().checks, check.state());
}

#[test]
fn a_hastened_probe_is_due_at_once_and_the_one_under_way_is_dropped() {
    let check = Check::default();
    check.hasten(2, 900);
    let old = claim(&check, worker(0), 1_000);
    assert_eq!(old, None, "of an older cycle");
    let newer = |worker| Prober { worker, generation: 2, preferred: worker == 0 };
    let lease = claim(&check, newer(0), 1_000).unwrap();
    assert_eq!(lease.due, 900);
    check.hasten(3, 1_500);
    assert_eq!(pass(&check, lease, 1_500), None);
    assert_eq!((check.view().checks, check.state()), (0, 0));
    assert!(claim(&check, Prober { worker: 5, generation: 3, preferred: true }, 1_500).is_some());
}

#[test]
fn probes_that_were_left_out_are_counted() {
    let check = Check::default();
    let lease = claim(&check, worker(0), 1_000).unwrap();
    let probe = Probe { now: 12_000, passed: false, next: 16_000, overdue: 2 };
    check.complete(lease, probe, |state| Judgement { state, changed: false, fell: false }).unwrap();
    assert_eq!((check.view().overdue, check.view().checks), (2, 1));
    let lease = claim(&check, worker(0), 16_000).unwrap();
    pass(&check, lease, 16_001).unwrap();
    assert_eq!((check.view().overdue, check.view().checks), (2, 2));
}
