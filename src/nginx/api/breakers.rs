//! `/http/circuit_breakers`: those of upstreams, of their servers, and of routes.

use serde::Serialize;

use super::documents::Map;
use super::{Answer, Call, Outcome};
use crate::nginx::breaker::operator::{self, At};
use crate::nginx::cf::parse_time;
use crate::nginx::conf::MainConf;
use crate::nginx::control::notes;
use crate::nginx::events::{self, Event, Kind};
use crate::nginx::sys::now;
use crate::nginx::traffic::snapshot;
use crate::policy::Millis;
use crate::policy::api::{Failure, Method, iso, text};
use crate::policy::breaker::{Forced, Settings};
use crate::policy::control::{Overrule, seconds};
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
    /// `null`: it has no end.
    until: Option<String>,
    reason: String,
    by: String,
    since: Option<String>,
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

impl Breaker {
    fn of(conf: &MainConf, of: &snapshot::Breaker) -> Self {
        let (view, settings, now) = (&of.view, &of.settings, now());
        let note = view.forced.and_then(|_| notes::get(conf, &of.about));
        let forced = view.forced.map(|forced| Override {
            state: match forced {
                Forced::Open => "open",
                Forced::Closed => "closed",
                Forced::DryRun => "dry_run",
            },
            until: (view.forced_until != 0).then(|| at(now, view.forced_until)),
            since: note.as_ref().map(|note| iso(note.at)),
            by: note.as_ref().map(|note| note.by.clone()).unwrap_or_default(),
            reason: note.map(|note| note.reason).unwrap_or_default(),
        });
        Self {
            state: of.state,
            forced,
            dry_run: view.dry_run,
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
        // What a dry run would have refused has passed.
        rejected: view.rejected.saturating_sub(of.details.pretended),
        opened: view.opened,
        half_opened: view.half_opened,
        closed: view.closed,
        late: view.late,
        suppressed: view.suppressed + of.details.pretended,
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
    let why = view.why.map_or_else(|| "failing".to_owned(), |why| why.rounded().to_string());
    match of.state {
        "forced_open" | "forced_closed" => "as an operator said".to_owned(),
        "closed" if view.failures == 0 => String::new(),
        "closed" => format!("{} failures within the window{last}", view.failures),
        "half_open" => format!("{why}{last}; test requests may pass"),
        _ => format!("{why}{last}"),
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

fn document<'a>(conf: &MainConf, of: &'a snapshot::Breakers) -> Breakers<'a> {
    let peers = of.peers.iter().map(|(id, server, its)| (*id, Peer { server, its: Breaker::of(conf, its) }));
    Breakers {
        scope: match &of.breaker {
            _ if of.route => "route",
            Some(_) => "upstream",
            None => "peer",
        },
        its: of.breaker.as_ref().map(|its| Breaker::of(conf, its)),
        peers: Map(peers.collect()),
    }
}

fn missing() -> Failure {
    Failure::not_found("CircuitBreakerNotFound", "circuit breaker")
}

/// Answers a call by the segments behind `circuit_breakers`.
pub fn route(call: &Call, path: &[&[u8]]) -> Outcome {
    let conf = call.request.main_conf();
    let all = snapshot::breakers(conf);
    let Some((wanted, below)) = path.split_first() else {
        let by_name = all.iter().map(|one| (name(one), document(conf, one)));
        return call.get(|| call.collection(&Map(by_name.collect())));
    };
    let (below, resets) = match below {
        [below @ .., b"reset"] => (below, true),
        below => (below, false),
    };
    if below.len() > 1 {
        return Err(Failure::no_path());
    }
    let found = all.iter().find(|one| name(one) == text(wanted)).ok_or_else(missing)?;
    let peer = below
        .first()
        .map(|id| found.peers.iter().find(|(its, ..)| its.to_string() == text(id)).ok_or_else(missing));
    let peer = peer.transpose()?;
    let its = peer.map(|(.., its)| its).or(found.breaker.as_ref());
    match (call.method, resets) {
        (Method::Get, false) => match peer {
            Some((_, server, its)) => call.object(&Peer { server, its: Breaker::of(conf, its) }),
            None => call.object(&document(conf, found)),
        },
        (Method::Patch, false) => overrule(call, found, peer.map(|(id, ..)| *id), its.ok_or_else(missing)?),
        (Method::Post, true) => reset(call, found, peer.map(|(id, ..)| *id), its.ok_or_else(missing)?),
        (_, true) => Err(Failure::method("POST")),
        _ => Err(Failure::method("GET, HEAD, PATCH")),
    }
}

/// The document of the breaker that was changed.
fn changed(call: &Call, of: &snapshot::Breakers, peer: Option<u64>) -> Outcome {
    let conf = call.request.main_conf();
    let all = snapshot::breakers(conf);
    let found = all.iter().find(|one| name(one) == name(of)).ok_or_else(missing)?;
    match peer {
        None => Answer::document(200, &document(conf, found)),
        Some(id) => {
            let (_, server, its) = found.peers.iter().find(|(its, ..)| *its == id).ok_or_else(missing)?;
            Answer::document(200, &Peer { server, its: Breaker::of(conf, its) })
        }
    }
}

/// Which breaker is meant.
fn place<'c>(conf: &'c MainConf, of: &'c snapshot::Breakers, peer: Option<u64>) -> Option<At<'c>> {
    if of.route {
        return Some(At::Route(&of.name));
    }
    let group = conf.upstreams.named(&of.name)?;
    let Some(id) = peer else { return Some(At::Upstream(group)) };
    let servers = group.traffic.servers();
    let server = servers.iter().find(|server| server.id == id)?;
    Some(At::Server(group, group.breaker.servers()?.number_of(&server.server)?))
}

fn overrule(call: &Call, of: &snapshot::Breakers, peer: Option<u64>, its: &snapshot::Breaker) -> Outcome {
    let conf = call.request.main_conf();
    let body = call.body.as_ref();
    let body = body.ok_or_else(|| Failure::new(415, "JsonError", "a JSON document is missing"))?;
    let wanted = Overrule::read(body, parse_time);
    let wanted = wanted.map_err(|fault| Failure::format("CircuitBreakerFormatError", fault.to_string()))?;
    let at = place(conf, of, peer).ok_or_else(missing)?;
    let who = call.who();
    // Before it is in force, so that nobody sees it without its reason.
    notes::set(conf, &its.about, wanted.forced.map(|_| (wanted.reason.as_str(), who.as_str())));
    if !operator::force(conf, at, wanted.forced, wanted.ttl, Some(call.request)) {
        return Err(missing());
    }
    let what = match (wanted.forced, wanted.ttl) {
        (None, _) => "override ended".to_owned(),
        (Some(_), 0) => "overruled, without an end".to_owned(),
        (Some(_), ttl) => format!("overruled for {}", seconds(ttl)),
    };
    let why = if wanted.reason.is_empty() { String::new() } else { format!(": {}", wanted.reason) };
    tell(of, peer, [its.state, word(wanted.forced)], &format!("{what}, by {who}{why}"));
    changed(call, of, peer)
}

fn reset(call: &Call, of: &snapshot::Breakers, peer: Option<u64>, its: &snapshot::Breaker) -> Outcome {
    let conf = call.request.main_conf();
    let at = place(conf, of, peer).ok_or_else(missing)?;
    operator::reset(conf, at, Some(call.request));
    notes::set(conf, &its.about, None);
    tell(of, peer, [its.state, "closed"], &format!("reset, by {}", call.who()));
    changed(call, of, peer)
}

fn word(forced: Option<Forced>) -> &'static str {
    match forced {
        None => "none",
        Some(Forced::Open) => "forced_open",
        Some(Forced::Closed) => "forced_closed",
        Some(Forced::DryRun) => "dry_run",
    }
}

fn tell(of: &snapshot::Breakers, peer: Option<u64>, [from, to]: [&str; 2], text: &str) {
    let server = of.peers.iter().find(|(id, ..)| Some(*id) == peer).map_or("", |(_, server, _)| server);
    events::note(&Event { kind: Kind::Control, upstream: &name(of), peer: server, from, to, text });
}
