//! Everything that is shown, taken at one moment.

use std::collections::HashMap;

use nginx_sys as sys;

use crate::nginx::conf::MainConf;
use crate::nginx::traffic::snapshot::{
    self, Bans, Breaker, Connections, Group, Http, LimitConn, LimitReq, Peer, Slab, Ssl, Worker,
};
use crate::policy::metrics::states::{Beside, peer_state};
use crate::shared::upstream::Fill;

pub use crate::nginx::traffic::snapshot::{Cache, Fetched, RateLimit, Served, Slot, Zone};

/// The snapshots of this moment.
#[derive(Default)]
pub struct Shot {
    pub nginx: &'static str,
    /// The layout of the zone of upstream state.
    pub layout: u64,
    /// Whether there are health checks.
    pub probes: bool,
    pub http: Http,
    pub connections: Connections,
    pub workers: Vec<Worker>,
    pub respawned: u64,
    pub ssl: Option<Ssl>,
    pub redis: Vec<(String, Redis)>,
    pub rate_limits: Vec<RateLimit>,
    pub bans: Vec<(String, Bans)>,
    pub limit_reqs: Vec<(String, LimitReq)>,
    pub limit_conns: Vec<(String, LimitConn)>,
    pub groups: Vec<Upstream>,
    pub routes: Vec<(String, Breaker)>,
    pub server_zones: Vec<(String, Zone)>,
    pub location_zones: Vec<(String, Zone)>,
    pub caches: Vec<(String, Cache)>,
    pub slabs: Vec<(String, Slab)>,
    pub store: Option<Fill>,
    /// Probes under way, by worker.
    pub in_flight: Vec<(u64, u64)>,
}

/// A Redis as this host knows it.
#[derive(Clone, Copy, Default)]
pub struct Redis {
    pub up: bool,
    /// Primaries of a cluster that are away.
    pub lost: usize,
    pub gateways: u32,
}

/// A group, and its servers as they are called and stand here.
pub struct Upstream {
    pub name: String,
    pub panic: bool,
    pub keepalive: Option<u64>,
    pub zombies: u64,
    pub breaker: Option<Breaker>,
    pub peers: Vec<Member>,
}

/// One server.
pub struct Member {
    /// Its address; of servers with the same one, all but the first have `#2` and so on behind it.
    pub name: String,
    /// One of `PEER_STATES`.
    pub state: &'static str,
    pub its: Peer,
}

/// Of so many servers, zones and limits there are several thousand series, and milliseconds of work.
const MANY: usize = 100;

impl Shot {
    /// Whether to write it down takes long.
    pub fn is_large(&self) -> bool {
        let servers: usize = self.groups.iter().map(|group| group.peers.len()).sum();
        let zones = self.server_zones.len() + self.location_zones.len();
        let others = self.rate_limits.len() + self.bans.len() + self.limit_reqs.len() + self.slabs.len();
        servers + zones + others > MANY
    }

    /// Of the configuration that this worker serves.
    pub fn take(conf: &MainConf) -> Self {
        let groups: Vec<_> = snapshot::upstreams(conf).into_iter().map(Upstream::new).collect();
        let workers = snapshot::workers(conf);
        Self {
            in_flight: in_flight(&groups, &workers),
            nginx: sys::NGINX_VERSION.to_str().unwrap_or_default(),
            layout: crate::shared::upstream::LAYOUT,
            probes: !conf.health.is_empty(),
            http: snapshot::http(conf),
            connections: snapshot::connections(conf),
            workers,
            respawned: snapshot::processes(conf),
            ssl: snapshot::ssl(conf),
            redis: conf
                .redis
                .states()
                .map(|(name, up, lost, gateways)| (name.to_owned(), Redis { up, lost, gateways }))
                .collect(),
            rate_limits: snapshot::rate_limits(conf),
            bans: snapshot::bans(conf),
            limit_reqs: snapshot::limit_reqs(conf),
            limit_conns: snapshot::limit_conns(conf),
            groups,
            routes: snapshot::routes(conf),
            server_zones: snapshot::server_zones(conf),
            location_zones: snapshot::location_zones(conf),
            caches: snapshot::caches(conf),
            slabs: snapshot::slabs(),
            store: conf.upstreams.store().map(|store| store.fill()),
        }
    }
}

/// Probes under way of each worker; nothing without checks.
fn in_flight(groups: &[Upstream], workers: &[Worker]) -> Vec<(u64, u64)> {
    let all = || groups.iter().flat_map(|group| &group.peers).flat_map(|peer| &peer.its.probes);
    if all().next().is_none() {
        return Vec::new();
    }
    let of = |worker: &Worker| {
        all().filter(|probes| probes.prober.map(u64::from) == Some(worker.id)).count() as u64
    };
    workers.iter().map(|worker| (worker.id, of(worker))).collect()
}

impl Upstream {
    pub fn new(group: Group) -> Self {
        let mut seen: HashMap<String, usize> = HashMap::new();
        let peers = group.peers.into_iter().map(|its| {
            let count = seen.entry(its.server.clone()).or_default();
            *count += 1;
            let name = if *count > 1 { format!("{}#{count}", its.server) } else { its.server.clone() };
            Member { name, state: state(&its), its }
        });
        Self {
            peers: peers.collect(),
            name: group.name,
            panic: group.panic,
            keepalive: group.keepalive,
            zombies: group.zombies,
            breaker: group.breaker,
        }
    }
}

fn state(peer: &Peer) -> &'static str {
    let breaker = peer.breaker.as_ref();
    let strict = |breaker: &&Breaker| !breaker.view.dry_run || breaker.state == "forced_open";
    let breaker = breaker.filter(strict).map(|breaker| breaker.state);
    peer_state(peer.state, Beside { breaker, degraded: peer.degraded, warming: peer.share < 1.0 })
}
