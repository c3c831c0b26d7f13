//! Limits of rates and connections, ours and the core's, and the Redis behind ours.

use super::shot::RateLimit;
use super::{Shot, each};
use crate::policy::metrics::{Family, Writer, counter, gauge, info};

const REDIS_UP: Family = gauge("nginx_redis_up", "Whether this gateway reaches a Redis.");
const REDIS_LOST: Family =
    gauge("nginx_redis_primaries_lost", "Primaries of a Redis Cluster that this gateway does not reach.");
const GATEWAYS: Family = gauge("nginx_redis_gateways", "Gateways that share a Redis, as heard last.");

pub fn redis(writer: &mut Writer, shot: &Shot) {
    let redis = ("redis", shot.redis.as_slice());
    each(writer, &REDIS_UP, redis, |redis| redis.up);
    each(writer, &REDIS_LOST, redis, |redis| redis.lost);
    each(writer, &GATEWAYS, redis, |redis| redis.gateways);
}

const INFO: Family = info("nginx_rate_limit_zone_info", "How a rate_limit_zone is configured.");
const ALLOWED: Family =
    counter("nginx_rate_limit_allowed_total", "Requests that a rate limit let pass, at once or later.");
const EXCEEDED: Family = counter("nginx_rate_limit_exceeded_total", "Requests that a rate limit refused.");
const OUTCOMES: Family =
    counter("nginx_rate_limit_requests_total", "Requests by what a rate limit did with them.");
const SOURCES: Family =
    counter("nginx_rate_limit_decisions_total", "Decisions of a rate limit by who made them.");
const KEYS: Family = gauge("nginx_rate_limit_keys", "Keys that a rate_limit_zone holds.");
const KEYS_MAX: Family = gauge("nginx_rate_limit_keys_max", "Keys that a rate_limit_zone has room for.");
const EVICTED: Family = counter(
    "nginx_rate_limit_keys_evicted_total",
    "Keys dropped before their quota was back, for want of room.",
);

pub fn zones(writer: &mut Writer, shot: &Shot) {
    let zones: Vec<_> = shot.rate_limits.iter().map(|zone| (zone.name.clone(), zone)).collect();
    let things = ("zone", zones.as_slice());
    writer.family(&INFO, |f| {
        for (name, zone) in &zones {
            let redis = zone.redis.as_deref().unwrap_or_default();
            f.put(
                &[
                    ("zone", name),
                    ("algorithm", zone.algorithm),
                    ("rate", &zone.rate),
                    ("sync", zone.sync),
                    ("redis", redis),
                    ("on_error", zone.on_error),
                ],
                1_u64,
            );
        }
    });
    each(writer, &ALLOWED, things, |zone| allowed(zone));
    each(writer, &EXCEEDED, things, |zone| zone.rejected);
    writer.family(&OUTCOMES, |f| {
        for (name, zone) in &zones {
            outcomes(zone)
                .iter()
                .for_each(|(outcome, count)| f.put(&[("zone", name), ("outcome", outcome)], *count));
        }
    });
    writer.family(&SOURCES, |f| {
        for (name, zone) in &zones {
            zone.sources
                .iter()
                .for_each(|(source, count)| f.put(&[("zone", name), ("source", source)], *count));
        }
    });
    each(writer, &KEYS, things, |zone| zone.keys_used);
    each(writer, &KEYS_MAX, things, |zone| zone.keys_capacity);
    each(writer, &EVICTED, things, |zone| zone.keys_evicted);
}

/// What went on to be served; a bypassed request has not been limited at all.
fn allowed(zone: &RateLimit) -> u64 {
    zone.passed + zone.delayed + zone.delayed_dry_run + zone.rejected_dry_run + zone.error_allowed
}

fn outcomes(zone: &RateLimit) -> [(&'static str, u64); 8] {
    [
        ("passed", zone.passed),
        ("delayed", zone.delayed),
        ("rejected", zone.rejected),
        ("delayed_dry_run", zone.delayed_dry_run),
        ("rejected_dry_run", zone.rejected_dry_run),
        ("bypassed", zone.bypassed),
        ("error_allowed", zone.error_allowed),
        ("error_denied", zone.error_denied),
    ]
}

const BANS: Family = gauge("nginx_bans", "Bans in force.");
const BANS_MAX: Family = gauge("nginx_bans_max", "Bans that a ban_zone has room for.");
const BANS_MADE: Family = counter("nginx_bans_made_total", "Bans that began, by what made them.");
const BANS_LIFTED: Family = counter("nginx_bans_lifted_total", "Bans that an operator lifted.");
const BANS_EVICTED: Family = counter("nginx_bans_evicted_total", "Bans that ended early, for want of room.");
const BANS_REFUSED: Family =
    counter("nginx_bans_refused_total", "Requests that a ban refused, or would have in a dry run.");

pub fn bans(writer: &mut Writer, shot: &Shot) {
    let zones = ("zone", shot.bans.as_slice());
    each(writer, &BANS, zones, |bans| bans.active);
    each(writer, &BANS_MAX, zones, |bans| bans.capacity);
    writer.family(&BANS_MADE, |f| {
        for (name, bans) in &shot.bans {
            let counters = &bans.counters;
            let causes = [
                ("status", counters.by_status),
                ("rate_limited", counters.by_rate_limit),
                ("manual", counters.by_hand),
                ("redis", counters.by_others),
                ("dry_run", counters.dry),
            ];
            causes.iter().for_each(|(cause, count)| f.put(&[("zone", name), ("cause", cause)], *count));
        }
    });
    each(writer, &BANS_LIFTED, zones, |bans| bans.counters.lifted);
    each(writer, &BANS_EVICTED, zones, |bans| bans.counters.evicted);
    writer.family(&BANS_REFUSED, |f| {
        for (name, bans) in &shot.bans {
            f.put(&[("zone", name), ("dry_run", "false")], bans.counters.refused);
            f.put(&[("zone", name), ("dry_run", "true")], bans.counters.refused_dry);
        }
    });
}

const LIMIT_REQ: Family =
    counter("nginx_limit_req_requests_total", "Requests by what limit_req did with them.");
const LIMIT_CONN: Family =
    counter("nginx_limit_conn_connections_total", "Connections by what limit_conn did with them.");

pub fn core(writer: &mut Writer, shot: &Shot) {
    writer.family(&LIMIT_REQ, |f| {
        for (name, zone) in &shot.limit_reqs {
            let outcomes = [
                ("passed", zone.passed),
                ("delayed", zone.delayed),
                ("rejected", zone.rejected),
                ("delayed_dry_run", zone.delayed_dry_run),
                ("rejected_dry_run", zone.rejected_dry_run),
            ];
            outcomes
                .iter()
                .for_each(|(outcome, count)| f.put(&[("zone", name), ("outcome", outcome)], *count));
        }
    });
    writer.family(&LIMIT_CONN, |f| {
        for (name, zone) in &shot.limit_conns {
            let outcomes = [
                ("passed", zone.passed),
                ("rejected", zone.rejected),
                ("rejected_dry_run", zone.rejected_dry_run),
            ];
            outcomes
                .iter()
                .for_each(|(outcome, count)| f.put(&[("zone", name), ("outcome", outcome)], *count));
        }
    });
}
