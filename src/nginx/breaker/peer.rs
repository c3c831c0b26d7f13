//! The wrap around a balancer: asks the breaker where precontent could not, and learns how the request went.

use core::cell::Cell;
use core::ffi::c_void;

use nginx_sys as sys;

use super::super::entry::entry;
use super::super::log::{self, Level};
use super::super::request::Request;
use super::super::sys::{BUSY, ERROR};
use super::super::upstream::Group;
use super::{Gate, enter, outcome, refusal, target};
use crate::policy::breaker::{Failure, Outcome};

/// One request's way to one upstream, in the request's pool. It needs no drop.
pub struct Peer {
    pub(super) request: *mut sys::ngx_http_request_t,
    pub(super) gate: &'static Gate,
    /// Whether admission has been settled; retries are not asked again.
    asked: Cell<bool>,
    /// What the last attempt that ended says, if it says anything.
    last: Cell<Option<Outcome>>,
    data: *mut c_void,
    get: sys::ngx_event_get_peer_pt,
    free: sys::ngx_event_free_peer_pt,
    notify: sys::ngx_event_notify_peer_pt,
    set_session: sys::ngx_event_set_peer_session_pt,
    save_session: sys::ngx_event_save_peer_session_pt,
    pub(super) finalize: Finalize,
}

type Finalize = Option<unsafe extern "C" fn(*mut sys::ngx_http_request_t, sys::ngx_int_t)>;

/// Puts ourselves around what the group's balancer has just set up for `request`.
pub fn wrap(request: &Request, group: &Group) {
    let Some(gate) = target::gate_of(request, group.upstream) else { return };
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
            gate,
            asked: Cell::new(false),
            last: Cell::new(None),
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
    /// Settles admission at the first `get`. `Some`: refused, and what `get` is to return.
    unsafe fn ask(&self, pc: *mut sys::ngx_peer_connection_t) -> Option<sys::ngx_int_t> {
        if self.asked.replace(true) {
            return None;
        }
        // SAFETY: nginx asks for a peer of a live request.
        let request = unsafe { Request::from_ptr(self.request) };
        let retry_after = enter(request, self.gate).err()?;
        // SAFETY: as above; `pc` is what nginx passed to `get`.
        Some(unsafe { refusal::late(self, pc, retry_after) })
    }

    /// The core is done with the upstream: judges the request, or gives its admission back.
    unsafe fn settle(&self, rc: sys::ngx_int_t) {
        // SAFETY: nginx finalizes the upstream of a live request.
        let (request, u) = unsafe { (Request::from_ptr(self.request), (*self.request).upstream) };
        let Some(ctx) = request.ctx() else { return };
        let Some(token) = ctx.passage.borrow_mut().take(self.gate) else { return };
        // SAFETY: as above.
        let (outcome, slow) = unsafe {
            let outcome = outcome::of_request(u, rc, self.last.get(), &self.gate.failing);
            (outcome, outcome::is_slow(u, &self.gate.settings))
        };
        match outcome {
            Some(outcome) => self.gate.record(request, token, outcome, slow),
            None => self.gate.breaker.abort(token),
        }
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
    // SAFETY: the balancer's own callback with its own data, as the core would call it.
    let rc = unsafe { peer.get.map_or(ERROR, |get| get(pc, peer.data)) };
    if rc == BUSY && peer.last.get().is_none() && peer.gate.failing.counts(Failure::Error) {
        // No live upstreams: nothing could be tried.
        peer.last.set(Some(Outcome::Failure(Failure::Error)));
    }
    rc
}

unsafe extern "C" fn free(pc: *mut sys::ngx_peer_connection_t, data: *mut c_void, state: sys::ngx_uint_t) {
    // SAFETY: nginx passes what `wrap` set.
    let peer = unsafe { peer(data) };
    // 0 is how the core ends the last attempt, which `finalize` has judged.
    if state != 0 {
        entry!("a circuit breaker's attempt", (), {
            // SAFETY: nginx frees a peer of the live request's upstream.
            let outcome = unsafe { outcome::of_attempt((*peer.request).upstream, &peer.gate.failing) };
            peer.last.set(outcome);
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
