//! The breakers that a location stands behind.

use nginx_sys as sys;

use super::super::request::Request;
use super::super::sys::slot;
use super::super::upstream::conf_of;
use super::Guard;

type Upstream = *const sys::ngx_http_upstream_srv_conf_t;

/// Where a location sends its requests.
#[derive(Default)]
pub struct Place {
    /// The upstream it names. `None` too where the target holds variables, and in the rare location where an `if`
    /// proxies by another protocol than its surroundings: which of the two it will be is only known when the
    /// balancer is asked.
    pub upstream: Option<Upstream>,
    /// A cache may have the answer.
    pub is_cached: bool,
}

/// What the request's location says of its target.
pub fn place(request: &Request) -> Place {
    let r = request.as_ptr();
    let mut place = Place::default();
    // SAFETY: a live request.
    if unsafe { (*r).content_handler }.is_none() {
        return place;
    }
    let (mut named, mut cached) = (0, false);
    for module in &request.main_conf().breaker.modules {
        // SAFETY: a loaded HTTP module of this request's cycle, whose location configuration begins with an
        // ngx_http_upstream_conf_t (see PROXYING).
        let conf =
            unsafe { (*slot((*r).loc_conf, *module)).cast::<sys::ngx_http_upstream_conf_t>().as_ref() };
        let Some(conf) = conf else { continue };
        cached |= is_cached(conf);
        if !conf.upstream.is_null() {
            named += 1;
            place = Place { upstream: Some(conf.upstream), is_cached: is_cached(conf) };
        }
    }
    if named == 1 { place } else { Place { upstream: None, is_cached: cached } }
}

/// The breaker of the request's location.
pub fn route(request: &Request) -> Option<Guard<'static>> {
    request.loc_conf().breaker.guard(&request.main_conf().breaker)
}

/// The breaker of an upstream of the request's cycle.
pub fn guard_of(request: &Request, upstream: Upstream) -> Option<Guard<'static>> {
    // SAFETY: upstreams in a cycle's configuration live as long as the cycle; implicit ones have no srv_conf,
    // which conf_of checks.
    let number = unsafe { conf_of(upstream) }?.group.get()?;
    request.main_conf().upstreams.group(number)?.breaker.guard()
}

#[cfg(ngx_feature = "http_cache")]
fn is_cached(conf: &sys::ngx_http_upstream_conf_t) -> bool {
    conf.cache() != 0
}

#[cfg(not(ngx_feature = "http_cache"))]
const fn is_cached(_: &sys::ngx_http_upstream_conf_t) -> bool {
    false
}
