//! `scope=peer`: the breakers of a group's servers, and how the balancer learns to pass one over.
//!
//! A bit of the core's `down` keeps a server out of every balancer's choice while its breaker is open, or half-open
//! with all permits out. Otherwise the server may be picked, and its breaker is asked then ([`super::peer`]): the bit
//! saves work, the breaker decides. Each process writes the bits afresh from the records when a state has changed or
//! a time has come; and when nothing would be left to pick, it leaves them out.

use core::cell::{Cell, RefCell};
use core::ptr::{addr_of, null};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use nginx_sys as sys;

use super::super::conf::MainConf;
use super::super::health::adopt::next;
use super::super::health::peers::{self, CONFIGURED, DEGRADED, Peers};
use super::super::health::{self, Server};
use super::super::log::{self, Level};
use super::super::request::Request;
use super::super::sys::{PeersLock, mono};
use super::super::upstream::Group;
use super::super::{membership, worker};
use super::{About, Gate};
use crate::policy::Millis;
use crate::policy::breaker::{Forced, Kept, Outcome, Settings, State, Transition, may_eject};
use crate::shared::breaker::{Bar, Token};
use crate::shared::upstream::{Claims, Full};

/// Our bit of `down`; those below are others' (see `health::peers`).
const BROKEN: usize = 64;

/// In the order of the group's lists; `None`: the zone had no room for its breaker. Requests keep those they have met: a
/// list is never changed, another one takes its place.
pub type Members = Rc<[Option<Rc<Member>>]>;

/// A server and its breaker.
pub struct Member {
    server: Rc<Server>,
    pub gate: Gate,
    /// The name of its peer, which is where the core says whom it picked; null while it is not in the list.
    name: Cell<*const sys::ngx_str_t>,
    /// Nothing but its breaker could keep it from being picked.
    free: Cell<bool>,
    /// `down`, by the configuration or an operator.
    down: Cell<bool>,
}

/// The servers of a group with `scope=peer`.
pub struct Servers {
    settings: Settings,
    members: RefCell<Members>,
    /// As in `health::GroupState`.
    applied: Cell<u64>,
    listed: Cell<usize>,
    /// When a bit may have to change though no state does.
    due: Cell<Millis>,
    /// Servers that balancers may pick, if only as the last choice.
    usable: Cell<usize>,
    /// No server would be left, or the group is in panic: breakers keep none out.
    ignored: Cell<bool>,
}

/// A server that `max_fails` has put aside fails no more: says so if its breaker waits for that.
fn warn_of_max_fails(group: &Group, settings: &Settings) {
    let only_failures = settings.consecutive == 0 && !settings.rated();
    let Some(most) = peers::most_failures(group.upstream, settings.window).filter(|_| only_failures) else {
        return;
    };
    if most < settings.failures.into() {
        let (name, window) = (&group.name, settings.window.div_ceil(1000));
        let text = format_args!(
            "upstream \"{name}\": after {most} failures in {window} s max_fails has put a server aside, and its breaker waits for {}: write max_fails=0",
            settings.failures
        );
        log::cycle(Level::Warn, text);
    }
}

/// Whether the servers of a group get breakers: warns if not. In `init_module`.
pub fn adopt(group: &Group, servers: Option<&[Rc<Server>]>, settings: Settings) -> Option<Servers> {
    let name = &group.name;
    let Some(servers) = servers else {
        log::cycle(
            Level::Warn,
            format_args!("upstream \"{name}\" has a foreign balancer: no server is taken out"),
        );
        return None;
    };
    if servers.len() < 2 && !peers::resolves(group.upstream) {
        log::cycle(Level::Warn, format_args!("upstream \"{name}\" has one server, which is never taken out"));
        if !peers::may_change(group.upstream) {
            return None;
        }
    }
    warn_of_max_fails(group, &settings);
    Some(Servers {
        settings,
        members: RefCell::default(),
        applied: Cell::new(0),
        listed: Cell::new(0),
        due: Cell::new(0),
        usable: Cell::new(0),
        ignored: Cell::new(false),
    })
}

/// After verdicts have been put into force.
pub fn put_into_force(group: &Group) {
    if let Some(its) = group.breaker.servers() {
        its.put_into_force(group, mono());
    }
}

/// Before each pick: a few loads when nothing changed.
pub fn refresh(main: &MainConf, group: &Group) {
    let (Some(its), Some(store)) = (group.breaker.servers(), main.upstreams.store()) else { return };
    let (changes, listed, now) = (store.changes(), peers::changes(group.upstream), mono());
    if changes == its.applied.get() && listed == its.listed.get() && now < its.due.get() {
        return;
    }
    its.applied.set(changes);
    its.listed.set(listed);
    if membership::is_behind(main, group) {
        worker::hurry();
    }
    // A cycle later the master may have given our records to others.
    if store.generation().wrapping_sub(main.health.generation.get()) <= 1 {
        its.put_into_force(group, now);
    }
}

impl Servers {
    /// Finds the breakers of `servers`, or claims them. The numbers of their records go to `kept`.
    pub fn find(
        &self,
        group: &str,
        (claims, owner): (&mut Claims<'_>, u64),
        servers: &[Rc<Server>],
        kept: &mut HashSet<usize>,
        full: &mut Option<Full>,
    ) {
        let mut seen = HashMap::new();
        let member = |server: &Rc<Server>| {
            let count = next(&mut seen, &server.identity());
            let key = format!("peer {group}\0{}\0{count}", server.identity());
            let about = About::Server { upstream: group.to_owned(), server: server.name.clone() };
            let gate = Gate::claim((claims, owner), about, &key, self.settings);
            let (gate, index) = gate.map_err(|reason| *full = Some(reason)).ok()?;
            kept.insert(index);
            let server = server.clone();
            Some(Rc::new(Member {
                server,
                gate,
                name: Cell::new(null()),
                free: Cell::default(),
                down: Cell::default(),
            }))
        };
        *self.members.borrow_mut() = servers.iter().map(member).collect();
    }

    /// All that were found last.
    pub fn members(&self) -> Members {
        self.members.borrow().clone()
    }

    /// The number of a server in the order of the lists.
    pub fn number_of(&self, server: &Server) -> Option<usize> {
        let members = self.members.borrow();
        members.iter().position(|member| member.as_ref().is_some_and(|member| member.server.same(server)))
    }

    /// The one of this number in the order of the lists.
    pub fn member(&self, number: usize) -> Option<Rc<Member>> {
        self.members.borrow().get(number)?.clone()
    }

    /// Whether the breaker of the server of this number is open, or half-open.
    pub fn is_out(&self, number: usize) -> bool {
        let members = self.members.borrow();
        let gate = members.get(number).and_then(Option::as_ref).map(|member| &member.gate);
        gate.is_some_and(|gate| gate.breaker.is_out(&gate.settings, mono()))
    }

    pub fn len(&self) -> usize {
        self.members.borrow().len()
    }

    /// Whose name the core has been given.
    pub fn named(&self, name: *const sys::ngx_str_t) -> Option<Rc<Member>> {
        if name.is_null() {
            return None;
        }
        let members = self.members.borrow();
        members.iter().flatten().find(|member| core::ptr::eq(member.name.get(), name)).cloned()
    }

    /// Whether a server is picked whatever its breaker says, unless it is the operator who speaks.
    pub fn ignored(&self, member: &Member) -> bool {
        self.ignored.get() && !member.is_forced_out(mono())
    }

    /// A state or a permit has changed: all workers are to look.
    pub fn changed(&self, main: &MainConf, group: &Group) {
        if let Some(store) = main.upstreams.store() {
            store.note_change();
        }
        health::changed(main, group);
        refresh(main, group);
    }

    /// Tells a server's breaker of an attempt; the transition that made.
    pub fn record(
        &self,
        request: &Request,
        member: &Member,
        token: Token,
        outcome: Outcome,
        slow: bool,
    ) -> Option<Transition> {
        let gate = &member.gate;
        let judges = outcome != Outcome::Success || gate.settings.rated();
        // One that drains, or is unhealthy to the checks, is not among those who could stay.
        let others = self.usable.get().saturating_sub(member.free.get().into());
        let kept = || if others > 0 { self.may_eject(gate).err() } else { Some(Kept::LastPeer) };
        let mut report = gate.report(outcome, slow);
        report.kept = judges.then(kept).flatten();
        let made = gate.breaker.record(&gate.settings, mono(), token, report);
        let tripped = made.filter(|made| made.from == State::Closed && made.to == State::Open);
        // Another worker may have taken another server out at the same instant.
        let back = tripped.and_then(|made| gate.breaker.retract(mono(), &made, self.may_eject(gate).err()?));
        gate.say(Some(request), back.or(made));
        made
    }

    /// Where a member stands in the order of the lists.
    pub fn number(&self, member: &Member) -> Option<usize> {
        let members = self.members.borrow();
        members.iter().position(|its| its.as_ref().is_some_and(|its| its.gate.is(&member.gate)))
    }

    /// Whether this one may be out beside those that are, and why not.
    fn may_eject(&self, gate: &Gate) -> Result<(), Kept> {
        let members = self.members();
        let there = || members.iter().flatten().filter(|member| member.is_there());
        let others = there().filter(|member| !member.gate.is(gate));
        let now = mono();
        let out = others.filter(|member| member.gate.breaker.is_out(&gate.settings, now)).count();
        may_eject(&gate.settings, out, there().count())
    }

    /// Writes the bits of all servers. The records are read under the lists' locks: of two workers that do this at
    /// once, the later one writes what is true.
    fn put_into_force(&self, group: &Group, now: Millis) {
        let Some(lists) = peers::lists(group.upstream) else { return };
        let members = self.members();
        let all = || members.iter().flatten();
        all().for_each(|member| member.name.set(null()));
        let mut seen = Seen { due: Millis::MAX, ..Seen::default() };
        let lists = || lists.iter().filter(|(_, list)| !list.is_null());
        for (role, list) in lists() {
            let mut expected = all().filter(|member| member.server.role == *role);
            // SAFETY: a live list of this process's cycle; nothing between lock and unlock allocates, logs or panics.
            unsafe {
                let _lock = PeersLock::write(*list);
                let mut peer = (**list).peer;
                while !peer.is_null() {
                    // As a rule the list is as it was; servers found by DNS may have moved it.
                    let is = |member: &&Rc<Member>| member.server.is(peer) && member.name.get().is_null();
                    let same = |member: &&Rc<Member>| member.server.role == *role && is(member);
                    let member = expected.next().filter(is).or_else(|| all().find(same));
                    let forced = member.is_some_and(|member| member.is_forced_out(now));
                    let free = (*peer).down & !(BROKEN | DEGRADED) == 0 && !forced;
                    seen.count(free, member.map_or(Bar::None, |member| member.at(peer, free, now)), now);
                    peer = (*peer).next;
                }
            }
        }
        let ignored = seen.barred > 0 && (seen.usable == 0 || group.health.panics_to_all());
        for (_, list) in lists() {
            // SAFETY: as above.
            unsafe { mark(*list, &members, ignored, now) };
        }
        self.ignored.set(ignored);
        self.usable.set(seen.usable + if ignored { seen.barred } else { 0 });
        self.due.set(seen.due);
    }
}

/// # Safety
/// `list` must be a live list of this process's cycle.
unsafe fn mark(list: Peers, members: &[Option<Rc<Member>>], ignored: bool, now: Millis) {
    // SAFETY: the caller vouches for the list; nothing between lock and unlock allocates, logs or panics.
    unsafe {
        let _lock = PeersLock::write(list);
        let mut peer = (*list).peer;
        while !peer.is_null() {
            let name = addr_of!((*peer).name);
            let member = members.iter().flatten().find(|member| core::ptr::eq(member.name.get(), name));
            let bar = |its: &Rc<Member>| its.bar(now) != Bar::None && (!ignored || its.is_forced_out(now));
            let barred = member.is_some_and(bar);
            peers::mark(list, peer, BROKEN, if barred { BROKEN } else { 0 });
            peer = (*peer).next;
        }
    }
}

/// What a walk over a group's peers has found.
#[derive(Default)]
struct Seen {
    /// May be picked.
    usable: usize,
    /// Might be, but for their breakers.
    barred: usize,
    due: Millis,
}

impl Seen {
    const fn count(&mut self, free: bool, bar: Bar, now: Millis) {
        let free = free as usize;
        match bar {
            Bar::None => self.usable += free,
            Bar::Set => self.barred += free,
            Bar::For(left) => {
                self.barred += free;
                let due = now.saturating_add(left);
                if due < self.due {
                    self.due = due;
                }
            }
        }
    }
}

impl Member {
    fn bar(&self, now: Millis) -> Bar {
        self.gate.breaker.bar(&self.gate.settings, now)
    }

    /// The operator's word stands above all that may let a server in again.
    fn is_forced_out(&self, now: Millis) -> bool {
        self.gate.breaker.forced(now) == Some(Forced::Open)
    }

    /// Remembers where the peer is, and whether it is `free`.
    ///
    /// # Safety
    /// `peer` must be a live peer.
    unsafe fn at(&self, peer: *const sys::ngx_http_upstream_rr_peer_t, free: bool, now: Millis) -> Bar {
        // SAFETY: the caller vouches for the peer.
        let (name, down) = unsafe { (addr_of!((*peer).name), (*peer).down) };
        self.name.set(name);
        self.free.set(free);
        self.down.set(down & CONFIGURED != 0);
        self.bar(now)
    }

    fn is_there(&self) -> bool {
        !self.name.get().is_null() && !self.down.get()
    }
}
