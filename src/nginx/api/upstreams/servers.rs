//! `/http/upstreams/U/servers`: how the servers of a group are set.

use serde::Serialize;

use super::super::{Answer, Call, Outcome};
use super::write;
use crate::nginx::traffic::snapshot::{Group, Peer};
use crate::policy::Millis;
use crate::policy::api::{Failure, Method};

/// Plus's members in Plus's order. Times are texts as the configuration has them.
#[derive(Serialize)]
pub struct Server<'a> {
    id: u64,
    server: &'a str,
    weight: u64,
    max_conns: u64,
    max_fails: u64,
    fail_timeout: String,
    slow_start: String,
    route: &'a str,
    backup: bool,
    down: bool,
    /// Only when it drains.
    #[serde(skip_serializing_if = "Option::is_none")]
    drain: Option<bool>,
}

impl<'a> From<&'a Peer> for Server<'a> {
    fn from(of: &'a Peer) -> Self {
        Self {
            id: of.id,
            server: &of.server,
            weight: of.weight,
            max_conns: of.max_conns,
            max_fails: of.max_fails,
            fail_timeout: format!("{}s", of.fail_timeout),
            slow_start: duration(of.slow_start),
            route: &of.route,
            backup: of.backup,
            down: of.down,
            drain: of.drain.then_some(true),
        }
    }
}

/// Whole seconds where it can be said in them.
fn duration(length: Millis) -> String {
    if length.is_multiple_of(1000) { format!("{}s", length / 1000) } else { format!("{length}ms") }
}

/// Answers a call by the segments behind `servers`.
pub fn route(call: &Call, group: &Group, path: &[&[u8]]) -> Outcome {
    if group.zone.is_none() {
        return Err(Failure::format("UpstreamStatic", "upstream is static"));
    }
    if !call.method.is_safe() {
        write::refuse_when_old(call)?;
    }
    match path {
        [] => match call.method {
            Method::Get => Answer::document(200, &list(group)),
            Method::Post => write::post(call, &group.name),
            _ => Err(Failure::method("GET, HEAD, POST")),
        },
        [id, ..] => {
            let server = find(group, id)?;
            match call.method {
                Method::Get => Answer::document(200, &Server::from(server)),
                Method::Patch => write::patch(call, &group.name, server.id),
                Method::Delete => write::delete(call, &group.name, server.id),
                _ => Err(Failure::method("GET, HEAD, PATCH, DELETE")),
            }
        }
    }
}

/// All servers of a group.
pub fn list(group: &Group) -> Vec<Server<'_>> {
    group.peers.iter().map(Server::from).collect()
}

/// The server of an id, as it stands in the path.
pub fn find<'g>(group: &'g Group, id: &[u8]) -> Result<&'g Peer, Failure> {
    let number = core::str::from_utf8(id).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    let number = number.and_then(|text| text.parse::<u64>().ok());
    let number = number.ok_or_else(|| Failure::format("UpstreamBadServerId", "invalid server id"))?;
    let server = group.peers.iter().find(|peer| peer.id == number);
    let missing =
        || Failure::new(404, "UpstreamServerNotFound", format!("server with ID \"{number}\" does not exist"));
    server.ok_or_else(missing)
}
