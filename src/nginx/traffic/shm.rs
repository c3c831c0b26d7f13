//! Zones of shared memory of other modules.

use core::ffi::CStr;

use nginx_sys as sys;

use super::super::sys::module_by_name;

pub type Zone = *const sys::ngx_shm_zone_t;

/// Modules that cache what they fetch: the zones with their tag are caches.
pub const CACHING: [&CStr; 4] =
    [c"ngx_http_proxy_module", c"ngx_http_fastcgi_module", c"ngx_http_uwsgi_module", c"ngx_http_scgi_module"];
pub const LIMIT_REQ: [&CStr; 1] = [c"ngx_http_limit_req_module"];
pub const LIMIT_CONN: [&CStr; 1] = [c"ngx_http_limit_conn_module"];

/// All zones of a cycle, by name.
///
/// # Safety
/// `cycle` must be live; what is returned is, as long as it.
pub unsafe fn all(cycle: *const sys::ngx_cycle_t) -> Vec<(String, Zone)> {
    let mut found = Vec::new();
    // SAFETY: the caller vouches for the cycle; the elements of its list's parts are zones.
    unsafe {
        let mut part: *const sys::ngx_list_part_t = &raw const (*cycle).shared_memory.part;
        while !part.is_null() {
            for at in 0..(*part).nelts {
                let zone: Zone = (*part).elts.cast::<sys::ngx_shm_zone_t>().add(at);
                found.push(((*zone).shm.name.to_string(), zone));
            }
            part = (*part).next;
        }
    }
    found
}

/// Those of one of these modules.
///
/// # Safety
/// As [`all`]; the cycle's list of modules must be complete.
pub unsafe fn of(cycle: *const sys::ngx_cycle_t, modules: &[&CStr]) -> Vec<(String, Zone)> {
    // SAFETY: the caller vouches for the cycle.
    let tags = modules.iter().filter_map(|name| unsafe { module_by_name(cycle, name) });
    let tags: Vec<_> = tags.collect();
    // SAFETY: as above.
    let mut found = unsafe { all(cycle) };
    // SAFETY: `all` gives live zones.
    found.retain(|(_, zone)| tags.iter().any(|tag| core::ptr::eq(tag.cast(), unsafe { (**zone).tag })));
    found
}
