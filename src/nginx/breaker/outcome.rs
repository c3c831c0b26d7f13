//! What the core's bookkeeping says about how an attempt, and in the end a request, went.
//!
//! The state that the core passes to `peer.free` says little: a 5xx that is not retried and a client that leaves
//! are both 0. Judged are the status, the times, and the connection's flags.

use nginx_sys as sys;

use super::super::sys::DONE;
use super::Failing;
use crate::policy::Millis;
use crate::policy::breaker::{Failure, Outcome, Settings};

/// No time was taken: the core's -1.
const NEVER: sys::ngx_msec_t = sys::ngx_msec_t::MAX;

/// What became of one attempt that the core gave up or retries, seen before its connection is closed: its answer, of
/// whatever status, or its failure. `None`: it says nothing about the upstream.
///
/// # Safety
/// `u` must be the upstream of a live request inside `peer.free`.
pub unsafe fn of_attempt(u: *const sys::ngx_http_upstream_t) -> Option<Failure> {
    // SAFETY: the caller vouches for `u`.
    if let Some(status) = unsafe { answered(u) } {
        return Some(Failure::Http(status));
    }
    // SAFETY: as above; the connection is NULL when connecting failed at once.
    let failure = unsafe {
        match (*u).peer.connection.as_ref() {
            Some(c) if (*c.read).timedout() != 0 || (*c.write).timedout() != 0 => Failure::Timeout,
            Some(c) if (*c.read).eof() == 0 && (*c.read).error() == 0 && received(u) => {
                Failure::InvalidHeader
            }
            _ => Failure::Error,
        }
    };
    // A kept connection that the server has closed meanwhile: the core tries once more, and so do we.
    // SAFETY: as above.
    if failure == Failure::Error && unsafe { (*u).peer.cached() } != 0 {
        return None;
    }
    Some(failure)
}

/// What the request came to, seen when the core has finished with the upstream with `rc`; `last` is what
/// [`of_attempt`] said of the attempt before. `None`: the client left, or the fault is this nginx's own.
///
/// # Safety
/// `u` must be the upstream of a live request inside `finalize_request`.
pub unsafe fn of_request(
    u: *const sys::ngx_http_upstream_t,
    rc: sys::ngx_int_t,
    last: Option<Failure>,
    failing: &Failing,
) -> Option<Outcome> {
    // SAFETY: the caller vouches for `u`.
    let (answer, held) = unsafe { (answered(u), !(*u).peer.sockaddr.is_null()) };
    let judged = answer.filter(|_| held).map(|status| failing.judge(Failure::Http(status)));
    // What the server answered stands, even if the client did not wait for the end of it.
    if matches!(judged, Some(Outcome::Failure(_))) {
        return judged;
    }
    match u32::try_from(rc) {
        Ok(sys::NGX_HTTP_CLIENT_CLOSED_REQUEST | sys::NGX_HTTP_REQUEST_TIME_OUT) => return None,
        Err(_) if rc == DONE || rc == super::super::sys::ERROR => return None,
        _ => {}
    }
    // No attempt is under way: the core has none left to make.
    if !held {
        return last.map(|seen| failing.judge(seen));
    }
    // Neither an answer nor a verdict: this nginx could not do its part.
    let answer = u32::from(answer?);
    match u32::try_from(rc) {
        // The body broke off, unless these are `proxy_intercept_errors` passing the answer's own status on.
        Ok(rc @ sys::NGX_HTTP_BAD_GATEWAY) if rc != answer => Some(failing.judge(Failure::Error)),
        Ok(rc @ sys::NGX_HTTP_GATEWAY_TIME_OUT) if rc != answer => Some(failing.judge(Failure::Timeout)),
        _ => judged,
    }
}

/// The status of an answer whose header is about to be sent on, while its server is still being listened to.
///
/// # Safety
/// `u` must be the upstream of a live request.
pub unsafe fn of_header(u: *const sys::ngx_http_upstream_t) -> Option<u16> {
    // SAFETY: the caller vouches for `u`.
    unsafe { answered(u).filter(|_| !(*u).peer.sockaddr.is_null()) }
}

/// Whether the header of the last attempt came late, or has not come for as long.
///
/// # Safety
/// `u` must be the upstream of a live request.
pub unsafe fn is_slow(u: *const sys::ngx_http_upstream_t, settings: &Settings) -> bool {
    // SAFETY: the caller vouches for `u`; `state` is that of the last attempt, or NULL before the first.
    let (state, start) = unsafe { ((*u).state.as_ref(), (*u).start_time) };
    match state.map(|state| state.header_time) {
        None => false,
        Some(NEVER) if start == 0 => false,
        Some(NEVER) => settings.is_slow(now().wrapping_sub(start) as Millis),
        Some(header) => settings.is_slow(header as Millis),
    }
}

/// The core's clock, in milliseconds.
fn now() -> sys::ngx_msec_t {
    // SAFETY: a word that only this thread writes.
    unsafe { sys::ngx_current_msec }
}

/// What the core has written down of a request that is being logged, and whether it was slow. `None`: no upstream was
/// asked, or the client left.
///
/// # Safety
/// `r` must be a live request in its log phase.
pub unsafe fn of_log(r: *const sys::ngx_http_request_t, settings: &Settings) -> Option<(Failure, bool)> {
    // SAFETY: the caller vouches for `r`; the upstream and the state of its last attempt live in the request's pool.
    unsafe {
        let u = (*r).upstream;
        if u.is_null() || (*(*r).connection).error() != 0 {
            return None;
        }
        let state = (*u).state.as_ref().filter(|state| state.status != 0)?;
        let status = u16::try_from(state.status).ok()?;
        let seen = match u32::from(status) {
            sys::NGX_HTTP_CLIENT_CLOSED_REQUEST => return None,
            sys::NGX_HTTP_GATEWAY_TIME_OUT if state.header_time == NEVER => Failure::Timeout,
            _ if state.header_time == NEVER => Failure::Error,
            _ => Failure::Http(status),
        };
        Some((seen, is_slow(u, settings)))
    }
}

/// The status of the last attempt, if its header came in whole.
unsafe fn answered(u: *const sys::ngx_http_upstream_t) -> Option<u16> {
    // SAFETY: the caller vouches for `u`.
    unsafe {
        let state = (*u).state.as_ref().filter(|state| state.header_time != NEVER)?;
        let status = if state.status != 0 { state.status } else { (*u).headers_in.status_n };
        u16::try_from(status).ok()
    }
}

unsafe fn received(u: *const sys::ngx_http_upstream_t) -> bool {
    // SAFETY: the caller vouches for `u`.
    unsafe { (*u).state.as_ref() }.is_some_and(|state| state.bytes_received > 0)
}
