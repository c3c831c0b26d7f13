//! What the http block keeps counters of: requests, zones of servers and locations, caches, the core's limits.

use serde::Serialize;

use super::documents::{by_name, named};
use super::host::Requests;
use super::{Call, Outcome};
use crate::nginx::traffic::{reset, snapshot};
use crate::policy::api::{Failure, text};

/// `/http/requests`
pub fn requests(call: &Call) -> Outcome {
    let conf = call.request.main_conf();
    let http = || snapshot::http(conf);
    let document = |http: snapshot::Http| Requests { total: http.total, current: http.current };
    call.get_or_reset(|| call.object(&document(http())), || reset::requests(conf))
}

/// Things by name, all or one: what each is as a document, what it is called, and how its counters are reset.
fn collection<'a, T, D: Serialize>(
    call: &Call,
    things: &'a [(String, T)],
    name: Option<&[u8]>,
    of: impl Fn(&'a T) -> D,
    (code, what): (&'static str, &str),
    reset: impl FnOnce(&str),
) -> Outcome {
    let Some(name) = name.map(text) else {
        return call.get(|| call.collection(&by_name(things, of)));
    };
    let one = named(things, &name).ok_or_else(|| Failure::not_found(code, what))?;
    call.get_or_reset(|| call.object(&of(one)), || reset(&name))
}

#[derive(Serialize)]
struct Zone<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    processing: Option<u64>,
    requests: u64,
    responses: &'a snapshot::Responses,
    discarded: u64,
    received: u64,
    sent: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ssl: Option<&'a snapshot::Ssl>,
}

impl<'a> From<&'a snapshot::Zone> for Zone<'a> {
    fn from(of: &'a snapshot::Zone) -> Self {
        Self {
            processing: of.processing,
            requests: of.requests,
            responses: &of.responses,
            discarded: of.discarded,
            received: of.received,
            sent: of.sent,
            ssl: of.ssl.as_ref(),
        }
    }
}

/// `/http/server_zones`
pub fn server_zones(call: &Call, name: Option<&[u8]>) -> Outcome {
    let conf = call.request.main_conf();
    let words = ("ServerZoneNotFound", "server zone");
    let zones = snapshot::server_zones(conf);
    collection(call, &zones, name, Zone::from, words, |name| reset::server_zone(conf, name))
}

/// `/http/location_zones`
pub fn location_zones(call: &Call, name: Option<&[u8]>) -> Outcome {
    let conf = call.request.main_conf();
    let words = ("LocationZoneNotFound", "location zone");
    let zones = snapshot::location_zones(conf);
    collection(call, &zones, name, Zone::from, words, |name| reset::location_zone(conf, name))
}

/// `/http/caches`
pub fn caches(call: &Call, name: Option<&[u8]>) -> Outcome {
    let conf = call.request.main_conf();
    let words = ("CacheNotFound", "cache");
    collection(call, &snapshot::caches(conf), name, |one| one, words, |name| reset::cache(conf, name))
}

/// `/http/limit_reqs`
pub fn limit_reqs(call: &Call, name: Option<&[u8]>) -> Outcome {
    let conf = call.request.main_conf();
    let words = ("LimitReqNotFound", "limit_req");
    collection(call, &snapshot::limit_reqs(conf), name, |one| one, words, |name| reset::limit_req(conf, name))
}

/// `/http/limit_conns`
pub fn limit_conns(call: &Call, name: Option<&[u8]>) -> Outcome {
    let conf = call.request.main_conf();
    let words = ("LimitConnNotFound", "limit_conn");
    collection(
        call,
        &snapshot::limit_conns(conf),
        name,
        |one| one,
        words,
        |name| reset::limit_conn(conf, name),
    )
}
