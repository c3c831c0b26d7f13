//! `dashboard`: one page that shows what the API knows, and does what it can.

mod handler;
mod page;

use std::rc::Rc;

use nginx_sys as sys;

use super::cf::{ConfError, Directive, Result, set_once};
use super::conf;
use super::sys::slot;
use page::Page;

/// `dashboard`
#[derive(Default)]
pub struct LocConf {
    page: Option<Rc<Page>>,
}

impl LocConf {
    /// What is served here.
    pub fn page(&self) -> Option<&Page> {
        self.page.as_deref()
    }

    /// `if` and `limit_except` have configurations of their own within a location, and the same page; locations inside have
    /// not.
    pub fn merge(&mut self, prev: &Self, cf: *mut sys::ngx_conf_t) {
        // SAFETY: `cf` is the parser state of the location being merged.
        let core = unsafe { &mut *core_loc_conf(cf) };
        let inside = core.noname() != 0 || core.lmt_excpt() != 0;
        if inside && core.handler.is_none() && self.page.is_none() && prev.page.is_some() {
            self.page = prev.page.clone();
            core.handler = Some(handler::content);
        }
    }
}

/// `dashboard [api=PATH]`
pub fn dashboard(directive: &Directive, conf: &mut conf::LocConf) -> Result {
    let mut api = "/api";
    for param in directive.params(0)? {
        match param.name {
            "api" => {
                let path = param.value()?;
                api = Some(path.strip_suffix('/').unwrap_or(path))
                    .filter(|path| page::is_path(path))
                    .ok_or_else(|| param.invalid("a path such as /api"))?
            }
            _ => return Err(param.unknown()),
        }
    }
    set_once(&mut conf.dashboard.page, Rc::new(Page::new(api)))?;
    // SAFETY: `cf` is the parser state of the location being read.
    let core = unsafe { &mut *core_loc_conf(directive.cf()) };
    if core.handler.is_some() {
        return Err(ConfError::Other("stands beside another handler of the location".to_owned()));
    }
    core.handler = Some(handler::content);
    Ok(())
}

/// The core's configuration of the location being read or merged.
///
/// # Safety
/// `cf` must be the parser state of a location.
unsafe fn core_loc_conf(cf: *mut sys::ngx_conf_t) -> *mut sys::ngx_http_core_loc_conf_t {
    // SAFETY: there `ctx` is an ngx_http_conf_ctx_t, whose arrays have a slot for each module.
    unsafe {
        let ctx = (*cf).ctx.cast::<sys::ngx_http_conf_ctx_t>();
        (*slot((*ctx).loc_conf, &raw const sys::ngx_http_core_module)).cast()
    }
}
