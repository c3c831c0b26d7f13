//! What the core's own caches and limits did with a request, told by what they leave in it.

use nginx_sys as sys;

use super::super::request::Request;
use super::super::sys::{module_by_name, slot, worker_index};
use super::shm::{CACHING, LIMIT_CONN, LIMIT_REQ, Zone, of};
use super::{claim, requests};
use crate::shared::traffic::cells::{Cache, Cells, CoreLimit};
use crate::shared::traffic::{Series, Store, add, count};

/// The series of the core's zones.
#[derive(Default)]
pub struct Native {
    pub caches: Vec<Known<Cache>>,
    pub reqs: Vec<Known<CoreLimit>>,
    pub conns: Vec<Known<CoreLimit>>,
    modules: [Option<Module>; 2],
}

pub struct Known<T: Cells> {
    pub name: String,
    pub zone: Zone,
    pub series: Series<T>,
}

type Module = *const sys::ngx_module_t;

/// How many zones of each kind there are: caches, limits.
///
/// # Safety
/// `cycle` must be one whose configuration is read.
pub unsafe fn zones(cycle: *const sys::ngx_cycle_t) -> (usize, usize) {
    // SAFETY: the caller vouches for the cycle.
    unsafe {
        let limits = of(cycle, &LIMIT_REQ).len() + of(cycle, &LIMIT_CONN).len();
        (of(cycle, &CACHING).len(), limits)
    }
}

impl Native {
    /// Finds or claims the series of all zones of the cycle.
    ///
    /// # Safety
    /// `cycle` must be the one being set up.
    pub unsafe fn adopt(cycle: *const sys::ngx_cycle_t, store: &Store) -> Self {
        // SAFETY: the caller vouches for the cycle.
        unsafe {
            Self {
                caches: known(of(cycle, &CACHING), store, "cache"),
                reqs: known(of(cycle, &LIMIT_REQ), store, "limit_req"),
                conns: known(of(cycle, &LIMIT_CONN), store, "limit_conn"),
                modules: [LIMIT_REQ, LIMIT_CONN].map(|[name]| module_by_name(cycle, name)),
            }
        }
    }

    /// Notes the limits of the location that a request is limited in: the first it comes to that has any. By its end it
    /// may be somewhere else.
    pub fn note(&self, request: &Request) {
        let Some(way) = requests::UnderWay::of(request) else { return };
        for (noted, module) in way.limits.iter().zip(self.modules) {
            let Some(module) = module.filter(|_| noted.get().is_null()) else { continue };
            // SAFETY: a live request; the module's slot holds what its create_loc_conf made, which begins with the
            // array of its limits, empty ones without elements.
            unsafe {
                let limits = (*slot((*request.as_ptr()).loc_conf, module)).cast::<sys::ngx_array_t>();
                if !limits.is_null() && !(*limits).elts.is_null() && (*limits).nelts > 0 {
                    noted.set(limits);
                }
            }
        }
    }

    /// A request has ended: counts what limits and caches made of it.
    pub fn logged(&self, request: &Request) {
        self.limited(request);
        self.cached(request);
    }

    /// Each zone of the location counts what the request came to: the core does not say which of several it was.
    fn limited(&self, request: &Request) {
        // SAFETY: a live request in its log phase.
        let said = unsafe {
            let r = &*request.as_ptr();
            [r.limit_req_status(), r.limit_conn_status()]
        };
        if said == [0, 0] {
            return;
        }
        let Some(way) = requests::UnderWay::of(request) else { return };
        for ((status, noted), known) in said.into_iter().zip(&way.limits).zip([&self.reqs, &self.conns]) {
            let limits = noted.get();
            if status == 0 || limits.is_null() {
                continue;
            }
            // SAFETY: as in `note`: an array of structs of one size, each of which begins with a pointer to its zone.
            let zones = unsafe {
                let (first, size) = ((*limits).elts.cast::<u8>(), (*limits).size);
                (0..(*limits).nelts).map(move |at| *first.add(at * size).cast::<Zone>())
            };
            for zone in zones {
                let Some(known) = known.iter().find(|known| core::ptr::eq(known.zone, zone)) else {
                    continue;
                };
                let cells = known.series.shard(usize::from(worker_index()));
                cells.outcomes.get(status as usize).into_iter().for_each(count);
            }
        }
    }

    fn cached(&self, request: &Request) {
        if self.caches.is_empty() {
            return;
        }
        // SAFETY: a live request in its log phase; its upstream, its cache and that one's zone live as long.
        unsafe {
            let r = request.as_ptr();
            let u = (*r).upstream;
            if u.is_null() || (*u).cache_status() == 0 {
                return;
            }
            let cache = (*r).cache;
            let zone = match cache.as_ref().and_then(|cache| cache.file_cache.as_ref()) {
                Some(cache) => cache.shm_zone,
                None => (*(*u).conf).cache_zone,
            };
            let Some(known) = self.caches.iter().find(|known| core::ptr::eq(known.zone, zone)) else {
                return;
            };
            let (status, cells) =
                ((*u).cache_status() as usize, known.series.shard(usize::from(worker_index())));
            let fetched =
                (*u).state.as_ref().map_or(0, |state| u64::try_from(state.response_length).unwrap_or(0));
            let held = cache.as_ref().map_or(0, |cache| {
                u64::try_from(cache.length).unwrap_or(0).saturating_sub(cache.body_start as u64)
            });
            let bytes = if (*r).cached() != 0 { held } else { fetched };
            let cell = |cells: &'static [core::sync::atomic::AtomicU64; 8]| cells.get(status);
            cell(&cells.responses).into_iter().for_each(count);
            cell(&cells.bytes).into_iter().for_each(|cell| add(cell, bytes));
            if was_written(u) {
                cell(&cells.responses_written).into_iter().for_each(count);
                cell(&cells.bytes_written).into_iter().for_each(|cell| add(cell, bytes));
            }
        }
    }
}

/// Whether the core put the response into its cache.
///
/// # Safety
/// `u` must be a live request's upstream that has ended.
unsafe fn was_written(u: *const sys::ngx_http_upstream_t) -> bool {
    // SAFETY: the caller vouches for `u`; `pipe` is null or lives as long.
    unsafe {
        let Some(pipe) = (*u).pipe.as_ref() else { return false };
        let whole = pipe.upstream_done() != 0 || (pipe.upstream_eof() != 0 && pipe.length <= 0);
        (*u).cacheable() != 0 && whole
    }
}

fn known<T: Cells>(zones: Vec<(String, Zone)>, store: &Store, kind: &str) -> Vec<Known<T>> {
    let known = zones.into_iter().filter_map(|(name, zone)| {
        let series = claim(store, &format!("{kind}\0{name}"))?;
        Some(Known { name, zone, series })
    });
    known.collect()
}

/// The array that begins a location's configuration of the core's limits.
pub type Limits = *const sys::ngx_array_t;
