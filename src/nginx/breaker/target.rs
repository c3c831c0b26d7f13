//! The breakers that a location stands behind.

use core::cell::OnceCell;

use nginx_sys as sys;

use super::super::request::Request;
use super::super::sys::slot;
use super::super::upstream::conf_of;
use super::Guard;
use crate::policy::Millis;

type Upstream = *const sys::ngx_http_upstream_srv_conf_t;

/// However short its timeouts are, a test request has so long.
const LEAST: Millis = 1_000;

/// And no longer, as with `lease`.
const MOST: Millis = 86_400_000;

/// Where a location sends its requests; found out once.
pub type Cell = OnceCell<Place>;

/// What stands before the requests of a location.
#[derive(Clone, Copy, Default)]
pub struct Place {
    /// The breaker of the location.
    pub route: Option<Guard<'static>>,
    /// The location names its upstream. False too where the target holds variables, and in the rare location where an
    /// `if` proxies by another protocol than its surroundings: which of the two it will be is only known when the
    /// balancer is asked.
    pub is_named: bool,
    /// The breaker of that upstream.
    pub upstream: Option<Guard<'static>>,
    /// A cache may have the answer.
    pub is_cached: bool,
    /// Longest time to an answer's header, milliseconds: to connect, and to read it.
    pub patience: Millis,
}

/// What the request's location says of its target.
pub fn place(request: &Request) -> Place {
    let place = *of(request);
    // SAFETY: a live request.
    if unsafe { (*request.as_ptr()).content_handler }.is_none() {
        return Place { route: place.route, patience: place.patience, ..Place::default() };
    }
    place
}

/// The same without asking whether the location serves content by itself.
pub fn of(request: &Request) -> &'static Place {
    request.loc_conf().breaker.place.get_or_init(|| find(request))
}

fn find(request: &Request) -> Place {
    let r = request.as_ptr();
    let conf = &request.main_conf().breaker;
    let route = request.loc_conf().breaker.guard(conf);
    let mut place = Place::default();
    let (mut named, mut cached, mut longest) = (0, false, 0);
    for module in &conf.modules {
        // SAFETY: a loaded HTTP module of this request's cycle, whose location configuration begins with an
        // ngx_http_upstream_conf_t (see PROXYING).
        let conf =
            unsafe { (*slot((*r).loc_conf, *module)).cast::<sys::ngx_http_upstream_conf_t>().as_ref() };
        let Some(conf) = conf else { continue };
        cached |= is_cached(conf);
        let patience = (conf.connect_timeout as Millis).saturating_add(conf.read_timeout as Millis);
        let patience = patience.clamp(LEAST, MOST);
        longest = patience.max(longest);
        if !conf.upstream.is_null() {
            named += 1;
            let upstream = guard_of(request, conf.upstream);
            place = Place { route, is_named: true, upstream, is_cached: is_cached(conf), patience };
        }
    }
    if named == 1 {
        place
    } else {
        Place { route, is_cached: cached, patience: longest.max(LEAST), ..Place::default() }
    }
}

/// The breaker of an upstream of the request's cycle.
fn guard_of(request: &Request, upstream: Upstream) -> Option<Guard<'static>> {
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
