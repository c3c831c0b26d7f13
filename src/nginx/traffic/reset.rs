//! Counting anew, for the API. Counters go back to 0 for everybody who reads them; states stay.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use nginx_sys as sys;

use super::conf::Kind;
use super::native::Known;
use super::{snapshot, symbols};
use crate::nginx::conf::MainConf;
use crate::shared::traffic::cells;

/// Requests of the whole http block.
pub fn requests(conf: &MainConf) {
    let Some(live) = conf.traffic.live() else { return };
    live.http.reset();
    if let Some(stat) = symbols::stat() {
        live.host.whole().requests_before.store(stat.requests, Relaxed);
    }
}

/// A `status_zone` of servers.
pub fn server_zone(conf: &MainConf, name: &str) {
    zone(conf, Kind::Server, name);
}

/// A `status_zone` of locations.
pub fn location_zone(conf: &MainConf, name: &str) {
    zone(conf, Kind::Location, name);
}

fn zone(conf: &MainConf, kind: Kind, name: &str) {
    let Some(live) = conf.traffic.live() else { return };
    let named = conf.traffic.zones.borrow();
    let zones = named.iter().zip(&live.zones).filter(|(zone, _)| zone.kind == kind && zone.name == name);
    zones.for_each(|(_, series)| series.reset());
}

/// The servers of an upstream.
pub fn upstream(conf: &MainConf, name: &str) {
    let groups = conf.upstreams.groups.iter().filter(|group| group.name == name);
    groups.flat_map(|group| group.traffic.servers()).for_each(|server| {
        server.series.reset();
        server.series.whole().downtime.store(0, Relaxed);
    });
}

/// A cache.
pub fn cache(conf: &MainConf, name: &str) {
    if let Some(live) = conf.traffic.live() {
        reset_of(&live.native.caches, name);
    }
}

fn reset_of<T: cells::Cells>(zones: &[Known<T>], name: &str) {
    zones.iter().filter(|known| known.name == name).for_each(|known| known.series.reset());
}

/// A zone of `limit_req`.
pub fn limit_req(conf: &MainConf, name: &str) {
    if let Some(live) = conf.traffic.live() {
        reset_of(&live.native.reqs, name);
    }
}

/// A zone of `limit_conn`.
pub fn limit_conn(conf: &MainConf, name: &str) {
    if let Some(live) = conf.traffic.live() {
        reset_of(&live.native.conns, name);
    }
}

/// A `rate_limit_zone`.
pub fn rate_limit(conf: &MainConf, name: &str) {
    let zones = conf.limits.0.iter().filter(|zone| zone.name == name);
    zones.filter_map(|zone| zone.series.get()).for_each(|series| series.reset());
}

/// Connections accepted and dropped.
pub fn connections(conf: &MainConf) {
    let Some(live) = conf.traffic.live() else { return };
    live.host.reset_one(|host| &host.accepted);
    if let Some(stat) = symbols::stat() {
        live.host.whole().accepted_before.store(stat.accepted, Relaxed);
        live.host.whole().handled_before.store(stat.handled, Relaxed);
    }
}

/// TLS with clients.
pub fn ssl(conf: &MainConf) {
    let Some(live) = conf.traffic.live() else { return };
    type Cell = fn(&'static cells::Host) -> &'static AtomicU64;
    let cells: [Cell; 3] =
        [|host| &host.handshakes, |host| &host.handshakes_failed, |host| &host.session_reuses];
    cells.into_iter().for_each(|cell| live.host.reset_one(cell));
}

/// Workers replaced.
pub fn processes(conf: &MainConf) {
    if let Some(live) = conf.traffic.live() {
        live.host.reset_one(|host| &host.respawned);
    }
}

/// What one worker, or each, has accepted and answered. A worker that counts at this very moment may count on from before.
pub fn workers(conf: &MainConf, id: Option<u64>) {
    let places = snapshot::present(conf).filter(|place| id.is_none_or(|id| place.place().0 == id));
    places.for_each(|place| {
        place.process().accepted.store(0, Relaxed);
        place.process().requests.store(0, Relaxed);
    });
}

/// Requests to a zone's slots, and those that failed.
pub fn slab(name: &str) {
    snapshot::slab_stats(name, |stat| {
        // SAFETY: a live zone's statistics, of which each number is a word. nginx counts under the pool's mutex; a request
        // of this very moment may be counted on from before.
        unsafe {
            (&raw mut (*stat).reqs).write_volatile(0 as sys::ngx_uint_t);
            (&raw mut (*stat).fails).write_volatile(0 as sys::ngx_uint_t);
        }
    });
}
