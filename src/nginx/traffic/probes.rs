//! The way of a probe through the counters.

use std::rc::Rc;

use super::super::conf::MainConf;
use super::super::health::{self, Check};
use super::super::sys::worker_index;
use super::super::upstream::Group;
use super::peers::Server;
use crate::policy::Millis;
use crate::policy::health::{Change, change, finding};
use crate::policy::traffic::{RESPONSE, bucket};
use crate::remote::probe::Outcome;
use crate::shared::traffic::{add, cells, count};

/// Whom a probe asked, and how.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub group: &'a Group,
    /// Its number in the group.
    pub number: usize,
    pub server: &'a health::Server,
    pub check: &'a Check,
}

/// A probe has ended. One that could not be made is none.
pub fn probed(conf: &MainConf, place: Place<'_>, outcome: &Outcome, took: Millis) {
    let found = match outcome {
        Outcome::Pass => finding("pass", ""),
        Outcome::Degraded(_) => finding("pass", "degraded"),
        Outcome::Fail { kind, .. } => finding("fail", kind.as_str()),
        Outcome::Unknown(_) => return,
    };
    with(conf, place, |cells| {
        count(&cells.found[found]);
        count(&cells.times[bucket(RESPONSE, took)]);
        add(&cells.time_sum, took);
    });
}

/// A verdict has changed.
pub fn changed(conf: &MainConf, place: Place<'_>, made: Change) {
    if let Some(number) = change(made) {
        with(conf, place, |cells| count(&cells.changes[number]));
    }
}

/// This worker's cells of a check of a server; nothing if nobody counts.
fn with(conf: &MainConf, place: Place<'_>, f: impl FnOnce(&cells::Probes)) {
    let Place { group, number, server, check } = place;
    if conf.traffic.live().is_none() {
        return;
    }
    group.traffic.refresh(conf, group);
    let servers = group.traffic.servers();
    // As a rule both are in the order of the lists, where servers that say the same stay apart.
    let same = |its: &&Rc<Server>| its.server.same(server);
    let its = servers.get(number).filter(same).or_else(|| servers.iter().find(same));
    let is = |number: &usize| conf.health.check(*number).is_some_and(|its| core::ptr::eq(its, check));
    let at = group.checks.iter().position(is);
    if let Some(series) = its.zip(at).and_then(|(its, at)| its.probes.get(at)) {
        f(series.shard(usize::from(worker_index())));
    }
}
