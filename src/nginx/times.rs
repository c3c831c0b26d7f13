//! `$gateway_time` and `$upstream_time`: where a request has spent its time so far, in milliseconds.

use nginx_sys as sys;

use super::request::Request;
use super::sys::now;
use super::variables::Variable;
use crate::policy::Millis;

/// Both. They are always there; `$upstream_time` of a request that met no upstream is 0.
pub static VARIABLES: [Variable; 2] = [
    Variable { name: "gateway_time", text: |request| Some(gateway(request).to_string()) },
    Variable { name: "upstream_time", text: |request| Some(upstream(request).to_string()) },
];

/// Since the request's first byte, without what its upstreams took.
fn gateway(request: &Request) -> Millis {
    // SAFETY: a live request, whose start nginx noted when it began to read it.
    let start = unsafe {
        let r = request.as_ptr();
        (*r).start_sec as Millis * 1000 + (*r).start_msec as Millis
    };
    now().wall.saturating_sub(start).saturating_sub(upstream(request))
}

/// All attempts together; the one still running, up to now.
fn upstream(request: &Request) -> Millis {
    /// The core's mark of an attempt without an end.
    const RUNNING: sys::ngx_msec_t = sys::ngx_msec_t::MAX;
    // SAFETY: a live request; upstream_states is NULL or an array of states that the core built, and
    // `upstream` is NULL or the upstream that runs or ran last.
    let (states, begun) = unsafe {
        let r = request.as_ptr();
        if (*r).upstream_states.is_null() {
            return 0;
        }
        let states = (*(*r).upstream_states).as_slice::<sys::ngx_http_upstream_state_t>();
        (states, (*r).upstream.as_ref().map(|upstream| upstream.start_time as Millis))
    };
    let running = begun.map_or(0, |begun| now().mono.saturating_sub(begun));
    states.iter().map(|s| if s.response_time == RUNNING { running } else { s.response_time as Millis }).sum()
}
