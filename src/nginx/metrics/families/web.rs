//! Requests: all of them, those of each `status_zone`, and caches.

use std::collections::BTreeMap;

use super::shot::{Fetched, Served, Zone};
use super::{DURATIONS, Shot, buckets, classes, each, one};
use crate::policy::metrics::{Family, Series, Writer, counter, gauge, histogram};

const REQUESTS: Family =
    counter("nginx_http_requests_total", "Requests that ended, by the status of the response.");
const CURRENT: Family = gauge("nginx_http_requests_current", "Requests under way.");
const DISCARDED: Family = counter("nginx_http_discarded_total", "Requests that ended without a response.");
const RECEIVED: Family = counter("nginx_http_received_bytes_total", "Bytes received from clients.");
const SENT: Family = counter("nginx_http_sent_bytes_total", "Bytes sent to clients.");
const DURATION: Family = histogram(
    "nginx_http_request_duration_seconds",
    "Requests by the time from the first byte read to the last sent.",
);

/// Statuses that are there from the start, so that the first of them is seen as an increase.
const COMMON: [u16; 20] =
    [200, 201, 204, 206, 301, 302, 304, 400, 401, 403, 404, 405, 408, 413, 429, 499, 500, 502, 503, 504];

pub fn requests(writer: &mut Writer, shot: &Shot) {
    let http = &shot.http;
    writer.family(&REQUESTS, |f| {
        let mut codes: BTreeMap<u16, u64> = COMMON.iter().map(|code| (*code, 0)).collect();
        codes.extend(http.responses.codes.iter().copied());
        codes.iter().for_each(|(code, count)| f.put(&[("status", &code.to_string())], *count));
        let known: u64 = http.responses.codes.iter().map(|(_, count)| count).sum();
        f.put(&[("status", "other")], http.responses.total.saturating_sub(known));
    });
    one(writer, &CURRENT, Some(http.current));
    one(writer, &DISCARDED, Some(http.discarded));
    one(writer, &RECEIVED, Some(http.received));
    one(writer, &SENT, Some(http.sent));
    writer.family(&DURATION, |f| f.put_histogram(&[], &buckets(&DURATIONS, &http.duration)));
}

/// The families of one kind of `status_zone`.
struct Kind {
    label: &'static str,
    requests: Family,
    responses: Family,
    discarded: Family,
    received: Family,
    sent: Family,
}

const SERVER: Kind = Kind {
    label: "server_zone",
    requests: counter("nginx_server_zone_requests_total", "Requests of a status_zone of servers."),
    responses: counter("nginx_server_zone_responses_total", "Responses of a status_zone of servers."),
    discarded: counter(
        "nginx_server_zone_discarded_total",
        "Requests of a status_zone of servers that ended without a response.",
    ),
    received: counter(
        "nginx_server_zone_received_bytes_total",
        "Bytes received from clients, of a status_zone of servers.",
    ),
    sent: counter(
        "nginx_server_zone_sent_bytes_total",
        "Bytes sent to clients, of a status_zone of servers.",
    ),
};

const LOCATION: Kind = Kind {
    label: "location_zone",
    requests: counter("nginx_location_zone_requests_total", "Requests of a status_zone of locations."),
    responses: counter("nginx_location_zone_responses_total", "Responses of a status_zone of locations."),
    discarded: counter(
        "nginx_location_zone_discarded_total",
        "Requests of a status_zone of locations that ended without a response.",
    ),
    received: counter(
        "nginx_location_zone_received_bytes_total",
        "Bytes received from clients, of a status_zone of locations.",
    ),
    sent: counter(
        "nginx_location_zone_sent_bytes_total",
        "Bytes sent to clients, of a status_zone of locations.",
    ),
};

const PROCESSING: Family =
    gauge("nginx_server_zone_processing", "Requests under way, of a status_zone of servers.");

pub fn zones(writer: &mut Writer, shot: &Shot) {
    writer.family(&PROCESSING, |f| {
        for (name, zone) in &shot.server_zones {
            zone.processing.into_iter().for_each(|processing| f.put(&[("server_zone", name)], processing));
        }
    });
    kind(writer, &SERVER, &shot.server_zones);
    kind(writer, &LOCATION, &shot.location_zones);
}

fn kind(writer: &mut Writer, kind: &Kind, zones: &[(String, Zone)]) {
    let things = (kind.label, zones);
    each(writer, &kind.requests, things, |zone| zone.requests);
    writer.family(&kind.responses, |f| {
        zones.iter().for_each(|(name, zone)| classes(f, &[(kind.label, name)], &zone.responses));
    });
    each(writer, &kind.discarded, things, |zone| zone.discarded);
    each(writer, &kind.received, things, |zone| zone.received);
    each(writer, &kind.sent, things, |zone| zone.sent);
}

const CACHE_SIZE: Family = gauge("nginx_cache_size_bytes", "Bytes that a cache takes.");
const CACHE_MAX: Family = gauge("nginx_cache_max_size_bytes", "Bytes that a cache may take.");
const CACHE_COLD: Family = gauge("nginx_cache_cold", "Whether a cache is still being loaded from disk.");
const CACHE_RESPONSES: Family =
    counter("nginx_cache_responses_total", "Responses, by what the cache had to do with them.");
const CACHE_BYTES: Family =
    counter("nginx_cache_bytes_total", "Bytes of responses, by what the cache had to do with them.");
const CACHE_WRITTEN: Family =
    counter("nginx_cache_responses_written_total", "Responses that went into the cache.");
const CACHE_WRITTEN_BYTES: Family =
    counter("nginx_cache_written_bytes_total", "Bytes of responses that went into the cache.");

pub fn caches(writer: &mut Writer, shot: &Shot) {
    let caches = ("cache", shot.caches.as_slice());
    each(writer, &CACHE_SIZE, caches, |cache| cache.size);
    writer.family(&CACHE_MAX, |f| {
        for (name, cache) in &shot.caches {
            cache.max_size.into_iter().for_each(|size| f.put(&[("cache", name)], size));
        }
    });
    each(writer, &CACHE_COLD, caches, |cache| cache.cold);
    served(writer, &CACHE_RESPONSES, shot, |served| served.responses, |fetched| fetched.responses);
    served(writer, &CACHE_BYTES, shot, |served| served.bytes, |fetched| fetched.bytes);
    fetched(writer, &CACHE_WRITTEN, shot, |fetched| fetched.responses_written);
    fetched(writer, &CACHE_WRITTEN_BYTES, shot, |fetched| fetched.bytes_written);
}

fn served(
    writer: &mut Writer,
    family: &Family,
    shot: &Shot,
    of: impl Fn(&Served) -> u64,
    fetched_of: impl Fn(&Fetched) -> u64,
) {
    writer.family(family, |f| {
        for (name, cache) in &shot.caches {
            let out_of_it = [
                ("hit", &cache.hit),
                ("stale", &cache.stale),
                ("updating", &cache.updating),
                ("revalidated", &cache.revalidated),
            ];
            out_of_it.iter().for_each(|(outcome, served)| put_outcome(f, name, outcome, of(served)));
            for (outcome, fetched) in by_upstream(cache) {
                put_outcome(f, name, outcome, fetched_of(fetched));
            }
        }
    });
}

fn fetched(writer: &mut Writer, family: &Family, shot: &Shot, of: impl Fn(&Fetched) -> u64) {
    writer.family(family, |f| {
        for (name, cache) in &shot.caches {
            by_upstream(cache)
                .iter()
                .for_each(|(outcome, fetched)| put_outcome(f, name, outcome, of(fetched)));
        }
    });
}

fn by_upstream(cache: &super::shot::Cache) -> [(&'static str, &Fetched); 3] {
    [("miss", &cache.miss), ("expired", &cache.expired), ("bypass", &cache.bypass)]
}

fn put_outcome(f: &mut Series<'_>, cache: &str, outcome: &str, value: u64) {
    f.put(&[("cache", cache), ("outcome", outcome)], value);
}
