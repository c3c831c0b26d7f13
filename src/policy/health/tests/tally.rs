//! The counter of verdicts in a row, against a model that keeps the whole history.

use proptest::prelude::*;

use super::super::verdict::Tally;
use super::super::{Change, Condition, Probe, State, Thresholds, apply};

fn walk(state: State, probes: &[Probe], fails: u32, passes: u32) -> State {
    probes.iter().fold(state, |state, probe| apply(state, *probe, Thresholds { fails, passes }).0)
}

#[test]
fn zero_is_up_and_never_probed() {
    let state = State::from_bits(0);
    assert_eq!(state, State::default());
    assert_eq!(state.to_bits(), 0);
    assert_eq!((state.condition(), state.tally()), (Condition::Up, Tally::default()));
}

#[test]
fn the_first_mandatory_check_decides() {
    use Probe::{Degraded, Fail, Pass};
    assert_eq!(State::checking().condition(), Condition::Checking);
    assert_eq!(walk(State::checking(), &[Pass], 3, 3).condition(), Condition::Up);
    assert_eq!(walk(State::checking(), &[Degraded], 3, 3).condition(), Condition::Degraded);
    assert_eq!(walk(State::checking(), &[Fail], 3, 3).condition(), Condition::Down);
    assert_eq!(walk(State::checking(), &[Fail, Pass, Pass], 3, 3).condition(), Condition::Down);
    assert_eq!(walk(State::checking(), &[Fail, Pass, Pass, Pass], 3, 3).condition(), Condition::Up);
    // One pass proves it, whatever becomes of it then.
    for (probes, unproven) in
        [(&[Fail][..], true), (&[Fail, Fail], true), (&[Fail, Pass], false), (&[Pass, Fail], false)]
    {
        let state = walk(State::checking(), probes, 1, 2);
        assert_eq!((state.is_unproven(), State::from_bits(state.to_bits())), (unproven, state), "{probes:?}");
    }
    let again = walk(State::default(), &[Fail], 1, 1).anew();
    assert_eq!((again.condition(), again.is_unproven()), (Condition::Down, true));
    assert_eq!(walk(State::default(), &[Pass], 1, 1).anew(), State::checking());
}

#[test]
fn the_other_kind_ends_a_run() {
    use Probe::{Fail, Pass};
    assert_eq!(walk(State::default(), &[Fail, Fail, Pass, Fail, Fail], 3, 1).condition(), Condition::Up);
    assert_eq!(walk(State::default(), &[Fail, Fail, Fail], 3, 1).condition(), Condition::Down);
    assert_eq!(walk(State::default(), &[Fail], 0, 0).condition(), Condition::Down);
    let (state, change) = apply(State::default(), Fail, Thresholds { fails: 1, passes: 1 });
    assert_eq!(change, Some(Change { from: Condition::Up, to: Condition::Down }));
    assert_eq!(state.tally(), Tally { fails: 1, passes: 0 });
}

#[test]
fn runs_do_not_overflow() {
    let long = State::from_bits(u64::from(u32::MAX) << 32);
    assert_eq!(walk(long, &[Probe::Fail], 1, 1).tally().fails, u32::MAX);
}

fn probe() -> impl Strategy<Value = Probe> {
    prop_oneof![Just(Probe::Pass), Just(Probe::Degraded), Just(Probe::Fail)]
}

fn run_of(history: &[Probe], failed: bool) -> usize {
    history.iter().rev().take_while(|probe| (**probe == Probe::Fail) == failed).count()
}

proptest! {
    #[test]
    fn agrees_with_the_history(
        probes in prop::collection::vec(probe(), 0..60), fails in 0_u32..5, passes in 0_u32..5, mandatory: bool,
    ) {
        let mut state = if mandatory { State::checking() } else { State::default() };
        let (mut out, mut degraded) = (mandatory, false);
        for (i, probe) in probes.iter().enumerate() {
            let before = state.condition();
            let (next, change) = apply(state, *probe, Thresholds { fails, passes });
            let history = &probes[..=i];
            let first = i == 0 && mandatory;
            let failed = run_of(history, true);
            let passed = run_of(history, false);
            if failed >= fails.max(1) as usize || (first && failed > 0) {
                out = true;
            } else if passed >= passes.max(1) as usize || (first && passed > 0) {
                out = false;
            }
            degraded = match probe {
                _ if out => false,
                Probe::Fail => degraded,
                probe => *probe == Probe::Degraded,
            };
            let wanted = if out { Condition::Down } else if degraded { Condition::Degraded } else { Condition::Up };
            prop_assert_eq!(next.condition(), wanted);
            prop_assert_eq!(next.tally(), Tally { fails: failed as u32, passes: passed as u32 });
            prop_assert_eq!(change.is_some(), before != next.condition());
            prop_assert_eq!(State::from_bits(next.to_bits()), next);
            prop_assert!(next.to_bits() != 0);
            state = next;
        }
    }

    #[test]
    fn every_word_is_a_state(bits: u64) {
        let state = State::from_bits(bits);
        prop_assert_eq!(State::from_bits(state.to_bits()), state);
    }
}

#[test]
fn of_several_checks_the_worst_holds() {
    use Condition::{Checking, Degraded, Down, Up};
    let fell = Change { from: Up, to: Down };
    assert_eq!(fell.beside(Up), Some(fell));
    assert_eq!(fell.beside(Degraded), Some(Change { from: Degraded, to: Down }));
    assert_eq!(fell.beside(Down), None, "it was out");
    assert_eq!(Change { from: Down, to: Up }.beside(Down), None, "it is still out");
    assert_eq!(Change { from: Checking, to: Up }.beside(Checking), None, "there is more to come");
    assert_eq!(
        Change { from: Checking, to: Down }.beside(Checking),
        Some(Change { from: Checking, to: Down })
    );
}
