//! Circuit breakers of groups, servers and routes.

use super::{Breaker, Breakers};
use crate::nginx::breaker::Gate;
use crate::nginx::conf::MainConf;

pub fn of(gate: &Gate) -> Breaker {
    let (settings, view, retry_after) = gate.shown();
    let details = gate.details();
    Breaker {
        about: gate.name().to_owned(),
        settings: *settings,
        state: view.name(),
        view,
        details,
        retry_after,
    }
}

/// Those of routes.
pub fn routes(conf: &MainConf) -> Vec<(String, Breaker)> {
    conf.breaker.gates_of_routes().map(|(name, gate)| (name.to_owned(), of(gate))).collect()
}

/// All of them, upstreams first.
pub fn breakers(conf: &MainConf) -> Vec<Breakers> {
    let groups = super::upstreams(conf).into_iter().map(|group| {
        let peers = group.peers.into_iter();
        let peers = peers.filter_map(|peer| Some((peer.id, peer.server, peer.breaker?))).collect();
        Breakers { name: group.name, route: false, breaker: group.breaker, peers }
    });
    let groups = groups.filter(|group| group.breaker.is_some() || !group.peers.is_empty());
    let routes = routes(conf).into_iter();
    let routes =
        routes.map(|(name, gate)| Breakers { name, route: true, breaker: Some(gate), peers: Vec::new() });
    groups.chain(routes).collect()
}
