//! The host: what runs, its connections, its workers, its memory.

use super::{Shot, each, one};
use crate::policy::metrics::{Family, Value, Writer, counter, gauge, info};

const BUILD: Family =
    info("nginx_health_build_info", "This module, its layout of memory, and the nginx it runs in.");
const WORKERS: Family = gauge("nginx_workers", "Worker processes of this configuration.");
const RESPAWNED: Family =
    counter("nginx_workers_respawned_total", "Workers started in place of one that died.");
const WORKER_REQUESTS: Family =
    counter("nginx_worker_requests_total", "Requests that ended, of one worker since it started.");
const PROBER: Family = info("nginx_health_prober_info", "Workers that make health checks.");

pub fn facts(writer: &mut Writer, shot: &Shot) {
    writer.family(&BUILD, |f| {
        let layout = shot.layout.to_string();
        f.put(&[("version", env!("CARGO_PKG_VERSION")), ("layout", &layout), ("nginx", shot.nginx)], 1_u64);
    });
    one(writer, &WORKERS, Some(shot.workers.len()));
    one(writer, &RESPAWNED, Some(shot.respawned));
    let workers: Vec<_> = shot.workers.iter().map(|worker| (worker.id.to_string(), worker)).collect();
    each(writer, &WORKER_REQUESTS, ("worker", &workers), |worker| worker.requests_total);
    writer.family(&PROBER, |f| {
        for (id, worker) in workers.iter().filter(|_| shot.probes) {
            f.put(&[("worker", id), ("pid", &worker.pid.to_string())], 1_u64);
        }
    });
}

const ACTIVE: Family = gauge("nginx_connections_active", "Connections of clients, waiting ones too.");
const READING: Family =
    gauge("nginx_connections_reading", "Connections whose request's header is being read.");
const WRITING: Family = gauge("nginx_connections_writing", "Connections whose request is being answered.");
const WAITING: Family =
    gauge("nginx_connections_waiting", "Connections that are kept alive, without a request.");
const ACCEPTED: Family = counter("nginx_connections_accepted_total", "Connections accepted.");
const HANDLED: Family =
    counter("nginx_connections_handled_total", "Connections accepted and not dropped for want of resources.");
const DROPPED: Family =
    counter("nginx_connections_dropped_total", "Connections dropped for want of resources.");
const HANDSHAKES: Family = counter("nginx_ssl_handshakes_total", "TLS handshakes with clients.");
const HANDSHAKES_FAILED: Family =
    counter("nginx_ssl_handshakes_failed_total", "TLS handshakes with clients that failed.");
const REUSES: Family =
    counter("nginx_ssl_session_reuses_total", "TLS handshakes with clients that took up an earlier session.");

pub fn connections(writer: &mut Writer, shot: &Shot) {
    let its = &shot.connections;
    one(writer, &ACTIVE, Some(its.active + its.idle));
    one(writer, &READING, its.reading);
    one(writer, &WRITING, its.writing);
    one(writer, &WAITING, Some(its.idle));
    one(writer, &ACCEPTED, Some(its.accepted));
    one(writer, &HANDLED, its.dropped.map(|dropped| its.accepted.saturating_sub(dropped)));
    one(writer, &DROPPED, its.dropped);
    let ssl = shot.ssl.unwrap_or_default();
    one(writer, &HANDSHAKES, Some(ssl.handshakes));
    one(writer, &HANDSHAKES_FAILED, Some(ssl.handshakes_failed.unwrap_or(0)));
    one(writer, &REUSES, Some(ssl.session_reuses));
}

const ZONE_BYTES: Family = gauge("nginx_health_zone_bytes", "Memory for the state of upstreams.");
const ZONE_USED: Family =
    gauge("nginx_health_zone_bytes_used", "Memory that records of the state of upstreams take.");
const ZONE_RECORDS: Family =
    gauge("nginx_health_zone_records", "Records of the state of upstreams, by what they are of.");
const ZONE_FAILURES: Family = counter(
    "nginx_health_zone_alloc_failures_total",
    "Records of the state of upstreams that there was no room for.",
);
const PAGES: Family = gauge("nginx_slab_pages", "Pages of a zone of shared memory.");
const SLOTS: Family = gauge("nginx_slab_slots", "Pieces of one size of a zone of shared memory.");
const SLOT_REQUESTS: Family =
    counter("nginx_slab_slot_requests_total", "Attempts to take a piece of that size.");
const SLOT_FAILURES: Family = counter("nginx_slab_slot_failures_total", "Attempts that found no memory.");

pub fn memory(writer: &mut Writer, shot: &Shot) {
    let zone = [("zone", "sluice")];
    writer.family(&ZONE_BYTES, |f| shot.store.iter().for_each(|store| f.put(&zone, store.bytes)));
    writer.family(&ZONE_USED, |f| shot.store.iter().for_each(|store| f.put(&zone, store.used)));
    writer.family(&ZONE_RECORDS, |f| {
        if let Some(store) = &shot.store {
            f.put(&[("zone", "sluice"), ("kind", "check")], store.checks);
            f.put(&[("zone", "sluice"), ("kind", "breaker")], store.breakers);
        }
    });
    writer.family(&ZONE_FAILURES, |f| shot.store.iter().for_each(|store| f.put(&zone, store.failures)));
    writer.family(&PAGES, |f| {
        for (zone, slab) in &shot.slabs {
            f.put(&[("zone", zone), ("state", "used")], slab.pages_used);
            f.put(&[("zone", zone), ("state", "free")], slab.pages_free);
        }
    });
    slots(writer, shot);
}

fn slots(writer: &mut Writer, shot: &Shot) {
    // Sizes that nobody ever wanted say nothing.
    let slots: Vec<_> = shot
        .slabs
        .iter()
        .flat_map(|(zone, slab)| {
            let wanted = slab.slots.iter().filter(|(_, slot)| slot.reqs > 0);
            wanted.map(move |(size, slot)| (zone.as_str(), size.to_string(), slot))
        })
        .collect();
    writer.family(&SLOTS, |f| {
        for (zone, size, slot) in &slots {
            f.put(&[("zone", zone), ("size", size), ("state", "used")], slot.used);
            f.put(&[("zone", zone), ("size", size), ("state", "free")], slot.free);
        }
    });
    let mut count = |family: &Family, of: &dyn Fn(&super::shot::Slot) -> u64| {
        writer.family(family, |f| {
            slots.iter().for_each(|(zone, size, slot)| {
                f.put(&[("zone", zone), ("size", size)], Value::Whole(of(slot)))
            });
        });
    };
    count(&SLOT_REQUESTS, &|slot| slot.reqs);
    count(&SLOT_FAILURES, &|slot| slot.fails);
}
