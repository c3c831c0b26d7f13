//! The way of a probe through the counters.

use std::rc::Rc;

use super::super::conf::MainConf;
use super::super::health::{Member, Record};
use super::super::sys::worker_index;
use super::super::upstream::Group;
use super::peers::Server;
use crate::policy::Millis;
use crate::policy::health::{Change, change, finding};
use crate::policy::traffic::{RESPONSE, bucket};
use crate::remote::probe::Outcome;
use crate::shared::traffic::{add, count};

/// A probe has ended and is booked. One that could not be made is none.
pub fn probed(
    conf: &MainConf,
    group: &Group,
    (member, record): (&Member, &Record),
    (outcome, took): (&Outcome, Millis),
) {
    let found = match outcome {
        Outcome::Pass => finding("pass", ""),
        Outcome::Degraded(_) => finding("pass", "degraded"),
        Outcome::Fail { kind, .. } => finding("fail", kind.as_str()),
        Outcome::Unknown(_) => return,
    };
    with(conf, group, member, record, |cells| {
        count(&cells.found[found]);
        count(&cells.times[bucket(RESPONSE, took)]);
        add(&cells.time_sum, took);
    });
}

/// A verdict has changed.
pub fn changed(conf: &MainConf, group: &Group, (member, record): (&Member, &Record), made: Change) {
    let Some(number) = change(made) else { return };
    with(conf, group, member, record, |cells| count(&cells.changes[number]));
}

/// This worker's cells of a check of a server; nothing if nobody counts.
fn with(
    conf: &MainConf,
    group: &Group,
    member: &Member,
    record: &Record,
    f: impl FnOnce(&crate::shared::traffic::cells::Probes),
) {
    if conf.traffic.live().is_none() {
        return;
    }
    group.traffic.refresh(conf, group);
    let servers = group.traffic.servers();
    // As a rule both are in the order of the lists, where servers that say the same stay apart.
    let same = |server: &&Rc<Server>| server.server.same(&member.server);
    let number = group.health.members().iter().position(|its| core::ptr::eq(its, member));
    let server = number.and_then(|number| servers.get(number)).filter(same);
    let server = server.or_else(|| servers.iter().find(same));
    let at = group.checks.iter().position(|number| *number == record.check);
    if let Some(series) = server.zip(at).and_then(|(server, at)| server.probes.get(at)) {
        f(series.shard(usize::from(worker_index())));
    }
}
