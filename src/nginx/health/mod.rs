//! Active health checks: which group is checked how, who probes, and how verdicts reach the balancer.
//!
//! Verdicts live in the zone of upstream state, one record for each server and check. What balancers look at is
//! the `down` field of the core's peers, of which some bits are ours; whoever learns of a new verdict writes them
//! afresh from the records ([`peers::apply`]), each process before its next pick.

pub mod conf;
mod driver;
mod matching;
pub mod peers;
mod require;
mod tls;

use core::cell::{Cell, OnceCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use nginx_sys as sys;

use super::balance::{GroupConf, Tuning};
use super::conf::MainConf;
use super::log::{self, Level};
use super::sys::mono;
use super::upstream::{Group, conf_of};
use crate::policy::balance::{Mode, Outlook};
use crate::policy::health::{Condition, Match, State};
use crate::policy::limit::KeyHash;
use crate::shared::balance::Server as Words;
use crate::shared::health::Check as SharedCheck;
use crate::shared::upstream::{Key, Store};

pub use driver::Driver;
pub use peers::{DEGRADED, DRAINING, Member, Peers, Record, Role, Server, each, primaries};

/// All checks of the configuration.
#[derive(Default)]
pub struct Conf {
    /// The cycle this configuration serves in.
    pub generation: Cell<u32>,
    checks: Vec<conf::Check>,
    headers: Vec<conf::Header>,
    matches: Vec<Named>,
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
    members: OnceCell<Vec<Member>>,
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
    pub fn members(&self) -> &[Member] {
        self.members.get().map(Vec::as_slice).unwrap_or_default()
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

/// Ties the servers of a group to their records and puts the verdicts into force. In `init_module`: the master,
/// before any worker of the new cycle exists.
pub fn adopt(main: &'static MainConf, group: &Group, store: &Store, generation: u32) {
    // SAFETY: groups are explicit ones of the cycle being set up.
    let Some(conf) = (unsafe { conf_of(group.upstream) }).map(|conf| &conf.balance) else { return };
    if group.checks.is_empty() && !conf.is_configured() {
        return;
    }
    let Some(servers) = peers::servers(group.upstream) else {
        let name = &group.name;
        log::cycle(Level::Warn, format_args!("upstream \"{name}\" has a foreign balancer and is left alone"));
        return;
    };
    if peers::may_grow(group.upstream) {
        let name = &group.name;
        log::cycle(
            Level::Warn,
            format_args!(
                "servers that DNS adds to upstream \"{name}\" are looked after from the next reload on"
            ),
        );
    }
    let mut seen = HashMap::new();
    let mut members = Vec::with_capacity(servers.len());
    for (line, server) in conf.lines_of(group.upstream, &servers).into_iter().zip(servers) {
        let ordinal = next(&mut seen, &server.identity());
        let claimed = records(main, group, store, (&server, ordinal)).and_then(|records| {
            let words = words(group, store, conf, (&server, ordinal))?;
            Ok((records, Tuning::new(line, &server, words)))
        });
        let (records, tuning) = match claimed {
            Ok(claimed) => claimed,
            Err(full) => {
                let name = &group.name;
                log::cycle(
                    Level::Alert,
                    format_args!("upstream \"{name}\" is not looked after in full: {full}"),
                );
                break;
            }
        };
        for (record, new) in &records {
            prepare(main, record, *new, generation);
        }
        members.push(Member::new(server, records.into_iter().map(|(record, _)| record).collect(), tuning));
    }
    // Once per cycle: the cell is empty.
    let _ = group.health.members.set(members);
    group.health.applied.set(store.changes());
    put_into_force(group);
}

/// The record of one server, if its group is balanced.
fn words(
    group: &Group,
    store: &Store,
    conf: &GroupConf,
    (server, ordinal): (&Server, usize),
) -> Result<Option<&'static Words>, crate::shared::upstream::Full> {
    if !conf.is_configured() {
        return Ok(None);
    }
    let text = format!("server\0{}\0{}\0{ordinal}", group.name, server.identity());
    let (high, low) = KeyHash::new(text.as_bytes()).as_u64s();
    let (index, _) = store.server([high, low])?;
    Ok(store.server_at(index))
}

/// How often `key` has been seen before.
fn next(seen: &mut HashMap<String, usize>, key: &str) -> usize {
    let count = seen.entry(key.to_owned()).or_default();
    *count += 1;
    *count - 1
}

type Claimed = Vec<(Record, bool)>;

/// The records of one server, new ones marked.
fn records(
    main: &MainConf,
    group: &Group,
    store: &Store,
    (server, ordinal): (&Server, usize),
) -> Result<Claimed, crate::shared::upstream::Full> {
    let mut seen = HashMap::new();
    let mut claimed = Vec::with_capacity(group.checks.len());
    for &number in &group.checks {
        let Some(check) = main.health.checks.get(number) else { continue };
        let asked = check.identity();
        let again = next(&mut seen, &asked);
        let (index, new) = store.check(key(&group.name, &server.identity(), ordinal, (&asked, again)))?;
        if let Some(shared) = store.check_at(index) {
            claimed.push((Record { check: number, index, shared }, new));
        }
    }
    Ok(claimed)
}

/// What a record is about, whatever its position in the file.
fn key(group: &str, server: &str, ordinal: usize, (check, again): (&str, usize)) -> Key {
    let text = format!("check\0{group}\0{server}\0{ordinal}\0{check}\0{again}");
    let (high, low) = KeyHash::new(text.as_bytes()).as_u64s();
    [high, low]
}

/// A mandatory check lets no traffic through before the first pass: of a new server, and unless it is
/// persistent, of this cycle. Any other verdict is kept.
fn prepare(main: &MainConf, record: &Record, new: bool, generation: u32) {
    let Some(check) = main.health.checks.get(record.check) else { return };
    if !check.mandatory || (check.persistent && !new) {
        return;
    }
    record.shared.set_state(|bits| match State::from_bits(bits).condition() {
        Condition::Down => bits,
        _ => State::checking().to_bits(),
    });
    if !new {
        record.shared.hasten(generation, mono());
    }
}

/// Called before each pick of the group's balancer: one load when nothing changed.
pub fn refresh(main: &MainConf, group: &Group) {
    if group.health.members().is_empty() {
        return;
    }
    let Some(store) = main.upstreams.store() else { return };
    let (changes, listed) = (store.changes(), peers::changes(group.upstream));
    if changes == group.health.applied.get() && listed == group.health.listed.get() {
        return;
    }
    group.health.applied.set(changes);
    group.health.listed.set(listed);
    // A cycle later the master may have given our records to others.
    if store.generation().wrapping_sub(main.health.generation.get()) <= 1 {
        put_into_force(group);
    }
}

fn put_into_force(group: &Group) {
    // SAFETY: groups are explicit ones of a live cycle.
    let panic = unsafe { conf_of(group.upstream) }.and_then(|conf| conf.balance.panic);
    let ejected = |number| group.breaker.servers().is_some_and(|servers| servers.is_out(number));
    let outlook = peers::apply(group.upstream, group.health.members(), panic, &ejected);
    let waiting = group.health.members().iter().filter(|member| member.waits(&outlook, panic));
    group.health.waiting.set(waiting.count());
    group.health.panic.set(panic.and_then(|panic| outlook.panics(panic)));
    group.health.outlook.set(outlook);
}

/// A verdict has changed, or a breaker: puts it into force, and says so if that begins or ends a panic.
pub fn changed(main: &MainConf, group: &Group) {
    let before = group.health.panic.get();
    refresh(main, group);
    let (after, (usable, all)) = (group.health.panic.get(), group.health.outlook.get().primaries());
    let name = &group.name;
    match after {
        _ if before == after => {}
        Some(mode) => {
            let to = if mode == Mode::All { "all of them" } else { "none" };
            let few = format_args!("{usable} of {all} servers are usable, requests go to {to}");
            log::cycle(Level::Warn, format_args!("upstream is in panic: {few}, upstream \"{name}\""));
        }
        None => {
            log::cycle(Level::Notice, format_args!("upstream is no longer in panic, upstream \"{name}\""))
        }
    }
}

/// The verdict of a record.
fn condition(shared: &SharedCheck) -> Condition {
    State::from_bits(shared.state()).condition()
}
