//! The counters and states of this moment as plain structs: what the API, the metrics and the dashboard are drawn
//! from, so that they agree. Reading locks nothing but, for a moment, lists of servers.
//!
//! Times of day are milliseconds since 1970, lengths of time milliseconds. `None` stands for what cannot be known here.

mod bans;
mod breakers;
mod host;
mod limits;
mod probes;
mod upstreams;
mod web;

pub use bans::bans;
pub use breakers::{breakers, routes};
pub use host::{caches, limit_conns, limit_reqs, processes, slab_stats, slabs};
pub use limits::rate_limits;
pub use upstreams::{states, upstream, upstreams};
pub use web::{connections, http, location_zones, present, server_zones, ssl, workers};

use serde::Serialize;

use crate::policy::Millis;
use crate::policy::balance::State;
use crate::policy::breaker::Settings;
use crate::shared::ban::Counters;
use crate::shared::breaker::{Detailed, View};

/// Responses by status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Responses {
    /// 1xx to 5xx.
    pub classes: [u64; 5],
    /// Each code met, in order. The classes may count more: codes in no registry have but a few cells.
    pub codes: Vec<(u16, u64)>,
    pub total: u64,
}

/// TLS handshakes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ssl {
    pub handshakes: u64,
    /// `None`: not known for this subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handshakes_failed: Option<u64>,
    pub session_reuses: u64,
}

/// A `status_zone`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Zone {
    /// Requests under way; only of servers.
    pub processing: Option<u64>,
    pub requests: u64,
    pub responses: Responses,
    /// Requests that ended without a response.
    pub discarded: u64,
    /// Bytes.
    pub received: u64,
    pub sent: u64,
    /// Only of servers with TLS.
    pub ssl: Option<Ssl>,
}

/// Lengths of time, counted by bucket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// How many fell into each bucket, those below not included; the last is without bound.
    pub buckets: [u64; 15],
    pub count: u64,
    /// Milliseconds, all together.
    pub sum: u64,
}

/// All requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Http {
    /// Since the start, or the last reset.
    pub total: u64,
    /// Under way.
    pub current: u64,
    /// Requests that ended, and what they came to.
    pub ended: u64,
    pub responses: Responses,
    pub discarded: u64,
    pub received: u64,
    pub sent: u64,
    /// By `policy::traffic::DURATION`.
    pub duration: Histogram,
}

/// Clients' connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    pub accepted: u64,
    /// `None`: nginx was built without `stub_status`.
    pub dropped: Option<u64>,
    pub active: u64,
    pub idle: u64,
    /// As `stub_status` has them: reading a request, and answering one.
    pub reading: Option<u64>,
    pub writing: Option<u64>,
}

/// One worker process of the present cycle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Worker {
    pub id: u64,
    pub pid: u64,
    /// As of a second ago at most; what it has dropped nobody can tell unless it is the only one.
    pub connections: Connections,
    pub requests_total: u64,
    pub requests_current: u64,
}

/// The pages and slots of a zone with a slab pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slab {
    pub pages_used: u64,
    pub pages_free: u64,
    /// By size in bytes.
    pub slots: Vec<(u64, Slot)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Slot {
    pub used: u64,
    pub free: u64,
    pub reqs: u64,
    pub fails: u64,
}

/// One cache.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cache {
    /// Bytes; `None`: no bound.
    pub size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_size: Option<u64>,
    pub cold: bool,
    pub hit: Served,
    pub stale: Served,
    pub updating: Served,
    pub revalidated: Served,
    pub miss: Fetched,
    pub expired: Fetched,
    pub bypass: Fetched,
}

/// Answered out of the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Served {
    pub responses: u64,
    pub bytes: u64,
}

/// Answered by the upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Fetched {
    pub responses: u64,
    pub bytes: u64,
    pub responses_written: u64,
    pub bytes_written: u64,
}

/// A zone of the core's `limit_req`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LimitReq {
    pub passed: u64,
    pub delayed: u64,
    pub rejected: u64,
    pub delayed_dry_run: u64,
    pub rejected_dry_run: u64,
}

/// A zone of the core's `limit_conn`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LimitConn {
    pub passed: u64,
    pub rejected: u64,
    pub rejected_dry_run: u64,
}

/// An upstream group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Group {
    pub name: String,
    /// Its zone's name; `None`: every worker has its own list of servers.
    pub zone: Option<String>,
    /// Primary servers, then backup servers.
    pub peers: Vec<Peer>,
    /// Idle connections that are kept open, as of a second ago at most; `None`: not known.
    pub keepalive: Option<u64>,
    /// Servers that were removed and still serve.
    pub zombies: u64,
    /// Too few of its servers are usable: `panic_threshold`.
    pub panic: bool,
    pub breaker: Option<Breaker>,
}

/// One server of a group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Peer {
    /// Stable for the life of the server.
    pub id: u64,
    /// Its address.
    pub server: String,
    /// As the configuration has it.
    pub name: String,
    pub backup: bool,
    pub weight: u64,
    pub state: State,
    /// Requests that it serves now.
    pub active: u64,
    /// 0: no bound.
    pub max_conns: u64,
    pub max_fails: u64,
    /// Seconds.
    pub fail_timeout: u64,
    pub slow_start: Millis,
    pub route: String,
    /// `down` and `drain` as they are said to be.
    pub down: bool,
    pub drain: bool,
    /// Requests that clients' requests made of it: attempts.
    pub requests: u64,
    /// Those that brought an answer.
    pub responses: Responses,
    /// Moving averages.
    pub header_time: Option<Millis>,
    pub response_time: Option<Millis>,
    /// By `policy::traffic::RESPONSE`.
    pub times: Histogram,
    /// Bytes.
    pub sent: u64,
    pub received: u64,
    /// Attempts that failed.
    pub fails: u64,
    /// How often `max_fails` made it unavailable.
    pub unavail: u64,
    pub health_checks: Option<HealthChecks>,
    /// All the time that it was unavailable, unhealthy or not yet checked, up to now.
    pub downtime: Millis,
    /// When that time began, or the last such time.
    pub downstart: Option<Millis>,
    /// When it was last chosen.
    pub selected: Option<Millis>,
    /// Each of its checks.
    pub probes: Vec<Probes>,
    /// What it gets of its share while it warms up, 0 to 1.
    pub share: f64,
    /// Its checks call it degraded.
    pub degraded: bool,
    pub breaker: Option<Breaker>,
    /// Why it takes no traffic, or less of it, in words; empty when nothing keeps it.
    pub because: Vec<String>,
}

/// All checks of one server together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HealthChecks {
    pub checks: u64,
    pub fails: u64,
    pub unhealthy: u64,
    /// `None`: no check has ended yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_passed: Option<bool>,
}

/// One check of one server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probes {
    /// `http:/health`, `tcp` and the like; of checks that would be called the same, all but the first have `#2` and so
    /// on behind it.
    pub check: String,
    /// When the last probe ended.
    pub last: Option<Millis>,
    pub last_passed: Option<bool>,
    /// That is longer ago than two intervals and the timeout.
    pub overdue: bool,
    /// Probes left out.
    pub skipped: u64,
    /// The worker that is probing now.
    pub prober: Option<u16>,
    /// Result, reason, and how often.
    pub results: Vec<(&'static str, &'static str, u64)>,
    /// How often the verdict changed, from what to what.
    pub changes: Vec<(&'static str, &'static str, u64)>,
    /// By `policy::traffic::RESPONSE`.
    pub durations: Histogram,
}

/// A `rate_limit_zone`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RateLimit {
    pub name: String,
    /// The text of the key.
    pub key: String,
    pub algorithm: &'static str,
    /// As written.
    pub rate: String,
    pub burst: Option<u64>,
    /// `off`, `strict`, `lease` or `async`.
    pub sync: &'static str,
    pub redis: Option<String>,
    pub on_error: &'static str,
    /// `up` or `lost`, as this worker sees it.
    pub redis_state: Option<&'static str>,
    pub passed: u64,
    pub delayed: u64,
    pub rejected: u64,
    pub delayed_dry_run: u64,
    pub rejected_dry_run: u64,
    pub bypassed: u64,
    pub error_allowed: u64,
    pub error_denied: u64,
    /// Who decided: local, lease, cache, redis, fallback.
    pub sources: [(&'static str, u64); 5],
    /// Keys in the zone now (of a large zone, an estimate), places for keys, and keys that were dropped early.
    pub keys_used: u64,
    pub keys_capacity: u64,
    pub keys_evicted: u64,
}

/// A `ban_zone`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bans {
    /// Bans in force, without those of dry runs; and how many there is room for.
    pub active: usize,
    pub capacity: usize,
    pub counters: Counters,
}

/// A circuit breaker.
#[derive(Clone, Debug, PartialEq)]
pub struct Breaker {
    /// What logs call it.
    pub about: String,
    pub settings: Settings,
    pub view: View,
    pub details: Detailed,
    /// `closed`, `open`, `half_open`, `forced_open` or `forced_closed`.
    pub state: &'static str,
    /// Milliseconds until it is worth trying again.
    pub retry_after: Millis,
}

/// A group's or a route's breakers.
#[derive(Clone, Debug, PartialEq)]
pub struct Breakers {
    /// The upstream's name, or the route's.
    pub name: String,
    pub route: bool,
    pub breaker: Option<Breaker>,
    /// Of the group's servers: id, address, breaker.
    pub peers: Vec<(u64, String, Breaker)>,
}
