//! The directive.

use core::ffi::c_void;

use nginx_sys as sys;

use super::super::cf::{ConfError, Directive, Place, Result, complain_at, set_once};
use super::super::conf::{self, MainConf};
use super::super::content::{self as serving, Handler};
use super::super::log::{self, Level};
use super::super::module::main_module;
use super::super::sys::slot;
use super::super::traffic;
use super::access::guarded;
use super::handler::content;

/// What stands in the configuration.
#[derive(Default)]
pub struct Conf {
    locations: Vec<Location>,
}

impl Conf {
    /// Whether any location has an API.
    pub fn is_there(&self) -> bool {
        !self.locations.is_empty()
    }
}

/// One API: where it stands, the configurations of its location, and whether it may be written to.
struct Location {
    place: Place,
    locations: *mut *mut c_void,
    write: bool,
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
        if prev.write.is_some() && serving::inherit(cf, content) {
            self.write = prev.write;
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
        serving::serve(directive.cf(), content)?;
        traffic::want(directive);
        main.api.locations.push(Location { place: directive.place(), locations, write });
    }
    Ok(())
}

/// Refuses an API whose place another handler has taken, and warns of each that anybody may write to. Called when everything is
/// read and merged.
pub fn finish(cf: *mut sys::ngx_conf_t, main: &MainConf) -> Result {
    for Location { place, locations, write } in &main.api.locations {
        // SAFETY: configurations of a location of the cycle being made; the parser state's log is alive.
        unsafe {
            let core = core_loc_conf(*locations);
            if (*core).handler.is_none_or(|handler| !core::ptr::fn_addr_eq(handler, content as Handler)) {
                complain_at(cf, place, format_args!("\"api\" stands beside another handler of the location"));
                return Err(ConfError::Logged);
            }
            if *write && !guarded((*cf).cycle, core, *locations) {
                let text = "anybody may write to \"api\" with write=on, as no \"deny\", \"auth_basic\" or \"auth_request\" stands before it,";
                log::write(Level::Warn, (*cf).log, format_args!("{text}{place}"));
            }
        }
    }
    Ok(())
}
