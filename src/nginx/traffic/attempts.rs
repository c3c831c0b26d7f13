//! The wrap around a group's balancer that counts attempts: whom it chose, what came of it.
//!
//! It goes around everything else, so that a choice that is taken back within (by the breaker of a server) is none. It
//! sees each attempt of each upstream that a request met, whatever internal redirects led it on.

use core::cell::Cell;
use core::ffi::c_void;
use core::sync::atomic::Ordering::Relaxed;

use nginx_sys as sys;

use super::super::entry::entry;
use super::super::request::Request;
use super::super::sys::{DONE, ERROR, OK, mono, now, worker_index};
use super::super::upstream::Group;
use super::peers::{self, Peer};
use crate::policy::Millis;
use crate::policy::traffic::{RESPONSE, bucket, moved};
use crate::shared::traffic::{Series, add, cells, count, down, up};

/// The core's mark of a time that has not come.
const NEVER: sys::ngx_msec_t = sys::ngx_msec_t::MAX;

/// One request's way to one upstream, in the request's pool. It needs no drop.
struct Way {
    request: *mut sys::ngx_http_request_t,
    group: &'static Group,
    attempt: Cell<Option<Attempt>>,
    data: *mut c_void,
    get: sys::ngx_event_get_peer_pt,
    free: sys::ngx_event_free_peer_pt,
    notify: sys::ngx_event_notify_peer_pt,
    set_session: sys::ngx_event_set_peer_session_pt,
    save_session: sys::ngx_event_save_peer_session_pt,
}

#[derive(Clone, Copy)]
struct Attempt {
    series: &'static Series<cells::Peer>,
    peer: Peer,
}

/// Puts ourselves around what the group's balancer has just set up for `request`.
pub fn wrap(request: &Request, group: &'static Group) {
    if group.traffic.is_empty() {
        return;
    }
    let r = request.as_ptr();
    // SAFETY: inside peer.init the request has an upstream, whose callbacks the balancer has set. The pool's
    // memory is aligned for any type and lives as long as the request, so no longer than `'static` is used.
    unsafe {
        let place = sys::ngx_palloc((*r).pool, size_of::<Way>()).cast::<Way>();
        if place.is_null() {
            return;
        }
        let pc = &raw mut (*(*r).upstream).peer;
        place.write(Way {
            request: r,
            group,
            attempt: Cell::new(None),
            data: (*pc).data,
            get: (*pc).get,
            free: (*pc).free,
            notify: (*pc).notify,
            set_session: (*pc).set_session,
            save_session: (*pc).save_session,
        });
        (*pc).data = place.cast();
        (*pc).get = (*pc).get.and(Some(get));
        (*pc).free = (*pc).free.and(Some(free));
        (*pc).notify = (*pc).notify.and(Some(notify));
        (*pc).set_session = (*pc).set_session.and(Some(set_session));
        (*pc).save_session = (*pc).save_session.and(Some(save_session));
    }
}

impl Way {
    fn request(&self) -> &Request {
        // SAFETY: nginx calls the callbacks of a peer only while its request lives.
        unsafe { Request::from_ptr(self.request) }
    }

    /// The balancer has chosen a server.
    ///
    /// # Safety
    /// `pc` must be what nginx passed to `get`.
    unsafe fn begin(&self, pc: *const sys::ngx_peer_connection_t) {
        let conf = self.request().main_conf();
        self.group.traffic.refresh(conf, self.group);
        // SAFETY: the caller vouches for `pc`.
        let Some((series, peer)) = self.group.traffic.find(unsafe { (*pc).name }) else { return };
        let cells = series.shard(usize::from(worker_index()));
        count(&cells.requests);
        cells.selected.store(now().wall, Relaxed);
        if let Some(gauge) = conf.traffic.presence.get().and_then(|presence| presence.gauge(series.number)) {
            up(gauge);
        }
        self.attempt.set(Some(Attempt { series, peer }));
    }

    /// The attempt is over; the balancer is about to hear of it.
    ///
    /// # Safety
    /// Inside `free` of a live request's upstream.
    unsafe fn end(&self, attempt: Attempt, state: sys::ngx_uint_t) {
        let conf = self.request().main_conf();
        if let Some(gauge) =
            conf.traffic.presence.get().and_then(|presence| presence.gauge(attempt.series.number))
        {
            down(gauge);
        }
        let cells = attempt.series.shard(usize::from(worker_index()));
        if state & sys::NGX_PEER_FAILED as sys::ngx_uint_t != 0 {
            count(&cells.fails);
        }
        // SAFETY: the caller vouches for the request; `state` is that of its last attempt.
        let (seen, code, started) = unsafe {
            let u = (*self.request).upstream;
            let Some(seen) = (*u).state.as_ref() else { return };
            (seen, if seen.status != 0 { seen.status } else { (*u).headers_in.status_n }, (*u).start_time)
        };
        add(&cells.sent, u64::try_from(seen.bytes_sent).unwrap_or(0));
        add(&cells.received, u64::try_from(seen.bytes_received).unwrap_or(0));
        if seen.header_time == NEVER {
            return;
        }
        attempt.series.count_code(&cells.codes, u16::try_from(code).unwrap_or(0));
        let took = if seen.response_time == NEVER {
            mono().saturating_sub(started as Millis)
        } else {
            seen.response_time as Millis
        };
        count(&cells.times[bucket(RESPONSE, took)]);
        add(&cells.time_sum, took);
        let average = |cell: &core::sync::atomic::AtomicU64, sample| {
            cell.store(moved(cell.load(Relaxed), sample), Relaxed);
        };
        average(&cells.header_time, seen.header_time as Millis);
        average(&cells.response_time, took);
    }
}

/// What our callbacks find in `data`.
unsafe fn way<'p>(data: *mut c_void) -> &'p Way {
    // SAFETY: nginx passes the `data` that `wrap` set, which lives in the request's pool.
    unsafe { &*data.cast::<Way>() }
}

unsafe extern "C" fn get(pc: *mut sys::ngx_peer_connection_t, data: *mut c_void) -> sys::ngx_int_t {
    // SAFETY: nginx passes what `wrap` set; the balancer's own callback with its own data, as the core would call it.
    let (way, rc) = unsafe {
        let way = way(data);
        (way, way.get.map_or(ERROR, |get| get(pc, way.data)))
    };
    if rc == OK || rc == DONE {
        // SAFETY: as above.
        entry!("counting an attempt", (), { unsafe { way.begin(pc) } });
    }
    rc
}

unsafe extern "C" fn free(pc: *mut sys::ngx_peer_connection_t, data: *mut c_void, state: sys::ngx_uint_t) {
    // SAFETY: nginx passes what `wrap` set.
    let way = unsafe { way(data) };
    let attempt = way.attempt.take();
    // Nobody else changes the peer's numbers between these two looks but workers that fail there at the same time.
    let before = entry!("counting an attempt", None, {
        attempt.map(|attempt| {
            // SAFETY: as above; the peer is held by this attempt.
            unsafe {
                way.end(attempt, state);
                (attempt, attempt.peer.is_unavail(), (*pc).connection)
            }
        })
    });
    // SAFETY: as in `get`.
    unsafe {
        if let Some(free) = way.free {
            free(pc, way.data, state);
        }
    }
    entry!("counting an attempt", (), {
        if let Some((attempt, unavail, connection)) = before {
            // SAFETY: as above; a connection that is no longer the attempt's, and was not closed, is kept.
            unsafe {
                if !connection.is_null() && (*pc).connection.is_null() && (*pc).cached() == 0 {
                    way.group.traffic.keeps(connection);
                }
                if state & sys::NGX_PEER_FAILED as sys::ngx_uint_t != 0
                    && !unavail
                    && attempt.peer.is_unavail()
                {
                    count(&attempt.series.shard(usize::from(worker_index())).unavail);
                    peers::out(way.group, attempt.series);
                }
            }
        }
    });
}

unsafe extern "C" fn notify(pc: *mut sys::ngx_peer_connection_t, data: *mut c_void, kind: sys::ngx_uint_t) {
    // SAFETY: nginx passes what `wrap` set; the balancer's own callback with its own data.
    unsafe {
        if let Some(notify) = way(data).notify {
            notify(pc, way(data).data, kind);
        }
    }
}

unsafe extern "C" fn set_session(pc: *mut sys::ngx_peer_connection_t, data: *mut c_void) -> sys::ngx_int_t {
    // SAFETY: as in `notify`.
    unsafe { way(data).set_session.map_or(ERROR, |set| set(pc, way(data).data)) }
}

unsafe extern "C" fn save_session(pc: *mut sys::ngx_peer_connection_t, data: *mut c_void) {
    // SAFETY: as in `notify`.
    unsafe {
        if let Some(save) = way(data).save_session {
            save(pc, way(data).data);
        }
    }
}
