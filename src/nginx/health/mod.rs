//! Active health checks: which group is checked how, who probes, and how verdicts reach the balancer.
//!
//! Verdicts live in the zone of upstream state, one record for each server and check. What balancers look at is
//! the `down` field of the core's peers, of which some bits are ours; whoever learns of a new verdict writes them
//! afresh from the records ([`peers::apply`]), each process before its next pick.

pub mod adopt;
pub mod conf;
mod copy;
mod driver;
mod matching;
mod member;
pub mod peers;
mod require;
mod slots;
mod tls;

use core::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use nginx_sys as sys;

use super::conf::MainConf;
use super::events::{self, Event, Kind};
use super::log::{self, Level};
use super::sys::mono;
use super::traffic;
use super::upstream::{Group, conf_of};
use super::{membership, worker};
use crate::policy::balance::{Mode, Outlook};
use crate::policy::health::{Condition, Match, State};
use crate::remote::probe::Protocol;
use crate::shared::health::Check as SharedCheck;

pub use conf::Check;
pub use driver::Driver;
pub use member::{Member, Members, Record, Server};
pub use peers::{DEGRADED, DRAINING, Peers, Role, each, primaries};

/// All checks of the configuration.
#[derive(Default)]
pub struct Conf {
    /// The cycle this configuration serves in.
    pub generation: Cell<u32>,
    checks: Vec<conf::Check>,
    headers: Vec<conf::Header>,
    matches: Vec<Named>,
}

impl Check {
    /// What the metrics call it.
    pub fn label(&self) -> String {
        match &self.protocol {
            Protocol::Http => format!("http:{}", self.uri),
            Protocol::Tcp => "tcp".to_owned(),
            Protocol::Grpc(check) => format!("grpc:{}", check.service),
        }
    }
}

/// One `match` block.
struct Named {
    name: String,
    matched: Arc<Match>,
    required: Rc<[require::Required]>,
}

impl Conf {
    pub fn is_empty(&self) -> bool {
        self.checks.is_empty()
    }

    /// Numbers of the checks of a group.
    pub fn checks_of(&self, us: *const sys::ngx_http_upstream_srv_conf_t) -> Vec<usize> {
        let numbered = self.checks.iter().enumerate();
        numbered.filter(|(_, check)| core::ptr::eq(check.group, us)).map(|(number, _)| number).collect()
    }

    /// The check of this number.
    pub fn check(&self, number: usize) -> Option<&conf::Check> {
        self.checks.get(number)
    }

    fn find_match(&self, name: &str) -> Option<&Named> {
        self.matches.iter().find(|known| known.name == name)
    }
}

/// What a process knows of a group.
#[derive(Default)]
pub struct GroupState {
    /// Whether its servers are looked after.
    adopted: Cell<bool>,
    /// Whether a server that comes has to pass a check first.
    holds: Cell<bool>,
    /// Whether one of its servers warms up when it comes back.
    ramps: Cell<bool>,
    members: RefCell<Members>,
    /// Changes of verdicts, as of the last time this process put them into force.
    applied: Cell<u64>,
    /// The core's count of changes of the list of servers, likewise.
    listed: Cell<usize>,
    /// What the servers' verdicts came to, likewise.
    outlook: Cell<Outlook>,
    panic: Cell<Option<Mode>>,
    waiting: Cell<usize>,
}

impl GroupState {
    pub fn is_adopted(&self) -> bool {
        self.adopted.get()
    }

    /// Whether one of its servers warms up when it comes back.
    pub fn ramps(&self) -> bool {
        self.ramps.get()
    }

    /// Whether a server that comes has to pass a check first.
    pub fn holds_newcomers_back(&self) -> bool {
        self.holds.get()
    }

    /// The group's servers as they were found last.
    pub fn members(&self) -> Members {
        self.members.borrow().clone()
    }

    /// They have been found anew.
    pub fn set_members(&self, members: Vec<Rc<Member>>) {
        self.ramps.set(members.iter().any(|member| member.tuning.slow_start > 0));
        *self.members.borrow_mut() = members.into();
    }

    /// Whether the group is in panic and sends to all.
    pub fn panics_to_all(&self) -> bool {
        self.panic.get() == Some(Mode::All)
    }

    /// Whether the group is in panic.
    pub fn panics(&self) -> bool {
        self.panic.get().is_some()
    }

    /// Lets a server that its breaker lets in again warm up.
    pub fn readmit(&self, number: usize) {
        if let Some(member) = self.members().get(number) {
            member.tuning.recover(mono());
        }
    }

    /// How many degraded servers wait until no other is left.
    pub fn waiting(&self) -> usize {
        self.waiting.get()
    }
}

/// Whether the group's servers are looked after here. In `init_module`.
pub fn adopt(main: &MainConf, group: &Group, known: bool) {
    // SAFETY: groups are explicit ones of the cycle being set up.
    let configured = unsafe { conf_of(group.upstream) }.is_some_and(|conf| conf.balance.is_configured());
    if group.checks.is_empty() && !configured {
        return;
    }
    if !known {
        let name = &group.name;
        log::cycle(Level::Warn, format_args!("upstream \"{name}\" has a foreign balancer and is left alone"));
        return;
    }
    group.health.adopted.set(true);
    let checks = || group.checks.iter().filter_map(|number| main.health.checks.get(*number));
    if checks().any(|check| check.mandatory) {
        group.health.holds.set(true);
        peers::hold_newcomers_back(group.upstream);
    }
}

/// Called before each pick of the group's balancer: one load when nothing changed.
pub fn refresh(main: &MainConf, group: &Group) {
    if !group.health.adopted.get() {
        return;
    }
    let Some(store) = main.upstreams.store() else { return };
    let (changes, listed) = (store.changes(), peers::changes(group.upstream));
    if changes == group.health.applied.get() && listed == group.health.listed.get() {
        return;
    }
    group.health.applied.set(changes);
    group.health.listed.set(listed);
    let behind = membership::is_behind(main, group);
    if behind {
        worker::hurry();
    }
    // A cycle later the master may have given our records to others.
    if store.generation().wrapping_sub(main.health.generation.get()) <= 1 {
        put_into_force(group, behind);
    }
}

/// Writes what keeps servers from getting requests into the core's peers. Who is `behind` has yet to hear of what an operator
/// said, and leaves that as others wrote it.
pub fn put_into_force(group: &Group, behind: bool) {
    if !group.health.adopted.get() {
        return;
    }
    let members = group.health.members();
    // SAFETY: groups are explicit ones of a live cycle.
    let panic = unsafe { conf_of(group.upstream) }.and_then(|conf| conf.balance.panic);
    let ejected = |number| group.breaker.servers().is_some_and(|servers| servers.is_out(number));
    let outlook = peers::apply(group.upstream, &members, panic, (&ejected, behind));
    let waiting = members.iter().filter(|member| member.waits(&outlook, panic));
    group.health.waiting.set(waiting.count());
    group.health.panic.set(panic.and_then(|panic| outlook.panics(panic)));
    group.health.outlook.set(outlook);
}

/// A verdict has changed, or a breaker: puts it into force, and says so if that begins or ends a panic.
pub fn changed(main: &MainConf, group: &Group) {
    let before = group.health.panic.get();
    refresh(main, group);
    traffic::observe(main, group);
    let (after, (usable, all)) = (group.health.panic.get(), group.health.outlook.get().primaries());
    let name = &group.name;
    match after {
        _ if before == after => {}
        Some(mode) => {
            let to = if mode == Mode::All { "all of them" } else { "none" };
            let few = format!("{usable} of {all} servers are usable, requests go to {to}");
            log::cycle(Level::Warn, format_args!("upstream is in panic: {few}, upstream \"{name}\""));
            note_panic(name, ["normal", "panic"], &few);
        }
        None => {
            log::cycle(Level::Notice, format_args!("upstream is no longer in panic, upstream \"{name}\""));
            note_panic(name, ["panic", "normal"], &format!("{usable} of {all} servers are usable"));
        }
    }
}

fn note_panic(upstream: &str, [from, to]: [&str; 2], text: &str) {
    events::note(&Event { kind: Kind::Panic, upstream, peer: "", from, to, text });
}

/// Whether a mandatory check of a record has yet to pass.
fn is_unproven(shared: &SharedCheck) -> bool {
    State::from_bits(shared.state()).is_unproven()
}

/// The verdict of a record.
pub fn condition(shared: &SharedCheck) -> Condition {
    State::from_bits(shared.state()).condition()
}
