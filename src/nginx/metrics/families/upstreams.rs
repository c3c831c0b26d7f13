//! Upstream groups and their servers.

use super::shot::{Member, Upstream};
use super::{RESPONSES, Shot, buckets, classes, one_hot};
use crate::nginx::traffic::snapshot::{Histogram, Responses};
use crate::policy::metrics::states::{PEER_STATES, is_available, is_meant};
use crate::policy::metrics::{Family, Value, Writer, counter, gauge, histogram};

const PEERS: Family = gauge("nginx_upstream_peers", "Servers of an upstream in this state.");
const RATIO: Family = gauge(
    "nginx_upstream_available_ratio",
    "Share of an upstream's primary servers that are offered requests; those down or draining do not count.",
);
const PANIC: Family = gauge("nginx_upstream_panic", "Whether an upstream is in panic.");
const GROUP_RESPONSES: Family =
    counter("nginx_upstream_responses_total", "Responses of an upstream's servers.");
const GROUP_TIME: Family =
    histogram("nginx_upstream_response_time_seconds", "Responses of an upstream's servers by response time.");
const FAILS: Family = counter("nginx_upstream_server_fails_total", "Attempts at a server that failed.");
const KEEPALIVE: Family =
    gauge("nginx_upstream_keepalive", "Idle connections to an upstream's servers that are kept open.");
const ZOMBIES: Family = gauge("nginx_upstream_zombies", "Servers that were removed and still serve.");

/// What is of a group as a whole, and what alert rules look at.
pub fn groups(writer: &mut Writer, shot: &Shot) {
    writer.family(&PEERS, |f| {
        for group in &shot.groups {
            for state in PEER_STATES {
                let count = group.peers.iter().filter(|peer| peer.state == state).count();
                f.put(&[("upstream", &group.name), ("state", state)], count);
            }
        }
    });
    by_group(writer, shot, &RATIO, |group| Some(available(group)));
    by_group(writer, shot, &PANIC, |group| Some(group.panic));
    writer.family(&GROUP_RESPONSES, |f| {
        shot.groups.iter().for_each(|group| classes(f, &[("upstream", &group.name)], &responses(group)));
    });
    by_peer(writer, shot, &FAILS, |peer| Some(peer.its.fails));
    writer.family(&GROUP_TIME, |f| {
        for group in &shot.groups {
            f.put_histogram(&[("upstream", &group.name)], &buckets(&RESPONSES, &times(group)));
        }
    });
    by_group(writer, shot, &KEEPALIVE, |group| group.keepalive);
    by_group(writer, shot, &ZOMBIES, |group| Some(group.zombies));
}

/// 0 without any server that counts: then none is available.
fn available(group: &Upstream) -> f64 {
    let counted = || group.peers.iter().filter(|peer| !peer.its.backup && !is_meant(peer.state));
    let all = counted().count();
    let available = counted().filter(|peer| is_available(peer.state)).count();
    if all == 0 { 0.0 } else { available as f64 / all as f64 }
}

fn responses(group: &Upstream) -> Responses {
    group.peers.iter().fold(Responses::default(), |mut sum, peer| {
        for (to, from) in sum.classes.iter_mut().zip(peer.its.responses.classes) {
            *to += from;
        }
        sum
    })
}

fn times(group: &Upstream) -> Histogram {
    group.peers.iter().fold(Histogram::default(), |mut sum, peer| {
        for (to, from) in sum.buckets.iter_mut().zip(peer.its.times.buckets) {
            *to += from;
        }
        Histogram { sum: sum.sum + peer.its.times.sum, ..sum }
    })
}

fn by_group<V: Into<Value>>(
    writer: &mut Writer,
    shot: &Shot,
    family: &Family,
    value: impl Fn(&Upstream) -> Option<V>,
) {
    writer.family(family, |f| {
        for group in &shot.groups {
            value(group).into_iter().for_each(|value| f.put(&[("upstream", &group.name)], value));
        }
    });
}

fn by_peer<V: Into<Value>>(
    writer: &mut Writer,
    shot: &Shot,
    family: &Family,
    value: impl Fn(&Member) -> Option<V>,
) {
    writer.family(family, |f| {
        for (group, peer) in members(shot) {
            let labels = [("upstream", group.name.as_str()), ("peer", &peer.name)];
            value(peer).into_iter().for_each(|value| f.put(&labels, value));
        }
    });
}

fn members(shot: &Shot) -> impl Iterator<Item = (&Upstream, &Member)> {
    shot.groups.iter().flat_map(|group| group.peers.iter().map(move |peer| (group, peer)))
}

const STATE: Family = gauge("nginx_upstream_peer_state", "The state of a server: 1, and 0 for all others.");
const WEIGHT: Family =
    gauge("nginx_upstream_peer_weight_ratio", "What a server gets of its share while it warms up, 0 to 1.");

/// How each server stands.
pub fn states(writer: &mut Writer, shot: &Shot) {
    writer.family(&STATE, |f| {
        for (group, peer) in members(shot) {
            let backup = if peer.its.backup { "true" } else { "false" };
            let labels = [("upstream", group.name.as_str()), ("peer", &peer.name), ("backup", backup)];
            one_hot(f, &labels, &PEER_STATES, peer.state);
        }
    });
    by_peer(writer, shot, &WEIGHT, |peer| Some(peer.its.share));
}

const REQUESTS: Family = counter("nginx_upstream_peer_requests_total", "Responses of a server.");
const ATTEMPTS: Family =
    counter("nginx_upstream_peer_attempts_total", "Requests sent to a server, each try for itself.");
const ACTIVE: Family = gauge("nginx_upstream_peer_active", "Requests that a server has now.");
const SENT: Family = counter("nginx_upstream_peer_sent_bytes_total", "Bytes sent to a server.");
const RECEIVED: Family = counter("nginx_upstream_peer_received_bytes_total", "Bytes received from a server.");
const UNAVAIL: Family =
    counter("nginx_upstream_peer_unavail_total", "How often max_fails made a server unavailable.");
const DOWNTIME: Family = counter(
    "nginx_upstream_peer_downtime_seconds_total",
    "Time that a server was unavailable, unhealthy or not yet checked.",
);
const SELECTED: Family =
    gauge("nginx_upstream_peer_selected_timestamp_seconds", "When a server was last chosen.");

/// What each server has done.
pub fn counts(writer: &mut Writer, shot: &Shot) {
    writer.family(&REQUESTS, |f| {
        for (group, peer) in members(shot) {
            classes(f, &[("upstream", &group.name), ("peer", &peer.name)], &peer.its.responses);
        }
    });
    by_peer(writer, shot, &ATTEMPTS, |peer| Some(peer.its.requests));
    by_peer(writer, shot, &ACTIVE, |peer| Some(peer.its.active));
    by_peer(writer, shot, &SENT, |peer| Some(peer.its.sent));
    by_peer(writer, shot, &RECEIVED, |peer| Some(peer.its.received));
    by_peer(writer, shot, &UNAVAIL, |peer| Some(peer.its.unavail));
    by_peer(writer, shot, &DOWNTIME, |peer| Some(Value::Millis(peer.its.downtime)));
    by_peer(writer, shot, &SELECTED, |peer| peer.its.selected.map(Value::Millis));
}

const TIME: Family =
    histogram("nginx_upstream_peer_response_seconds", "Responses of a server by response time.");

/// How long each server took: many series, and so the last.
pub fn times_of_peers(writer: &mut Writer, shot: &Shot) {
    writer.family(&TIME, |f| {
        for (group, peer) in members(shot) {
            let labels = [("upstream", group.name.as_str()), ("peer", &peer.name)];
            f.put_histogram(&labels, &buckets(&RESPONSES, &peer.its.times));
        }
    });
}
