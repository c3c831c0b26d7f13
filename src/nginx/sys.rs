//! What the bindings lack (macros of the C headers) and what differs between nginx versions; the only
//! file with version `cfg`s.

pub mod peers;

use core::ffi::{c_char, c_void};
use core::ptr::{addr_of, addr_of_mut, null_mut};

use nginx_sys as sys;

use crate::policy::{Millis, limit::Now};

/// `NGX_CONF_OK` and `NGX_CONF_ERROR`.
pub const CONF_OK: *mut c_char = null_mut();
pub const CONF_ERROR: *mut c_char = usize::MAX as *mut c_char;

pub const OK: sys::ngx_int_t = sys::NGX_OK as _;
pub const ERROR: sys::ngx_int_t = sys::NGX_ERROR as _;
pub const AGAIN: sys::ngx_int_t = sys::NGX_AGAIN as _;
pub const BUSY: sys::ngx_int_t = sys::NGX_BUSY as _;
pub const DONE: sys::ngx_int_t = sys::NGX_DONE as _;
pub const DECLINED: sys::ngx_int_t = sys::NGX_DECLINED as _;

/// nginx's cached clocks: monotonic (one base for all processes of the host) and wall.
pub fn now() -> Now {
    // SAFETY: both are set before any module code runs and written by the event-loop thread only, which
    // is the one reading here.
    let (mono, wall) = unsafe { (sys::ngx_current_msec, sys::ngx_timeofday()) };
    Now { mono: mono as Millis, wall: wall.sec as Millis * 1000 + wall.msec as Millis }
}

/// Monotonic milliseconds.
pub fn mono() -> Millis {
    now().mono
}

/// What kind of process this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    Single,
    Master,
    Worker,
    Other,
}

/// The kind of this process.
pub fn process() -> Process {
    // SAFETY: a plain integer that nginx writes before it calls modules.
    match unsafe { sys::ngx_process } as u32 {
        sys::NGX_PROCESS_SINGLE => Process::Single,
        sys::NGX_PROCESS_MASTER => Process::Master,
        sys::NGX_PROCESS_WORKER => Process::Worker,
        _ => Process::Other,
    }
}

/// This worker's number, 0 in single-process mode.
pub fn worker_index() -> u16 {
    // SAFETY: a plain integer that nginx writes once, before init_process.
    unsafe { sys::ngx_worker as u16 }
}

/// Whether this worker is leaving (reload or quit).
pub fn exiting() -> bool {
    // SAFETY: plain integers, written by this thread (ngx_exiting) or by a signal handler of it.
    unsafe { sys::ngx_exiting != 0 || sys::ngx_quit != 0 || sys::ngx_terminate != 0 }
}

/// A module's slot in a configuration or context array.
///
/// # Safety
/// `array` must have a slot for each HTTP module, as nginx's `main_conf`, `srv_conf`, `loc_conf` and
/// `ctx` arrays have.
pub unsafe fn slot(array: *mut *mut c_void, module: *const sys::ngx_module_t) -> *mut *mut c_void {
    // SAFETY: the caller vouches for the array; ctx_index is set by nginx when it counts modules, and is
    // read afresh each time because it moves between cycles.
    unsafe { array.add((*module).ctx_index) }
}

/// A loaded module by its name: modules that may be absent must never be linked to.
///
/// # Safety
/// `cycle` must be a cycle whose module list is complete.
pub unsafe fn module_by_name(
    cycle: *const sys::ngx_cycle_t,
    name: &core::ffi::CStr,
) -> Option<*const sys::ngx_module_t> {
    // SAFETY: the list ends with NULL, and each module's name is a static C string set by ngx_preinit_modules
    // or by the loader.
    unsafe {
        let mut module = (*cycle).modules;
        while !module.is_null() && !(*module).is_null() {
            let its_name = (**module).name;
            if !its_name.is_null() && core::ffi::CStr::from_ptr(its_name) == name {
                return Some(*module);
            }
            module = module.add(1);
        }
    }
    None
}

/// A write lock on a list of round-robin peers, as the C macros take it: only lists in shared memory have one.
pub struct PeersLock(*mut sys::ngx_http_upstream_rr_peers_t);

impl PeersLock {
    /// Takes the lock. Between here and the drop: no allocation, no logging, no indexing, because the core
    /// does not recover this lock from a worker that dies holding it.
    ///
    /// # Safety
    /// `peers` must be a live list of the running cycle.
    pub unsafe fn write(peers: *mut sys::ngx_http_upstream_rr_peers_t) -> Self {
        // SAFETY: the caller vouches for `peers`.
        unsafe { Self::take(peers, sys::ngx_rwlock_wlock) }
    }

    /// The same for whoever only reads.
    ///
    /// # Safety
    /// As for [`Self::write`].
    pub unsafe fn read(peers: *mut sys::ngx_http_upstream_rr_peers_t) -> Self {
        // SAFETY: the caller vouches for `peers`.
        unsafe { Self::take(peers, sys::ngx_rwlock_rlock) }
    }

    unsafe fn take(
        peers: *mut sys::ngx_http_upstream_rr_peers_t,
        lock: unsafe extern "C" fn(*mut sys::ngx_atomic_t),
    ) -> Self {
        // SAFETY: the caller vouches for `peers`; `lock` is one of the core's for such a word.
        unsafe {
            if !(*peers).shpool.is_null() {
                lock(addr_of_mut!((*peers).rwlock));
            }
        }
        Self(peers)
    }
}

impl Drop for PeersLock {
    fn drop(&mut self) {
        // SAFETY: `write` took the lock of this very list, which outlives the guard.
        unsafe {
            if !(*self.0).shpool.is_null() {
                sys::ngx_rwlock_unlock(addr_of_mut!((*self.0).rwlock));
            }
        }
    }
}

/// Links a freshly pushed header into nginx's tables where its version keeps linked lists.
///
/// # Safety
/// `header` must point to an element of a live `headers_out` list.
pub unsafe fn header_ready(header: *mut sys::ngx_table_elt_t) {
    // SAFETY: the caller vouches for `header`.
    unsafe {
        (*header).hash = 1;
        #[cfg(nginx1_23_0)]
        {
            (*header).next = null_mut();
        }
        (*header).lowcase_key = null_mut();
    }
}

/// Posts `event` to run at the end of this turn of the event loop.
///
/// # Safety
/// `event` must stay alive until it ran or was deleted from the queue.
pub unsafe fn post(event: *mut sys::ngx_event_t) {
    // SAFETY: the caller vouches for the event; the queue is nginx's own static.
    unsafe { sys::ngx_post_event(event, addr_of_mut!(sys::ngx_posted_events)) }
}

/// The upstream module, always compiled into nginx's HTTP core.
pub fn upstream_module() -> *const sys::ngx_module_t {
    addr_of!(sys::ngx_http_upstream_module)
}

/// The zone of an upstream group, null without one.
///
/// # Safety
/// `us` must be a live group.
pub unsafe fn zone_of(us: *const sys::ngx_http_upstream_srv_conf_t) -> *const sys::ngx_shm_zone_t {
    #[cfg(ngx_feature = "http_upstream_zone")]
    // SAFETY: the caller vouches for `us`.
    unsafe {
        (*us).shm_zone
    }
    #[cfg(not(ngx_feature = "http_upstream_zone"))]
    {
        let _ = us;
        core::ptr::null()
    }
}

/// Whether the core has `sticky`, and `route` and `drain` of a `server`, itself.
pub const CORE_STICKY: bool = cfg!(nginx1_29_6);

/// How many words `keepalive` takes.
#[cfg(not(nginx1_29_6))]
pub const KEEPALIVE_WORDS: u32 = sys::NGX_CONF_TAKE1;
#[cfg(nginx1_29_6)]
pub const KEEPALIVE_WORDS: u32 = sys::NGX_CONF_TAKE12;

/// Whether a `server` line only becomes peers when DNS has answered (`resolve`).
pub fn server_resolves(server: &sys::ngx_http_upstream_server_t) -> bool {
    #[cfg(nginx1_27_3)]
    {
        server.host.len != 0
    }
    #[cfg(not(nginx1_27_3))]
    {
        let _ = server;
        false
    }
}

/// Whether the core has changed the list since the request began: then `tried` is about other peers, and the core's
/// own balancers choose none.
///
/// # Safety
/// `data` must be a live request's, set up by the core.
pub unsafe fn outdated(data: *const sys::ngx_http_upstream_rr_peer_data_t) -> bool {
    #[cfg(nginx1_27_3)]
    // SAFETY: the caller vouches for `data`; `config` is null or a word of the list's zone.
    unsafe {
        let config = (*(*data).peers).config;
        !config.is_null() && config.read_volatile() != (*data).config
    }
    #[cfg(not(nginx1_27_3))]
    {
        let _ = data;
        false
    }
}

/// Counts one more request on a peer, for the core's own `free` to count down.
///
/// # Safety
/// `peer` must be a live peer whose list the caller has locked for writing.
pub unsafe fn hold(peer: *mut sys::ngx_http_upstream_rr_peer_t) {
    #[cfg(nginx1_27_3)]
    // SAFETY: the caller vouches for `peer`.
    unsafe {
        (*peer).refs += 1;
    }
    #[cfg(not(nginx1_27_3))]
    let _ = peer;
}

/// Whether the core may change lists of peers while it runs (`resolve` in upstreams).
pub const PEERS_CHANGE: bool = cfg!(nginx1_27_3);

/// What the core makes the peers of a list from that DNS adds, linked by `next`; null: it adds none.
///
/// # Safety
/// `peers` must be a live list of the running cycle.
pub unsafe fn peers_templates(
    peers: *const sys::ngx_http_upstream_rr_peers_t,
) -> *mut sys::ngx_http_upstream_rr_peer_t {
    #[cfg(nginx1_27_3)]
    // SAFETY: the caller vouches for `peers`.
    unsafe {
        (*peers).resolve
    }
    #[cfg(not(nginx1_27_3))]
    {
        let _ = peers;
        null_mut()
    }
}

/// The text of the `server` line a peer comes from.
///
/// # Safety
/// `peer` must be a live peer; the text lives as long as its list.
pub unsafe fn line_of(peer: *const sys::ngx_http_upstream_rr_peer_t) -> *const sys::ngx_str_t {
    #[cfg(nginx1_27_3)]
    // SAFETY: the caller vouches for `peer`; one that DNS found shares its host with the template of its line.
    unsafe {
        let host = (*peer).host;
        if !host.is_null() && !(*host).peer.is_null() {
            return addr_of!((*(*host).peer).server);
        }
    }
    // SAFETY: the caller vouches for `peer`.
    unsafe { addr_of!((*peer).server) }
}

/// Closes a connection to an upstream that no request uses, as the core does it: over TLS without a farewell.
///
/// # Safety
/// `c` must be a live connection that nobody touches after.
pub unsafe fn close_upstream(c: *mut sys::ngx_connection_t) {
    // SAFETY: the caller vouches for `c`; a connection to an upstream may have a pool and TLS of its own.
    unsafe {
        #[cfg(ngx_feature = "http_ssl")]
        if !(*c).ssl.is_null() {
            (*(*c).ssl).set_no_wait_shutdown(1);
            (*(*c).ssl).set_no_send_shutdown(1);
            // It cannot have to wait.
            let _ = sys::ngx_ssl_shutdown(c);
        }
        if !(*c).pool.is_null() {
            sys::ngx_destroy_pool((*c).pool);
        }
        sys::ngx_close_connection(c);
    }
}

/// Whether a connection is a stream of QUIC.
///
/// # Safety
/// `c` must be a live connection.
pub unsafe fn is_quic(c: *const sys::ngx_connection_t) -> bool {
    #[cfg(ngx_feature = "quic")]
    // SAFETY: the caller vouches for `c`.
    unsafe {
        !(*c).quic.is_null()
    }
    #[cfg(not(ngx_feature = "quic"))]
    {
        let _ = c;
        false
    }
}

/// How often the core changed a list of peers: 0 where it never does.
///
/// # Safety
/// `peers` must be a live list of the running cycle.
pub unsafe fn peers_config(peers: *const sys::ngx_http_upstream_rr_peers_t) -> usize {
    #[cfg(nginx1_27_3)]
    // SAFETY: the caller vouches for `peers`; `config` is null or points to a word of the list's zone, which
    // is read whole.
    unsafe {
        let config = (*peers).config;
        if config.is_null() { 0 } else { config.read_volatile() }
    }
    #[cfg(not(nginx1_27_3))]
    {
        let _ = peers;
        0
    }
}

/// `worker_processes` of the configuration being read; as many as there are processors where it does not say so yet.
pub fn configured_workers(cf: *mut sys::ngx_conf_t) -> usize {
    // SAFETY: `cf` is the parser state; the core module's slot holds its configuration, unset numbers are negative.
    unsafe {
        let core = (*(*(*cf).cycle).conf_ctx.add(sys::ngx_core_module.index)).cast::<sys::ngx_core_conf_t>();
        let said = core.as_ref().and_then(|core| usize::try_from(core.worker_processes).ok());
        said.unwrap_or_else(|| usize::try_from(sys::ngx_ncpu).unwrap_or(1)).max(1)
    }
}

/// `worker_processes` of the running cycle.
pub fn worker_processes() -> usize {
    // SAFETY: ngx_cycle is the cycle this worker serves, its configuration read; the core module's slot holds
    // its configuration.
    unsafe {
        let core =
            (*(*sys::ngx_cycle).conf_ctx.add(sys::ngx_core_module.index)).cast::<sys::ngx_core_conf_t>();
        core.as_ref().and_then(|core| usize::try_from(core.worker_processes).ok()).unwrap_or(1)
    }
}
