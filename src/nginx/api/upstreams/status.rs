//! What a group and its servers are doing, in the shape and order of NGINX Plus.

use serde::Serialize;

use super::super::documents::Map;
use crate::nginx::traffic::snapshot;
use crate::policy::Millis;
use crate::policy::api::iso;

#[derive(Serialize)]
pub struct Group<'a> {
    peers: Vec<Peer<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    keepalive: Option<u64>,
    zombies: u64,
    /// Not there for a group of which every worker has a list of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    zone: Option<&'a str>,
}

impl<'a> From<&'a snapshot::Group> for Group<'a> {
    fn from(of: &'a snapshot::Group) -> Self {
        Self {
            peers: of.peers.iter().map(Peer::from).collect(),
            keepalive: of.keepalive,
            zombies: of.zombies,
            zone: of.zone.as_deref(),
        }
    }
}

/// All groups by name.
pub fn all(groups: &[snapshot::Group]) -> Map<&str, Group<'_>> {
    Map(groups.iter().map(|group| (group.name.as_str(), group.into())).collect())
}

/// Plus's members in Plus's order; ours at the end.
#[derive(Serialize)]
struct Peer<'a> {
    id: u64,
    server: &'a str,
    name: &'a str,
    backup: bool,
    weight: u64,
    state: &'static str,
    active: u64,
    #[serde(skip_serializing_if = "is_zero")]
    max_conns: u64,
    requests: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    header_time: Option<Millis>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_time: Option<Millis>,
    response_time_hist: &'a snapshot::Histogram,
    responses: &'a snapshot::Responses,
    sent: u64,
    received: u64,
    fails: u64,
    unavail: u64,
    health_checks: snapshot::HealthChecks,
    downtime: Millis,
    #[serde(skip_serializing_if = "Option::is_none")]
    downstart: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    selected: Option<String>,
    /// Its checks call it degraded.
    #[serde(skip_serializing_if = "is_false")]
    degraded: bool,
    /// A check of it is late by more than an interval and a timeout: nobody probes it.
    #[serde(skip_serializing_if = "is_false")]
    overdue: bool,
    /// The state of its circuit breaker, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    circuit_breaker: Option<&'static str>,
    /// Why it takes no traffic, or less, in words.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    because: &'a [String],
}

impl<'a> From<&'a snapshot::Peer> for Peer<'a> {
    fn from(of: &'a snapshot::Peer) -> Self {
        Self {
            id: of.id,
            server: &of.server,
            name: &of.name,
            backup: of.backup,
            weight: of.weight,
            state: of.state.as_str(),
            active: of.active,
            max_conns: of.max_conns,
            requests: of.requests,
            header_time: of.header_time,
            response_time: of.response_time,
            response_time_hist: &of.times,
            responses: &of.responses,
            sent: of.sent,
            received: of.received,
            fails: of.fails,
            unavail: of.unavail,
            health_checks: of.health_checks.unwrap_or_default(),
            downtime: of.downtime,
            downstart: of.downstart.map(iso),
            selected: of.selected.map(iso),
            degraded: of.degraded,
            overdue: of.probes.iter().any(|probes| probes.overdue),
            circuit_breaker: of.breaker.as_ref().map(|breaker| breaker.state),
            because: &of.because,
        }
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_false(flag: &bool) -> bool {
    !*flag
}
