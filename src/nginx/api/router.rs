//! Which path is answered by whom.

use super::{Answer, Call, Outcome};
use super::{general, http, processes};
use crate::policy::api::{Failure, VERSIONS, is_version};

/// The versions, for a path that is no longer than the prefix.
pub fn versions(call: &Call) -> Outcome {
    call.get(|| Answer::document(200, &VERSIONS.collect::<Vec<_>>()))
}

/// Answers a call whose path begins with a version, which it takes off.
pub fn versioned(mut call: Call) -> Outcome {
    if call.path.is_empty() {
        return versions(&call);
    }
    let version = call.path.remove(0);
    if !is_version(&version) {
        return Err(Failure::no_version());
    }
    route(&call)
}

/// Answers a call by the segments of its path.
fn route(call: &Call) -> Outcome {
    let path: Vec<&[u8]> = call.path.iter().map(Vec::as_slice).collect();
    match path.as_slice() {
        [] => call.get(|| Answer::document(200, &general::NAMES)),
        [b"nginx"] => call.get(|| call.object(&general::nginx(call.request))),
        [b"processes"] => call.get_or_reset(|| call.object(&general::processes()), processes::reset),
        [b"http", below @ ..] => http::route(call, below),
        _ => Err(Failure::no_path()),
    }
}
