//! Which path is answered by whom.

use super::{Answer, Call, Outcome, events, general, host, http};
use crate::policy::api::{Failure, VERSIONS, is_version};

/// Answers a call whose path begins with a version, or is none.
pub fn versioned(mut call: Call) -> Outcome {
    if call.path.is_empty() {
        return call.get(|| Answer::document(200, &VERSIONS.collect::<Vec<_>>()));
    }
    let version = call.path.remove(0);
    if !is_version(&version) {
        return Err(Failure::no_version());
    }
    let path: Vec<&[u8]> = call.path.iter().map(Vec::as_slice).collect();
    route(&call, &path)
}

/// Answers a call by the segments behind the version.
fn route(call: &Call, path: &[&[u8]]) -> Outcome {
    match path {
        [] => call.get(|| Answer::document(200, &general::NAMES)),
        [b"nginx"] => call.get(|| call.object(&general::nginx(call.request))),
        [b"license"] => call.get(|| call.object(&general::LICENSE)),
        [b"processes"] => host::processes(call),
        [b"connections"] => host::connections(call),
        [b"slabs"] => host::slabs(call, None),
        [b"slabs", zone] => host::slabs(call, Some(zone)),
        [b"ssl"] => host::ssl(call),
        [b"workers"] => host::workers(call, None),
        [b"workers", id] => host::workers(call, Some(id)),
        [b"resolvers"] => call.get(|| call.collection(&general::Nothing {})),
        [b"resolvers", _] => Err(Failure::not_found("ResolverZoneNotFound", "resolver zone")),
        [b"http", below @ ..] => http::route(call, below),
        [b"events"] => events::route(call),
        _ => Err(Failure::no_path()),
    }
}
