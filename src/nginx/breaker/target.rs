//! The guarded upstream that a location names.

use nginx_sys as sys;

use super::super::request::Request;
use super::super::sys::slot;
use super::super::upstream::conf_of;
use super::Gate;

/// An upstream with a breaker, as a location names it.
pub struct Target {
    pub gate: &'static Gate,
    /// Whether the request can be refused at once. Not with a cache in front, which may have the answer; then the
    /// balancer's wrap refuses.
    pub early: bool,
}

/// The guarded upstream of the request's location. `None` too where the target holds variables, and in the rare
/// location where an `if` proxies by another protocol than its surroundings: which of the two it will be is only
/// known when the balancer is asked.
pub fn named(request: &Request) -> Option<Target> {
    let r = request.as_ptr();
    // SAFETY: a live request.
    unsafe { (*r).content_handler }?;
    let mut found = None;
    for module in &request.main_conf().breaker.modules {
        // SAFETY: a loaded HTTP module of this request's cycle, whose location configuration begins with an
        // ngx_http_upstream_conf_t (see PROXYING).
        let conf =
            unsafe { (*slot((*r).loc_conf, *module)).cast::<sys::ngx_http_upstream_conf_t>().as_ref() };
        let Some(conf) = conf.filter(|conf| !conf.upstream.is_null()) else { continue };
        if found.is_some() {
            return None;
        }
        found = Some(conf);
    }
    let conf = found?;
    Some(Target { gate: gate_of(request, conf.upstream)?, early: !is_cached(conf) })
}

/// The breaker of an upstream of the request's cycle.
pub fn gate_of(
    request: &Request,
    upstream: *const sys::ngx_http_upstream_srv_conf_t,
) -> Option<&'static Gate> {
    // SAFETY: upstreams in a cycle's configuration live as long as the cycle; implicit ones have no srv_conf,
    // which conf_of checks.
    let number = unsafe { conf_of(upstream) }?.group.get()?;
    request.main_conf().upstreams.group(number)?.breaker.gate()
}

#[cfg(ngx_feature = "http_cache")]
fn is_cached(conf: &sys::ngx_http_upstream_conf_t) -> bool {
    conf.cache() != 0
}

#[cfg(not(ngx_feature = "http_cache"))]
const fn is_cached(_: &sys::ngx_http_upstream_conf_t) -> bool {
    false
}
