//! Rate limits: their zones, and what requests came to there.

use core::sync::atomic::AtomicU64;

use super::RateLimit;
use crate::nginx::conf::MainConf;
use crate::nginx::limit::{OnError, Source, Status, Sync, ZoneConf};
use crate::nginx::worker;
use crate::shared::traffic::cells;

/// All zones, in the order of the file.
pub fn rate_limits(conf: &MainConf) -> Vec<RateLimit> {
    conf.limits.0.iter().map(zone).collect()
}

fn zone(zone: &ZoneConf) -> RateLimit {
    let (used, capacity, evicted) = zone.shm.get().map_or((0, 0, 0), |shm| shm.0.keys());
    let sum = |cell: fn(&'static cells::RateLimit, usize) -> &'static AtomicU64, at| {
        zone.series.get().map_or(0, |series| series.sum(|cells| cell(cells, at)))
    };
    let outcome = |status: Status| sum(|cells, at| &cells.outcomes[at], status as usize);
    let counted = |source: Source| sum(|cells, at| &cells.sources[at], source as usize);
    RateLimit {
        name: zone.name.clone(),
        key: zone.shm.spec().key.clone(),
        algorithm: zone.algorithm.name(),
        rate: zone.rate_text.clone(),
        burst: zone.burst,
        sync: match (zone.redis, zone.sync) {
            (None, _) => "off",
            (Some(_), Sync::Strict) => "strict",
            (Some(_), Sync::Lease(_)) => "lease",
            (Some(_), Sync::Async) => "async",
        },
        redis: zone.redis_name.clone(),
        on_error: match zone.on_error {
            OnError::Local => "local",
            OnError::Allow => "allow",
            OnError::Deny => "deny",
        },
        redis_state: zone.redis.and_then(|link| {
            let worker = worker::current()?;
            Some(if worker.gate(link)?.admits() { "up" } else { "lost" })
        }),
        passed: outcome(Status::Passed),
        delayed: outcome(Status::Delayed),
        rejected: outcome(Status::Rejected),
        delayed_dry_run: outcome(Status::DelayedDryRun),
        rejected_dry_run: outcome(Status::RejectedDryRun),
        bypassed: outcome(Status::Bypassed),
        error_allowed: outcome(Status::ErrorAllowed),
        error_denied: outcome(Status::ErrorDenied),
        sources: [Source::Local, Source::Lease, Source::Cache, Source::Redis, Source::Fallback]
            .map(|source| (source.as_str(), counted(source))),
        keys_used: used,
        keys_capacity: capacity,
        keys_evicted: evicted,
    }
}
