//! Circuit breakers of groups, servers and routes.

use super::{Breaker, Breakers};
use crate::nginx::breaker::Gate;
use crate::nginx::conf::MainConf;

pub fn of(gate: &Gate) -> Breaker {
    let (settings, view, retry_after) = gate.shown();
    Breaker { about: gate.name().to_owned(), settings: *settings, state: view.name(), view, retry_after }
}

/// All of them, upstreams first.
pub fn breakers(conf: &MainConf) -> Vec<Breakers> {
    let groups = super::upstreams(conf).into_iter().map(|group| {
        let peers = group.peers.into_iter();
        let peers = peers.filter_map(|peer| Some((peer.id, peer.server, peer.breaker?))).collect();
        Breakers { name: group.name, route: false, breaker: group.breaker, peers }
    });
    let groups = groups.filter(|group| group.breaker.is_some() || !group.peers.is_empty());
    let routes = conf.breaker.gates_of_routes().map(|(name, gate)| Breakers {
        name: name.to_owned(),
        route: true,
        breaker: Some(of(gate)),
        peers: Vec::new(),
    });
    groups.chain(routes).collect()
}
