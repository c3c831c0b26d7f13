//! Requests, `status_zone`s, connections, workers.

use super::super::conf::Kind;
use super::super::process::alive;
use super::super::symbols;
use super::{Connections, Histogram, Http, Responses, Ssl, Worker, Zone};
use core::sync::atomic::Ordering::Relaxed;

use crate::nginx::conf::MainConf;
use crate::nginx::worker;
use crate::policy::traffic::class_of;
use crate::shared::traffic::cells::{self, Cells, Codes};
use crate::shared::traffic::{Presence, Series};

pub fn responses<T: Cells>(series: &Series<T>, of: impl Fn(&'static T) -> &'static Codes) -> Responses {
    let (codes, classes) = series.codes(of);
    // `return 999` and the like are of no class, and yet were sent.
    let beyond = codes.iter().filter(|(code, _)| class_of(*code).is_none()).map(|(_, times)| times);
    let total = classes.iter().chain(beyond).sum();
    Responses { classes, codes, total }
}

/// The `status_zone`s of servers.
pub fn server_zones(conf: &MainConf) -> Vec<(String, Zone)> {
    zones(conf, Kind::Server)
}

/// The `status_zone`s of locations.
pub fn location_zones(conf: &MainConf) -> Vec<(String, Zone)> {
    zones(conf, Kind::Location)
}

fn zones(conf: &MainConf, kind: Kind) -> Vec<(String, Zone)> {
    let traffic = &conf.traffic;
    let Some(live) = traffic.live() else { return Vec::new() };
    let named = traffic.zones.borrow();
    let zones = named.iter().zip(&live.zones).filter(|(named, _)| named.kind == kind);
    zones.map(|(named, series)| (named.name.clone(), zone(conf, named.kind, series))).collect()
}

fn zone(conf: &MainConf, kind: Kind, series: &Series<cells::Zone>) -> Zone {
    let processing = conf.traffic.store().map(|store| store.gauge(series.number, alive));
    let ssl = Ssl {
        handshakes: series.sum(|zone| &zone.handshakes),
        handshakes_failed: None,
        session_reuses: series.sum(|zone| &zone.session_reuses),
    };
    Zone {
        processing: processing.filter(|_| kind == Kind::Server),
        requests: series.sum(|zone| &zone.requests),
        responses: responses(series, |zone| &zone.codes),
        discarded: series.sum(|zone| &zone.discarded),
        received: series.sum(|zone| &zone.received),
        sent: series.sum(|zone| &zone.sent),
        ssl: (kind == Kind::Server && ssl.handshakes > 0).then_some(ssl),
    }
}

/// All requests.
pub fn http(conf: &MainConf) -> Http {
    let Some(live) = conf.traffic.live() else { return Http::default() };
    let series = &live.http;
    let buckets = series.sums(|http| &http.durations);
    let ended = series.sum(|http| &http.requests);
    let current = living(conf).map(|place| load(&place.process().current)).sum();
    let before = live.host.whole().requests_before.load(Relaxed);
    let total = symbols::stat().map_or(ended + current, |stat| stat.requests.saturating_sub(before));
    Http {
        total,
        current,
        ended,
        responses: responses(series, |http| &http.codes),
        discarded: series.sum(|http| &http.discarded),
        received: series.sum(|http| &http.received),
        sent: series.sum(|http| &http.sent),
        duration: Histogram {
            buckets,
            count: buckets.iter().sum(),
            sum: series.sum(|http| &http.duration_sum),
        },
    }
}

fn load(cell: &core::sync::atomic::AtomicU64) -> u64 {
    cell.load(Relaxed)
}

/// The processes that live, of whatever cycle.
fn living(conf: &MainConf) -> impl Iterator<Item = Presence> {
    let places = conf.traffic.store().into_iter().flat_map(|store| store.processes());
    places.filter(|place| matches!(place.pid(), pid if pid != 0 && alive(pid)))
}

/// Clients' connections of all workers. What is open is what the processes that live have open: nginx's own count keeps
/// those of a worker that was killed.
pub fn connections(conf: &MainConf) -> Connections {
    look();
    let mut sum = Connections::default();
    for place in living(conf) {
        let (active, idle) = (load(&place.process().active), load(&place.process().idle));
        sum.active += active.saturating_sub(idle);
        sum.idle += idle;
    }
    let Some(live) = conf.traffic.live() else { return sum };
    let Some(stat) = symbols::stat() else {
        return Connections { accepted: live.host.sum(|host| &host.accepted), ..sum };
    };
    let before = live.host.whole();
    let accepted = stat.accepted.saturating_sub(load(&before.accepted_before));
    let handled = stat.handled.saturating_sub(load(&before.handled_before));
    Connections {
        accepted,
        dropped: Some(accepted.saturating_sub(handled)),
        reading: Some(stat.reading),
        writing: Some(stat.writing),
        ..sum
    }
}

/// Brings up to date what this process tells of itself.
fn look() {
    if let Some(worker) = worker::current() {
        worker.traffic.look();
    }
}

/// The workers of the present cycle, by their index.
pub fn workers(conf: &MainConf) -> Vec<Worker> {
    look();
    let mut workers: Vec<_> = present(conf).map(|place| worker(&place)).collect();
    workers.sort_unstable_by_key(|worker| worker.id);
    workers
}

/// The processes of the present cycle.
pub fn present(conf: &MainConf) -> impl Iterator<Item = Presence> {
    let generation = conf.traffic.live().map(|live| live.generation);
    living(conf).filter(move |place| Some(place.place().1) == generation)
}

fn worker(place: &Presence) -> Worker {
    let its = place.process();
    let (active, idle) = (load(&its.active), load(&its.idle));
    Worker {
        id: place.place().0,
        pid: place.pid(),
        connections: Connections {
            accepted: load(&its.accepted),
            active: active.saturating_sub(idle),
            idle,
            ..Connections::default()
        },
        requests_total: load(&its.requests),
        requests_current: load(&its.current),
    }
}

/// TLS with clients, all servers together; `None`: there is none, or it cannot be known.
pub fn ssl(conf: &MainConf) -> Option<Ssl> {
    let host = &conf.traffic.live()?.host;
    let ssl = Ssl {
        handshakes: host.sum(|host| &host.handshakes),
        handshakes_failed: Some(host.sum(|host| &host.handshakes_failed)),
        session_reuses: host.sum(|host| &host.session_reuses),
    };
    (ssl.handshakes > 0 || ssl.handshakes_failed != Some(0)).then_some(ssl)
}
