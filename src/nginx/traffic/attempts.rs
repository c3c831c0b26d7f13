//! The wrap around a group's balancer that counts attempts: whom it chose, what came of it.
//!
//! It goes around everything else, so that a choice that is taken back within (by the breaker of a server) is none. It
//! sees each attempt of each upstream that a request met, whatever internal redirects led it on.

use core::cell::Cell;
use core::sync::atomic::Ordering::Relaxed;

use nginx_sys as sys;

use super::super::entry::entry;
use super::super::request::Request;
use super::super::sys::{DONE, OK, mono, now, worker_index};
use super::super::upstream::Group;
use super::super::wrap::{self, Inner, Wrap};
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
    inner: Inner,
}

#[derive(Clone, Copy)]
struct Attempt {
    series: &'static Series<cells::Peer>,
    peer: Peer,
    /// The server had been put aside, and this is the one request that shows whether it is back.
    retry: bool,
}

/// Puts ourselves around what the group's balancer has just set up for `request`.
pub fn wrap(request: &Request, group: &'static Group) {
    if group.traffic.is_empty() {
        return;
    }
    // Without memory for it the request goes uncounted there.
    wrap::put(request, &group.traffic.balancers, |inner| Way {
        request: request.as_ptr(),
        group,
        attempt: Cell::new(None),
        inner,
    });
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
        // SAFETY: the balancer has just picked the peer, and holds it for this attempt.
        let retry = unsafe { peer.is_out() };
        self.attempt.set(Some(Attempt { series, peer, retry }));
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

impl Wrap for Way {
    fn inner(&self) -> &Inner {
        &self.inner
    }

    unsafe fn get(&self, pc: *mut sys::ngx_peer_connection_t) -> sys::ngx_int_t {
        // SAFETY: the caller passes what nginx passed.
        let rc = unsafe { self.inner.get(pc) };
        if rc == OK || rc == DONE {
            // SAFETY: as above.
            entry!("counting an attempt", (), { unsafe { self.begin(pc) } });
        }
        rc
    }

    unsafe fn free(&self, pc: *mut sys::ngx_peer_connection_t, state: sys::ngx_uint_t) {
        let attempt = self.attempt.take();
        // Nobody else changes the peer's numbers between these two looks but workers that fail there at the same time.
        let before = entry!("counting an attempt", None, {
            attempt.map(|attempt| {
                // SAFETY: the caller passes what nginx passed; the peer is held by this attempt.
                unsafe {
                    self.end(attempt, state);
                    (attempt, attempt.peer.is_unavail() && !attempt.retry, (*pc).connection)
                }
            })
        });
        // SAFETY: as above.
        unsafe { self.inner.free(pc, state) };
        entry!("counting an attempt", (), {
            if let Some((attempt, unavail, connection)) = before {
                // SAFETY: as above; a connection that is no longer the attempt's, and was not closed, is kept.
                unsafe {
                    if !connection.is_null() && (*pc).connection.is_null() && (*pc).cached() == 0 {
                        self.group.traffic.keeps(connection);
                    }
                    if state & sys::NGX_PEER_FAILED as sys::ngx_uint_t != 0
                        && !unavail
                        && attempt.peer.is_unavail()
                    {
                        count(&attempt.series.shard(usize::from(worker_index())).unavail);
                        peers::out(self.group, attempt.series);
                    }
                }
            }
        });
    }
}
