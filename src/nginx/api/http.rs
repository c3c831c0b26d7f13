//! `/http`: what the http block holds.

use super::{Answer, Call, Outcome, bans, breakers, general, limits, upstreams, zones};
use crate::policy::api::Failure;

/// What stands below: Plus's, then ours.
const NAMES: [&str; 11] = [
    "requests",
    "server_zones",
    "location_zones",
    "caches",
    "limit_conns",
    "limit_reqs",
    "keyvals",
    "upstreams",
    "rate_limits",
    "circuit_breakers",
    "bans",
];

/// Answers a call by the segments behind `http`.
pub fn route(call: &Call, path: &[&[u8]]) -> Outcome {
    match path {
        [] => call.get(|| Answer::document(200, &NAMES)),
        [b"requests"] => zones::requests(call),
        [b"server_zones", name @ ..] => zones::server_zones(call, at_most_one(name)?),
        [b"location_zones", name @ ..] => zones::location_zones(call, at_most_one(name)?),
        [b"caches", name @ ..] => zones::caches(call, at_most_one(name)?),
        [b"limit_reqs", name @ ..] => zones::limit_reqs(call, at_most_one(name)?),
        [b"limit_conns", name @ ..] => zones::limit_conns(call, at_most_one(name)?),
        [b"keyvals"] => call.get(|| call.collection(&general::Nothing {})),
        [b"keyvals", _] => Err(Failure::not_found("KeyvalNotFound", "keyval zone")),
        [b"upstreams", below @ ..] => upstreams::route(call, below),
        [b"rate_limits", below @ ..] => limits::route(call, below),
        [b"circuit_breakers", below @ ..] => breakers::route(call, below),
        [b"bans", below @ ..] => bans::route(call, below),
        _ => Err(Failure::no_path()),
    }
}

/// The name behind a collection, if there is one.
fn at_most_one<'p>(path: &[&'p [u8]]) -> Result<Option<&'p [u8]>, Failure> {
    match path {
        [] => Ok(None),
        [name] => Ok(Some(name)),
        _ => Err(Failure::no_path()),
    }
}
