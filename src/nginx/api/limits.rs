//! `/http/rate_limits`: the zones of `rate_limit_zone`.

use serde::Serialize;

use super::documents::Map;
use super::{Call, Outcome, limit_keys};
use crate::nginx::traffic::{reset, snapshot};
use crate::policy::api::{Failure, text};

#[derive(Serialize)]
struct RateLimit<'a> {
    key: &'a str,
    algorithm: &'static str,
    rate: &'a str,
    burst: Option<u64>,
    sync: &'static str,
    redis: Option<&'a str>,
    on_error: &'static str,
    redis_state: Option<&'static str>,
    passed: u64,
    delayed: u64,
    rejected: u64,
    delayed_dry_run: u64,
    rejected_dry_run: u64,
    bypassed: u64,
    error_allowed: u64,
    error_denied: u64,
    sources: Map<&'static str, u64>,
    keys: Keys,
}

#[derive(Serialize)]
struct Keys {
    used: u64,
    capacity: u64,
    evicted: u64,
}

impl<'a> From<&'a snapshot::RateLimit> for RateLimit<'a> {
    fn from(of: &'a snapshot::RateLimit) -> Self {
        Self {
            key: &of.key,
            algorithm: of.algorithm,
            rate: &of.rate,
            burst: of.burst,
            sync: of.sync,
            redis: of.redis.as_deref(),
            on_error: of.on_error,
            redis_state: of.redis_state,
            passed: of.passed,
            delayed: of.delayed,
            rejected: of.rejected,
            delayed_dry_run: of.delayed_dry_run,
            rejected_dry_run: of.rejected_dry_run,
            bypassed: of.bypassed,
            error_allowed: of.error_allowed,
            error_denied: of.error_denied,
            sources: Map(of.sources.to_vec()),
            keys: Keys { used: of.keys_used, capacity: of.keys_capacity, evicted: of.keys_evicted },
        }
    }
}

/// Answers a call by the segments behind `rate_limits`.
pub fn route(call: &Call, path: &[&[u8]]) -> Outcome {
    let conf = call.request.main_conf();
    let zones = snapshot::rate_limits(conf);
    match path {
        [] => call.get(|| {
            let all = zones.iter().map(|zone| (zone.name.as_str(), RateLimit::from(zone)));
            call.collection(&Map(all.collect()))
        }),
        [name] => {
            let zone = zones.iter().find(|zone| zone.name == text(name));
            let zone = zone.ok_or_else(|| Failure::not_found("RateLimitNotFound", "rate limit"))?;
            call.get_or_reset(|| call.object(&RateLimit::from(zone)), || reset::rate_limit(conf, &zone.name))
        }
        [name, b"keys", key] => limit_keys::route(call, &text(name), key),
        _ => Err(Failure::no_path()),
    }
}
