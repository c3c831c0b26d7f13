//! The header filter: what this module adds to responses, whoever makes them.

use nginx_sys as sys;

use super::entry::entry;
use super::limit;
use super::reject::{Cause, Refusal};
use super::request::Request;
use super::sys::ERROR;

type HeaderFilter = unsafe extern "C" fn(*mut sys::ngx_http_request_t) -> sys::ngx_int_t;

/// The filter after ours. Written while a configuration is read, by the one thread that does; workers only read it.
static mut NEXT: Option<HeaderFilter> = None;

/// Puts our filter before those installed so far.
///
/// # Safety
/// Called by nginx's postconfiguration only, once per cycle.
pub unsafe fn install() {
    // SAFETY: configuration is read by one thread.
    unsafe {
        NEXT = sys::ngx_http_top_header_filter;
        sys::ngx_http_top_header_filter = Some(filter);
    }
}

unsafe extern "C" fn filter(r: *mut sys::ngx_http_request_t) -> sys::ngx_int_t {
    entry!("the header filter", (), {
        // SAFETY: nginx passes the live request whose header is about to be sent.
        add(unsafe { Request::from_ptr(r) });
    });
    // SAFETY: set by `install`, before any request exists; the next filter gets what we got.
    unsafe { NEXT.map_or(ERROR, |next| next(r)) }
}

fn add(request: &Request) {
    if !request.is_main() {
        return;
    }
    super::ban::answered(request);
    super::breaker::header_sent(request);
    let Some(ctx) = request.ctx() else { return };
    if let Ok(limited) = ctx.limit.try_borrow()
        && let Some(verdict) = &limited.verdict
    {
        limit::headers::add(request, verdict);
    }
    if let Some(refusal) = ctx.refusal.get() {
        refused(request, &refusal);
    }
    if let Some(chosen) = &*ctx.session.borrow() {
        super::balance::sticky::header_sent(request, chosen);
    }
}

/// `Retry-After` belongs to responses that still refuse: a fallback that answers 200 carries none.
fn refused(request: &Request, refusal: &Refusal) {
    // SAFETY: a live request.
    let status = unsafe { (*request.as_ptr()).headers_out.status } as u32;
    let still = match refusal.cause {
        Cause::RateLimit | Cause::Banned => status >= 400,
        // The server of a fallback knows best when it is worth coming back.
        Cause::Unavailable => status == refusal.status && !super::breaker::is_answered(request),
    };
    if still {
        request.set_number("Retry-After", refusal.retry_seconds());
        request.set_header("Cache-Control", "no-store");
    }
}
