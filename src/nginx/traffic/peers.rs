//! The servers of a group, and the series of each.

use core::cell::{Cell, RefCell};
use core::mem::offset_of;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::collections::HashMap;
use std::rc::Rc;

use nginx_sys as sys;

use super::super::conf::MainConf;
use super::super::health::{self, peers as lists};
use super::super::sys::{mono, now, worker_index, zone_of};
use super::super::upstream::Group;
use super::super::wrap::Table;
use super::process::alive;
use crate::policy::balance::State;
use crate::shared::traffic::{Presence, Series, Store, cells};

/// Series that requests hold on to: kept until the configuration goes. A record of the zone is always of one place and
/// kind, so there are no more of them than records.
#[derive(Default)]
pub struct Shelf(RefCell<HashMap<usize, Box<Series<cells::Peer>>>>);

impl Shelf {
    fn keep(&self, series: Series<cells::Peer>) -> &'static Series<cells::Peer> {
        let mut shelf = self.0.borrow_mut();
        if let Some(kept) = shelf.get(&series.number) {
            kept.follow(&series);
        }
        let kept = shelf.entry(series.number).or_insert_with(|| Box::new(series));
        // SAFETY: what is on the shelf is neither moved nor dropped before the configuration is, which outlives all
        // that uses it (see `module::conf_of`).
        unsafe { &*core::ptr::from_ref::<Series<cells::Peer>>(kept) }
    }
}

/// What a process knows of the servers of one group.
#[derive(Default)]
pub struct GroupState {
    /// What we stand around.
    pub(super) balancers: Table,
    /// In the order of the group's lists.
    servers: RefCell<Vec<Rc<Server>>>,
    /// Where the core keeps their names, which is how it says whom it picked, in order, and their numbers.
    names: RefCell<Vec<(usize, usize)>>,
    /// The core's count of changes of the list, as of then.
    listed: Cell<Option<usize>>,
    /// Servers that are no longer in the lists, and may still serve.
    gone: RefCell<Vec<&'static Series<cells::Peer>>>,
    /// Connections that `keepalive` has been seen to keep, and their numbers.
    kept: RefCell<Vec<(usize, sys::ngx_atomic_uint_t)>>,
    series: RefCell<Option<Series<cells::Group>>>,
}

/// One server.
pub struct Server {
    pub server: health::Server,
    pub series: &'static Series<cells::Peer>,
    /// What the API calls it.
    pub id: u64,
    /// Of each check of the group.
    pub probes: Vec<Series<cells::Probes>>,
}

/// A peer that is held by a request, or whose list is locked.
#[derive(Clone, Copy)]
pub struct Peer(*const sys::ngx_http_upstream_rr_peer_t);

impl Peer {
    /// # Safety
    /// `name` must be the field of a live peer of the core's lists.
    unsafe fn of_name(name: *const sys::ngx_str_t) -> Self {
        // SAFETY: the caller vouches for `name`.
        Self(unsafe { name.byte_sub(offset_of!(sys::ngx_http_upstream_rr_peer_t, name)) }.cast())
    }

    /// Whether it has failed `max_fails` times, and has not shown since that it is back.
    ///
    /// # Safety
    /// The peer must live.
    pub unsafe fn is_out(self) -> bool {
        // SAFETY: the caller vouches for the peer.
        unsafe { (*self.0).max_fails != 0 && (*self.0).fails >= (*self.0).max_fails }
    }

    /// Whether the core has put it aside after `max_fails`.
    ///
    /// # Safety
    /// The peer must live.
    pub unsafe fn is_unavail(self) -> bool {
        let second = i64::try_from(now().wall / 1_000).unwrap_or(0);
        // SAFETY: the caller vouches for the peer.
        unsafe { self.is_out() && second.saturating_sub((*self.0).checked) <= (*self.0).fail_timeout }
    }
}

/// How series are come by.
#[derive(Clone, Copy)]
pub enum By<'s> {
    /// While nobody else claims any: in `init_module`, or under the zone's mutex.
    Claiming(&'s Store),
    /// At any time: those that are there.
    Finding(&'s Store),
}

impl By<'_> {
    fn get<T: cells::Cells>(self, about: &str) -> Option<Series<T>> {
        match self {
            Self::Claiming(store) => super::claim(store, about),
            Self::Finding(store) => store.find(super::key(about)),
        }
    }
}

impl GroupState {
    /// Finds the series of the group and of its servers. False if there is one without.
    pub fn adopt(&self, main: &MainConf, group: &Group, by: By<'_>) -> bool {
        let listed = lists::changes(group.upstream);
        let Some(found) = lists::servers(group.upstream) else { return true };
        let Some(its) = by.get::<cells::Group>(&format!("group\0{}", group.name)) else { return false };
        let mut seen: HashMap<String, usize> = HashMap::new();
        let (mut servers, mut names) = (Vec::with_capacity(found.len()), Vec::with_capacity(found.len()));
        let all = found.len();
        for server in found {
            let identity = server.identity();
            let ordinal = seen.entry(identity.clone()).or_default();
            let about = format!("server\0{}\0{identity}\0{ordinal}", group.name);
            let probes = probes(main, group, by, &format!("{identity}\0{ordinal}"));
            *ordinal += 1;
            let Some(series) = by.get::<cells::Peer>(&about) else { continue };
            let id = id(&its, &series);
            names.push((server.at, servers.len()));
            servers.push(Rc::new(Server { server, series: main.traffic.shelf.keep(series), id, probes }));
        }
        names.sort_unstable();
        let complete = servers.len() == all;
        self.renew(servers);
        *self.names.borrow_mut() = names;
        *self.series.borrow_mut() = Some(its);
        self.listed.set(Some(listed));
        complete
    }

    /// Remembers those that are no longer there.
    fn renew(&self, servers: Vec<Rc<Server>>) {
        let there =
            |series: &Series<cells::Peer>| servers.iter().any(|its| its.series.number == series.number);
        let mut gone = self.gone.borrow_mut();
        gone.extend(self.servers.borrow().iter().map(|server| server.series));
        gone.retain(|series| !there(series));
        gone.sort_unstable_by_key(|series| series.number);
        gone.dedup_by_key(|series| series.number);
        drop(gone);
        *self.servers.borrow_mut() = servers;
    }

    /// Looks again if the core has changed the list: servers found by DNS, or added by an operator. One load when it
    /// has not. New servers are counted as soon as a series could be claimed for them.
    pub fn refresh(&self, main: &MainConf, group: &Group) {
        if self.listed.get() == Some(lists::changes(group.upstream)) {
            return;
        }
        let Some(store) = main.traffic.store() else { return };
        if self.adopt(main, group, By::Finding(store)) {
            return;
        }
        if main.traffic.locked_now(|store| self.adopt(main, group, By::Claiming(store))).is_none() {
            self.listed.set(None);
        }
    }

    /// As [`Self::refresh`], though the list is as it was: there may be room by now.
    pub fn refresh_again(&self, main: &MainConf, group: &Group) {
        self.listed.set(None);
        self.refresh(main, group);
    }

    /// Whether nothing is counted here.
    pub fn is_empty(&self) -> bool {
        self.series.borrow().is_none()
    }

    /// The servers, in the order of the group's lists.
    pub fn servers(&self) -> Vec<Rc<Server>> {
        self.servers.borrow().clone()
    }

    /// The number of the server whose name is there.
    pub fn position(&self, name: *const sys::ngx_str_t) -> Option<usize> {
        let names = self.names.borrow();
        let found = names.binary_search_by_key(&(name as usize), |(at, _)| *at).ok()?;
        names.get(found).map(|(_, number)| *number)
    }

    /// The server whose name the core has been given, as the list was when it was looked at last.
    pub fn find(&self, name: *const sys::ngx_str_t) -> Option<(&'static Series<cells::Peer>, Peer)> {
        let number = self.position(name)?;
        let series = self.servers.borrow().get(number)?.series;
        // SAFETY: names in the table are fields of peers in the list.
        Some((series, unsafe { Peer::of_name(name) }))
    }

    /// Notes a connection that `keepalive` keeps.
    ///
    /// # Safety
    /// `c` must be a connection of this process.
    pub unsafe fn keeps(&self, c: *const sys::ngx_connection_t) {
        // SAFETY: the caller vouches for `c`.
        let number = unsafe { (*c).number };
        self.kept.borrow_mut().push((c as usize, number));
    }

    /// Tells how many connections this process keeps.
    pub fn tell(&self, presence: &Presence) {
        let mut kept = self.kept.borrow_mut();
        kept.sort_unstable();
        kept.dedup();
        // SAFETY: connections are elements of the cycle's array, which lives as long as the process; one that was
        // closed has no descriptor, or another number.
        let idle = |at: usize, number| unsafe {
            let c = at as *const sys::ngx_connection_t;
            if (*c).fd == -1 || (*c).number != number { None } else { Some((*c).idle() != 0) }
        };
        kept.retain(|(at, number)| idle(*at, *number).is_some());
        let idle = kept.iter().filter(|(at, number)| idle(*at, *number) == Some(true)).count();
        if let Some(gauge) = self.series.borrow().as_ref().and_then(|series| presence.gauge(series.number)) {
            gauge.store(idle as u64, Relaxed);
        }
    }

    /// Connections that all processes keep.
    pub fn keepalive(&self, store: &Store) -> u64 {
        self.series.borrow().as_ref().map_or(0, |series| store.gauge(series.number, alive))
    }

    /// How many servers serve though they are no longer in the lists.
    pub fn zombies(&self, store: &Store) -> usize {
        let mut gone = self.gone.borrow_mut();
        gone.retain(|series| {
            let serves = store.gauge(series.number, alive) > 0;
            if !serves {
                series.leave(mono());
            }
            serves
        });
        gone.len()
    }
}

/// Whether what this process knows of the group is what the host has to go by: without a zone each worker has its own
/// view of who is unavailable, and that of the first one counts.
fn speaks(group: &Group) -> bool {
    // SAFETY: a group of this process's cycle.
    worker_index() == 0 || unsafe { !zone_of(group.upstream).is_null() }
}

/// A server has gone out of service.
pub fn out(group: &Group, series: &Series<cells::Peer>) {
    if speaks(group) {
        turn(series, true);
    }
}

/// A server is out of service now, or is not.
fn turn(series: &Series<cells::Peer>, is_out: bool) {
    let (whole, now) = (series.whole(), now().wall);
    if is_out {
        if whole.down_since.compare_exchange(0, now, SeqCst, Relaxed).is_ok() {
            whole.down_start.store(now, Relaxed);
        }
    } else if whole.down_since.load(Relaxed) != 0 {
        let since = whole.down_since.swap(0, SeqCst);
        if since != 0 {
            whole.downtime.fetch_add(now.saturating_sub(since), Relaxed);
        }
    }
}

/// Looks who is out of service. Whoever learns of a change does so at once, and one worker each second.
pub fn observe(main: &MainConf, group: &Group) {
    if group.traffic.is_empty() || !speaks(group) {
        return;
    }
    for peer in super::snapshot::states(main, group) {
        turn(peer.0, matches!(peer.1, State::Unavail | State::Checking | State::Unhealthy));
    }
}

/// The series of each of the group's checks of one server.
fn probes(main: &MainConf, group: &Group, by: By<'_>, server: &str) -> Vec<Series<cells::Probes>> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let checks = group.checks.iter().filter_map(|number| main.health.check(*number));
    let series = checks.map(|check| {
        let identity = check.identity();
        let again = seen.entry(identity.clone()).or_default();
        let about = format!("probes\0{}\0{server}\0{identity}\0{again}", group.name);
        *again += 1;
        by.get(&about)
    });
    // All or none: they are found by their position.
    series.collect::<Option<_>>().unwrap_or_default()
}

/// A server's number in its group: given to it when it is first seen, and never to another.
fn id(group: &Series<cells::Group>, server: &Series<cells::Peer>) -> u64 {
    let cell = &server.whole().id;
    let known = cell.load(Relaxed);
    if known != 0 {
        return known - 1;
    }
    let next = group.whole().next_id.fetch_add(1, SeqCst);
    match cell.compare_exchange(0, next + 1, SeqCst, Relaxed) {
        Ok(_) => next,
        Err(known) => known - 1,
    }
}
