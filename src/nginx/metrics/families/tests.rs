//! All families of a gateway that has everything: both formats read back, and states are one-hot.

use std::collections::{BTreeMap, HashMap};

use super::shot::{Redis, Upstream};
use super::{LEAST, STEPS, Shot};
use crate::nginx::traffic::snapshot::{
    Breaker, Cache, Group, Peer, Probes, RateLimit, Slab, Slot, Worker, Zone,
};
use crate::policy::balance::State;
use crate::policy::breaker::Settings;
use crate::policy::metrics::tests::parser::{Parsed, parse};
use crate::policy::metrics::{Format, Writer};
use crate::shared::breaker::Breaker as Shared;
use crate::shared::upstream::Fill;

fn breaker() -> Breaker {
    let (settings, shared) = (Settings::default(), Shared::default());
    let (view, details) = (shared.view(&settings, 0), shared.details(0));
    Breaker { about: String::new(), settings, state: view.name(), view, details, retry_after: 0 }
}

fn peer(server: &str, backup: bool, state: State) -> Peer {
    let probes = Probes {
        check: "http:/\"health\"".to_owned(),
        last: Some(1),
        last_passed: Some(true),
        results: vec![("pass", "", 1), ("fail", "connect", 0), ("fail", "tls", 0)],
        changes: vec![("up", "unhealthy", 0)],
        ..Probes::default()
    };
    Peer {
        server: server.to_owned(),
        backup,
        state,
        selected: Some(1),
        probes: vec![probes],
        share: 1.0,
        breaker: Some(breaker()),
        ..Peer::default()
    }
}

fn group(name: &str, peers: Vec<Peer>) -> Upstream {
    let (name, breaker) = (name.to_owned(), Some(breaker()));
    Upstream::new(Group { name, breaker, peers, keepalive: Some(1), ..Group::default() })
}

/// One of everything, with names that need escaping.
fn everything() -> Shot {
    let slot = Slot { reqs: 1, ..Slot::default() };
    let peers = vec![
        peer("10.0.0.1:80", false, State::Up),
        peer("10.0.0.1:80", false, State::Unhealthy),
        peer("10.0.0.2:80", false, State::Down),
        peer("unix:/a\"b", true, State::Up),
    ];
    let named = |name: &str| name.to_owned();
    Shot {
        nginx: "1.2.3",
        probes: true,
        workers: vec![Worker::default(), Worker { id: 1, ..Worker::default() }],
        ssl: Some(Default::default()),
        redis: vec![(named("main"), Redis { up: true, ..Redis::default() })],
        rate_limits: vec![RateLimit {
            name: named("z\\"),
            sources: ["local", "lease", "cache", "redis", "fallback"].map(|source| (source, 0)),
            ..RateLimit::default()
        }],
        bans: vec![(named("b"), Default::default())],
        limit_reqs: vec![(named("r"), Default::default())],
        limit_conns: vec![(named("c"), Default::default())],
        groups: vec![group("a", peers), group("none", Vec::new())],
        routes: vec![(named("a"), breaker())],
        server_zones: vec![(named("front"), Zone { processing: Some(1), ..Zone::default() })],
        location_zones: vec![(named("front"), Zone::default())],
        caches: vec![(named("c"), Cache { max_size: Some(1), ..Cache::default() })],
        slabs: vec![(named("s"), Slab { slots: vec![(8, slot)], ..Slab::default() })],
        store: Some(Fill::default()),
        in_flight: vec![(0, 1)],
        ..Shot::default()
    }
}

fn written(format: Format, shot: &Shot, most: usize) -> (Vec<Parsed>, u64) {
    let mut writer = Writer::new(format, most);
    STEPS.iter().for_each(|step| step(&mut writer, shot));
    let dropped = writer.dropped();
    (parse(format, core::str::from_utf8(&writer.finish()).expect("text")), dropped)
}

#[test]
fn both_formats_read_back_and_nothing_is_left_out() {
    for format in [Format::Text, Format::OpenMetrics] {
        let (samples, dropped) = written(format, &everything(), 100_000);
        assert_eq!(dropped, 0, "two series are alike");
        let own = samples.iter().find(|sample| sample.name == "nginx_metrics_series").expect("its own count");
        assert_eq!(own.value, samples.len().to_string());
        assert!(samples.iter().all(|sample| sample.name.starts_with("nginx_")));
    }
}

#[test]
fn a_gateway_without_anything_has_few_series() {
    let (samples, dropped) = written(Format::Text, &Shot::default(), LEAST);
    assert_eq!(dropped, 0);
    assert!(samples.len() < LEAST);
}

#[test]
fn however_few_series_are_allowed_they_say_how_many_are_missing() {
    for most in [2, 3, 50, 100, 200] {
        let (samples, dropped) = written(Format::OpenMetrics, &everything(), most);
        assert!(samples.len() <= most && dropped > 0);
        let said = samples.iter().find(|sample| sample.name == "nginx_metrics_series_dropped").expect("said");
        assert_eq!(said.value, dropped.to_string());
    }
}

#[test]
fn of_all_states_exactly_one_holds() {
    let (samples, _) = written(Format::Text, &everything(), 100_000);
    let mut sums: HashMap<_, (usize, u64)> = HashMap::new();
    for sample in samples.iter().filter(|sample| sample.name.ends_with("_state")) {
        let labels: BTreeMap<_, _> =
            sample.labels.iter().filter(|(name, _)| name != "state").cloned().collect();
        let (count, sum) = sums.entry((sample.name.clone(), labels)).or_default();
        *count += 1;
        *sum += sample.value.parse::<u64>().expect("0 or 1");
    }
    // Four servers; breakers of the two groups, of one route and of four servers.
    assert_eq!(sums.len(), 4 + 2 + 1 + 4);
    for ((name, _), (count, sum)) in sums {
        assert_eq!((count, sum), (if name == "nginx_upstream_peer_state" { 10 } else { 7 }, 1), "{name}");
    }
}

#[test]
fn what_nobody_misses_does_not_count_as_missing() {
    let ratio = |peers: Vec<Peer>| {
        let shot = Shot { groups: vec![group("a", peers)], ..Shot::default() };
        let (samples, _) = written(Format::Text, &shot, 10_000);
        samples.iter().find(|sample| sample.name == "nginx_upstream_available_ratio").map(|s| s.value.clone())
    };
    let of = |states: &[State]| ratio(states.iter().map(|state| peer("a", false, *state)).collect());
    assert_eq!(of(&[State::Up, State::Down, State::Draining]).as_deref(), Some("1"));
    assert_eq!(of(&[State::Up, State::Unhealthy, State::Unavail, State::Checking]).as_deref(), Some("0.25"));
    assert_eq!(of(&[State::Down]).as_deref(), Some("0"));
    assert_eq!(ratio(vec![peer("a", true, State::Up)]).as_deref(), Some("0"), "a backup alone");
}
