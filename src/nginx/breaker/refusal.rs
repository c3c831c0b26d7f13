//! Refusing a request: before the upstream is thought of, or from inside the core's upstream machinery.

use nginx_sys as sys;

use super::super::log::Level;
use super::super::reject::{Cause, Refusal, refuse};
use super::super::request::Request;
use super::super::sys::{BUSY, DONE, ERROR};
use super::Gate;
use super::peer::Peer;
use crate::policy::Millis;

/// Refuses in a phase handler, which returns what this returns.
pub fn early(request: &Request, gate: &Gate, retry_after: Millis) -> sys::ngx_int_t {
    refuse(request, refusal(request, gate, retry_after))
}

/// Refuses inside `peer.get`, which returns what this returns, and touches neither the request nor its upstream
/// after.
///
/// None of `get`'s answers leads the core to a refusal of ours, so the request is finished here, and the core
/// finds it "already finalized" (`u->cleanup == NULL`), which is a way of its own in every version.
///
/// # Safety
/// `pc` must be the peer connection of `peer`'s request, inside `get`.
pub unsafe fn late(
    peer: &Peer,
    pc: *mut sys::ngx_peer_connection_t,
    gate: &Gate,
    retry_after: Millis,
) -> sys::ngx_int_t {
    let r = peer.request;
    // SAFETY: the request whose peer this is; the caller vouches that it is alive.
    unsafe {
        let request = Request::from_ptr(r);
        let u = (*r).upstream;
        let refusal = refusal(request, gate, retry_after);
        if may_serve_stale(r) {
            // "No live upstreams" makes the core serve what the cache has.
            (*pc).name = &raw mut (*(*u).upstream).host;
            return BUSY;
        }
        *(*u).cleanup = None;
        (*u).cleanup = core::ptr::null_mut();
        if let Some(finalize) = peer.inner.calls.finalize {
            finalize(r, refusal.status as sys::ngx_int_t);
        }
        end_attempt(u);
        free_cache(r);
        stop_timers(r);
        (*r).read_event_handler = Some(sys::ngx_http_block_reading);
        // Paid back by the core, which finalizes with NGX_DONE when it has seen our ERROR.
        let main = (*r).main;
        (*main).set_count((*main).count() + 1);
        let rc = refuse(request, refusal);
        if rc != DONE {
            sys::ngx_http_finalize_request(r, rc);
        }
    }
    ERROR
}

fn refusal(request: &Request, gate: &Gate, retry_after: Millis) -> Refusal {
    request.log(Level::Info, format_args!("request refused, circuit breaker of {} is open", gate.name));
    let status = request.loc_conf().breaker.status();
    Refusal { cause: Cause::Unavailable, status, retry_after: gate.patience(retry_after) }
}

/// The attempt that is not going to be made has taken no time: without this, it would run for ever.
unsafe fn end_attempt(u: *mut sys::ngx_http_upstream_t) {
    // SAFETY: the caller vouches for `u`; the core has made a state for the attempt it asks a peer for.
    if let Some(state) = unsafe { (*u).state.as_mut() } {
        state.response_time = 0;
    }
}

/// As the core does before it sends a special response; our own body takes another way.
unsafe fn stop_timers(r: *mut sys::ngx_http_request_t) {
    // SAFETY: the caller vouches for `r`; a request has a connection with both events.
    unsafe {
        if r != (*r).main {
            return;
        }
        for event in [(*(*r).connection).read, (*(*r).connection).write] {
            if (*event).timer_set() != 0 {
                sys::ngx_del_timer(event);
            }
        }
    }
}

/// Whether an expired copy is at hand and the configuration wants it served in this case.
#[cfg(ngx_feature = "http_cache")]
unsafe fn may_serve_stale(r: *mut sys::ngx_http_request_t) -> bool {
    // SAFETY: the caller vouches for `r`, which is inside its upstream's machinery.
    unsafe {
        let (u, cache) = ((*r).upstream, (*r).cache);
        if cache.is_null() || (*u).cache_status() != sys::NGX_HTTP_CACHE_EXPIRED {
            return false;
        }
        let wanted = (*(*u).conf).cache_use_stale & sys::NGX_HTTP_UPSTREAM_FT_NOLIVE as sys::ngx_uint_t;
        wanted != 0 || (*cache).stale_error() != 0
    }
}

#[cfg(not(ngx_feature = "http_cache"))]
const unsafe fn may_serve_stale(_: *mut sys::ngx_http_request_t) -> bool {
    false
}

/// Gives up the cache entry, and the lock that others may be waiting for.
#[cfg(ngx_feature = "http_cache")]
unsafe fn free_cache(r: *mut sys::ngx_http_request_t) {
    // SAFETY: the caller vouches for `r`; the core does the same when it finalizes an upstream.
    unsafe {
        if !(*r).cache.is_null() {
            sys::ngx_http_file_cache_free((*r).cache, core::ptr::null_mut());
        }
    }
}

#[cfg(not(ngx_feature = "http_cache"))]
const unsafe fn free_cache(_: *mut sys::ngx_http_request_t) {}
