//! The four nginx modules in this file, their tables, and the hooks of a process's life.
//!
//! Position decides: the early module stands before the upstream module and owns directives that must be seen
//! first; the main module's place decides which handlers of a phase run before and after ours; the ban module's, that
//! banned clients are refused before the core's limits; the filter module's, when its header filter runs.

use core::ffi::{c_char, c_void};
#[cfg(not(test))]
use core::ptr::null;
use core::ptr::{addr_of, addr_of_mut, null_mut};

use nginx_sys as sys;

use super::conf::{COMMANDS, LocConf, MainConf, SrvConf};
use super::content::Handler;
use super::entry::entry;
use super::request::Request;
use super::sys::{CONF_ERROR, CONF_OK, DECLINED, ERROR, OK, Process, process, slot};
use super::{
    api, balance, ban, breaker, conf, control, early, events, filter, limit, metrics, rescue, traffic,
    upstream, variables, worker,
};

/// A table of pointers that nginx reads and nobody writes.
#[repr(transparent)]
pub struct Table<const N: usize>([*const c_char; N]);

// SAFETY: pointers to static strings, never written.
unsafe impl<const N: usize> Sync for Table<N> {}

#[cfg(not(test))]
#[unsafe(no_mangle)]
pub static mut ngx_modules: [*const sys::ngx_module_t; 5] = [
    addr_of!(ngx_http_sluice_early_module),
    addr_of!(ngx_http_sluice_module),
    addr_of!(ngx_http_sluice_ban_module),
    addr_of!(ngx_http_sluice_filter_module),
    null(),
];

#[cfg(not(test))]
#[unsafe(no_mangle)]
pub static ngx_module_names: Table<5> = Table([
    c"ngx_http_sluice_early_module".as_ptr(),
    c"ngx_http_sluice_module".as_ptr(),
    c"ngx_http_sluice_ban_module".as_ptr(),
    c"ngx_http_sluice_filter_module".as_ptr(),
    null(),
]);

/// nginx puts each of our modules before all that are named after it here, as far as they are compiled in; what is
/// not named goes last. Phases run their handlers from the last module to the first.
///
/// - The early module goes before those whose directives it wants to see first.
/// - The ban module goes before realip too, but after the core's limits, whose handlers therefore run after its own.
/// - The main module goes between mirror and try_files: a file that is there is served whatever the breaker says,
///   and what is refused is neither mirrored nor read. So it goes before realip, whose handler therefore runs before
///   ours: limits see the client's address. And it goes before all filters: when our postconfiguration refuses a
///   reload, the master's chain of filters is still the running cycle's, and a worker it has to replace gets that.
#[cfg(not(test))]
#[unsafe(no_mangle)]
pub static ngx_module_order: Table<8> = Table([
    c"ngx_http_sluice_early_module".as_ptr(),
    c"ngx_http_upstream_module".as_ptr(),
    c"ngx_http_sluice_module".as_ptr(),
    c"ngx_http_try_files_module".as_ptr(),
    c"ngx_http_sluice_ban_module".as_ptr(),
    c"ngx_http_realip_module".as_ptr(),
    c"ngx_http_write_filter_module".as_ptr(),
    null(),
]);

const NO_HOOKS: sys::ngx_http_module_t = sys::ngx_http_module_t {
    preconfiguration: None,
    postconfiguration: None,
    create_main_conf: None,
    init_main_conf: None,
    create_srv_conf: None,
    merge_srv_conf: None,
    create_loc_conf: None,
    merge_loc_conf: None,
};

static mut NO_COMMANDS: [sys::ngx_command_t; 1] = [sys::ngx_command_t::empty()];

static EARLY_HOOKS: sys::ngx_http_module_t = sys::ngx_http_module_t {
    init_main_conf: Some(early_init_main_conf),
    create_loc_conf: Some(create::<early::LocConf>),
    merge_loc_conf: Some(early_merge_loc_conf),
    ..NO_HOOKS
};

static HOOKS: sys::ngx_http_module_t = sys::ngx_http_module_t {
    preconfiguration: Some(preconfiguration),
    postconfiguration: Some(postconfiguration),
    create_main_conf: Some(create::<MainConf>),
    init_main_conf: Some(init_main_conf),
    create_srv_conf: Some(create::<SrvConf>),
    merge_srv_conf: None,
    create_loc_conf: Some(create::<LocConf>),
    merge_loc_conf: Some(merge_loc_conf),
};

static BAN_HOOKS: sys::ngx_http_module_t =
    sys::ngx_http_module_t { postconfiguration: Some(ban_postconfiguration), ..NO_HOOKS };

static FILTER_HOOKS: sys::ngx_http_module_t =
    sys::ngx_http_module_t { postconfiguration: Some(filter_postconfiguration), ..NO_HOOKS };

#[allow(non_upper_case_globals)]
#[cfg_attr(not(test), used)]
pub static mut ngx_http_sluice_early_module: sys::ngx_module_t = sys::ngx_module_t {
    ctx: addr_of!(EARLY_HOOKS).cast_mut().cast(),
    commands: addr_of_mut!(early::COMMANDS).cast(),
    type_: sys::NGX_HTTP_MODULE as usize,
    init_process: Some(early_init_process),
    ..sys::ngx_module_t::default()
};

#[allow(non_upper_case_globals)]
#[cfg_attr(not(test), used)]
pub static mut ngx_http_sluice_module: sys::ngx_module_t = sys::ngx_module_t {
    ctx: addr_of!(HOOKS).cast_mut().cast(),
    commands: addr_of_mut!(COMMANDS).cast(),
    type_: sys::NGX_HTTP_MODULE as usize,
    init_module: Some(init_module),
    init_process: Some(init_process),
    exit_process: Some(exit_process),
    ..sys::ngx_module_t::default()
};

#[allow(non_upper_case_globals)]
#[cfg_attr(not(test), used)]
pub static mut ngx_http_sluice_ban_module: sys::ngx_module_t = sys::ngx_module_t {
    ctx: addr_of!(BAN_HOOKS).cast_mut().cast(),
    commands: addr_of_mut!(NO_COMMANDS).cast(),
    type_: sys::NGX_HTTP_MODULE as usize,
    ..sys::ngx_module_t::default()
};

#[allow(non_upper_case_globals)]
#[cfg_attr(not(test), used)]
pub static mut ngx_http_sluice_filter_module: sys::ngx_module_t = sys::ngx_module_t {
    ctx: addr_of!(FILTER_HOOKS).cast_mut().cast(),
    commands: addr_of_mut!(NO_COMMANDS).cast(),
    type_: sys::NGX_HTTP_MODULE as usize,
    ..sys::ngx_module_t::default()
};

/// The module that owns our configuration and contexts.
pub fn main_module() -> *const sys::ngx_module_t {
    addr_of!(ngx_http_sluice_module)
}

/// The module whose directives are looked up first.
pub fn early_module() -> *const sys::ngx_module_t {
    addr_of!(ngx_http_sluice_early_module)
}

unsafe extern "C" fn create<T: Default>(cf: *mut sys::ngx_conf_t) -> *mut c_void {
    entry!("making a configuration", null_mut(), {
        // SAFETY: nginx passes a parser state with a pool that lives as long as the configuration; the pool
        // drops the value when it goes.
        unsafe { ngx::core::Pool::from_ngx_pool((*cf).pool).allocate(T::default()).cast() }
    })
}

unsafe extern "C" fn preconfiguration(cf: *mut sys::ngx_conf_t) -> sys::ngx_int_t {
    entry!("preconfiguration", ERROR, {
        // SAFETY: nginx passes the parser state.
        if unsafe { variables::register(cf) } { OK } else { ERROR }
    })
}

/// Our main configuration while a configuration is read.
unsafe fn main_conf<'c>(cf: *mut sys::ngx_conf_t) -> &'c mut MainConf {
    // SAFETY: at http level `ctx` is the http block's ngx_http_conf_ctx_t with a slot for each module, ours
    // filled by `create`; callers hold one borrow at a time.
    unsafe {
        let ctx = (*cf).ctx.cast::<sys::ngx_http_conf_ctx_t>();
        &mut *(*slot((*ctx).main_conf, main_module())).cast()
    }
}

/// All lines have been read, nothing has been merged.
unsafe extern "C" fn init_main_conf(cf: *mut sys::ngx_conf_t, conf: *mut c_void) -> *mut c_char {
    entry!("init_main_conf", CONF_ERROR, {
        // SAFETY: nginx passes what `create` made for the main level.
        let main = unsafe { &mut *conf.cast::<MainConf>() };
        let resolved = limit::conf::resolve(cf, main).and_then(|()| ban::conf::resolve(cf, main));
        if resolved.is_ok() { CONF_OK } else { CONF_ERROR }
    })
}

/// All lines have been read; the upstream module, which comes after this one, has not set any upstream up.
unsafe extern "C" fn early_init_main_conf(cf: *mut sys::ngx_conf_t, _: *mut c_void) -> *mut c_char {
    entry!("init_main_conf", CONF_ERROR, {
        balance::inner::install_all(cf);
        CONF_OK
    })
}

unsafe extern "C" fn early_merge_loc_conf(
    _: *mut sys::ngx_conf_t,
    prev: *mut c_void,
    conf: *mut c_void,
) -> *mut c_char {
    entry!("merging a configuration", CONF_ERROR, {
        // SAFETY: nginx passes what `create` made for two location levels, which are never the same one.
        unsafe { (*conf.cast::<early::LocConf>()).merge(&*prev.cast::<early::LocConf>()) };
        CONF_OK
    })
}

unsafe extern "C" fn merge_loc_conf(
    cf: *mut sys::ngx_conf_t,
    prev: *mut c_void,
    conf: *mut c_void,
) -> *mut c_char {
    entry!("merging a configuration", CONF_ERROR, {
        // SAFETY: nginx passes what `create` made for two location levels, which are never the same one.
        let (main, prev, conf) =
            unsafe { (&*main_conf(cf), &*prev.cast::<LocConf>(), &mut *conf.cast::<LocConf>()) };
        // The reason has been logged with its place.
        if conf.merge(prev, main, cf).is_ok() { CONF_OK } else { CONF_ERROR }
    })
}

unsafe extern "C" fn postconfiguration(cf: *mut sys::ngx_conf_t) -> sys::ngx_int_t {
    entry!("postconfiguration", ERROR, {
        // SAFETY: nginx passes the parser state of the http block, all of it read and merged.
        unsafe {
            let limits = add_handler(cf, sys::ngx_http_phases_NGX_HTTP_PREACCESS_PHASE, preaccess);
            let breakers = add_handler(cf, sys::ngx_http_phases_NGX_HTTP_PRECONTENT_PHASE, precontent);
            if !limits || !breakers {
                return ERROR;
            }
            if conf::finish(cf, main_conf(cf)).is_err() {
                return ERROR;
            }
            let bans = !main_conf(cf).bans.0.is_empty();
            if bans && !add_handler(cf, sys::ngx_http_phases_NGX_HTTP_LOG_PHASE, banned) {
                return ERROR;
            }
            let routes = main_conf(cf).breaker.has_routes();
            if routes && !add_handler(cf, sys::ngx_http_phases_NGX_HTTP_LOG_PHASE, logged) {
                return ERROR;
            }
            let counts = main_conf(cf).traffic.wanted.get();
            if counts
                && !(add_handler(cf, sys::ngx_http_phases_NGX_HTTP_POST_READ_PHASE, begun)
                    && add_handler(cf, sys::ngx_http_phases_NGX_HTTP_LOG_PHASE, counted))
            {
                return ERROR;
            }
        }
        OK
    })
}

unsafe extern "C" fn ban_postconfiguration(cf: *mut sys::ngx_conf_t) -> sys::ngx_int_t {
    entry!("postconfiguration", ERROR, {
        // SAFETY: this is nginx's postconfiguration, after that of the main module.
        unsafe {
            let bans = !main_conf(cf).bans.0.is_empty();
            let added = !bans || add_handler(cf, sys::ngx_http_phases_NGX_HTTP_PREACCESS_PHASE, screened);
            if added { OK } else { ERROR }
        }
    })
}

unsafe extern "C" fn filter_postconfiguration(cf: *mut sys::ngx_conf_t) -> sys::ngx_int_t {
    entry!("postconfiguration", ERROR, {
        // SAFETY: this is nginx's postconfiguration, after that of the main module. What stands last in a phase's list
        // runs first: before the core's limits.
        unsafe {
            filter::install();
            let limited = main_conf(cf).traffic.core_limits.get();
            if limited && !add_handler(cf, sys::ngx_http_phases_NGX_HTTP_PREACCESS_PHASE, noted) {
                return ERROR;
            }
        }
        OK
    })
}

unsafe fn add_handler(cf: *mut sys::ngx_conf_t, phase: u32, handler: Handler) -> bool {
    // SAFETY: the caller passes the http block's parser state; the core's main configuration has an
    // initialised array of handlers per phase at this time.
    unsafe {
        let ctx = (*cf).ctx.cast::<sys::ngx_http_conf_ctx_t>();
        let core = (*slot((*ctx).main_conf, addr_of!(sys::ngx_http_core_module)))
            .cast::<sys::ngx_http_core_main_conf_t>();
        let pushed = sys::ngx_array_push(&raw mut (*core).phases[phase as usize].handlers)
            .cast::<sys::ngx_http_handler_pt>();
        if pushed.is_null() {
            return false;
        }
        *pushed = Some(handler);
        true
    }
}

unsafe extern "C" fn preaccess(r: *mut sys::ngx_http_request_t) -> sys::ngx_int_t {
    entry!("rate limiting", sys::NGX_HTTP_INTERNAL_SERVER_ERROR as _, {
        // SAFETY: nginx passes a live request.
        let request = unsafe { Request::from_ptr(r) };
        limit::handler(request)
    })
}

unsafe extern "C" fn screened(r: *mut sys::ngx_http_request_t) -> sys::ngx_int_t {
    entry!("bans", sys::NGX_HTTP_INTERNAL_SERVER_ERROR as _, {
        // SAFETY: nginx passes a live request.
        ban::handler(unsafe { Request::from_ptr(r) })
    })
}

unsafe extern "C" fn precontent(r: *mut sys::ngx_http_request_t) -> sys::ngx_int_t {
    entry!("the circuit breaker", sys::NGX_HTTP_INTERNAL_SERVER_ERROR as _, {
        // SAFETY: nginx passes a live request.
        breaker::handler(unsafe { Request::from_ptr(r) })
    })
}

unsafe extern "C" fn logged(r: *mut sys::ngx_http_request_t) -> sys::ngx_int_t {
    entry!("a request's log", (), {
        // SAFETY: nginx passes a live request.
        breaker::logged(unsafe { Request::from_ptr(r) });
    });
    OK
}

unsafe extern "C" fn banned(r: *mut sys::ngx_http_request_t) -> sys::ngx_int_t {
    entry!("counting towards bans", (), {
        // SAFETY: nginx passes a live request.
        ban::logged(unsafe { Request::from_ptr(r) });
    });
    OK
}

unsafe extern "C" fn begun(r: *mut sys::ngx_http_request_t) -> sys::ngx_int_t {
    entry!("a request's start", (), {
        // SAFETY: nginx passes a live request.
        traffic::begun(unsafe { Request::from_ptr(r) });
    });
    DECLINED
}

unsafe extern "C" fn noted(r: *mut sys::ngx_http_request_t) -> sys::ngx_int_t {
    entry!("noting a request's limits", (), {
        // SAFETY: nginx passes a live request.
        traffic::noted(unsafe { Request::from_ptr(r) });
    });
    DECLINED
}

unsafe extern "C" fn counted(r: *mut sys::ngx_http_request_t) -> sys::ngx_int_t {
    entry!("counting a request", (), {
        // SAFETY: nginx passes a live request.
        traffic::logged(unsafe { Request::from_ptr(r) });
    });
    OK
}

/// Our main configuration in a finished cycle; `None` without an http block.
unsafe fn conf_of(cycle: *mut sys::ngx_cycle_t) -> Option<&'static MainConf> {
    // SAFETY: the caller passes a cycle whose configuration has been read; the http module's slot holds its
    // context or NULL. The configuration lives as long as the cycle, which outlives every use: a worker has
    // one cycle, a single process restarts its worker in init_module.
    unsafe {
        let http = *(*cycle).conf_ctx.add(sys::ngx_http_module.index);
        let ctx = http.cast::<sys::ngx_http_conf_ctx_t>().as_ref()?;
        (*slot(ctx.main_conf, main_module())).cast::<MainConf>().as_ref()
    }
}

unsafe extern "C" fn init_module(cycle: *mut sys::ngx_cycle_t) -> sys::ngx_int_t {
    entry!("init_module", OK, {
        // SAFETY: nginx passes the new cycle, zones and upstreams set up, before any worker of it exists.
        let Some(conf) = (unsafe { conf_of(cycle) }) else {
            events::forget();
            return OK;
        };
        conf.events.adopt();
        api::note_cycle();
        control::restore(conf);
        upstream::adopt(conf);
        control::settle(conf);
        // SAFETY: as above.
        unsafe { traffic::adopt(conf, cycle) };
        // Drawn here, so that all workers have the same.
        worker::gateway();
        // `master_process off`: a reload makes a new cycle in the process that serves, without init_process.
        if process() == Process::Single && worker::current().is_some() {
            events::release();
            metrics::release();
            worker::stop();
            // SAFETY: as above.
            worker::start(conf, unsafe { (*cycle).log });
        }
        OK
    })
}

/// Before the core's modules of upstreams.
unsafe extern "C" fn early_init_process(cycle: *mut sys::ngx_cycle_t) -> sys::ngx_int_t {
    entry!("init_process", OK, {
        if process() == Process::Worker {
            // SAFETY: nginx passes the cycle this process serves.
            unsafe { rescue::look(cycle) };
        }
        OK
    })
}

unsafe extern "C" fn init_process(cycle: *mut sys::ngx_cycle_t) -> sys::ngx_int_t {
    entry!("init_process", OK, {
        if !matches!(process(), Process::Worker | Process::Single) {
            return OK;
        }
        // SAFETY: nginx passes the cycle this process serves.
        if let Some(conf) = unsafe { conf_of(cycle) } {
            // SAFETY: as above.
            worker::start(conf, unsafe { (*cycle).log });
        }
        OK
    })
}

unsafe extern "C" fn exit_process(_: *mut sys::ngx_cycle_t) {
    entry!("exit_process", (), { worker::stop() });
}
