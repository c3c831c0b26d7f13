//! What stands around a balancer: callbacks of ours in place of its own, which ours call. Balancing, breakers and
//! counting each put themselves around what they find there, with data of their own.

use core::cell::{Cell, OnceCell};
use core::ffi::c_void;

use nginx_sys as sys;

use super::request::Request;
use super::sys::ERROR;

type Pc = *mut sys::ngx_peer_connection_t;

/// Data of one request's way to one upstream, in the request's pool, where nobody drops it.
pub trait Wrap: Sized {
    /// What it stands around.
    fn inner(&self) -> &Inner;

    /// A server is to be chosen.
    ///
    /// # Safety
    /// `pc` must be what nginx passed to the callback, of a live request.
    unsafe fn get(&self, pc: Pc) -> sys::ngx_int_t;

    /// The attempt there is over. `inner` must hear of it.
    ///
    /// # Safety
    /// As of `get`.
    unsafe fn free(&self, pc: Pc, state: sys::ngx_uint_t);
}

/// Puts the wrap that `make` makes around what has just been set up for `request`: inside `peer.init`, after the balancer
/// has done its part. `None`: there is no memory, and nothing has changed.
pub fn put<W: Wrap>(
    request: &Request,
    table: &'static Table,
    make: impl FnOnce(Inner) -> W,
) -> Option<&'static W> {
    let r = request.as_ptr();
    // SAFETY: the caller is inside peer.init, so the request has an upstream, whose callbacks are set. The pool's
    // memory is aligned for any type and lives as long as the request, so no longer than `'static` is used.
    unsafe {
        let pc = &raw mut (*(*r).upstream).peer;
        let calls = table.keep(request, Calls::of((*r).upstream))?;
        let place = sys::ngx_palloc((*r).pool, size_of::<W>()).cast::<W>();
        if place.is_null() {
            return None;
        }
        place.write(make(Inner { calls, data: Cell::new((*pc).data) }));
        (*pc).data = place.cast();
        // What a balancer has not is not ours to have: the core looks.
        (*pc).get = (*pc).get.and(Some(get::<W>));
        (*pc).free = (*pc).free.and(Some(free::<W>));
        (*pc).notify = (*pc).notify.and(Some(notify::<W>));
        (*pc).set_session = (*pc).set_session.and(Some(set_session::<W>));
        (*pc).save_session = (*pc).save_session.and(Some(save_session::<W>));
        Some(&*place)
    }
}

/// The wrap, if it is the outermost one.
///
/// # Safety
/// `pc` must be that of a live request.
pub unsafe fn outermost<'p, W: Wrap>(pc: *const sys::ngx_peer_connection_t) -> Option<&'p W> {
    type Get = unsafe extern "C" fn(Pc, *mut c_void) -> sys::ngx_int_t;
    // SAFETY: the caller vouches for `pc`; behind our `get` lies what `put` put there, in the request's pool.
    unsafe {
        let is_ours = (*pc).get.is_some_and(|its| core::ptr::fn_addr_eq(its, get::<W> as Get));
        if is_ours { (*pc).data.cast::<W>().as_ref() } else { None }
    }
}

/// What a wrap stands around: callbacks and their data.
pub struct Inner {
    pub calls: &'static Calls,
    pub data: Cell<*mut c_void>,
}

impl Inner {
    /// # Safety
    /// `pc` must be what nginx passed to the wrap's callback. So for all here.
    pub unsafe fn get(&self, pc: Pc) -> sys::ngx_int_t {
        // SAFETY: the balancer's own callback with its own data, as the core would call it. So for all here.
        self.calls.get.map_or(ERROR, |get| unsafe { get(pc, self.data.get()) })
    }

    /// # Safety
    /// As of `get`.
    pub unsafe fn free(&self, pc: Pc, state: sys::ngx_uint_t) {
        if let Some(free) = self.calls.free {
            // SAFETY: as in `get`.
            unsafe { free(pc, self.data.get(), state) };
        }
    }
}

/// What our callbacks find in `data`.
unsafe fn found<'p, W>(data: *mut c_void) -> &'p W {
    // SAFETY: nginx passes the `data` that `put` set, which lives in the request's pool.
    unsafe { &*data.cast::<W>() }
}

unsafe extern "C" fn get<W: Wrap>(pc: Pc, data: *mut c_void) -> sys::ngx_int_t {
    // SAFETY: nginx passes what `put` set, and the request's own `pc`. So for all callbacks here.
    unsafe { found::<W>(data).get(pc) }
}

unsafe extern "C" fn free<W: Wrap>(pc: Pc, data: *mut c_void, state: sys::ngx_uint_t) {
    // SAFETY: as in `get`.
    unsafe { found::<W>(data).free(pc, state) }
}

unsafe extern "C" fn notify<W: Wrap>(pc: Pc, data: *mut c_void, kind: sys::ngx_uint_t) {
    // SAFETY: as in `get`; the balancer's own callback with its own data.
    unsafe {
        let inner = found::<W>(data).inner();
        if let Some(notify) = inner.calls.notify {
            notify(pc, inner.data.get(), kind);
        }
    }
}

unsafe extern "C" fn set_session<W: Wrap>(pc: Pc, data: *mut c_void) -> sys::ngx_int_t {
    // SAFETY: as in `notify`.
    unsafe {
        let inner = found::<W>(data).inner();
        inner.calls.set_session.map_or(ERROR, |set| set(pc, inner.data.get()))
    }
}

unsafe extern "C" fn save_session<W: Wrap>(pc: Pc, data: *mut c_void) {
    // SAFETY: as in `notify`.
    unsafe {
        let inner = found::<W>(data).inner();
        if let Some(save) = inner.calls.save_session {
            save(pc, inner.data.get());
        }
    }
}

/// The end of a request's upstream, by the module that proxies.
pub type Finalize = Option<unsafe extern "C" fn(*mut sys::ngx_http_request_t, sys::ngx_int_t)>;

/// What a balancer, and the proxying module, have set.
#[derive(Clone, Copy)]
pub struct Calls {
    get: sys::ngx_event_get_peer_pt,
    free: sys::ngx_event_free_peer_pt,
    notify: sys::ngx_event_notify_peer_pt,
    set_session: sys::ngx_event_set_peer_session_pt,
    save_session: sys::ngx_event_save_peer_session_pt,
    pub finalize: Finalize,
}

/// One for each of the modules that may proxy to the group, and some more: a balancer may have its moods.
const KINDS: usize = 8;

/// The callbacks seen so far. They are the same for nearly all requests of a group, so it keeps them and a request only
/// says which.
#[derive(Default)]
pub struct Table([OnceCell<Calls>; KINDS]);

impl Table {
    /// Finds those, or keeps them from now on. One set too many is kept by the request itself.
    fn keep(&'static self, request: &Request, calls: Calls) -> Option<&'static Calls> {
        let known = self.0.iter().map(|cell| cell.get_or_init(|| calls)).find(|its| its.is(&calls));
        known.or_else(|| {
            // SAFETY: the pool of a live request, aligned for any type; used no longer than the request.
            unsafe {
                let place = sys::ngx_palloc((*request.as_ptr()).pool, size_of::<Calls>()).cast::<Calls>();
                if place.is_null() {
                    return None;
                }
                place.write(calls);
                Some(&*place)
            }
        })
    }
}

impl Calls {
    /// # Safety
    /// Of a live request that is inside `peer.init`, or has been.
    pub unsafe fn of(u: *const sys::ngx_http_upstream_t) -> Self {
        // SAFETY: the caller vouches for `u`.
        unsafe {
            let pc = &raw const (*u).peer;
            Self {
                get: (*pc).get,
                free: (*pc).free,
                notify: (*pc).notify,
                set_session: (*pc).set_session,
                save_session: (*pc).save_session,
                finalize: (*u).finalize_request,
            }
        }
    }

    /// Sets a balancer's callbacks as they were.
    ///
    /// # Safety
    /// `pc` must be that of a live request.
    pub unsafe fn put_back(&self, pc: Pc) {
        // SAFETY: the caller vouches for `pc`.
        unsafe {
            ((*pc).get, (*pc).free, (*pc).notify) = (self.get, self.free, self.notify);
            ((*pc).set_session, (*pc).save_session) = (self.set_session, self.save_session);
        }
    }

    fn is(&self, other: &Self) -> bool {
        // One by one: they are few, and nearly always the same.
        self.addresses().into_iter().zip(other.addresses()).all(|(its, other)| its == other)
    }

    fn addresses(&self) -> [usize; 6] {
        [
            self.get.map_or(0, |call| call as usize),
            self.free.map_or(0, |call| call as usize),
            self.notify.map_or(0, |call| call as usize),
            self.set_session.map_or(0, |call| call as usize),
            self.save_session.map_or(0, |call| call as usize),
            self.finalize.map_or(0, |call| call as usize),
        ]
    }
}
