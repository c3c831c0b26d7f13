//! Who is in a group: found when a cycle begins, and again whenever DNS (`resolve`) or an operator has changed it.
//!
//! Each worker finds the servers of a group anew when the core's count of changes, or ours, has moved: on a timer, never
//! while a request waits. The first to do so claims the records of servers that have come and lets go of those of servers
//! that have left, alone by the mutex of the zone; the others find the same records by their keys.

use core::cell::Cell;
use std::collections::HashSet;
use std::rc::Rc;

use super::conf::MainConf;
use super::health::adopt::Claimer;
use super::health::peers;
use super::log::{self, Level};
use super::sys::mono;
use super::upstream::{Group, conf_of};
use super::{breaker, health, worker};
use crate::policy::Millis;
use crate::policy::limit::KeyHash;
use crate::shared::upstream::{Claims, Full};

/// How soon records are asked for again that the zone had no room for.
const RETRY: Millis = 1_000;

/// What a process knows of a group's list of servers.
#[derive(Default)]
pub struct State {
    /// As of which change its servers were found.
    found: Cell<Stamp>,
    /// The zone is too small: when to ask again.
    lacking: Cell<Option<Millis>>,
}

/// The core's count of changes, and ours.
type Stamp = (usize, u64);

fn stamp(main: &MainConf, group: &Group) -> Stamp {
    (peers::changes(group.upstream), main.upstreams.store().map_or(0, |store| store.memberships()))
}

/// Finds the servers of a group for the first time. In `init_module`: the master, before any worker of the cycle.
pub fn adopt(main: &MainConf, group: &Group, claims: &mut Claims<'_>) {
    let stamp = stamp(main, group);
    let servers =
        peers::servers(group.upstream).map(|found| found.into_iter().map(Rc::new).collect::<Vec<_>>());
    breaker::adopt(group, claims, servers.as_deref());
    health::adopt(main, group, servers.is_some());
    let Some(servers) = servers else { return };
    let full = claim(main, group, claims, &servers, true);
    settle(group, stamp, full);
}

/// Servers have been added to a group, taken away from it or changed, without the core's counting it. After the change;
/// this process and all others find them anew within a second.
pub fn changed(main: &MainConf) {
    if let Some(store) = main.upstreams.store() {
        store.note_membership();
        store.note_change();
    }
    worker::hurry();
}

/// Finds the servers of a group anew if they have to be: for those who show them. They are as they were if other processes
/// are at it all the time.
pub fn catch_up(main: &MainConf, group: &Group) {
    const TRIES: usize = 1_000;
    for _ in 0..TRIES {
        if !is_behind(main, group) || follow(main, group) {
            return;
        }
        std::thread::yield_now();
    }
}

/// Whether the servers of a group may come and go, and are looked after.
pub fn may_change(group: &Group) -> bool {
    is_looked_after(group) && peers::may_change(group.upstream)
}

fn is_looked_after(group: &Group) -> bool {
    group.health.is_adopted() || group.breaker.servers().is_some()
}

/// Whether the servers of a group have to be found anew.
pub fn is_behind(main: &MainConf, group: &Group) -> bool {
    let its = &group.membership;
    let lacking = its.lacking.get().is_some_and(|at| at <= mono());
    is_looked_after(group) && (lacking || stamp(main, group) != its.found.get())
}

/// Finds the servers of a group anew. Only in a worker of the present cycle. `false`: another process is at it, and this
/// one has to come again.
pub fn follow(main: &MainConf, group: &Group) -> bool {
    let stamp = stamp(main, group);
    let Some(found) = peers::servers(group.upstream) else { return true };
    let servers: Vec<_> = found.into_iter().map(Rc::new).collect();
    let claimed = main.upstreams.claim_now(|claims| {
        let current = claims.store().generation() == main.health.generation.get();
        current.then(|| claim(main, group, claims, &servers, false))
    });
    match claimed {
        None => false,
        // The next cycle has begun: its workers look after the servers.
        Some(None) => true,
        Some(Some(full)) => {
            settle(group, stamp, full);
            true
        }
    }
}

/// Ties the servers to their records, and lets go of those that no server has. The zone was too small: what for.
fn claim(
    main: &MainConf,
    group: &Group,
    claims: &mut Claims<'_>,
    servers: &[Rc<health::Server>],
    beginning: bool,
) -> Option<Full> {
    // SAFETY: groups are of a live cycle; `conf_of` knows those without a configuration.
    let conf = &unsafe { conf_of(group.upstream) }?.balance;
    let owner = owner(&group.name);
    let (mut full, mut fronts) = (None, HashSet::new());
    if group.health.is_adopted() {
        let (kept, full) = (&mut fronts, &mut full);
        let mut claimer = Claimer { main, group, conf, claims, owner, beginning, kept, full };
        let members = claimer.members(servers);
        group.health.set_members(members);
    }
    let mut breakers = HashSet::new();
    if let Some(its) = group.breaker.servers() {
        its.find(&group.name, (claims, owner), servers, &mut breakers, &mut full);
    }
    claims.release_others(owner, [&fronts, &breakers]);
    full
}

/// Puts into force what has been found.
fn settle(group: &Group, stamp: Stamp, full: Option<Full>) {
    let its = &group.membership;
    its.found.set(stamp);
    let said = its.lacking.replace(full.map(|_| mono() + RETRY)).is_some();
    if let Some(full) = full.filter(|_| !said) {
        let name = &group.name;
        log::cycle(
            Level::Alert,
            format_args!("upstream \"{name}\" is not looked after in full: {full}, raise \"sluice_zone\""),
        );
    }
    health::put_into_force(group, false);
    breaker::servers::put_into_force(group);
}

/// Whose records those of a group's servers are; never 0, which is nobody.
fn owner(name: &str) -> u64 {
    KeyHash::new(format!("group\0{name}").as_bytes()).as_u64s().0.max(1)
}
