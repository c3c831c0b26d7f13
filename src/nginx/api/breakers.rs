//! `/http/circuit_breakers`: those of upstreams, of their servers, and of routes.

use serde::Serialize;

use super::documents::Map;
use super::{Call, Outcome};
use crate::nginx::sys::now;
use crate::nginx::traffic::snapshot;
use crate::policy::Millis;
use crate::policy::api::{Failure, iso, text};
use crate::policy::breaker::{Forced, Settings};
use crate::policy::limit::Now;

/// What routes' breakers are called before their names, so that none is taken for an upstream's.
const ROUTE: &str = "route:";

/// All of one upstream, or a route's.
#[derive(Serialize)]
struct Breakers<'a> {
    /// `upstream`, `route`, or `peer` where only servers have breakers.
    scope: &'static str,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    its: Option<Breaker>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    peers: Map<u64, Peer<'a>>,
}

/// A server's; by its id.
#[derive(Serialize)]
struct Peer<'a> {
    server: &'a str,
    #[serde(flatten)]
    its: Breaker,
}

#[derive(Serialize)]
struct Breaker {
    state: &'static str,
    #[serde(rename = "override")]
    forced: Option<Override>,
    dry_run: bool,
    window: Window,
    trips_at: TripsAt,
    /// The failure seen last.
    reason: String,
    /// Seconds until it is worth trying again.
    retry_after: u64,
    /// Tests that failed, one after the other.
    attempts: u8,
    changed: Option<String>,
    counters: Counters,
}

#[derive(Serialize)]
struct Override {
    state: &'static str,
    until: Option<String>,
}

#[derive(Serialize)]
struct Window {
    seconds: u64,
    calls: u32,
    failures: u32,
    slow: u32,
    consecutive: u32,
}

/// The rules that are on.
#[derive(Serialize)]
struct TripsAt {
    #[serde(skip_serializing_if = "is_zero")]
    failures: u32,
    #[serde(skip_serializing_if = "is_zero")]
    consecutive: u32,
    #[serde(skip_serializing_if = "is_zero")]
    failure_rate: u32,
    #[serde(skip_serializing_if = "is_zero")]
    slow_rate: u32,
}

#[derive(Serialize)]
struct Counters {
    ok: u64,
    fail: u64,
    slow: u64,
    rejected: u64,
    opened: u64,
    half_opened: u64,
    closed: u64,
    late: u64,
    suppressed: u64,
}

impl From<&snapshot::Breaker> for Breaker {
    fn from(of: &snapshot::Breaker) -> Self {
        let (view, settings, now) = (&of.view, &of.settings, now());
        let forced = view.forced.map(|forced| Override {
            state: match forced {
                Forced::Open => "open",
                Forced::Closed => "closed",
                Forced::DryRun => "dry_run",
            },
            until: (view.forced_until != 0).then(|| at(now, view.forced_until)),
        });
        Self {
            state: of.state,
            forced,
            dry_run: settings.dry_run,
            window: Window {
                seconds: settings.window.div_ceil(1000),
                calls: view.window.total,
                failures: view.failures.max(view.window.fail),
                slow: view.window.slow,
                consecutive: view.consecutive,
            },
            trips_at: settings.into(),
            reason: reason(of),
            retry_after: of.retry_after.div_ceil(1000),
            attempts: view.attempts,
            changed: (view.changed != 0).then(|| at(now, view.changed)),
            counters: counters(of),
        }
    }
}

fn counters(of: &snapshot::Breaker) -> Counters {
    let view = &of.view;
    Counters {
        ok: view.ok,
        fail: view.fail,
        slow: view.slow,
        rejected: view.rejected,
        opened: view.opened,
        half_opened: view.half_opened,
        closed: view.closed,
        late: view.late,
        suppressed: view.suppressed,
    }
}

impl From<&Settings> for TripsAt {
    fn from(of: &Settings) -> Self {
        Self {
            failures: of.failures,
            consecutive: of.consecutive,
            failure_rate: of.failure_rate,
            slow_rate: of.slow_rate,
        }
    }
}

/// A point on the monotonic clock as a time of day.
fn at(now: Now, mono: Millis) -> String {
    iso((now.wall + mono).saturating_sub(now.mono))
}

/// Why it is not simply closed, in words; empty if it is.
fn reason(of: &snapshot::Breaker) -> String {
    let view = &of.view;
    let last = view.last.map(|last| format!(", last {last}")).unwrap_or_default();
    match of.state {
        "forced_open" | "forced_closed" => "as an operator said".to_owned(),
        "closed" if view.failures == 0 => String::new(),
        "closed" => format!("{} failures within the window{last}", view.failures),
        "half_open" => format!("test requests may pass{last}"),
        _ => format!("failing{last}"),
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// What a group's or a route's breakers are called.
fn name(of: &snapshot::Breakers) -> String {
    if of.route { format!("{ROUTE}{}", of.name) } else { of.name.clone() }
}

fn document(of: &snapshot::Breakers) -> Breakers<'_> {
    let peers = of.peers.iter().map(|(id, server, breaker)| (*id, Peer { server, its: breaker.into() }));
    Breakers {
        scope: match &of.breaker {
            _ if of.route => "route",
            Some(_) => "upstream",
            None => "peer",
        },
        its: of.breaker.as_ref().map(Breaker::from),
        peers: Map(peers.collect()),
    }
}

/// Answers a call by the segments behind `circuit_breakers`.
pub fn route(call: &Call, path: &[&[u8]]) -> Outcome {
    let all = snapshot::breakers(call.request.main_conf());
    let missing = || Failure::not_found("CircuitBreakerNotFound", "circuit breaker");
    let find = |wanted: &[u8]| all.iter().find(|one| name(one) == text(wanted)).ok_or_else(missing);
    match path {
        [] => call.get(|| call.collection(&Map(all.iter().map(|one| (name(one), document(one))).collect()))),
        [wanted] => {
            let found = find(wanted)?;
            call.get(|| call.object(&document(found)))
        }
        [wanted, id] => {
            let found = find(wanted)?;
            let peer = found.peers.iter().find(|(its, _, _)| its.to_string() == text(id));
            let (_, server, breaker) = peer.ok_or_else(missing)?;
            call.get(|| call.object(&Peer { server, its: breaker.into() }))
        }
        _ => Err(Failure::no_path()),
    }
}
