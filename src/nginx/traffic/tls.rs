//! TLS handshakes: OpenSSL's own counts, read by functions that are looked up by name.

use core::cell::Cell;
use core::ffi::{c_int, c_long, c_void};
use std::sync::OnceLock;

/// Counts of one process, over all contexts of its servers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub begun: u64,
    pub done: u64,
    pub reused: u64,
}

/// What was counted when it was looked at last.
#[derive(Default)]
pub struct Seen(Cell<Counts>, Cell<u64>);

impl Seen {
    /// What has been done, has failed and was reused since the last look. `open` handshakes are under way.
    pub fn since(&self, open: u64) -> Option<[u64; 3]> {
        let (now, before) = (counts()?, self.0.get());
        self.0.set(now);
        let failed = now.begun.saturating_sub(now.done + open);
        let more = failed.saturating_sub(self.1.get());
        self.1.set(failed.max(self.1.get()));
        Some([now.done.saturating_sub(before.done), more, now.reused.saturating_sub(before.reused)])
    }
}

type Ctrl = unsafe extern "C" fn(*mut c_void, c_int, c_long, *mut c_void) -> c_long;

#[cfg(not(ngx_feature = "http_ssl"))]
fn contexts() -> Vec<*mut c_void> {
    Vec::new()
}

/// The contexts of all servers, each once.
#[cfg(ngx_feature = "http_ssl")]
fn contexts() -> Vec<*mut c_void> {
    use super::super::sys::{module_by_name, slot};
    use nginx_sys as sys;
    let mut found: Vec<*mut c_void> = Vec::new();
    // SAFETY: the cycle this process serves, whose configuration is read: its http block's context has the core's main
    // configuration with an array of servers, and each of these a slot for the module of TLS, if that is there.
    unsafe {
        let cycle = sys::ngx_cycle;
        let Some(module) = module_by_name(cycle, c"ngx_http_ssl_module") else { return found };
        let http = *(*cycle).conf_ctx.add(sys::ngx_http_module.index);
        let Some(ctx) = http.cast::<sys::ngx_http_conf_ctx_t>().as_ref() else { return found };
        let core = (*slot(ctx.main_conf, &raw const sys::ngx_http_core_module))
            .cast::<sys::ngx_http_core_main_conf_t>();
        for server in (*core).servers.as_slice::<*mut sys::ngx_http_core_srv_conf_t>() {
            let conf = (*slot((*(**server).ctx).srv_conf, module)).cast::<sys::ngx_http_ssl_srv_conf_t>();
            let context: *mut c_void =
                conf.as_ref().map_or(core::ptr::null_mut(), |conf| conf.ssl.ctx.cast());
            if !context.is_null() && !found.contains(&context) {
                found.push(context);
            }
        }
    }
    found
}

/// `None`: no TLS, or a library that does not tell.
fn counts() -> Option<Counts> {
    const ACCEPT: c_int = 24;
    const ACCEPT_GOOD: c_int = 25;
    const HIT: c_int = 27;
    static CTRL: OnceLock<Option<usize>> = OnceLock::new();
    let ctrl = (*CTRL.get_or_init(|| super::symbols::symbol(c"SSL_CTX_ctrl").map(|found| found as usize)))?;
    // SAFETY: a function of that name in a process that does TLS is OpenSSL's, or one made to stand in for it.
    let ctrl = unsafe { core::mem::transmute::<usize, Ctrl>(ctrl) };
    let contexts = contexts();
    if contexts.is_empty() {
        return None;
    }
    let sum = |what| {
        // SAFETY: contexts of servers live as long as the cycle; these controls read a number.
        let count = |context: &*mut c_void| unsafe { ctrl(*context, what, 0, core::ptr::null_mut()) };
        contexts.iter().map(count).map(|count| u64::try_from(count).unwrap_or(0)).sum()
    };
    Some(Counts { begun: sum(ACCEPT), done: sum(ACCEPT_GOOD), reused: sum(HIT) })
}

/// Whether a client's connection took up an earlier session; `None`: it is without TLS, or over QUIC, where a request is
/// no connection.
///
/// # Safety
/// `c` must be a client's live connection.
#[cfg(ngx_feature = "http_ssl")]
pub unsafe fn is_reused(c: *const nginx_sys::ngx_connection_t) -> Option<bool> {
    type Reused = unsafe extern "C" fn(*const c_void) -> c_int;
    static REUSED: OnceLock<Option<usize>> = OnceLock::new();
    // SAFETY: the caller vouches for `c`; its TLS has the library's own connection, which the library's function reads.
    unsafe {
        let ssl = (*c).ssl.as_ref().filter(|_| !super::super::sys::is_quic(c))?;
        let found = || super::symbols::symbol(c"SSL_session_reused").map(|found| found as usize);
        let reused = (*REUSED.get_or_init(found))?;
        Some(core::mem::transmute::<usize, Reused>(reused)(ssl.connection.cast()) != 0)
    }
}

#[cfg(not(ngx_feature = "http_ssl"))]
pub unsafe fn is_reused(_: *const nginx_sys::ngx_connection_t) -> Option<bool> {
    None
}

/// Whether a client's connection is in the middle of its handshake.
#[cfg(ngx_feature = "http_ssl")]
pub fn is_shaking(c: &nginx_sys::ngx_connection_t) -> bool {
    // SAFETY: a live connection's TLS lives as long as it.
    unsafe { c.ssl.as_ref() }.is_some_and(|ssl| ssl.handshaked() == 0)
}

#[cfg(not(ngx_feature = "http_ssl"))]
pub fn is_shaking(_: &nginx_sys::ngx_connection_t) -> bool {
    false
}
