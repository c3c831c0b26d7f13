//! What nginx itself keeps in shared memory: slab pools, caches; and its own limits.

use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering::Relaxed;

use nginx_sys as sys;

use super::super::shm::{self, Zone};
use super::{Cache, Fetched, LimitConn, LimitReq, Served, Slab, Slot};
use crate::nginx::conf::MainConf;
use crate::shared::traffic::{Series, cells};

/// Worker processes that were started in place of others that had died.
pub fn processes(conf: &MainConf) -> u64 {
    conf.traffic.live().map_or(0, |live| live.host.sum(|host| &host.respawned))
}

/// The pages and slots of every zone.
pub fn slabs() -> Vec<(String, Slab)> {
    // SAFETY: the cycle this process serves, all of whose zones are mapped; nginx lays a slab pool at the head of each.
    // Its numbers are read without its mutex: each is a word, and what they say together may be a moment old.
    unsafe {
        let zones = shm::all(sys::ngx_cycle).into_iter().filter(|(_, zone)| !(**zone).shm.addr.is_null());
        zones.map(|(name, zone)| (name, slab((*zone).shm.addr.cast()))).collect()
    }
}

/// Calls `see` with the statistics of each slot of a zone.
pub fn slab_stats(name: &str, mut see: impl FnMut(*mut sys::ngx_slab_stat_t)) {
    // SAFETY: as in `slabs`.
    unsafe {
        let zones = shm::all(sys::ngx_cycle).into_iter();
        for (_, zone) in zones.filter(|(its, zone)| its == name && !(**zone).shm.addr.is_null()) {
            let pool = (*zone).shm.addr.cast::<sys::ngx_slab_pool_t>();
            let sizes = sys::ngx_pagesize_shift.saturating_sub((*pool).min_shift);
            (0..sizes).for_each(|at| see((*pool).stats.add(at)));
        }
    }
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

/// All caches.
pub fn caches(conf: &MainConf) -> Vec<(String, Cache)> {
    let Some(live) = conf.traffic.live() else { return Vec::new() };
    let caches = live.native.caches.iter();
    caches.filter_map(|known| Some((known.name.clone(), cache(&known.series, known.zone)?))).collect()
}

fn cache(series: &Series<cells::Cache>, zone: Zone) -> Option<Cache> {
    // SAFETY: the zones of these modules are announced by proxy_cache_path and the like, with the cache as `data`,
    // whose shared part has been set up; words of it are read.
    let (size, most, block, cold) = unsafe {
        let cache = (*zone).data.cast::<sys::ngx_http_file_cache_t>().as_ref()?;
        let shared = cache.sh;
        if shared.is_null() {
            return None;
        }
        let cold = (&raw const (*shared).cold).cast::<AtomicUsize>();
        (
            (&raw const (*shared).size).read_volatile(),
            cache.max_size,
            cache.bsize as u64,
            (*cold).load(Relaxed),
        )
    };
    let blocks = |blocks: sys::off_t| u64::try_from(blocks).unwrap_or(0).saturating_mul(block);
    let unbounded = u64::try_from(most).unwrap_or(0) >= i64::MAX as u64 / block.max(1);
    // By the core's numbers of `$upstream_cache_status`.
    let served = |at: usize| Served {
        responses: series.sum(|cells| &cells.responses[at]),
        bytes: series.sum(|cells| &cells.bytes[at]),
    };
    let fetched = |at: usize| Fetched {
        responses: series.sum(|cells| &cells.responses[at]),
        bytes: series.sum(|cells| &cells.bytes[at]),
        responses_written: series.sum(|cells| &cells.responses_written[at]),
        bytes_written: series.sum(|cells| &cells.bytes_written[at]),
    };
    Some(Cache {
        size: blocks(size),
        max_size: (!unbounded).then(|| blocks(most)),
        cold: cold != 0,
        hit: served(sys::NGX_HTTP_CACHE_HIT as usize),
        stale: served(sys::NGX_HTTP_CACHE_STALE as usize),
        updating: served(sys::NGX_HTTP_CACHE_UPDATING as usize),
        revalidated: served(sys::NGX_HTTP_CACHE_REVALIDATED as usize),
        miss: fetched(sys::NGX_HTTP_CACHE_MISS as usize),
        expired: fetched(sys::NGX_HTTP_CACHE_EXPIRED as usize),
        bypass: fetched(sys::NGX_HTTP_CACHE_BYPASS as usize),
    })
}

/// All zones of `limit_req`.
pub fn limit_reqs(conf: &MainConf) -> Vec<(String, LimitReq)> {
    // The core's numbers of `$limit_req_status`, which its source keeps to itself.
    let limit = |series: &Series<cells::CoreLimit>| LimitReq {
        passed: series.sum(|cells| &cells.outcomes[1]),
        delayed: series.sum(|cells| &cells.outcomes[2]),
        rejected: series.sum(|cells| &cells.outcomes[3]),
        delayed_dry_run: series.sum(|cells| &cells.outcomes[4]),
        rejected_dry_run: series.sum(|cells| &cells.outcomes[5]),
    };
    let Some(live) = conf.traffic.live() else { return Vec::new() };
    live.native.reqs.iter().map(|known| (known.name.clone(), limit(&known.series))).collect()
}

/// All zones of `limit_conn`.
pub fn limit_conns(conf: &MainConf) -> Vec<(String, LimitConn)> {
    // Those of `$limit_conn_status`, likewise.
    let limit = |series: &Series<cells::CoreLimit>| LimitConn {
        passed: series.sum(|cells| &cells.outcomes[1]),
        rejected: series.sum(|cells| &cells.outcomes[2]),
        rejected_dry_run: series.sum(|cells| &cells.outcomes[3]),
    };
    let Some(live) = conf.traffic.live() else { return Vec::new() };
    live.native.conns.iter().map(|known| (known.name.clone(), limit(&known.series))).collect()
}
