//! What was said, after a reload: put into force before the first request of the new configuration.

use std::collections::HashMap;
use std::rc::Rc;

use super::super::balance::GroupConf;
use super::super::conf::MainConf;
use super::super::health::peers::{self, Role};
use super::super::health::{Server, adopt::next};
use super::super::log::{self, Level};
use super::super::sys::PEERS_CHANGE;
use super::super::upstream::{Group, conf_of};
use super::{key, lists, notes, owner};
use crate::policy::control::{Address, Params};
use crate::shared::control::{Base, Key, Kind, Record, Seat, Table};

/// Puts into force what was said of servers. In `init_module`, before anybody looks at the groups' servers.
pub fn restore(main: &MainConf) {
    let Some(zone) = &main.control.zone else { return };
    zone.locked(|table| {
        main.control.cycle.set(table.begin_cycle());
        for group in main.upstreams.groups.iter().filter(|group| super::servers::is_dynamic(group)) {
            restore_group(group, table);
        }
    });
}

/// Forgets what this configuration has nothing to do with. In `init_module`, when breakers are known.
pub fn settle(main: &MainConf) {
    let Some(zone) = &main.control.zone else { return };
    zone.locked(|table| {
        notes::keep(main, table);
        table.forget(|record| {
            if record.seat().is_some_and(|seat| !seat.is_empty()) {
                let text =
                    "a change made through the API is dropped: its server is no longer in the configuration";
                log::cycle(Level::Notice, format_args!("{text}"));
            }
        });
    });
}

fn restore_group(group: &Group, table: &Table) {
    // SAFETY: an explicit group of the cycle being set up.
    let Some(conf) = (unsafe { conf_of(group.upstream) }).map(|conf| &conf.balance) else { return };
    let Some(found) = peers::servers(group.upstream) else { return };
    let servers: Vec<Rc<Server>> = found.into_iter().map(Rc::new).collect();
    let mut configured = HashMap::new();
    let mut seen = HashMap::new();
    let numbered: Vec<_> =
        servers.iter().map(|server| (server, next(&mut seen, &server.identity()))).collect();
    let params = params_of(group, conf, &servers, &numbered);
    for ((server, ordinal), params) in numbered.iter().zip(params) {
        let Some(params) = params else { continue };
        let key = key(&group.name, &server.identity(), *ordinal);
        configured.insert(key, params);
    }
    // From the end, so that no removal moves those that are still to come.
    for (server, ordinal) in numbered.iter().rev() {
        let key = key(&group.name, &server.identity(), *ordinal);
        if let Some(params) = configured.get(&key) {
            restore_server(group, table, (server, *ordinal), key, params);
        }
    }
    add_again(group, table);
    // Once per cycle: the cell is empty.
    let _ = group.control.configured.set(configured);
}

/// What the configuration says of each server; `None` for those that DNS found.
fn params_of(
    group: &Group,
    conf: &GroupConf,
    servers: &[Rc<Server>],
    numbered: &[(&Rc<Server>, usize)],
) -> Vec<Option<Params>> {
    let lines = conf.lines_of(group.upstream, servers);
    let params = |((server, ordinal), line): (&(&Rc<Server>, usize), Option<&_>)| {
        let (params, resolved) = lists::params(group, server, *ordinal)?;
        (!resolved).then(|| GroupConf::with_line(params, line))
    };
    numbered.iter().zip(lines).map(params).collect()
}

fn restore_server(
    group: &Group,
    table: &Table,
    (server, ordinal): (&Server, usize),
    key: Key,
    configured: &Params,
) {
    let Some(mut seat) = table.find(Kind::Server, key).and_then(Record::seat) else { return };
    let Some(record) = table.claim(Kind::Server, owner(&group.name), key) else { return };
    let dropped = if seat.added.is_some() {
        // Somebody has written it into the configuration meanwhile.
        seat = Seat::default();
        vec!["that it was added"]
    } else {
        seat.yield_to(Base::of(configured))
    };
    if !dropped.is_empty() {
        let (name, dropped) = (&server.name, dropped.join(", "));
        let text = "the configuration has changed, so what was said of server";
        log::cycle(
            Level::Notice,
            format_args!("{text} {name} through the API is dropped: {dropped}, upstream \"{}\"", group.name),
        );
    }
    if seat.removed && !(PEERS_CHANGE && lists::remove(group, server, ordinal)) {
        seat.removed = false;
    }
    if seat.is_empty() {
        record.free();
        return;
    }
    record.set_seat(&seat);
    if !seat.removed {
        lists::apply(group, (server, ordinal), &seat.patch.over(configured));
    }
}

/// Servers that are not in the configuration.
fn add_again(group: &Group, table: &Table) {
    let added = |record: &'static Record| Some((record, record.seat()?));
    let mut records: Vec<_> = table
        .servers(owner(&group.name))
        .filter_map(added)
        .filter(|(_, seat)| seat.added.is_some())
        .collect();
    records.sort_unstable_by_key(|(_, seat)| seat.at);
    for (record, seat) in records {
        let (Some(added), true) = (&seat.added, PEERS_CHANGE) else { continue };
        table.claim(Kind::Server, record.owner(), record.key());
        let Ok(address) = Address::parse(&added.address) else { continue };
        let held = super::servers::held(group);
        if lists::add(group, (&address, added.backup), &seat.patch.over(&Params::default()), held).is_err() {
            let (name, upstream) = (&added.address, &group.name);
            log::cycle(
                Level::Alert,
                format_args!(
                    "server {name} cannot be added again: its zone is full, upstream \"{upstream}\""
                ),
            );
        }
    }
}

impl Role {
    /// Of a server that is a backup, or is not.
    pub fn of(backup: bool) -> Self {
        if backup { Self::Backup } else { Self::Primary }
    }
}
