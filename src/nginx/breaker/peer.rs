//! The wrap around a balancer: asks the breaker where precontent could not, and learns how the request went.

use core::cell::Cell;
use core::ffi::c_void;
use std::rc::Rc;

use nginx_sys as sys;

use super::super::entry::entry;
use super::super::log::{self, Level};
use super::super::request::Request;
use super::super::sys::{BUSY, DONE, ERROR, OK, close_upstream};
use super::super::upstream::Group;
use super::servers::{self, Member, Servers};
use super::{Gate, Guard, Scope, enter_all, outcome, refusal, target};
use crate::policy::breaker::{Failure, Outcome};
use crate::shared::breaker::Token;

/// One request's way to one upstream, in the request's pool. Nobody drops it: the attempt, which would need it, is over
/// when the core is done with the upstream.
pub struct Peer {
    pub(super) request: *mut sys::ngx_http_request_t,
    group: &'static Group,
    route: Option<Guard<'static>>,
    upstream: Option<Guard<'static>>,
    /// Whether admission has been settled; retries are not asked again.
    asked: Cell<bool>,
    /// What the last attempt that ended came to, if that says anything.
    last: Cell<Option<Failure>>,
    /// There was no server left to try.
    nobody: Cell<bool>,
    /// The attempt under way, at a server with a breaker.
    attempt: Cell<Option<Attempt>>,
    data: *mut c_void,
    get: sys::ngx_event_get_peer_pt,
    free: sys::ngx_event_free_peer_pt,
    notify: sys::ngx_event_notify_peer_pt,
    set_session: sys::ngx_event_set_peer_session_pt,
    save_session: sys::ngx_event_save_peer_session_pt,
    pub(super) finalize: Finalize,
}

type Attempt = (Rc<Member>, Token);
type Finalize = Option<unsafe extern "C" fn(*mut sys::ngx_http_request_t, sys::ngx_int_t)>;

/// Puts ourselves around what the group's balancer has just set up for `request`.
pub fn wrap(request: &Request, group: &'static Group) {
    let (route, upstream) = (target::route(request), group.breaker.guard());
    if route.is_none() && upstream.is_none() && group.breaker.servers().is_none() {
        return;
    }
    let r = request.as_ptr();
    // SAFETY: inside peer.init the request has an upstream, whose callbacks the balancer has set. The pool's
    // memory is aligned for any type and lives as long as the request, so no longer than `'static` is used.
    unsafe {
        let u = (*r).upstream;
        let place = sys::ngx_palloc((*r).pool, size_of::<Peer>()).cast::<Peer>();
        if place.is_null() {
            return;
        }
        let pc = &raw mut (*u).peer;
        place.write(Peer {
            request: r,
            group,
            route,
            upstream,
            asked: Cell::new(false),
            last: Cell::new(None),
            nobody: Cell::new(false),
            attempt: Cell::new(None),
            data: (*pc).data,
            get: (*pc).get,
            free: (*pc).free,
            notify: (*pc).notify,
            set_session: (*pc).set_session,
            save_session: (*pc).save_session,
            finalize: (*u).finalize_request,
        });
        (*pc).data = place.cast();
        (*pc).get = (*pc).get.and(Some(get));
        (*pc).free = (*pc).free.and(Some(free));
        (*pc).notify = (*pc).notify.and(Some(notify));
        (*pc).set_session = (*pc).set_session.and(Some(set_session));
        (*pc).save_session = (*pc).save_session.and(Some(save_session));
        if request.is_main()
            && let Some(ctx) = request.ctx_or_new()
        {
            ctx.passage.borrow_mut().flight = Some(&*place);
            (*u).finalize_request = Some(finalize);
        }
    }
}

impl Peer {
    fn request(&self) -> &Request {
        // SAFETY: nginx calls the callbacks of a peer only while its request lives.
        unsafe { Request::from_ptr(self.request) }
    }

    /// Settles admission at the first `get`. `Some`: refused, and what `get` is to return.
    unsafe fn ask(&self, pc: *mut sys::ngx_peer_connection_t) -> Option<sys::ngx_int_t> {
        if self.asked.replace(true) {
            return None;
        }
        let (gate, retry_after) = enter_all(self.request(), self.route, self.upstream).err()?;
        // SAFETY: `pc` is what nginx passed to `get`.
        Some(unsafe { refusal::late(self, pc, gate, retry_after) })
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
        if !request.is_main() {
            return servers.ignored(&member) || member.gate.peek().is_ok();
        }
        match member.gate.admit(request) {
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
            if let Some(free) = self.free {
                free(pc, self.data, sys::NGX_PEER_NEXT as sys::ngx_uint_t);
            }
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

    /// The connection has become a tunnel: its handshake is the result.
    pub fn upgraded(&self) {
        self.land(Some(Outcome::Success));
    }

    /// The core is done with the upstream: judges the request and its last attempt, or gives their admissions back.
    unsafe fn settle(&self, rc: sys::ngx_int_t) {
        // SAFETY: nginx finalizes the upstream of a live request.
        let u = unsafe { (*self.request).upstream };
        for (guard, scope) in [(self.route, Scope::Route), (self.upstream, Scope::Upstream)] {
            let Some(guard) = guard else { continue };
            let Some(token) = self.token(guard.gate, scope) else { continue };
            let nobody = Failure::Error;
            let last =
                self.last.get().or((self.nobody.get() && guard.failing.counts(nobody)).then_some(nobody));
            // SAFETY: as above.
            let (outcome, slow) = unsafe {
                let outcome = outcome::of_request(u, rc, last, guard.failing);
                (outcome, outcome::is_slow(u, &guard.gate.settings))
            };
            match outcome {
                Some(outcome) => guard.gate.record(self.request(), token, outcome, slow),
                None => guard.gate.breaker.abort(token),
            }
        }
        // SAFETY: as above.
        self.land(unsafe { outcome::of_request(u, rc, None, self.group.breaker.failing()) });
    }

    fn token(&self, gate: &Gate, scope: Scope) -> Option<Token> {
        self.request().ctx()?.passage.borrow_mut().seat(scope).take(gate)
    }
}

/// What our callbacks find in `data`.
unsafe fn peer<'p>(data: *mut c_void) -> &'p Peer {
    // SAFETY: nginx passes the `data` that `wrap` set, which lives in the request's pool.
    unsafe { &*data.cast::<Peer>() }
}

unsafe extern "C" fn get(pc: *mut sys::ngx_peer_connection_t, data: *mut c_void) -> sys::ngx_int_t {
    // SAFETY: nginx passes what `wrap` set.
    let peer = unsafe { peer(data) };
    // SAFETY: as above.
    let refused = entry!("the circuit breaker", None, { unsafe { peer.ask(pc) } });
    if let Some(rc) = refused {
        return rc;
    }
    entry!("the breakers of servers", (), {
        servers::refresh(peer.request().main_conf(), peer.group);
    });
    // One that is given back is not picked again for this request, so that each has its turn at most once.
    for _ in 0..=peer.servers().map_or(0, Servers::len) {
        // SAFETY: the balancer's own callback with its own data, as the core would call it.
        let (tries, rc) = unsafe { ((*pc).tries, peer.get.map_or(ERROR, |get| get(pc, peer.data))) };
        if rc == BUSY && peer.last.get().is_none() {
            peer.nobody.set(true);
        }
        if rc != OK && rc != DONE {
            return rc;
        }
        // SAFETY: as above.
        if entry!("the breaker of a server", true, { unsafe { peer.board(pc) } }) {
            return rc;
        }
        // SAFETY: as above.
        entry!("giving a server back", (), { unsafe { peer.unpick(pc, tries) } });
    }
    BUSY
}

unsafe extern "C" fn free(pc: *mut sys::ngx_peer_connection_t, data: *mut c_void, state: sys::ngx_uint_t) {
    // SAFETY: nginx passes what `wrap` set.
    let peer = unsafe { peer(data) };
    // 0 is how the core ends the last attempt, which `finalize` has judged.
    if state != 0 {
        entry!("a circuit breaker's attempt", (), {
            // SAFETY: nginx frees a peer of the live request's upstream.
            let seen = unsafe { outcome::of_attempt((*peer.request).upstream) };
            peer.last.set(seen);
            peer.land(seen.map(|seen| peer.group.breaker.failing().judge(seen)));
        });
    }
    // SAFETY: as in `get`.
    unsafe {
        if let Some(free) = peer.free {
            free(pc, peer.data, state);
        }
    }
}

unsafe extern "C" fn notify(pc: *mut sys::ngx_peer_connection_t, data: *mut c_void, kind: sys::ngx_uint_t) {
    // SAFETY: nginx passes what `wrap` set; the balancer's own callback with its own data.
    unsafe {
        if let Some(notify) = peer(data).notify {
            notify(pc, peer(data).data, kind);
        }
    }
}

unsafe extern "C" fn set_session(pc: *mut sys::ngx_peer_connection_t, data: *mut c_void) -> sys::ngx_int_t {
    // SAFETY: as in `notify`.
    unsafe { peer(data).set_session.map_or(ERROR, |set| set(pc, peer(data).data)) }
}

unsafe extern "C" fn save_session(pc: *mut sys::ngx_peer_connection_t, data: *mut c_void) {
    // SAFETY: as in `notify`.
    unsafe {
        if let Some(save) = peer(data).save_session {
            save(pc, peer(data).data);
        }
    }
}

/// The core calls this once per upstream: before it frees the peer that answered, or after the last one failed.
unsafe extern "C" fn finalize(r: *mut sys::ngx_http_request_t, rc: sys::ngx_int_t) {
    let flight = entry!("a circuit breaker's result", None, {
        // SAFETY: nginx passes the live request whose upstream `wrap` hooked; its context outlives the upstream.
        let request = unsafe { Request::from_ptr(r) };
        let flight = request.ctx().and_then(|ctx| ctx.passage.borrow_mut().flight.take());
        if let Some(peer) = flight {
            // SAFETY: as above.
            unsafe { peer.settle(rc) };
        }
        flight
    });
    let Some(peer) = flight else {
        log::cycle(Level::Alert, format_args!("sluice: an upstream ended that never began"));
        return;
    };
    // SAFETY: the proxying module's own callback, as the core would call it.
    unsafe {
        if let Some(finalize) = peer.finalize {
            finalize(r, rc);
        }
    }
}
