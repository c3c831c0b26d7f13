//! `metrics`: everything this module counts and knows, as Prometheus reads it.

mod draft;
mod families;

use nginx_sys as sys;

use super::cf::{Directive, Result, set_once};
use super::entry::entry;
use super::request::Request;
use super::sys::DONE;
use super::traffic::conf::want;
use super::{conf, content, later};
use crate::policy::metrics::negotiate;

use draft::Draft;
use families::Shot;

pub use draft::{Scribe, release};

/// Series of one answer, at most, unless `max_series` says otherwise.
const MAX_SERIES: usize = 20_000;

/// Of a location that answers with metrics.
#[derive(Default)]
pub struct LocConf {
    max_series: Option<usize>,
}

impl LocConf {
    /// `if` and `limit_except` have configurations of their own within a location, and the same metrics.
    pub fn merge(&mut self, prev: &Self, cf: *mut sys::ngx_conf_t) {
        if prev.max_series.is_some() && content::inherit(cf, handler) {
            self.max_series = prev.max_series;
        }
    }
}

/// `metrics [max_series=N]`
pub fn metrics(directive: &Directive, conf: &mut conf::LocConf) -> Result {
    let mut max_series = MAX_SERIES;
    for param in directive.params(0)? {
        match param.name {
            "max_series" => {
                let number = param.number()?;
                max_series = usize::try_from(number)
                    .ok()
                    .filter(|number| (families::LEAST..=10_000_000).contains(number))
                    .ok_or_else(|| param.invalid("a number from 100 to 10000000"))?;
            }
            _ => return Err(param.unknown()),
        }
    }
    set_once(&mut conf.metrics.max_series, max_series)?;
    want(directive);
    content::serve(directive.cf(), handler)
}

unsafe extern "C" fn handler(r: *mut sys::ngx_http_request_t) -> sys::ngx_int_t {
    entry!("the metrics", sys::NGX_HTTP_INTERNAL_SERVER_ERROR as _, {
        // SAFETY: nginx passes a live request.
        answer(unsafe { Request::from_ptr(r) })
    })
}

fn answer(request: &Request) -> sys::ngx_int_t {
    if let Err(rc) = content::reads(request) {
        return rc;
    }
    let format = negotiate(accepted(request));
    let max_series = request.loc_conf().metrics.max_series.unwrap_or(MAX_SERIES);
    let draft = Draft::new(Shot::take(request.main_conf()), format, max_series);
    match draft.in_turns(request) {
        Ok(()) => {
            later::hold(request);
            DONE
        }
        Err(draft) => draft.finish(request),
    }
}

/// The values of the client's `Accept` headers, as far as they are text.
fn accepted(request: &Request) -> impl Iterator<Item = &str> {
    let accept = request.headers_in().filter(|(name, _)| name.eq_ignore_ascii_case(b"accept"));
    accept.filter_map(|(_, value)| core::str::from_utf8(value).ok())
}
