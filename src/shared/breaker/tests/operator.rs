//! The operator over the machine.

use super::*;

#[test]
fn the_operator_wins_and_the_machine_goes_on_below() {
    let s = Settings::default();
    let breaker = Breaker::default();
    breaker.force(Some(Forced::Open), 0);
    assert_eq!((admit(&breaker, &s, 5), breaker.peek(&s, 5)), (Admission::Reject { retry_after: 0 }, Err(0)));
    assert_eq!(state(&breaker, 5), "forced_open");
    breaker.force(Some(Forced::Open), 1_000);
    assert_eq!(admit(&breaker, &s, 5), Admission::Reject { retry_after: 995 });
    assert_eq!((breaker.view(&s, 5).retry_after, breaker.view(&s, 5).forced_until), (995, 1_000));
    assert!(request(&breaker, &s, 1_000, true).is_none());
    assert_eq!((state(&breaker, 1_000), breaker.view(&s, 1_000).forced_until), ("closed", 0));
    breaker.force(Some(Forced::Closed), 2_000);
    for _ in 0..9 {
        assert_eq!(request(&breaker, &s, 1_500, false), None);
    }
    assert_eq!((breaker.view(&s, 1_500).failures, state(&breaker, 1_500)), (9, "forced_closed"));
    // Over by itself, and the evidence is there.
    assert!(request(&breaker, &s, 2_000, false).is_some());
    breaker.force(Some(Forced::Open), 60_000);
    assert_eq!(told(breaker.reset(2_002).unwrap()), "is closed: reset");
    assert_eq!((breaker.view(&s, 2_002).failures, breaker.reset(2_003)), (0, None));
    assert_eq!(state(&breaker, 2_003), "closed");
}

#[test]
fn an_override_ends_at_its_time_and_is_told_of_once() {
    let (s, breaker) = (Settings::default(), Breaker::default());
    open(&breaker, &s, 0);
    breaker.force(Some(Forced::Open), 10_000);
    // The machine below is open for longer than the operator.
    assert_eq!(admit(&breaker, &s, 5), Admission::Reject { retry_after: 29_995 });
    assert_eq!(breaker.peek(&s, 5), Err(29_995));
    assert_eq!(
        (breaker.lapse(9_999), breaker.lapse(10_000), breaker.lapse(10_000)),
        (None, Some(Forced::Open), None)
    );
    assert_eq!((state(&breaker, 10_000), breaker.view(&s, 10_000).retry_after), ("open", 20_000));
    breaker.force(Some(Forced::Closed), 0);
    assert_eq!(breaker.lapse(u64::MAX), None);
    assert!(!token(&breaker, &s, 40_000).is_test());
    assert_eq!(breaker.housekeep(&s, 40_000), None);
    breaker.force(None, 0);
    assert!(token(&breaker, &s, 40_000).is_test());
}

#[test]
fn the_operator_may_have_a_breaker_run_dry_for_a_while() {
    let (s, breaker) = (Settings::default(), Breaker::default());
    breaker.force(Some(Forced::DryRun), 40_000);
    open(&breaker, &s, 0);
    assert!(token(&breaker, &s, 1).is_suppressed() && breaker.peek(&s, 1).is_ok());
    let view = breaker.view(&s, 1);
    assert_eq!((view.name(), view.dry_run, view.retry_after, view.rejected), ("open", true, 29_999, 1));
    assert_eq!(request(&breaker, &s, 30_000, false).unwrap().open_for, 30_000);
    // In earnest from then on, where the machine stands.
    assert_eq!(admit(&breaker, &s, 40_000), Admission::Reject { retry_after: 20_000 });
    assert!(!breaker.view(&s, 40_000).dry_run);
}
