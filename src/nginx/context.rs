//! What a request carries for us: one context in the request's pool, dropped with it.

use std::cell::{Cell, RefCell};

use nginx_sys as sys;

use super::balance::sticky::Session;
use super::breaker::Passage;
use super::entry::entry;
use super::limit::Limited;
use super::request::Request;

/// The module's state of one request (a subrequest has its own). All fields are cells: nginx re-enters
/// handlers, and contexts are only ever borrowed as shared.
#[derive(Default)]
pub struct Context {
    /// Rate limiting: where the request stands and what was decided.
    pub limit: RefCell<Limited>,
    /// Bans: whether the client was looked at, and its response counted.
    pub ban: super::ban::Screened,
    /// The circuit breaker's admission of this request.
    pub passage: RefCell<Passage>,
    /// The server that serves this request, when its group is sticky.
    pub session: Session,
    /// Whether it waits for an answer of ours; dropped, the wait ends.
    pub waiting: super::later::Waiting,
    /// A refusal of ours: what the header filter is to add to the final response.
    pub refusal: Cell<Option<super::reject::Refusal>>,
}

/// What the pool's cleanup carries: whose context it is, because subrequests share the pool.
struct Entry {
    request: *mut sys::ngx_http_request_t,
    context: Context,
}

/// Makes the context of `request`.
pub(super) fn create(request: &Request) -> Option<&Context> {
    // SAFETY: the pool of a live request; ngx_pool_cleanup_add gives memory of the asked size, aligned for
    // any C type, which is ours until the pool goes and calls `drop_entry` exactly once.
    unsafe {
        let r = request.as_ptr();
        let cleanup = sys::ngx_pool_cleanup_add((*r).pool, size_of::<Entry>());
        if cleanup.is_null() {
            return None;
        }
        let entry = (*cleanup).data.cast::<Entry>();
        entry.write(Entry { request: r, context: Context::default() });
        (*cleanup).handler = Some(drop_entry);
        Some(&(*entry).context)
    }
}

/// Finds the context again after an internal redirect cleared nginx's table.
pub(super) fn find(request: &Request) -> Option<&Context> {
    // SAFETY: the cleanup list of a live request's pool; only entries with our handler are read as ours.
    unsafe {
        let r = request.as_ptr();
        let mut cleanup = (*(*r).pool).cleanup;
        while !cleanup.is_null() {
            let ours = (*cleanup)
                .handler
                .is_some_and(|h| core::ptr::fn_addr_eq(h, drop_entry as unsafe extern "C" fn(_)));
            if ours {
                let entry = (*cleanup).data.cast::<Entry>();
                if (*entry).request == r {
                    return Some(&(*entry).context);
                }
            }
            cleanup = (*cleanup).next;
        }
    }
    None
}

unsafe extern "C" fn drop_entry(data: *mut core::ffi::c_void) {
    entry!("a request's end", (), {
        // SAFETY: nginx runs a pool's cleanups once, with the data `create` filled.
        unsafe { core::ptr::drop_in_place(data.cast::<Entry>()) }
    });
}
