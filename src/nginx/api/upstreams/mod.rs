//! `/http/upstreams`: groups and their servers.

mod servers;
mod status;
mod write;

use super::{Call, Outcome};
use crate::nginx::traffic::{reset, snapshot};
use crate::policy::api::{Failure, text};

use status::Group;

/// Answers a call by the segments behind `upstreams`.
pub fn route(call: &Call, path: &[&[u8]]) -> Outcome {
    let conf = call.request.main_conf();
    let [name, below @ ..] = path else {
        return call.get(|| call.collection(&status::all(&snapshot::upstreams(conf))));
    };
    // A path that is none is not a group that is not there.
    if !matches!(below, [] | [b"servers"] | [b"servers", _]) {
        return Err(Failure::no_path());
    }
    let group = snapshot::upstream(conf, &text(name)).ok_or_else(not_found)?;
    match below {
        [] => call.get_or_reset(|| call.object(&Group::from(&group)), || reset::upstream(conf, &group.name)),
        [_, below @ ..] => servers::route(call, &group, below),
    }
}

fn not_found() -> Failure {
    Failure::not_found("UpstreamNotFound", "upstream")
}
