//! Changing, adding and removing servers of a group.

use std::collections::HashMap;
use std::rc::Rc;

use super::super::conf::MainConf;
use super::super::events::{self, Event, Kind as EventKind};
use super::super::health::Server;
use super::super::health::adopt::next;
use super::super::health::peers::{self, CHECKING};
use super::super::log::Level;
use super::super::membership;
use super::super::request::Request;
use super::super::sys::{PEERS_CHANGE, mono, now, zone_of};
use super::super::traffic::peers::Server as Counted;
use super::super::upstream::{Group, conf_of};
use super::lists::{self, NotAdded};
use super::{key, owner};
use crate::policy::control::{Address, Draft, Fault, Params, Patch, changes};
use crate::shared::control::{Added, Base, Kind, Record, Seat, Table};

/// What came of a change.
pub type Changed<T> = Result<T, Refused>;

/// Why nothing was changed.
pub enum Refused {
    /// The caller's fault.
    Fault(Fault),
    /// A newer configuration is in force than the one this process serves.
    Old,
    /// Another process has held the records for too long.
    Busy,
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Who asks for a change, and why.
pub struct Asker<'a> {
    pub request: &'a Request,
    pub who: String,
    pub reason: String,
}

/// A server of a group, and which of those that are just like it.
struct Found {
    counted: Rc<Counted>,
    ordinal: usize,
    /// There is another one just like it.
    twin: bool,
}

/// Whether the servers of a group can be changed: all workers see the same.
pub fn is_dynamic(group: &Group) -> bool {
    // SAFETY: a group of a live cycle.
    let shared = unsafe { !zone_of(group.upstream).is_null() && !(*group.upstream).srv_conf.is_null() };
    shared && peers::lists(group.upstream).is_some()
}

/// Bits of `down` with which a server begins.
pub fn held(group: &Group) -> usize {
    if group.health.holds_newcomers_back() { CHECKING } else { 0 }
}

fn find(main: &MainConf, group: &Group, id: u64) -> Result<Found, Fault> {
    if !is_dynamic(group) {
        return Err(Fault::Static(group.name.clone()));
    }
    group.traffic.refresh(main, group);
    let servers = group.traffic.servers();
    let mut seen = HashMap::new();
    let numbered: Vec<_> = servers
        .iter()
        .map(|counted| (counted, counted.server.identity()))
        .map(|(counted, identity)| (counted, next(&mut seen, &identity), identity))
        .collect();
    let (counted, ordinal, identity) =
        numbered.iter().find(|(counted, ..)| counted.id == id).ok_or(Fault::NoServer(id))?;
    let twin = seen.get(identity).is_some_and(|count| *count > 1);
    Ok(Found { counted: Rc::clone(counted), ordinal: *ordinal, twin })
}

impl Found {
    fn record(&self, table: &Table, group: &Group) -> Option<&'static Record> {
        table.find(Kind::Server, self.key(group))
    }

    fn key(&self, group: &Group) -> crate::shared::control::Key {
        key(&group.name, &self.counted.server.identity(), self.ordinal)
    }

    /// What the configuration says of it.
    fn configured(&self, group: &Group, seat: &Seat) -> Result<Params, Fault> {
        if seat.added.is_some() {
            return Ok(Params::default());
        }
        let known = group.control.configured.get().and_then(|known| known.get(&self.key(group)));
        let gone = Fault::NoServer(self.counted.id);
        match known {
            Some(params) => Ok(params.clone()),
            // DNS found it, and it is as its line says but for what has been said of it.
            None => lists::params(group, &self.counted.server, self.ordinal).map(|(now, _)| now).ok_or(gone),
        }
    }
}

/// Refuses if a newer configuration is in force: what this process knows of servers may be out of date.
pub fn refuse_when_old(main: &MainConf) -> Changed<()> {
    if main.control.is_old() { Err(Refused::Old) } else { Ok(()) }
}

/// Runs a change while nobody else makes one.
fn alone<T>(main: &MainConf, mut change: impl FnMut(&Table) -> Changed<T>) -> Changed<T> {
    // Looked at when nobody else can change it: what is said to an old process after the next configuration has been put into
    // force would be in neither.
    let current = |table: &Table| if main.control.is_old() { Err(Refused::Old) } else { change(table) };
    main.control.alone(current).unwrap_or(Err(Refused::Busy))
}

/// All processes are to look, and people to know.
fn tell(main: &MainConf, group: &Group, peer: &str, asker: &Asker<'_>, what: &str) {
    membership::changed(main);
    let why = if asker.reason.is_empty() { String::new() } else { format!(": {}", asker.reason) };
    let text = format!("{what}, by {}{why}", asker.who);
    let (upstream, kind) = (group.name.as_str(), EventKind::Control);
    events::note(&Event { kind, upstream, peer, from: "", to: "", text: &text });
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let said = format_args!("upstream server {peer}: {text}, upstream \"{upstream}\"");
    asker.request.log(Level::Notice, said);
}

/// Changes a server.
pub fn patch(main: &MainConf, group: &Group, id: u64, draft: &Draft, asker: &Asker<'_>) -> Changed<()> {
    let found = find(main, group, id)?;
    let server = &found.counted.server;
    refuse_other_server(draft, &server.name, server.role == peers::Role::Backup)?;
    let what = alone(main, |table| {
        let seat = found.record(table, group).and_then(Record::seat).unwrap_or_default();
        let configured = found.configured(group, &seat)?;
        let current = seat.patch.over(&configured);
        let wanted = draft.patch.over(&current);
        check(group, &current, &wanted)?;
        let what = changes(&current, &wanted);
        if !what.is_empty() {
            let patch = Patch::between(&configured, &wanted);
            say(table, group, &found, Seat { patch, base: Base::of(&configured), at: seat.at, ..seat })?;
        }
        // In any case: whoever said so first may have died before it was done.
        lists::apply(group, (server, found.ordinal), &wanted);
        Ok((what, current, wanted))
    });
    let (what, current, wanted) = what?;
    if !what.is_empty() {
        tell(main, group, &server.name, asker, &what);
    }
    if (current.down || current.drain) && !wanted.down && !wanted.drain {
        warm_up(main, group, server);
    }
    Ok(())
}

/// A server is back: it begins to warm up, if it is to.
fn warm_up(main: &MainConf, group: &Group, server: &Server) {
    membership::catch_up(main, group);
    let members = group.health.members();
    if let Some(member) = members.iter().find(|member| member.server.same(server)) {
        member.tuning.recover(mono());
    }
}

/// Writes what is said of a server now.
fn say(table: &Table, group: &Group, found: &Found, seat: Seat) -> Result<(), Fault> {
    if seat.is_empty() {
        found.record(table, group).into_iter().for_each(Record::free);
        return Ok(());
    }
    let record = table.claim(Kind::Server, owner(&group.name), found.key(group)).ok_or(FULL)?;
    record.set_seat(&seat);
    Ok(())
}

const FULL: Fault = Fault::Memory("no memory for another change");

/// A server's address and role stay what they are.
fn refuse_other_server(draft: &Draft, name: &str, backup: bool) -> Result<(), Fault> {
    if draft.service.as_ref().is_some_and(|service| !service.is_empty()) {
        return Err(Fault::Unknown("service".to_owned()));
    }
    if let Some(server) = &draft.server
        && server != name
        && Address::parse(server)?.to_string() != name
    {
        return Err(Fault::Immutable("the address of a server cannot change: add another one"));
    }
    if draft.backup.is_some_and(|wanted| wanted != backup) {
        return Err(Fault::Immutable("a server cannot become a backup server, or cease to be one"));
    }
    Ok(())
}

/// Whether the balancer can do what is asked of it.
fn check(group: &Group, current: &Params, wanted: &Params) -> Result<(), Fault> {
    if current.weight != wanted.weight && lists::caches_weights(group) && !PEERS_CHANGE {
        return Err(Fault::WeightFixed(
            "the weight of a server of a consistent hash or random group can change from nginx 1.27.3 on",
        ));
    }
    // SAFETY: an explicit group of a live cycle.
    let ramps = unsafe { conf_of(group.upstream) }.is_some_and(|conf| conf.balance.may_ramp(group.upstream));
    if wanted.slow_start > 0 && !ramps {
        return Err(Fault::Format("balancing method does not support parameter \"slow_start\"".to_owned()));
    }
    Ok(())
}

fn refuse_old_nginx(what: &str) -> Result<(), Fault> {
    if PEERS_CHANGE {
        Ok(())
    } else {
        Err(Fault::Format(format!("{what} servers needs nginx 1.27.3 or newer")))
    }
}

/// Adds a server; its number.
pub fn add(main: &MainConf, group: &Group, draft: &Draft, asker: &Asker<'_>) -> Changed<u64> {
    if !is_dynamic(group) {
        return Err(Fault::Static(group.name.clone()).into());
    }
    let address = Address::parse(draft.server.as_deref().ok_or(Fault::Missing("server"))?)?;
    if draft.service.as_ref().is_some_and(|service| !service.is_empty()) {
        return Err(
            Fault::Service("\"service\" needs a resolver, and servers are added by address only").into()
        );
    }
    refuse_old_nginx("adding")?;
    let (name, backup) = (address.to_string(), draft.backup.unwrap_or(false));
    let wanted = draft.patch.over(&Params::default());
    check(group, &Params::default(), &Params { weight: 1, ..wanted.clone() })?;
    main.traffic.make_room();
    alone(main, |table| insert(main, group, table, (&address, backup), &wanted))?;
    let id = number(main, group, &name, backup);
    let Some(id) = id else {
        // Nobody could call it by a number.
        let key = key(&group.name, &identity(&name, backup), 0);
        alone(main, |table| {
            table.find(Kind::Server, key).into_iter().for_each(Record::free);
            take_out(group, &name, backup);
            Ok(())
        })?;
        return Err(Fault::Memory("no memory to count another server").into());
    };
    let more = changes(&Params::default(), &wanted);
    let more = if more.is_empty() { more } else { format!(": {more}") };
    tell(main, group, &name, asker, &format!("added{more}"));
    Ok(id)
}

/// What a server that was added is known by, as `Server::identity` has it.
fn identity(name: &str, backup: bool) -> String {
    format!("{name}\0{name}\0{:?}", peers::Role::of(backup))
}

fn insert(
    main: &MainConf,
    group: &Group,
    table: &Table,
    (address, backup): (&Address, bool),
    wanted: &Params,
) -> Changed<()> {
    let _ = main;
    let name = address.to_string();
    let here = peers::servers(group.upstream).unwrap_or_default();
    if here.iter().any(|server| server.name == name && server.role == peers::Role::of(backup)) {
        return Err(Fault::Exists(name).into());
    }
    let key = key(&group.name, &identity(&name, backup), 0);
    // A server of the configuration that was removed: it is there again.
    let removed = table.find(Kind::Server, key).and_then(Record::seat).filter(|seat| seat.removed);
    let seat = match removed {
        Some(seat) => {
            let configured = group.control.configured.get().and_then(|known| known.get(&key)).cloned();
            let patch = Patch::between(&configured.unwrap_or_default(), wanted);
            Seat { patch, removed: false, ..seat }
        }
        None => Seat {
            patch: Patch::between(&Params::default(), wanted),
            added: Some(Added { address: name.clone(), backup }),
            at: now().wall,
            ..Seat::default()
        },
    };
    let record = table.claim(Kind::Server, owner(&group.name), key).ok_or(FULL)?;
    record.set_seat(&seat);
    lists::add(group, (address, backup), wanted, held(group)).map_err(|reason| {
        record.free();
        match reason {
            NotAdded::Memory => Fault::Memory("the upstream's zone is full"),
            NotAdded::NoBackup => Fault::NoBackup(group.name.clone()),
        }
    })?;
    if seat.is_empty() {
        record.free();
    }
    Ok(())
}

/// The number of a server that was added.
fn number(main: &MainConf, group: &Group, name: &str, backup: bool) -> Option<u64> {
    let is = |counted: &&Rc<Counted>| {
        counted.server.name == name && counted.server.role == peers::Role::of(backup)
    };
    let look = || group.traffic.servers().iter().rfind(is).map(|counted| counted.id);
    group.traffic.refresh(main, group);
    look().or_else(|| {
        group.traffic.refresh_again(main, group);
        look()
    })
}

fn take_out(group: &Group, name: &str, backup: bool) {
    let here = peers::servers(group.upstream).unwrap_or_default();
    let is = |server: &&Server| server.name == name && server.role == peers::Role::of(backup);
    if let Some(server) = here.iter().rfind(is) {
        lists::remove(group, server, 0);
    }
}

/// Takes a server away.
pub fn remove(main: &MainConf, group: &Group, id: u64, asker: &Asker<'_>) -> Changed<()> {
    let found = find(main, group, id)?;
    refuse_old_nginx("removing")?;
    let server = &found.counted.server;
    if found.twin {
        return Err(Fault::Immutable("the configuration has this server twice: remove one there").into());
    }
    alone(main, |table| {
        match lists::params(group, server, found.ordinal) {
            None => return Err(Fault::NoServer(id).into()),
            Some((_, true)) => {
                return Err(Fault::Immutable("DNS found this server, and would find it again").into());
            }
            Some((_, false)) => {}
        }
        let seat = found.record(table, group).and_then(Record::seat).unwrap_or_default();
        let configured = found.configured(group, &seat)?;
        let next = match seat.added {
            Some(_) => Seat::default(),
            None => Seat { base: Base::of(&configured), removed: true, at: now().wall, ..Seat::default() },
        };
        say(table, group, &found, next)?;
        lists::remove(group, server, found.ordinal);
        Ok(())
    })?;
    // Those who count are to know before the next one comes.
    group.traffic.refresh(main, group);
    tell(main, group, &server.name, asker, "removed");
    Ok(())
}
