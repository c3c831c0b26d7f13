//! Rate limits: their zones, and what requests came to there.

use super::RateLimit;
use crate::nginx::conf::MainConf;
use crate::nginx::limit::{OnError, Sync, ZoneConf};

/// All zones, in the order of the file.
pub fn rate_limits(conf: &MainConf) -> Vec<RateLimit> {
    conf.limits.0.iter().map(zone).collect()
}

fn zone(zone: &ZoneConf) -> RateLimit {
    let (used, capacity, evicted) = zone.shm.get().map_or((0, 0, 0), |shm| shm.0.keys());
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
        sources: ["local", "lease", "cache", "redis", "fallback"].map(|source| (source, 0)),
        keys_used: used,
        keys_capacity: capacity,
        keys_evicted: evicted,
        ..RateLimit::default()
    }
}
