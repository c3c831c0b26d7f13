//! Changing the servers of a group.

use super::super::{Answer, Call, Outcome};
use super::servers;
use crate::nginx::cf::parse_time;
use crate::nginx::control::servers::{self as control, Asker, Refused};
use crate::nginx::traffic::snapshot;
use crate::nginx::upstream::Group;
use crate::policy::api::Failure;
use crate::policy::control::{Draft, Fault, read};

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::new(fault.status(), fault.code(), fault.to_string())
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Fault(fault) => fault.into(),
            Refused::Old => {
                Self::new(503, "Reloading", "another configuration is in force by now, try again")
            }
            Refused::Busy => Self::new(503, "Busy", "somebody else makes changes, try again"),
        }
    }
}

/// Before anything is looked up.
pub fn refuse_when_old(call: &Call) -> Result<(), Failure> {
    Ok(control::refuse_when_old(call.request.main_conf())?)
}

fn draft(call: &Call) -> Result<Draft, Failure> {
    let missing = || Failure::new(415, "JsonError", "a JSON document is missing");
    Ok(read(call.body.as_ref().ok_or_else(missing)?, parse_time)?)
}

fn asker<'c>(call: &'c Call<'_>) -> Asker<'c> {
    let reason = call.query.get("reason").unwrap_or_default();
    Asker { request: call.request, who: call.who(), reason }
}

fn group<'c>(call: &Call<'c>, name: &str) -> Result<&'c Group, Failure> {
    call.request.main_conf().upstreams.named(name).ok_or_else(super::not_found)
}

/// The object of a server, as it is now.
fn object(call: &Call, name: &str, id: u64, status: u16) -> Outcome {
    let group = snapshot::upstream(call.request.main_conf(), name).ok_or_else(super::not_found)?;
    let server = servers::find(&group, id.to_string().as_bytes())?;
    Answer::document(status, &servers::Server::from(server))
}

pub fn post(call: &Call, name: &str) -> Outcome {
    let id = control::add(call.request.main_conf(), group(call, name)?, &draft(call)?, &asker(call))?;
    object(call, name, id, 201)
}

pub fn patch(call: &Call, name: &str, id: u64) -> Outcome {
    control::patch(call.request.main_conf(), group(call, name)?, id, &draft(call)?, &asker(call))?;
    object(call, name, id, 200)
}

pub fn delete(call: &Call, name: &str, id: u64) -> Outcome {
    let conf = call.request.main_conf();
    control::remove(conf, group(call, name)?, id, &asker(call))?;
    let group = snapshot::upstream(conf, name).ok_or_else(super::not_found)?;
    Answer::document(200, &servers::list(&group))
}
