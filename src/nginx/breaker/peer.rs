//! The wrap around a balancer: asks the breaker where precontent could not, and learns how the request went.

use core::cell::Cell;
use std::rc::Rc;

use nginx_sys as sys;

use super::super::context::Context;
use super::super::entry::entry;
use super::super::health::peers;
use super::super::log::{self, Level};
use super::super::module::early_module;
use super::super::request::Request;
use super::super::sys::{BUSY, DONE, OK, close_upstream, mono, slot};
use super::super::upstream::Group;
use super::super::worker;
use super::super::wrap::{self, Inner, Wrap};
use super::servers::{self, Member, Servers};
use super::target::{self, Place};
use super::{Guard, Scope, enter_all, outcome, refusal};
use crate::policy::breaker::{Failure, Outcome};
use crate::shared::breaker::{Era, Token};

/// One request's way to one upstream, in the request's pool. Small, because every request to an upstream with a breaker
/// has one. Nobody drops it: the attempt, which would need it, is over when the core is done with the upstream.
pub struct Peer {
    pub(super) request: *mut sys::ngx_http_request_t,
    group: &'static Group,
    /// The location that sends the request there.
    place: &'static Place,
    pub(super) inner: Inner,
    /// The attempt under way, at a server with a breaker.
    attempt: Cell<Option<Attempt>>,
    /// The admissions of calm breakers, of the route and of the upstream; others are in the request's context.
    calm: [Cell<Option<Era>>; 2],
    /// What the last attempt that ended came to, if that says anything.
    last: Cell<Option<Failure>>,
    /// Whether admission has been settled; retries are not asked again.
    asked: Cell<bool>,
    /// `max_fails` has left no server to try.
    nobody: Cell<bool>,
    /// Tests that have been judged by the header of their answer, a bit for each [`Scope`].
    judged: Cell<u8>,
    /// The worker's [`super::Keeper`] waits for the end of a test's answer.
    streams: Cell<bool>,
}

// It shall not be what makes a request need another block of memory.
const _: () = assert!(size_of::<Peer>() <= 80);

type Attempt = (Rc<Member>, Token);

/// Puts ourselves around what the group's balancer has just set up for `request`.
pub fn wrap(request: &Request, group: &'static Group) {
    let its = &group.breaker;
    let place = target::of(request);
    if place.route.is_none() && its.guard().is_none() && its.servers().is_none() {
        return;
    }
    let wrapped = wrap::put(request, &its.balancers, |inner| Peer {
        request: request.as_ptr(),
        group,
        place,
        inner,
        attempt: Cell::new(None),
        calm: Default::default(),
        last: Cell::new(None),
        asked: Cell::new(false),
        nobody: Cell::new(false),
        judged: Cell::new(0),
        streams: Cell::new(false),
    });
    if let Some(wrapped) = wrapped {
        // SAFETY: inside peer.init the request has an upstream; our early module's slot holds nothing else.
        unsafe {
            let r = request.as_ptr();
            // Found there if somebody else wraps us.
            *slot((*r).ctx, early_module()) = core::ptr::from_ref(wrapped).cast_mut().cast();
            (*(*r).upstream).finalize_request = Some(finalize);
        }
    }
}

impl Peer {
    /// The wrap around what the request's upstream asks for servers, or did until it ended.
    pub fn of(request: &Request) -> Option<&Self> {
        // SAFETY: a live request; in that slot is what `wrap` put there, in the request's pool.
        unsafe {
            let r = request.as_ptr();
            let upstream = (*r).upstream.as_ref()?;
            wrap::outermost(&raw const upstream.peer)
                .or_else(|| (*slot((*r).ctx, early_module())).cast::<Self>().as_ref())
        }
    }

    fn request(&self) -> &Request {
        // SAFETY: nginx calls the callbacks of a peer only while its request lives.
        unsafe { Request::from_ptr(self.request) }
    }

    /// Settles admission at the first `get`. `Some`: refused, and what `get` is to return.
    unsafe fn ask(&self, pc: *mut sys::ngx_peer_connection_t) -> Option<sys::ngx_int_t> {
        if self.asked.replace(true) {
            self.renew();
            return None;
        }
        if self.is_calm() {
            return None;
        }
        let (gate, retry_after) = enter_all(self.request(), self.place.route, self.upstream()).err()?;
        // SAFETY: `pc` is what nginx passed to `get`.
        Some(unsafe { refusal::late(self, pc, gate, retry_after) })
    }

    /// Admits the request if its breakers have nothing to say, and it holds no permit of theirs.
    fn is_calm(&self) -> bool {
        let seated = |ctx: &Context| {
            let passage = ctx.passage.borrow();
            passage.route.token.is_some() || passage.upstream.token.is_some()
        };
        if self.request().ctx().is_some_and(seated) {
            return false;
        }
        let mut eras = [None; 2];
        for (guard, era) in [self.place.route, self.upstream()].into_iter().zip(&mut eras) {
            *era = guard.and_then(|guard| guard.gate.calm());
            if guard.is_some() && era.is_none() {
                return false;
            }
        }
        if self.request().is_main() {
            self.calm.iter().zip(eras).for_each(|(its, era)| its.set(era));
        }
        true
    }

    /// Another server is asked, with as much time as the one before had.
    fn renew(&self) {
        let Some(ctx) = self.request().ctx() else { return };
        let mut passage = ctx.passage.borrow_mut();
        for scope in [Scope::Route, Scope::Upstream] {
            let seat = passage.seat(scope);
            if let (Some(guard), Some(token)) =
                (seat.guard, seat.token.as_ref().filter(|token| token.is_test()))
            {
                let gate = guard.gate;
                let renewed = gate.breaker.renew(&gate.settings, mono(), *token, self.place.patience);
                seat.token = Some(renewed);
            }
        }
    }

    /// The breaker of the group.
    pub(super) fn upstream(&self) -> Option<Guard<'static>> {
        self.group.breaker.guard()
    }

    fn guard(&self, scope: Scope) -> Option<Guard<'static>> {
        match scope {
            Scope::Route => self.place.route,
            Scope::Upstream => self.upstream(),
        }
    }

    fn servers(&self) -> Option<&'static Servers> {
        self.group.breaker.servers()
    }

    /// Whether the server that the balancer has picked may be asked: takes a permit if it must.
    unsafe fn board(&self, pc: *const sys::ngx_peer_connection_t) -> bool {
        let Some(servers) = self.servers() else { return true };
        // SAFETY: nginx passed `pc` to `get`; `name` is only compared.
        let Some(member) = servers.named(unsafe { (*pc).name }) else { return true };
        let request = self.request();
        if !request.is_main() && (servers.ignored(&member) || !member.gate.is_due(request)) {
            return servers.ignored(&member) || member.gate.peek().is_ok();
        }
        match member.gate.calm().map_or_else(|| member.gate.admit(request), |era| Ok(era.into())) {
            Ok(token) => {
                self.attempt.set(Some((member, token)));
                if token.is_test() {
                    servers.changed(request.main_conf(), self.group);
                }
                true
            }
            Err(_) => servers.ignored(&member),
        }
    }

    /// The server that was picked is not to be asked: gives it back, as if nobody had picked it. `tries` is what was
    /// left before.
    unsafe fn unpick(&self, pc: *mut sys::ngx_peer_connection_t, tries: sys::ngx_uint_t) {
        // SAFETY: inside `get` of a live request, whose balancer has just picked. A connection that was kept goes
        // back to those that are if its request seems to be over, and is closed otherwise.
        unsafe {
            let u = (*self.request).upstream;
            let (keepalive, sent) = ((*u).keepalive(), (*u).request_body_sent());
            (*u).set_keepalive(1);
            (*u).set_request_body_sent(1);
            self.inner.free(pc, sys::NGX_PEER_NEXT as sys::ngx_uint_t);
            (*u).set_keepalive(keepalive);
            (*u).set_request_body_sent(sent);
            if !(*pc).connection.is_null() {
                close_upstream((*pc).connection);
            }
            (*pc).connection = core::ptr::null_mut();
            (*pc).sockaddr = core::ptr::null_mut();
            (*pc).set_cached(0);
            (*pc).tries = tries;
        }
    }

    /// What `see` makes of the admission of the attempt under way, if a breaker waits to hear of it.
    fn at_server<T>(&self, see: impl FnOnce(&Token) -> T) -> Option<T> {
        let attempt = self.attempt.take();
        let seen = attempt.as_ref().map(|(_, token)| see(token));
        self.attempt.set(attempt);
        seen
    }

    /// The attempt under way has come to this, or to nothing that says anything.
    fn land(&self, outcome: Option<Outcome>) {
        let (Some((member, token)), Some(servers)) = (self.attempt.take(), self.servers()) else { return };
        let request = self.request();
        let changed = match outcome {
            Some(outcome) => {
                // SAFETY: an attempt is one of the live request's upstream.
                let slow = unsafe { outcome::is_slow((*self.request).upstream, &member.gate.settings) };
                let made = servers.record(request, &member, token, outcome, slow);
                if let Some(number) =
                    servers.number(&member).filter(|_| made.is_some_and(|made| made.readmits()))
                {
                    self.group.health.readmit(number);
                }
                made.is_some() || token.is_test()
            }
            None => {
                member.gate.breaker.abort(token);
                token.is_test()
            }
        };
        if changed {
            servers.changed(request.main_conf(), self.group);
        }
    }

    /// The header of the answer goes to the client: if the request is a test, it may not take for ever.
    pub fn answered(&self) {
        // SAFETY: a request that sends a header and had an upstream still has it.
        if unsafe { outcome::of_header((*self.request).upstream) }.is_none() {
            return;
        }
        let left = |token: &Token| token.left(mono());
        // Whom calm breakers have admitted holds nothing of theirs.
        let is_calm = self.calm.iter().any(|era| era.get().is_some());
        let context = if is_calm { None } else { self.request().ctx() };
        let seats = context.and_then(|ctx| {
            let passage = ctx.passage.borrow();
            [&passage.route, &passage.upstream].iter().filter_map(|seat| left(seat.token.as_ref()?)).min()
        });
        let server = self.at_server(left).flatten();
        let Some(left) = [seats, server].into_iter().flatten().min() else { return };
        if let Some(worker) = worker::current().filter(|_| !self.streams.replace(true)) {
            worker.breakers.streams(self, left);
        }
    }

    /// The answer still comes in: judges by its header what is a test. Should the body break off, that is another failure.
    pub(super) fn judge_by_header(&self) {
        // SAFETY: a request that sends an upstream's header has its upstream.
        let u = unsafe { (*self.request).upstream };
        // SAFETY: as above.
        let Some(status) = (unsafe { outcome::of_header(u) }) else { return };
        for scope in [Scope::Route, Scope::Upstream] {
            let Some((guard, token)) = self.test(scope) else { continue };
            self.judged.set(self.judged.get() | scope.bit());
            // SAFETY: as above.
            let slow = unsafe { outcome::is_slow(u, &guard.gate.settings) };
            guard.gate.record(self.request(), token, guard.failing.judge(Failure::Http(status)), slow);
        }
        if self.is_testing_server() {
            self.land(Some(self.group.breaker.failing().judge(Failure::Http(status))));
        }
    }

    /// The test permit that the request holds.
    fn test(&self, scope: Scope) -> Option<(Guard<'static>, Token)> {
        let guard = self.guard(scope)?;
        let mut passage = self.request().ctx()?.passage.borrow_mut();
        let seat = passage.seat(scope);
        seat.token.as_ref().filter(|token| token.is_test())?;
        Some((guard, seat.take(guard.gate)?))
    }

    fn is_testing_server(&self) -> bool {
        self.at_server(Token::is_test) == Some(true)
    }

    /// The connection has become a tunnel: its handshake is the result.
    pub fn upgraded(&self) {
        for scope in [Scope::Route, Scope::Upstream] {
            let Some((guard, token)) = self.admission(scope, false) else { continue };
            // SAFETY: a request that sends an upstream's header has its upstream.
            let slow = unsafe { outcome::is_slow((*self.request).upstream, &guard.gate.settings) };
            guard.gate.record(self.request(), token, Outcome::Success, slow);
        }
        self.land(Some(Outcome::Success));
    }

    /// The core is done with the upstream: judges the request and its last attempt, or gives their admissions back.
    unsafe fn settle(&self, rc: sys::ngx_int_t) {
        if let Some(worker) = worker::current().filter(|_| self.streams.take()) {
            worker.breakers.streamed(self);
        }
        // SAFETY: nginx finalizes the upstream of a live request.
        let u = unsafe { (*self.request).upstream };
        for scope in [Scope::Route, Scope::Upstream] {
            let judged = self.judged.get() & scope.bit() != 0;
            let Some((guard, token)) = self.admission(scope, judged) else { continue };
            let nobody = Failure::Error;
            let last =
                self.last.get().or((self.nobody.get() && guard.failing.counts(nobody)).then_some(nobody));
            // SAFETY: as above.
            let (outcome, slow) = unsafe {
                let outcome = outcome::of_request(u, rc, last, guard.failing);
                (outcome, outcome::is_slow(u, &guard.gate.settings))
            };
            // Who has seen the header of a test has seen enough to judge by.
            // SAFETY: as above.
            let seen = unsafe { outcome::of_header(u) }.filter(|_| token.is_test());
            let outcome = outcome.or(seen.map(|status| guard.failing.judge(Failure::Http(status))));
            match outcome {
                // The header has been counted; only what broke off after it comes on top.
                Some(Outcome::Success) | None if judged => {}
                Some(outcome) => guard.gate.record(self.request(), token, outcome, slow),
                None => guard.gate.breaker.abort(token),
            }
        }
        if self.at_server(|_| ()).is_some() {
            let failing = self.group.breaker.failing();
            // SAFETY: as above.
            let (outcome, seen) =
                unsafe { (outcome::of_request(u, rc, None, failing), outcome::of_header(u)) };
            let seen = seen.filter(|_| self.is_testing_server());
            self.land(outcome.or(seen.map(|status| failing.judge(Failure::Http(status)))));
        }
    }

    /// What a breaker is to be told of, or be given back; once. After a test that has been `judged`: as whom else that is closed.
    fn admission(&self, scope: Scope, judged: bool) -> Option<(Guard<'static>, Token)> {
        let guard = self.guard(scope)?;
        let calm = match scope {
            Scope::Route => &self.calm[0],
            Scope::Upstream => &self.calm[1],
        };
        if judged {
            return Some((guard, guard.gate.calm()?.into()));
        }
        let seat = || self.request().ctx()?.passage.borrow_mut().seat(scope).take(guard.gate);
        Some((guard, calm.take().map(Token::from).or_else(seat)?))
    }
}

impl Wrap for Peer {
    fn inner(&self) -> &Inner {
        &self.inner
    }

    unsafe fn get(&self, pc: *mut sys::ngx_peer_connection_t) -> sys::ngx_int_t {
        // SAFETY: the caller passes what nginx passed.
        let refused = entry!("the circuit breaker", None, { unsafe { self.ask(pc) } });
        if let Some(rc) = refused {
            return rc;
        }
        entry!("the breakers of servers", (), {
            servers::refresh(self.request().main_conf(), self.group);
        });
        // One that is given back is not picked again for this request, so that each has its turn at most once.
        for _ in 0..=self.servers().map_or(0, Servers::len) {
            // SAFETY: as above.
            let (tries, rc) = unsafe { ((*pc).tries, self.inner.get(pc)) };
            if rc == BUSY && self.last.get().is_none() {
                self.nobody.set(peers::have_failed(self.group.upstream));
            }
            if rc != OK && rc != DONE {
                return rc;
            }
            // SAFETY: as above.
            if entry!("the breaker of a server", true, { unsafe { self.board(pc) } }) {
                return rc;
            }
            // SAFETY: as above.
            entry!("giving a server back", (), { unsafe { self.unpick(pc, tries) } });
        }
        BUSY
    }

    unsafe fn free(&self, pc: *mut sys::ngx_peer_connection_t, state: sys::ngx_uint_t) {
        // 0 is how the core ends the last attempt, which `finalize` has judged.
        if state != 0 {
            entry!("a circuit breaker's attempt", (), {
                // SAFETY: nginx frees a peer of the live request's upstream.
                let seen = unsafe { outcome::of_attempt((*self.request).upstream) };
                self.last.set(seen);
                self.land(seen.map(|seen| self.group.breaker.failing().judge(seen)));
            });
        }
        // SAFETY: the caller passes what nginx passed.
        unsafe { self.inner.free(pc, state) };
    }
}

/// The core calls this once per upstream: before it frees the peer that answered, or after the last one failed.
unsafe extern "C" fn finalize(r: *mut sys::ngx_http_request_t, rc: sys::ngx_int_t) {
    // SAFETY: nginx passes the live request whose upstream `wrap` hooked.
    let Some(peer) = Peer::of(unsafe { Request::from_ptr(r) }) else {
        log::cycle(Level::Alert, format_args!("sluice: an upstream ended that never began"));
        return;
    };
    entry!("a circuit breaker's result", (), {
        // SAFETY: as above.
        unsafe { peer.settle(rc) };
    });
    // SAFETY: the proxying module's own callback, as the core would call it.
    unsafe {
        if let Some(finalize) = peer.inner.calls.finalize {
            finalize(r, rc);
        }
    }
}
