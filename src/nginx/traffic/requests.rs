//! The way of a request through the counters: under way, ended.

use core::cell::Cell;
use core::sync::atomic::AtomicU64;

use nginx_sys as sys;

use super::super::entry::entry;
use super::super::request::Request;
use super::super::sys::{now, worker_index};
use super::native::Limits;
use super::tls;
use crate::policy::Millis;
use crate::policy::traffic::{DURATION, bucket};
use crate::shared::traffic::{Series, add, cells, count, down, up};

/// What goes down again when the request is gone.
pub struct UnderWay {
    current: &'static AtomicU64,
    processing: Option<&'static AtomicU64>,
    /// The limits it is under, of `limit_req` and of `limit_conn`; null: none so far.
    pub limits: [Cell<Limits>; 2],
}

impl UnderWay {
    /// What `begun` made for this request.
    pub fn of(request: &Request) -> Option<&Self> {
        // SAFETY: the cleanup list of a live request's pool; only entries with our handler are read as ours.
        unsafe {
            let mut cleanup = (*(*request.as_ptr()).pool).cleanup;
            while !cleanup.is_null() {
                if (*cleanup)
                    .handler
                    .is_some_and(|h| core::ptr::fn_addr_eq(h, over as unsafe extern "C" fn(_)))
                {
                    return (*cleanup).data.cast::<Self>().as_ref();
                }
                cleanup = (*cleanup).next;
            }
        }
        None
    }
}

/// The post-read handler: once per request, when its server is known.
pub fn begun(request: &Request) {
    let traffic = &request.main_conf().traffic;
    let (Some(presence), Some(live)) = (traffic.presence.get(), traffic.live()) else { return };
    let zone = request.loc_conf().traffic.server_zone.and_then(|number| live.zones.get(number));
    let way = UnderWay {
        current: &presence.process().current,
        processing: zone.and_then(|zone| presence.gauge(zone.number)),
        limits: [Cell::new(core::ptr::null()), Cell::new(core::ptr::null())],
    };
    if let Some(zone) = zone {
        shake(request, zone);
    }
    // SAFETY: the pool of a live request; ngx_pool_cleanup_add gives memory of the asked size, aligned for any C
    // type, which is ours until the pool goes and calls `over` once. The pool goes after the log phase.
    unsafe {
        let cleanup = sys::ngx_pool_cleanup_add((*request.as_ptr()).pool, size_of::<UnderWay>());
        if cleanup.is_null() {
            return;
        }
        up(way.current);
        way.processing.into_iter().for_each(up);
        (*cleanup).data.cast::<UnderWay>().write(way);
        (*cleanup).handler = Some(over);
    }
}

/// Counts the handshake of a connection with its first request.
fn shake(request: &Request, zone: &Series<cells::Zone>) {
    // SAFETY: a live request, with its connection.
    unsafe {
        let c = (*request.as_ptr()).connection;
        if (*c).requests != 1 {
            return;
        }
        let Some(reused) = tls::is_reused(c) else { return };
        let zone = zone.shard(usize::from(worker_index()));
        count(&zone.handshakes);
        if reused {
            count(&zone.session_reuses);
        }
    }
}

unsafe extern "C" fn over(data: *mut core::ffi::c_void) {
    entry!("a request's end", (), {
        // SAFETY: nginx runs a pool's cleanups once, with the data `begun` filled; the cells are in a zone that is
        // mapped as long as the cycle of the request.
        let way = unsafe { &*data.cast::<UnderWay>() };
        down(way.current);
        way.processing.into_iter().for_each(down);
    });
}

/// What a request came to.
struct Ended {
    /// `None`: no response was sent.
    code: Option<u16>,
    received: u64,
    sent: u64,
    took: Millis,
}

impl Ended {
    fn of(request: &Request) -> Self {
        // SAFETY: a live request in its log phase, with its connection.
        unsafe {
            let r = &*request.as_ptr();
            let started = r.start_sec as Millis * 1000 + r.start_msec as Millis;
            let code = if r.err_status != 0 { r.err_status } else { r.headers_out.status };
            Self {
                code: if r.header_sent() == 0 { None } else { u16::try_from(code).ok() },
                received: u64::try_from(r.request_length).unwrap_or(0),
                sent: u64::try_from((*r.connection).sent).unwrap_or(0),
                took: now().wall.saturating_sub(started),
            }
        }
    }
}

/// The log-phase handler. Subrequests that are logged are parts of a request that is counted once.
pub fn logged(request: &Request) {
    if !request.is_main() {
        return;
    }
    let traffic = &request.main_conf().traffic;
    let Some(live) = traffic.live() else { return };
    let (ended, worker) = (Ended::of(request), usize::from(worker_index()));
    let tally = |cells: (&AtomicU64, &AtomicU64, &AtomicU64)| {
        count(cells.0);
        add(cells.1, ended.received);
        add(cells.2, ended.sent);
    };
    let http = live.http.shard(worker);
    tally((&http.requests, &http.received, &http.sent));
    match ended.code {
        Some(code) => live.http.count_code(&http.codes, code),
        None => count(&http.discarded),
    }
    count(&http.durations[bucket(DURATION.map(|(bound, _)| bound), ended.took)]);
    add(&http.duration_sum, ended.took);
    let conf = &request.loc_conf().traffic;
    for number in [conf.server_zone, conf.location_zone].into_iter().flatten() {
        let Some(series) = live.zones.get(number) else { continue };
        let zone = series.shard(worker);
        tally((&zone.requests, &zone.received, &zone.sent));
        match ended.code {
            Some(code) => series.count_code(&zone.codes, code),
            None => count(&zone.discarded),
        }
    }
    live.native.logged(request);
    if let Some(presence) = traffic.presence.get() {
        up(&presence.process().requests);
    }
}

/// The first preaccess handler, before the core's limits.
pub fn noted(request: &Request) {
    if let Some(live) = request.main_conf().traffic.live().filter(|_| request.is_main()) {
        live.native.note(request);
    }
}
