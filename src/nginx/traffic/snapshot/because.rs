//! Why a server takes no traffic, or less of it, in words: for people who ask nothing else when something is wrong.

use super::{Breaker, Peer};
use crate::nginx::events::{self, Kind};
use crate::policy::balance::State;
use crate::policy::breaker::Forced;
use crate::policy::events::Recorded;

/// What the event log tells of reasons, read when it is first asked.
pub struct Told(core::cell::OnceCell<Vec<Recorded>>);

impl Told {
    pub fn new() -> Self {
        Self(core::cell::OnceCell::new())
    }

    /// The newest event of this kind of a server, if that is when it became what it is now.
    fn of(&self, kind: Kind, upstream: &str, peer: &str, now: &str) -> Option<&str> {
        let events = self.0.get_or_init(|| events::page(0).events);
        newest(events, kind, upstream, peer, now)
    }
}

fn newest<'e>(events: &'e [Recorded], kind: Kind, upstream: &str, peer: &str, now: &str) -> Option<&'e str> {
    let its = |event: &&Recorded| event.kind == kind && event.upstream == upstream && event.peer == peer;
    let last = events.iter().rfind(its).filter(|event| event.to == now)?;
    Some(&last.text)
}

/// The reasons, what weighs most first; empty when nothing keeps the server. `share` is the part of its share that a server that
/// warms up has, in percent.
pub fn of(upstream: &str, peer: &Peer, share: Option<u64>, told: &Told) -> Vec<String> {
    let check = |now| told.of(Kind::Health, upstream, &peer.server, now);
    let said = |what: &str, now| match check(now) {
        Some(why) => format!("{what}: {why}"),
        None => what.to_owned(),
    };
    let stands = match peer.state {
        State::Up => None,
        State::Down => Some("taken down".to_owned()),
        State::Draining => Some("drains: no new clients".to_owned()),
        State::Checking => Some("has not passed its first check yet".to_owned()),
        State::Unhealthy => Some(said("check failed", "unhealthy")),
        State::Unavail => Some(failed(peer.max_fails, peer.fail_timeout)),
    };
    let open = || told.of(Kind::Breaker, upstream, &peer.server, "open").map(cause);
    let breaker = peer.breaker.as_ref().and_then(|breaker| refusal(breaker, open));
    let degraded = peer.degraded.then(|| said("degraded", "degraded"));
    let warms =
        share.filter(|_| peer.state == State::Up).map(|share| format!("warms up: {share} % of its share"));
    [stands, breaker, degraded, warms].into_iter().flatten().collect()
}

fn failed(max_fails: u64, fail_timeout: u64) -> String {
    let attempts = if max_fails == 1 { "attempt" } else { "attempts" };
    format!("{max_fails} failed {attempts}, tried again within {fail_timeout} s")
}

/// What a breaker keeps from the server. `why` is what it said when it opened.
fn refusal<'w>(breaker: &Breaker, why: impl FnOnce() -> Option<&'w str>) -> Option<String> {
    let view = &breaker.view;
    let ends = if breaker.retry_after == 0 {
        String::new()
    } else {
        format!(", tests again in {} s", breaker.retry_after.div_ceil(1000))
    };
    match (view.forced, breaker.state) {
        (Some(Forced::Open), _) => Some("its circuit breaker is held open".to_owned()),
        (Some(_), _) => None,
        _ if view.dry_run => None,
        (None, "open") => {
            let why = why().map_or_else(|| format!("{} failures", view.failures), str::to_owned);
            Some(why + &ends)
        }
        (None, "half_open") => Some("tests whether it works again".to_owned()),
        _ => None,
    }
}

/// "5 failures in 28.0 s, last http_502", of "circuit breaker of … is open for 30.0 s: 5 failures in 28.0 s, last http_502".
fn cause(line: &str) -> &str {
    line.rsplit_once(" s: ").map_or(line, |(_, cause)| cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(id: u64, kind: Kind, peer: &str, to: &str) -> Recorded {
        let text = |text: &str| text.to_owned();
        Recorded {
            id,
            time: 0,
            kind,
            upstream: text("api"),
            peer: text(peer),
            from: String::new(),
            to: text(to),
            text: text(text_of(id)),
        }
    }

    fn text_of(id: u64) -> &'static str {
        ["one", "two", "three", "four"][id as usize]
    }

    #[test]
    fn the_newest_event_tells_why_as_long_as_it_holds() {
        let events = [
            event(0, Kind::Health, "a", "unhealthy"),
            event(1, Kind::Health, "b", "unhealthy"),
            event(2, Kind::Breaker, "a", "open"),
            event(3, Kind::Health, "b", "up"),
        ];
        assert_eq!(newest(&events, Kind::Health, "api", "a", "unhealthy"), Some("one"));
        assert_eq!(newest(&events, Kind::Breaker, "api", "a", "open"), Some("three"));
        assert_eq!(newest(&events, Kind::Health, "api", "b", "unhealthy"), None, "it is up by now");
        assert_eq!(newest(&events, Kind::Health, "web", "a", "unhealthy"), None, "of another group");
        assert_eq!(newest(&[], Kind::Health, "api", "a", "unhealthy"), None);
    }

    #[test]
    fn a_cause_is_what_comes_last_in_the_line() {
        let line = "circuit breaker of server 10.0.0.1:80 of upstream \"in 9 s: x\" is open for 30.0 s: 5 failures in 28.0 s, last http_502";
        assert_eq!(cause(line), "5 failures in 28.0 s, last http_502");
        assert_eq!(cause("something else"), "something else");
    }

    #[test]
    fn attempts_are_told_with_what_they_cost() {
        assert_eq!(failed(1, 10), "1 failed attempt, tried again within 10 s");
        assert_eq!(failed(3, 30), "3 failed attempts, tried again within 30 s");
    }
}
