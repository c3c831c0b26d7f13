//! The wrap between the balancer and `keepalive`, whatever the order of their directives.

use core::cell::Cell;
use core::ptr::fn_addr_eq;

use nginx_sys as sys;

use super::super::entry::entry;
use super::super::health::primaries;
use super::super::log::{self, Level};
use super::super::request::Request;
use super::super::sys::{BUSY, ERROR, OK, PEERS_CHANGE, outdated};
use super::super::upstream::{Group, all, conf_of};
use super::super::wrap::{self, Calls, Inner, Wrap};
use super::conf::{GroupConf, block};
use super::pick::{Masked, Picker};
use super::sticky;

type Upstream = *mut sys::ngx_http_upstream_srv_conf_t;

/// One request's way to one upstream, in the request's pool. It needs no drop.
struct Way {
    request: *mut sys::ngx_http_request_t,
    conf: &'static GroupConf,
    group: &'static Group,
    picker: Cell<Picker<'static>>,
    /// The server that the session is bound to, until it has been tried once; 0: none.
    bound: Cell<u64>,
    /// The balancer has been asked.
    asked: Cell<bool>,
    inner: Inner,
}

/// `keepalive` is about to wrap the method that was chosen so far: we wrap it first.
///
/// # Safety
/// `cf` must be the parser state at a `keepalive` line; `core` has its owner read it.
pub unsafe fn keepalive<T>(cf: *mut sys::ngx_conf_t, core: impl FnOnce() -> T) -> T {
    // SAFETY: the caller vouches for `cf`.
    let (conf, us) = unsafe { block(cf) };
    // SAFETY: the core's configuration of the block being read.
    let before = unsafe { (*us).peer.init_upstream };
    // SAFETY: as above.
    unsafe { install(us, conf) };
    let read = core();
    // SAFETY: as above.
    unsafe {
        if (*us).peer.init_upstream.is_some_and(is_ours) {
            // It wraps later by itself, around what it then finds.
            (*us).peer.init_upstream = before;
        } else {
            conf.hooks.outer.set((*us).peer.init_upstream);
        }
    }
    read
}

/// All lines have been read, no method has been set up: wraps each that is not wrapped inside `keepalive`.
pub fn install_all(cf: *mut sys::ngx_conf_t) {
    for us in all(cf) {
        // SAFETY: an explicit group of the configuration being read.
        unsafe {
            let (Some(conf), method) = (conf_of(us), (*us).peer.init_upstream) else { continue };
            let wrapped = method.zip(conf.balance.hooks.outer.get());
            if !wrapped.is_some_and(|(method, outer)| fn_addr_eq(method, outer)) {
                install(us, &conf.balance);
            }
        }
    }
}

type InitUpstream = unsafe extern "C" fn(*mut sys::ngx_conf_t, Upstream) -> sys::ngx_int_t;

fn is_ours(init: InitUpstream) -> bool {
    fn_addr_eq(init, init_upstream as InitUpstream)
}

unsafe fn install(us: Upstream, conf: &GroupConf) {
    // SAFETY: the caller passes a group of the configuration being read.
    unsafe {
        let method = (*us).peer.init_upstream;
        if method.is_some_and(is_ours) {
            return;
        }
        conf.hooks.init_upstream.set(method.or(Some(sys::ngx_http_upstream_init_round_robin)));
        (*us).peer.init_upstream = Some(init_upstream);
    }
}

/// The method sets the group up, and we put ourselves around its `peer.init`.
unsafe extern "C" fn init_upstream(cf: *mut sys::ngx_conf_t, us: Upstream) -> sys::ngx_int_t {
    // SAFETY: nginx passes the group whose `init_upstream` we replaced.
    let Some(conf) = (unsafe { conf_of(us) }) else { return ERROR };
    let hooks = &conf.balance.hooks;
    // SAFETY: the method's own function, as the core would call it.
    unsafe {
        let rc = hooks.init_upstream.get().map_or(ERROR, |init| init(cf, us));
        if rc == OK && (*us).peer.init.is_some() {
            hooks.init_peer.set((*us).peer.init);
            (*us).peer.init = Some(init_peer);
        }
        rc
    }
}

unsafe extern "C" fn init_peer(r: *mut sys::ngx_http_request_t, us: Upstream) -> sys::ngx_int_t {
    // SAFETY: nginx passes the group whose `peer.init` we replaced.
    let conf = unsafe { conf_of(us) };
    let Some((conf, init)) = conf.and_then(|conf| Some((conf, conf.balance.hooks.init_peer.get()?))) else {
        log::cycle(Level::Alert, format_args!("sluice: an upstream without its method"));
        return ERROR;
    };
    // SAFETY: the method's own function, as the core would call it.
    let rc = unsafe { init(r, us) };
    // The list may have changed right then; if it does so again, nobody is chosen, as the core has it.
    // SAFETY: as above; a wrapped method that keeps its data elsewhere is not looked at (see `picker`).
    let rc = if rc == OK && unsafe { is_outdated(r, us) } { unsafe { init(r, us) } } else { rc };
    if rc == OK
        && let Some(number) = conf.group.get()
    {
        entry!("balancing", (), {
            // SAFETY: nginx passes a live request.
            let request = unsafe { Request::from_ptr(r) };
            if let Some(group) = request.main_conf().upstreams.group(number) {
                wrap(request, group, &conf.balance);
            }
        });
    }
    rc
}

/// Whether the list has changed since the method set up the request, if it keeps its data as nginx's own do.
unsafe fn is_outdated(r: *mut sys::ngx_http_request_t, us: Upstream) -> bool {
    let Some(primaries) = primaries(us) else { return false };
    // SAFETY: inside peer.init the request has an upstream, whose data the method has set; see `picker`.
    unsafe {
        let data = (*(*r).upstream).peer.data.cast::<sys::ngx_http_upstream_rr_peer_data_t>();
        PEERS_CHANGE && !data.is_null() && core::ptr::eq((*data).peers, primaries) && outdated(data)
    }
}

/// Puts ourselves around what the method has just set up for `request`, if there is anything to do.
fn wrap(request: &Request, group: &'static Group, conf: &'static GroupConf) {
    let changes = PEERS_CHANGE && conf.is_controlled();
    if !changes && !group.health.ramps() && conf.sticky.is_none() && group.health.waiting() == 0 {
        return;
    }
    let r = request.as_ptr();
    // SAFETY: inside peer.init the request has an upstream, whose callbacks the method has set.
    let pc = unsafe { &raw mut (*(*r).upstream).peer };
    let Some(picker) = picker(request, group, pc) else { return };
    let bound = conf.sticky.as_ref().map_or(0, |sticky| sticky::bound(request, sticky));
    let way = wrap::put(request, &conf.hooks.methods, |inner| Way {
        request: r,
        conf,
        group,
        picker: Cell::new(picker),
        bound: Cell::new(bound),
        asked: Cell::new(false),
        inner,
    });
    if way.is_some() {
        // The core gave no try to servers that have to wait.
        // SAFETY: as above.
        unsafe { (*pc).tries += group.health.waiting() };
    }
}

/// The method's data, if the method is one of nginx's or keeps its data as they do.
fn picker(
    request: &Request,
    group: &'static Group,
    pc: *mut sys::ngx_peer_connection_t,
) -> Option<Picker<'static>> {
    let primaries = primaries(group.upstream)?;
    // SAFETY: the group's peers are the core's own, so its methods put the core's data at the head of theirs; one that
    // does not has something else than the group's list there. Memory from the pool is aligned and zeroed.
    unsafe {
        let data = (*pc).data.cast::<sys::ngx_http_upstream_rr_peer_data_t>();
        if data.is_null() || !core::ptr::eq((*data).peers, primaries) {
            return None;
        }
        let next = (*primaries).next;
        let most = (*primaries).number.max(if next.is_null() { 0 } else { (*next).number });
        let words = most.div_ceil(usize::BITS as usize);
        // Then `tried` has as many words: the core counted the same servers.
        if outdated(data) {
            return None;
        }
        let bytes = 2 * words * size_of::<usize>();
        let memory = sys::ngx_pcalloc((*request.as_ptr()).pool, bytes).cast::<Cell<usize>>();
        if memory.is_null() {
            return None;
        }
        let (saved, mask) = core::slice::from_raw_parts(memory, 2 * words).split_at(words);
        Some(Picker { data, primaries, group, saved, mask })
    }
}

impl Way {
    /// Before the balancer is asked. `Err`: a server has been taken; `Ok`: who stands back.
    unsafe fn before(&self, pc: *mut sys::ngx_peer_connection_t) -> Result<Option<Masked>, ()> {
        // SAFETY: the caller passes what nginx passed to `get`.
        unsafe {
            self.picker.get().remember();
            let bound = self.bound.take();
            if bound != 0 && self.picker.get().bound(pc, bound) {
                return Err(());
            }
            Ok(if self.group.health.ramps() { self.picker.get().mask() } else { None })
        }
    }

    /// The list has changed between the request's start and its first pick, which the core's balancers refuse: starts anew, as
    /// if the request had come a moment later. `true`: the balancer is to be asked again.
    unsafe fn anew(&self, pc: *mut sys::ngx_peer_connection_t) -> bool {
        // SAFETY: as in `before`; the method's own function, as the core would call it, sets up the callbacks and the data of
        // the request's `pc`, and those that stood there are put back.
        unsafe {
            if self.asked.replace(true) || !outdated(self.picker.get().data) {
                return false;
            }
            let Some(init) = self.conf.hooks.init_peer.get() else { return false };
            let (data, calls) = ((*pc).data, Calls::of((*self.request).upstream));
            // What stands there the core would take for data of its own, to be used again.
            (*pc).data = core::ptr::null_mut();
            let done = init(self.request, self.group.upstream) == OK;
            let picker = picker(Request::from_ptr(self.request), self.group, pc);
            let fresh = core::mem::replace(&mut (*pc).data, data);
            calls.put_back(pc);
            let (Some(picker), true) = (picker, done) else { return false };
            (*pc).tries += self.group.health.waiting();
            self.picker.set(picker);
            self.inner.data.set(fresh);
            true
        }
    }

    /// The balancer found nobody though some stand back. `true`: it is to be asked again.
    unsafe fn relent(&self, masked: Masked, rc: sys::ngx_int_t) -> bool {
        // SAFETY: as in `before`.
        unsafe {
            let again = self.picker.get().unmask(masked) && rc == BUSY;
            if again {
                self.picker.get().rewind();
            }
            again
        }
    }

    /// A server has been chosen.
    unsafe fn chosen(&self, masked: Option<Masked>) {
        // SAFETY: as in `before`.
        unsafe {
            if let Some(masked) = masked {
                self.picker.get().spend(masked);
            }
            if let Some(sticky) = &self.conf.sticky
                && let Some(member) = self.picker.get().current()
            {
                sticky::chosen(Request::from_ptr(self.request), sticky, member);
            }
        }
    }
}

impl Wrap for Way {
    fn inner(&self) -> &Inner {
        &self.inner
    }

    unsafe fn get(&self, pc: *mut sys::ngx_peer_connection_t) -> sys::ngx_int_t {
        // SAFETY: the caller passes what nginx passed.
        unsafe {
            let before = entry!("balancing", Ok(None), { self.before(pc) });
            let mut rc = if before.is_ok() { self.inner.get(pc) } else { OK };
            if rc == BUSY && entry!("balancing", false, { self.anew(pc) }) {
                rc = self.inner.get(pc);
            }
            self.asked.set(true);
            let masked = before.ok().flatten();
            if let Some(masked) = masked
                && entry!("slow start", false, { self.relent(masked, rc) })
            {
                rc = self.inner.get(pc);
            }
            if rc == BUSY
                && self.group.health.waiting() > 0
                && entry!("balancing", false, { self.picker.get().last_resort(pc) })
            {
                rc = OK;
            }
            if rc == OK {
                entry!("balancing", (), { self.chosen(masked) });
            }
            rc
        }
    }

    unsafe fn free(&self, pc: *mut sys::ngx_peer_connection_t, state: sys::ngx_uint_t) {
        if let Some(sticky) = &self.conf.sticky {
            entry!("a sticky session", (), {
                // SAFETY: nginx frees a peer of a live request.
                sticky::done(unsafe { Request::from_ptr(self.request) }, sticky, state == 0);
            });
        }
        // SAFETY: the caller passes what nginx passed.
        unsafe { self.inner.free(pc, state) };
    }
}
