//! Whether something stands between a client and a location: what the core's access modules have been told.

use core::ffi::{CStr, c_void};

use nginx_sys as sys;

use super::super::sys::{module_by_name, slot};

/// The methods that write.
const WRITES: u32 = sys::NGX_HTTP_POST | sys::NGX_HTTP_PATCH | sys::NGX_HTTP_DELETE;

/// Whether writes to a location are refused to some.
///
/// # Safety
/// `core` must be the core's among `locations`, the merged configurations of a location of `cycle`.
pub unsafe fn guarded(
    cycle: *const sys::ngx_cycle_t,
    core: *const sys::ngx_http_core_loc_conf_t,
    locations: *mut *mut c_void,
) -> bool {
    // SAFETY: the caller vouches for all three; limit_except has configurations of the same kind.
    unsafe {
        let excepted = (*core).limit_except & WRITES == WRITES;
        let of = if excepted { (*core).limit_except_loc_conf } else { locations };
        (*core).internal == 1 || denies(cycle, of) || asks(cycle, of) || authorizes(cycle, of)
    }
}

/// The configuration of a module that may be absent.
unsafe fn conf_of<'c, T>(
    cycle: *const sys::ngx_cycle_t,
    locations: *mut *mut c_void,
    name: &CStr,
) -> Option<&'c T> {
    // SAFETY: the caller vouches for both, and for T being what that module's configuration begins with.
    unsafe { (*slot(locations, module_by_name(cycle, name)?)).cast::<T>().as_ref() }
}

/// `deny`: the lists of rules for IPv4, IPv6 (where there is that) and sockets; in each rule the last word says whether it
/// denies. Without any `deny` all are let in.
unsafe fn denies(cycle: *const sys::ngx_cycle_t, locations: *mut *mut c_void) -> bool {
    // SAFETY: the module's configuration is one to three pointers to arrays, the first of which is always there.
    unsafe {
        let rules = conf_of::<*const sys::ngx_array_t>(cycle, locations, c"ngx_http_access_module");
        let Some(list) = rules.and_then(|rules| rules.as_ref()) else { return false };
        (0..list.nelts).any(|at| {
            let end = list.elts.cast::<u8>().add((at + 1) * list.size);
            end.sub(size_of::<usize>()).cast::<usize>().read_unaligned() != 0
        })
    }
}

/// `auth_basic`, unless it is `off`: the configuration begins with a pointer to the realm.
unsafe fn asks(cycle: *const sys::ngx_cycle_t, locations: *mut *mut c_void) -> bool {
    // SAFETY: as said.
    unsafe {
        let name = c"ngx_http_auth_basic_module";
        let realm = conf_of::<*const sys::ngx_http_complex_value_t>(cycle, locations, name);
        realm.and_then(|realm| realm.as_ref()).is_some_and(|realm| {
            !realm.lengths.is_null() || realm.value.as_bytes() != b"off" && !realm.value.as_bytes().is_empty()
        })
    }
}

/// `auth_request`, unless it is `off`: the configuration begins with the URI.
unsafe fn authorizes(cycle: *const sys::ngx_cycle_t, locations: *mut *mut c_void) -> bool {
    // SAFETY: as said.
    unsafe {
        conf_of::<sys::ngx_str_t>(cycle, locations, c"ngx_http_auth_request_module")
            .is_some_and(|uri| uri.len != 0)
    }
}
