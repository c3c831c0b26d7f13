//! The circuit breaker: admission before the upstream is touched, outcomes after it.
//!
//! A request is admitted once by the breaker of its route and once per upstream it is sent to: in the precontent
//! phase when the location names the upstream, else when the balancer is asked for a peer. It is judged once, when
//! the core has finished with the upstream, all retries done; a test whose answer does not end, by its header. What is neither (a
//! client that leaves, a redirect elsewhere) gives the admission back. Subrequests look at the state and bring no result, but
//! where it is time for a test: there may be no other requests.
//!
//! The breaker of a server is asked for each attempt, after the balancer's pick, and judges each ([`servers`]).

mod about;
pub mod conf;
mod gate;
mod keeper;
pub mod operator;
mod outcome;
mod passage;
pub mod peer;
mod refusal;
pub mod servers;
mod target;
pub mod variables;
mod words;

use core::cell::OnceCell;
use std::rc::Rc;

use nginx_sys as sys;

use super::conf::MainConf;
use super::context::Context;
use super::health::Server;
use super::request::Request;
use super::sys::{DECLINED, mono, worker_index};
use super::upstream::{Group, conf_of};
use super::wrap::Table;
use crate::policy::Millis;
use crate::policy::breaker::{Failure, Outcome, Transition, Via};
use crate::shared::breaker::Probed;
use crate::shared::upstream::Claims;

pub use about::About;
pub use conf::{Conf, Failing, GroupConf, LocConf};
pub use gate::Gate;
pub use keeper::Keeper;
pub use passage::Passage;
use passage::Scope;

/// What a group knows of its breakers, once the zone is mapped.
#[derive(Default)]
pub struct GroupState {
    gate: OnceCell<Gate>,
    servers: OnceCell<servers::Servers>,
    failing: OnceCell<Failing>,
    balancers: Table,
}

impl GroupState {
    /// The breaker of the whole group, if it has one.
    pub fn guard(&self) -> Option<Guard<'_>> {
        Some(Guard { gate: self.gate.get()?, failing: self.failing() })
    }

    /// The same without what it takes for a failure.
    pub fn gate(&self) -> Option<&Gate> {
        self.gate.get()
    }

    /// The breakers of the group's servers, if they have any.
    pub fn servers(&self) -> Option<&servers::Servers> {
        self.servers.get()
    }

    fn failing(&self) -> &Failing {
        self.failing.get().unwrap_or(&Failing::DEFAULT)
    }

    fn each_gate(&self, see: &mut dyn FnMut(&Gate)) {
        self.gate.get().into_iter().for_each(&mut *see);
        let members = self.servers().map(servers::Servers::members).unwrap_or_default();
        members.iter().flatten().for_each(|member| see(&member.gate));
    }
}

/// Calls `see` with each breaker of a configuration.
fn each_gate(conf: &MainConf, mut see: impl FnMut(&Gate)) {
    conf.upstreams.groups.iter().for_each(|group| group.breaker.each_gate(&mut see));
    conf.breaker.routes.iter().filter_map(|route| route.gate.get()).for_each(see);
}

/// Calls `see` with what logs call each breaker.
pub fn each_name(conf: &MainConf, mut see: impl FnMut(&str)) {
    each_gate(conf, |gate| see(&gate.name));
}

/// Whether a configuration has any breaker, or may come to have one.
fn has_gates(conf: &MainConf) -> bool {
    let its = |group: &Group| group.breaker.gate.get().is_some() || group.breaker.servers().is_some();
    conf.upstreams.groups.iter().any(its) || conf.breaker.has_routes()
}

/// A breaker, and what it takes for a failure.
#[derive(Clone, Copy)]
pub struct Guard<'c> {
    gate: &'c Gate,
    failing: &'c Failing,
}

/// Ties the breakers of routes to their records.
pub fn adopt_routes(main: &MainConf, claims: &mut Claims<'_>) {
    for route in &main.breaker.routes {
        let (about, key) = (About::Route(route.name.clone()), format!("route {}", route.name));
        if let Some(gate) = Gate::adopt(claims, about, &key, route.settings) {
            // Once per cycle: the cell is empty.
            let _ = route.gate.set(gate);
        }
    }
}

/// Ties a group to its record, and says whether its `servers` will have breakers.
pub fn adopt(group: &Group, claims: &mut Claims<'_>, servers: Option<&[Rc<Server>]>) {
    // SAFETY: groups are of the cycle being set up; `conf_of` knows those without a configuration.
    let Some(conf) = (unsafe { conf_of(group.upstream) }) else { return };
    let its = &group.breaker;
    // A group is adopted once per cycle: the cells are empty.
    let _ = its.failing.set(conf.breaker.failing.unwrap_or(Failing::DEFAULT));
    if let Some(settings) = conf.breaker.settings {
        let (about, key) = (About::Upstream(group.name.clone()), format!("upstream {}", group.name));
        if let Some(gate) = Gate::adopt(claims, about, &key, settings) {
            let _ = its.gate.set(gate);
        }
    }
    if let Some(servers) = conf.breaker.peers.and_then(|settings| servers::adopt(group, servers, settings)) {
        let _ = its.servers.set(servers);
    }
}

/// The precontent handler: a location that has a breaker or names a guarded upstream asks before the body is read.
pub fn handler(request: &Request) -> sys::ngx_int_t {
    if request.main_conf().breaker.modules.is_empty() {
        return DECLINED;
    }
    let place = target::place(request);
    if let Some(ctx) = request.ctx() {
        let mut passage = ctx.passage.borrow_mut();
        passage.route.leave_all_but(place.route);
        passage.upstream.leave_all_but(place.upstream);
    }
    // With a cache in front, which may have the answer, the balancer's wrap refuses.
    if place.is_cached {
        return DECLINED;
    }
    // What is calm is asked again by that wrap, which keeps the token. Where the balancer is not known, there may be
    // no wrap.
    let is_calm = |guard: Option<Guard<'_>>| guard.is_none_or(|guard| guard.gate.calm().is_some());
    let watched = place.is_named || place.route.is_none();
    if watched && is_calm(place.route) && is_calm(place.upstream) {
        return DECLINED;
    }
    // A body takes as long as its client likes, and is not to hold a permit meanwhile: the wrap asks when it is there.
    let passes = |guard: Guard<'_>| guard.gate.peek().is_ok() || guard.gate.is_due(request);
    if watched && request.has_body() && place.route.is_none_or(passes) && place.upstream.is_none_or(passes) {
        return DECLINED;
    }
    // A subrequest that nobody would judge is no test. It passes for the sake of the one that its client's request then is.
    if !watched && !request.is_main() && place.route.is_none_or(passes) && place.upstream.is_none_or(passes) {
        return DECLINED;
    }
    match enter_all(request, place.route, place.upstream) {
        Ok(()) => DECLINED,
        Err((gate, retry_after)) => refusal::early(request, gate, retry_after),
    }
}

type Entered = Result<(), (&'static Gate, Millis)>;

/// Asks the breaker of the route, then that of the upstream.
fn enter_all(request: &Request, route: Option<Guard<'static>>, upstream: Option<Guard<'static>>) -> Entered {
    if let Some(guard) = route {
        // Whoever comes back when the one would let him through is not to find the other one shut.
        let other = || upstream.and_then(|guard| guard.gate.peek().err()).unwrap_or(0);
        enter(request, guard, Scope::Route).map_err(|wait| (guard.gate, wait.max(other())))?;
    }
    let Some(guard) = upstream else { return Ok(()) };
    let entered = enter(request, guard, Scope::Upstream).map_err(|wait| (guard.gate, wait));
    if entered.is_err()
        && let Some(ctx) = request.ctx()
    {
        ctx.passage.borrow_mut().route.release();
    }
    entered
}

/// Admits the client's request. A subrequest of a test goes with it; another one looks, and tests if it is time for that.
fn enter(request: &Request, guard: Guard<'static>, scope: Scope) -> Result<(), Millis> {
    let gate = guard.gate;
    let seated = |ctx: &Context| {
        let mut passage = ctx.passage.borrow_mut();
        let seat = passage.seat(scope);
        seat.token.is_some() && seat.is_at(gate)
    };
    if request.ctx().is_some_and(seated) {
        return Ok(());
    }
    if !request.is_main() {
        let seen = gate.peek();
        if seen.is_ok() || is_part_of_test(request, gate, scope) {
            return Ok(());
        }
        if !gate.is_due(request) {
            return seen;
        }
    }
    // Without memory for a context there is nothing to remember a token in: the request passes uncounted.
    let Some(ctx) = request.ctx_or_new() else { return Ok(()) };
    let admitted = gate.admit(request);
    let token = admitted.as_ref().ok().copied();
    // Closed by another test in this very moment: the result of a subrequest says nothing.
    let token = token.filter(|token| request.is_main() || token.is_test());
    ctx.passage.borrow_mut().seat(scope).enter(guard, token);
    admitted.map(|_| ())
}

/// Whether the client's request that this one is made for is, or was, this breaker's test.
fn is_part_of_test(request: &Request, gate: &Gate, scope: Scope) -> bool {
    let tests = |ctx: &Context| {
        let mut passage = ctx.passage.borrow_mut();
        let seat = passage.seat(scope);
        // Once its result is in, it is a request like any other.
        seat.tested && seat.is_at(gate) && gate.breaker.is_testing(mono())
    };
    request.main().ctx().is_some_and(tests)
}

/// Whether a server has answered the request: after a refusal, that of a fallback.
pub fn is_answered(request: &Request) -> bool {
    // SAFETY: a live request; its upstream, if it has one, lives in its pool.
    unsafe {
        let upstream = (*request.as_ptr()).upstream;
        !upstream.is_null() && outcome::of_header(upstream).is_some()
    }
}

/// A response header is being sent. An upgraded connection may last for days: its handshake is the result.
pub fn header_sent(request: &Request) {
    // SAFETY: a live request.
    let (status, upstream) =
        unsafe { ((*request.as_ptr()).headers_out.status, (*request.as_ptr()).upstream) };
    if upstream.is_null() {
        return;
    }
    let upgraded = status == sys::NGX_HTTP_SWITCHING_PROTOCOLS as usize;
    if let Some(peer) = peer::Peer::of(request) {
        if upgraded {
            peer.upgraded()
        } else {
            peer.answered()
        }
        return;
    }
    if !upgraded {
        return;
    }
    let Some(ctx) = request.ctx() else { return };
    let mut passage = ctx.passage.borrow_mut();
    let Some((guard, token)) = passage.route.guard.zip(passage.route.token.take()) else { return };
    drop(passage);
    // SAFETY: a request that sends an upstream's header has its upstream.
    let slow = unsafe { outcome::is_slow(upstream, &guard.gate.settings) };
    guard.gate.record(request, token, Outcome::Success, slow);
}

/// Nobody was told by `peer.free`: the upstream is one whose balancer we could not wrap (an address in a variable).
/// Judges what the core has written down of it.
pub fn logged(request: &Request) {
    let Some(ctx) = request.ctx().filter(|_| request.is_main()) else { return };
    let mut passage = ctx.passage.borrow_mut();
    let Some((guard, token)) = passage.route.guard.zip(passage.route.token.take()) else { return };
    drop(passage);
    // SAFETY: a live request in its log phase.
    match unsafe { outcome::of_log(request.as_ptr(), &guard.gate.settings) } {
        Some((seen, slow)) => guard.gate.record(request, token, guard.failing.judge(seen), slow),
        None => guard.gate.breaker.abort(token),
    }
}

/// A finished probe of an active check, for the breakers that wait for one. `None`: it says nothing about the
/// group, or about the server.
pub struct Checked {
    pub began: Millis,
    /// The number of the server in the order of the group's lists.
    pub server: usize,
    pub server_is_good: Option<bool>,
    pub group_is_good: Option<bool>,
}

/// Lets a probe decide where `half_open_via=probe` says so.
pub fn checked(conf: &MainConf, group: &Group, checked: &Checked) {
    let probe = |gate: &Gate, good: Option<bool>| {
        let Some(good) = good.filter(|_| gate.settings.via == Via::Probe) else { return [None; 2] };
        let outcome = if good { Outcome::Success } else { Outcome::Failure(Failure::Error) };
        let probed = Probed { began: checked.began, report: gate.report(outcome, false) };
        let made = gate.breaker.probe(&gate.settings, mono(), worker_index(), probed);
        made.into_iter().for_each(|made| gate.say(None, made));
        made
    };
    if let Some(gate) = group.breaker.gate.get() {
        probe(gate, checked.group_is_good);
    }
    let Some(servers) = group.breaker.servers() else { return };
    let member = servers.member(checked.server);
    let made = member.map_or([None; 2], |member| probe(&member.gate, checked.server_is_good));
    if made.iter().flatten().any(Transition::readmits) {
        group.health.readmit(checked.server);
    }
    if made.iter().any(Option::is_some) {
        servers.changed(conf, group);
    }
}
