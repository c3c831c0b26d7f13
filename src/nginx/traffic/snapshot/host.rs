//! What nginx itself keeps in shared memory: slab pools, caches; and its own limits.

use core::sync::atomic::Ordering::Relaxed;

use nginx_sys as sys;

use super::{Cache, LimitConn, LimitReq, Slab, Slot};
use crate::nginx::conf::MainConf;
use crate::nginx::sys::module_by_name;

/// Worker processes that were started in place of others that had died.
pub fn processes(conf: &MainConf) -> u64 {
    conf.traffic.live().map_or(0, |live| live.host.sum(|host| &host.respawned))
}

/// Calls `see` with each zone of shared memory of the cycle that this process serves.
fn zones(mut see: impl FnMut(String, &sys::ngx_shm_zone_t)) {
    // SAFETY: the running cycle's list of zones does not change while it runs; its parts' elements are zones.
    unsafe {
        if sys::ngx_cycle.is_null() {
            return;
        }
        let mut part: *const sys::ngx_list_part_t = &raw const (*sys::ngx_cycle).shared_memory.part;
        while !part.is_null() {
            for at in 0..(*part).nelts {
                let zone = &*(*part).elts.cast::<sys::ngx_shm_zone_t>().add(at);
                if !zone.shm.addr.is_null() {
                    see(zone.shm.name.to_string(), zone);
                }
            }
            part = (*part).next;
        }
    }
}

/// The zones of one of these modules.
fn zones_of(modules: &[&core::ffi::CStr], mut see: impl FnMut(String, &sys::ngx_shm_zone_t)) {
    // SAFETY: the running cycle, whose list of modules is complete.
    let tags = modules.iter().filter_map(|name| unsafe { module_by_name(sys::ngx_cycle, name) });
    let tags: Vec<_> = tags.collect();
    zones(|name, zone| {
        if tags.iter().any(|tag| core::ptr::eq(tag.cast(), zone.tag)) {
            see(name, zone);
        }
    });
}

/// The pages and slots of every zone.
pub fn slabs() -> Vec<(String, Slab)> {
    let mut found = Vec::new();
    // SAFETY: nginx lays a slab pool at the head of every zone. Its numbers are read without its mutex: each is a word,
    // and what they say together may be a moment old.
    zones(|name, zone| found.push((name, unsafe { slab(zone.shm.addr.cast()) })));
    found
}

/// Calls `see` with the statistics of each slot of a zone.
pub fn slab_stats(name: &str, mut see: impl FnMut(*mut sys::ngx_slab_stat_t)) {
    zones(|its, zone| {
        if its != name {
            return;
        }
        // SAFETY: as in `slabs`.
        unsafe {
            let pool = zone.shm.addr.cast::<sys::ngx_slab_pool_t>();
            let sizes = sys::ngx_pagesize_shift.saturating_sub((*pool).min_shift);
            (0..sizes).for_each(|at| see((*pool).stats.add(at)));
        }
    });
}

/// # Safety
/// `pool` must be a zone's slab pool.
unsafe fn slab(pool: *const sys::ngx_slab_pool_t) -> Slab {
    // SAFETY: the caller vouches for the pool; `stats` has an entry for each size from `min_size` below a page.
    unsafe {
        let shift = sys::ngx_pagesize_shift;
        let pages = (*pool).last.offset_from((*pool).pages).unsigned_abs() as u64;
        let free = (*pool).pfree as u64;
        let sizes = shift.saturating_sub((*pool).min_shift);
        let slots = (0..sizes).map(|at| {
            let stat = (*pool).stats.add(at).read_volatile();
            let slot = Slot {
                used: stat.used as u64,
                free: stat.total.saturating_sub(stat.used) as u64,
                reqs: stat.reqs as u64,
                fails: stat.fails as u64,
            };
            (1 << (at + (*pool).min_shift), slot)
        });
        Slab { pages_used: pages.saturating_sub(free), pages_free: free, slots: slots.collect() }
    }
}

/// Modules that cache what they fetch: their zones are those of caches.
const CACHING: [&core::ffi::CStr; 4] =
    [c"ngx_http_proxy_module", c"ngx_http_fastcgi_module", c"ngx_http_uwsgi_module", c"ngx_http_scgi_module"];

/// All caches.
pub fn caches(_: &MainConf) -> Vec<(String, Cache)> {
    let mut found = Vec::new();
    zones_of(&CACHING, |name, zone| {
        // SAFETY: the zones of these modules are announced by proxy_cache_path and the like, with the cache as `data`,
        // whose shared part has been set up; words of it are read.
        unsafe {
            let cache = zone.data.cast::<sys::ngx_http_file_cache_t>();
            if cache.is_null() || (*cache).sh.is_null() {
                return;
            }
            let blocks = |blocks: sys::off_t| (blocks as u64).saturating_mul((*cache).bsize as u64);
            let (size, most) = ((&raw const (*(*cache).sh).size).read_volatile(), (*cache).max_size);
            let unbounded = most as u64 >= i64::MAX as u64 / ((*cache).bsize as u64).max(1);
            let cold = (&raw const (*(*cache).sh).cold).cast::<core::sync::atomic::AtomicUsize>();
            found.push((
                name,
                Cache {
                    size: blocks(size),
                    max_size: (!unbounded).then(|| blocks(most)),
                    cold: (*cold).load(Relaxed) != 0,
                    ..Cache::default()
                },
            ));
        }
    });
    found
}

/// All zones of `limit_req`.
pub fn limit_reqs(_: &MainConf) -> Vec<(String, LimitReq)> {
    let mut found = Vec::new();
    zones_of(&[c"ngx_http_limit_req_module"], |name, _| found.push((name, LimitReq::default())));
    found
}

/// All zones of `limit_conn`.
pub fn limit_conns(_: &MainConf) -> Vec<(String, LimitConn)> {
    let mut found = Vec::new();
    zones_of(&[c"ngx_http_limit_conn_module"], |name, _| found.push((name, LimitConn::default())));
    found
}
