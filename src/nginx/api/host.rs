//! `/connections`, `/ssl`, `/slabs`, `/workers`: what is not of the http block.

use serde::Serialize;

use super::documents::{Map, by_name, named};
use super::{Call, Outcome};
use crate::nginx::traffic::{reset, snapshot};
use crate::policy::api::Failure;

#[derive(Serialize)]
struct Connections {
    accepted: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    dropped: Option<u64>,
    active: u64,
    idle: u64,
}

impl From<&snapshot::Connections> for Connections {
    fn from(of: &snapshot::Connections) -> Self {
        Self { accepted: of.accepted, dropped: of.dropped, active: of.active, idle: of.idle }
    }
}

/// `/connections`
pub fn connections(call: &Call) -> Outcome {
    let conf = call.request.main_conf();
    let document = || call.object(&Connections::from(&snapshot::connections(conf)));
    call.get_or_reset(document, || reset::connections(conf))
}

/// `/ssl`
pub fn ssl(call: &Call) -> Outcome {
    let conf = call.request.main_conf();
    let none = snapshot::Ssl { handshakes_failed: Some(0), ..snapshot::Ssl::default() };
    call.get_or_reset(|| call.object(&snapshot::ssl(conf).unwrap_or(none)), || reset::ssl(conf))
}

#[derive(Serialize)]
struct Processes {
    respawned: u64,
}

/// `/processes`
pub fn processes(call: &Call) -> Outcome {
    let conf = call.request.main_conf();
    let document = || call.object(&Processes { respawned: snapshot::processes(conf) });
    call.get_or_reset(document, || reset::processes(conf))
}

#[derive(Serialize)]
struct Slab<'a> {
    pages: Pages,
    slots: Map<u64, &'a snapshot::Slot>,
}

#[derive(Serialize)]
struct Pages {
    used: u64,
    free: u64,
}

impl<'a> From<&'a snapshot::Slab> for Slab<'a> {
    fn from(of: &'a snapshot::Slab) -> Self {
        let slots = of.slots.iter().map(|(size, slot)| (*size, slot)).collect();
        Self { pages: Pages { used: of.pages_used, free: of.pages_free }, slots: Map(slots) }
    }
}

/// `/slabs` and `/slabs/ZONE`
pub fn slabs(call: &Call, zone: Option<&[u8]>) -> Outcome {
    let slabs = snapshot::slabs();
    let Some(name) = zone.map(crate::policy::api::text) else {
        return call.get(|| call.collection(&by_name(&slabs, Slab::from)));
    };
    let slab = named(&slabs, &name).ok_or_else(|| Failure::not_found("SlabNotFound", "slab"))?;
    call.get_or_reset(|| call.object(&Slab::from(slab)), || reset::slab(&name))
}

#[derive(Serialize)]
struct Worker {
    id: u64,
    pid: u64,
    connections: Connections,
    http: Http,
}

#[derive(Serialize)]
struct Http {
    requests: Requests,
}

/// Requests, also of all workers together.
#[derive(Serialize)]
pub struct Requests {
    pub total: u64,
    pub current: u64,
}

impl From<&snapshot::Worker> for Worker {
    fn from(of: &snapshot::Worker) -> Self {
        let requests = Requests { total: of.requests_total, current: of.requests_current };
        Self { id: of.id, pid: of.pid, connections: (&of.connections).into(), http: Http { requests } }
    }
}

/// `/workers` and `/workers/ID`
pub fn workers(call: &Call, id: Option<&[u8]>) -> Outcome {
    let conf = call.request.main_conf();
    let workers = snapshot::workers(conf);
    let Some(id) = id else {
        let document = || call.list(&workers.iter().map(Worker::from).collect::<Vec<_>>());
        return call.get_or_reset(document, || reset::workers(conf, None));
    };
    let number = core::str::from_utf8(id).ok().and_then(|text| text.parse::<u64>().ok());
    let worker = workers.iter().find(|worker| Some(worker.id) == number);
    let worker = worker.ok_or_else(|| Failure::not_found("WorkerNotFound", "worker"))?;
    call.get_or_reset(|| call.object(&Worker::from(worker)), || reset::workers(conf, Some(worker.id)))
}
