//! The directive.

use core::ffi::c_void;

use nginx_sys as sys;

use super::super::cf::{ConfError, Directive, Place, Result, set_once};
use super::super::conf::{self, MainConf};
use super::super::log::{self, Level};
use super::super::module::main_module;
use super::super::sys::slot;
use super::super::traffic;
use super::access::guarded;
use super::handler::content;

/// What stands in the configuration: where writes are allowed.
#[derive(Default)]
pub struct Conf {
    writable: Vec<(Place, *mut *mut c_void)>,
}

/// Whether there is an API in this location, and whether it may be written to.
#[derive(Default)]
pub struct LocConf {
    write: Option<bool>,
}

impl LocConf {
    /// Whether it may be written to.
    pub fn may_write(&self) -> bool {
        self.write == Some(true)
    }

    /// `if` and `limit_except` have configurations of their own within a location, and the same API.
    pub fn merge(&mut self, prev: &Self, cf: *mut sys::ngx_conf_t) {
        // SAFETY: `cf` is the parser state of the location being merged.
        unsafe {
            let core = core_loc_conf(locations(cf));
            let inside = (*core).noname() != 0 || (*core).lmt_excpt() != 0;
            if inside && (*core).handler.is_none() && prev.write.is_some() {
                self.write = prev.write;
                (*core).handler = Some(content);
            }
        }
    }
}

/// The configurations of the location that is read or merged.
unsafe fn locations(cf: *mut sys::ngx_conf_t) -> *mut *mut c_void {
    // SAFETY: the caller passes the parser state; within a location `ctx` is its ngx_http_conf_ctx_t.
    unsafe { (*(*cf).ctx.cast::<sys::ngx_http_conf_ctx_t>()).loc_conf }
}

unsafe fn core_loc_conf(locations: *mut *mut c_void) -> *mut sys::ngx_http_core_loc_conf_t {
    // SAFETY: the caller passes a location's configurations, the core's among them.
    unsafe { (*slot(locations, &raw const sys::ngx_http_core_module)).cast() }
}

/// `api [write=on|off]`
pub fn api(directive: &Directive, main: &mut MainConf) -> Result {
    let mut write = false;
    for param in directive.params(0)? {
        match param.name {
            "write" => write = param.switch()?,
            _ => return Err(param.unknown()),
        }
    }
    // SAFETY: the command table lets the directive stand in locations only; our slot holds what create_loc_conf made.
    unsafe {
        let locations = locations(directive.cf());
        let ours = (*slot(locations, main_module())).cast::<conf::LocConf>();
        set_once(&mut (*ours).api.write, write)?;
        let core = core_loc_conf(locations);
        if (*core).handler.is_some() {
            return Err(ConfError::Other("stands beside another handler of the location".to_owned()));
        }
        (*core).handler = Some(content);
        traffic::want(directive);
        if write {
            main.api.writable.push((directive.place(), locations));
        }
    }
    Ok(())
}

/// Warns of each API that anybody may write to. Called when everything is read and merged.
pub fn warn(cf: *mut sys::ngx_conf_t, main: &MainConf) {
    for (place, locations) in &main.api.writable {
        // SAFETY: configurations of a location of the cycle being made; the parser state's log is alive.
        unsafe {
            if !guarded((*cf).cycle, core_loc_conf(*locations), *locations) {
                let text = "anybody may write to \"api\" with write=on, as no \"deny\", \"auth_basic\" or \"auth_request\" stands before it,";
                log::write(Level::Warn, (*cf).log, format_args!("{text}{place}"));
            }
        }
    }
}
