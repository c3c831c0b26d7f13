//! Circuit breakers: of upstreams, of servers, of routes.

use super::{Shot, one_hot, with};
use crate::nginx::traffic::snapshot::Breaker;
use crate::policy::breaker::State;
use crate::policy::metrics::states::{BREAKER_STATES, breaker_state};
use crate::policy::metrics::{Family, Value, Writer, counter, gauge};
use crate::shared::breaker::CHANGES;

const STATE: Family =
    gauge("nginx_circuit_breaker_state", "The state of a circuit breaker: 1, and 0 for all others.");
const RETRY: Family = gauge(
    "nginx_circuit_breaker_retry_after_seconds",
    "Time until a circuit breaker lets a request through; 0 when it does now.",
);
const REJECTED: Family =
    counter("nginx_circuit_breaker_rejected_total", "Requests that a circuit breaker refused.");
const TRANSITIONS: Family =
    counter("nginx_circuit_breaker_transitions_total", "Changes of a circuit breaker's state, and why.");
const SUPPRESSED: Family = counter(
    "nginx_circuit_breaker_suppressed_total",
    "What a circuit breaker would have done, had it been allowed to: refusals in a dry run, and trips beyond max_ejected or of the last server.",
);
const PERMITS: Family = gauge("nginx_circuit_breaker_half_open_permits_in_use", "Test requests under way.");
const EXPIRED: Family = counter(
    "nginx_circuit_breaker_half_open_permits_lease_expired_total",
    "Test requests whose result never came.",
);
const CALLS: Family = counter(
    "nginx_circuit_breaker_calls_total",
    "Results that a circuit breaker was told of, and requests that ended without one.",
);
const WINDOW_CALLS: Family =
    gauge("nginx_circuit_breaker_window_calls", "Results in the window, of breakers with a rule for rates.");
const WINDOW_FAILURES: Family = gauge(
    "nginx_circuit_breaker_window_failures",
    "Failures in the window; without a rule for rates, 32 at most.",
);
const FAILURE_RATIO: Family =
    gauge("nginx_circuit_breaker_failure_ratio", "Share of failures in the window.");
const SLOW_RATIO: Family = gauge("nginx_circuit_breaker_slow_ratio", "Share of slow answers in the window.");

/// A breaker, and whose it is.
struct One<'s> {
    scope: &'static str,
    upstream: &'s str,
    peer: &'s str,
    its: &'s Breaker,
}

impl One<'_> {
    fn labels(&self) -> [(&'static str, &str); 3] {
        [("scope", self.scope), ("upstream", self.upstream), ("peer", self.peer)]
    }
}

/// A route's name stands in the place of an upstream's.
fn all(shot: &Shot) -> Vec<One<'_>> {
    let mut all = Vec::new();
    for group in &shot.groups {
        let own =
            group.breaker.iter().map(|its| One { scope: "upstream", upstream: &group.name, peer: "", its });
        all.extend(own);
    }
    all.extend(shot.routes.iter().map(|(name, its)| One { scope: "route", upstream: name, peer: "", its }));
    for group in &shot.groups {
        let peers =
            group.peers.iter().filter_map(|peer| Some((peer.name.as_str(), peer.its.breaker.as_ref()?)));
        all.extend(peers.map(|(peer, its)| One { scope: "peer", upstream: &group.name, peer, its }));
    }
    all
}

pub fn write(writer: &mut Writer, shot: &Shot) {
    let all = all(shot);
    writer.family(&STATE, |f| {
        for one in &all {
            let state = breaker_state(one.its.state, one.its.view.dry_run);
            one_hot(f, &one.labels(), &BREAKER_STATES, state);
        }
    });
    each(writer, &all, &RETRY, |its| {
        let open = its.view.state == State::Open && !its.view.dry_run;
        Value::Millis(if open || its.state == "forced_open" { its.retry_after } else { 0 })
    });
    split(writer, &all, &REJECTED, "cause", rejected);
    transitions(writer, &all);
    split(writer, &all, &SUPPRESSED, "cause", suppressed);
    each(writer, &all, &PERMITS, |its| Value::Whole(its.details.permits));
    each(writer, &all, &EXPIRED, |its| Value::Whole(its.details.expired));
    split(writer, &all, &CALLS, "kind", calls);
    windows(writer, &all);
}

fn each(writer: &mut Writer, all: &[One<'_>], family: &Family, value: impl Fn(&Breaker) -> Value) {
    writer.family(family, |f| all.iter().for_each(|one| f.put(&one.labels(), value(one.its))));
}

fn split<const N: usize>(
    writer: &mut Writer,
    all: &[One<'_>],
    family: &Family,
    label: &'static str,
    of: impl Fn(&Breaker) -> [(&'static str, u64); N],
) {
    writer.family(family, |f| {
        for one in all {
            of(one.its).iter().for_each(|(name, count)| f.put(&with(&one.labels(), (label, name)), *count));
        }
    });
}

fn rejected(its: &Breaker) -> [(&'static str, u64); 3] {
    let details = &its.details;
    let others = details.rejected_full + details.rejected_forced + details.pretended;
    [
        ("open", its.view.rejected.saturating_sub(others)),
        ("half_open_full", details.rejected_full),
        ("forced", details.rejected_forced),
    ]
}

fn suppressed(its: &Breaker) -> [(&'static str, u64); 3] {
    let last = its.details.last_peer;
    [
        ("dry_run", its.details.pretended),
        ("max_open", its.view.suppressed.saturating_sub(last)),
        ("last_peer", last),
    ]
}

fn calls(its: &Breaker) -> [(&'static str, u64); 6] {
    let (view, slow_failures) = (&its.view, its.details.slow_failures);
    let slow = view.slow.saturating_sub(slow_failures);
    [
        ("success", view.ok.saturating_sub(slow)),
        ("failure", view.fail.saturating_sub(slow_failures)),
        ("slow_success", slow),
        ("slow_failure", slow_failures),
        ("neutral", its.details.neutral),
        ("late", view.late),
    ]
}

fn transitions(writer: &mut Writer, all: &[One<'_>]) {
    let word = |state: State| match state {
        State::Closed => "closed",
        State::Open => "open",
        State::HalfOpen => "half_open",
    };
    writer.family(&TRANSITIONS, |f| {
        for one in all {
            let counted = CHANGES.iter().zip(one.its.details.changes);
            let counted = counted.map(|((from, to, reason), count)| (*from, *to, *reason, count));
            let elapsed = (State::Open, State::HalfOpen, "elapsed", one.its.view.half_opened);
            for (from, to, reason, count) in counted.chain([elapsed]) {
                let labels = one.labels();
                let labels = with(&labels, ("from", word(from)));
                let labels = with(&labels, ("to", word(to)));
                f.put(&with(&labels, ("reason", reason)), count);
            }
        }
    });
}

fn windows(writer: &mut Writer, all: &[One<'_>]) {
    let failures =
        |its: &Breaker| if its.settings.rated() { its.view.window.fail } else { its.view.failures };
    let ratio = |part: u32, its: &Breaker| match its.view.window.total {
        0 => Value::Real(0.0),
        total => Value::Real(f64::from(part) / f64::from(total)),
    };
    each(writer, all, &WINDOW_CALLS, |its| its.view.window.total.into());
    each(writer, all, &WINDOW_FAILURES, |its| failures(its).into());
    each(writer, all, &FAILURE_RATIO, |its| ratio(its.view.window.fail, its));
    each(writer, all, &SLOW_RATIO, |its| ratio(its.view.window.slow, its));
}
