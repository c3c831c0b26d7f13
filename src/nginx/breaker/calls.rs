//! The callbacks of a balancer, of which ours stand in front. They are the same for nearly all requests of a group, so
//! the group keeps them and a request only says which.

use core::cell::OnceCell;

use nginx_sys as sys;

use super::super::request::Request;

/// The end of a request's upstream, by the module that proxies.
pub type Finalize = Option<unsafe extern "C" fn(*mut sys::ngx_http_request_t, sys::ngx_int_t)>;

/// What a balancer, and the proxying module, have set.
#[derive(Clone, Copy)]
pub struct Calls {
    pub get: sys::ngx_event_get_peer_pt,
    pub free: sys::ngx_event_free_peer_pt,
    pub notify: sys::ngx_event_notify_peer_pt,
    pub set_session: sys::ngx_event_set_peer_session_pt,
    pub save_session: sys::ngx_event_save_peer_session_pt,
    pub finalize: Finalize,
}

/// One for each of the modules that may proxy to the group, and some more: a balancer may have its moods.
const KINDS: usize = 8;

/// The callbacks seen so far.
#[derive(Default)]
pub struct Table([OnceCell<Calls>; KINDS]);

impl Table {
    /// Finds those, or keeps them from now on. One set too many is kept by the request itself.
    pub fn keep(&'static self, request: &Request, calls: Calls) -> Option<&'static Calls> {
        let known = self.0.iter().map(|cell| cell.get_or_init(|| calls)).find(|its| its.is(&calls));
        known.or_else(|| {
            // SAFETY: the pool of a live request, aligned for any type; used no longer than the request.
            unsafe {
                let place = sys::ngx_palloc((*request.as_ptr()).pool, size_of::<Calls>()).cast::<Calls>();
                if place.is_null() {
                    return None;
                }
                place.write(calls);
                Some(&*place)
            }
        })
    }
}

impl Calls {
    /// # Safety
    /// Of a live request that is inside `peer.init`, whose balancer has done its part.
    pub unsafe fn of(u: *const sys::ngx_http_upstream_t) -> Self {
        // SAFETY: the caller vouches for `u`.
        unsafe {
            let pc = &raw const (*u).peer;
            Self {
                get: (*pc).get,
                free: (*pc).free,
                notify: (*pc).notify,
                set_session: (*pc).set_session,
                save_session: (*pc).save_session,
                finalize: (*u).finalize_request,
            }
        }
    }

    fn is(&self, other: &Self) -> bool {
        // One by one: they are few, and nearly always the same.
        self.addresses().into_iter().zip(other.addresses()).all(|(its, other)| its == other)
    }

    fn addresses(&self) -> [usize; 6] {
        [
            self.get.map_or(0, |call| call as usize),
            self.free.map_or(0, |call| call as usize),
            self.notify.map_or(0, |call| call as usize),
            self.set_session.map_or(0, |call| call as usize),
            self.save_session.map_or(0, |call| call as usize),
            self.finalize.map_or(0, |call| call as usize),
        ]
    }
}
