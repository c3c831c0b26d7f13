//! Answers that are not there yet: a request waits for one without holding its worker up.
//!
//! A content handler takes a [`ticket`] for the request and [`hold`]s it; whoever has the answer gives it to [`resume`]. A
//! client that leaves takes its ticket with it, and answers to that are dropped.

use core::cell::Cell;

use nginx_sys as sys;

use super::request::Request;
use super::worker;

/// The ticket of a request that waits; 0 without.
#[derive(Default)]
pub struct Waiting(Cell<u64>);

impl Drop for Waiting {
    /// The request ends.
    fn drop(&mut self) {
        if self.0.get() != 0
            && let Some(worker) = worker::current()
        {
            worker.cancel(self.0.get());
        }
    }
}

/// A ticket for this request. `None`: it cannot wait.
pub fn ticket(request: &Request) -> Option<u64> {
    let (worker, ctx) = (worker::current()?, request.ctx_or_new()?);
    let ticket = worker.ticket(request);
    ctx.waiting.0.set(ticket);
    Some(ticket)
}

/// Whether the request of a ticket still waits.
pub fn waits(ticket: u64) -> bool {
    worker::current().is_some_and(|worker| worker.waiting(ticket).is_some())
}

/// Has `send` answer the request of a ticket, if it still waits. Called from the event loop, outside any handler of that
/// request.
pub fn resume(ticket: u64, send: impl FnOnce(&Request) -> sys::ngx_int_t) {
    let Some(worker) = worker::current() else { return };
    let Some(r) = worker.waiting(ticket) else { return };
    worker.cancel(ticket);
    // SAFETY: a ticket names a request only as long as that is alive; the connection is kept aside because the request may
    // end in finalize_request.
    unsafe {
        let request = Request::from_ptr(r);
        if let Some(ctx) = request.ctx() {
            ctx.waiting.0.set(0);
        }
        let connection = (*r).connection;
        let rc = send(request);
        sys::ngx_http_finalize_request(r, rc);
        sys::ngx_http_run_posted_requests(connection);
    }
}

/// Keeps a request whose content handler returns NGX_DONE.
pub fn hold(request: &Request) {
    // SAFETY: a live request in its content handler; the core counts down when the handler returns NGX_DONE.
    unsafe {
        let main = (*request.as_ptr()).main;
        (*main).set_count((*main).count() + 1);
    }
    request.sleep();
}
