//! Counting what a client gets, by the status that is sent to it.
//!
//! A response of 400 and more is counted when its header goes out, so that whoever has read the answer is banned
//! already. All else is counted in the log phase: later filters may still make another status of it, and a connection
//! that is closed without an answer (444) has no header.

use super::super::context::Context;
use super::super::limit;
use super::super::reject::Cause;
use super::super::request::Request;
use super::super::sys::mono;
use super::super::worker;
use super::{Ban, Counting, Shown, words};
use crate::policy::ban::Name;
use crate::shared::ban::Hit;

/// The one status of an error that a filter behind ours makes of a success.
const RANGE_NOT_SATISFIABLE: usize = 416;

/// The header filter: a header is about to be sent.
pub fn answered(request: &Request) {
    let Some(bans) = applied(request) else { return };
    // SAFETY: a live request.
    let status = unsafe { (*request.as_ptr()).headers_out.status };
    if status >= 400 {
        count(request, bans, status);
    }
}

/// The log phase.
pub fn logged(request: &Request) {
    if !request.is_main() {
        return;
    }
    let Some(bans) = applied(request) else { return };
    // SAFETY: a live request.
    let (status, sent) = unsafe {
        let r = &*request.as_ptr();
        (if r.err_status != 0 { r.err_status } else { r.headers_out.status }, r.header_sent() != 0)
    };
    if !sent || status < 400 || status == RANGE_NOT_SATISFIABLE {
        count(request, bans, status);
    }
}

/// The bans of the location that the client asked for; of where it ended, if it never came so far.
fn applied(request: &Request) -> Option<&'static [Ban]> {
    let first = request.ctx().and_then(|ctx| ctx.ban.bans.get());
    Some(first.unwrap_or(&request.loc_conf().ban.bans)).filter(|bans| !bans.is_empty())
}

fn count(request: &Request, bans: &[Ban], status: usize) {
    let ctx = request.ctx();
    // A ban does not prolong itself.
    let refused = ctx.and_then(|ctx| ctx.refusal.get()).is_some_and(|refusal| refusal.cause == Cause::Banned);
    if refused || ctx.is_some_and(|ctx| ctx.ban.counted.get()) {
        return;
    }
    let (status, limited) = (u16::try_from(status).unwrap_or(0), ctx.is_some_and(rate_limited));
    for (number, ban) in bans.iter().enumerate() {
        let Some(counting) = &ban.counting else { continue };
        if counting.statuses.holds(status) || counting.rate_limited && limited {
            if let Some(ctx) = request.ctx_or_new() {
                ctx.ban.counted.set(true);
            }
            hit(request, (number, ban), counting);
        }
    }
}

/// Whether a limit of this module has refused the request.
fn rate_limited(ctx: &Context) -> bool {
    let limited = ctx.limit.try_borrow();
    limited.is_ok_and(|limited| limited.verdict.as_ref().is_some_and(|v| v.status == limit::Status::Rejected))
}

fn hit(request: &Request, (number, ban): (usize, &Ban), counting: &Counting) {
    let Some(zone) = ban.zone.and_then(|zone| request.main_conf().bans.get(zone)) else { return };
    let seen = request.ctx().and_then(|ctx| ctx.ban.name(request, zone, number));
    let now = || zone.key.eval(request).and_then(|key| zone.name(request, key));
    let (Some(shared), Some(name)) = (zone.shared(), seen.unwrap_or_else(now)) else { return };
    let (name, now) = (Name { hash: ban.hash(&name), ..name }, mono());
    let made = shared.hit(&name.hash, &counting.rule, name.address, now);
    if let Hit::Banned(sentence) = made {
        words::misbehaved(request, ban, counting, &Shown(&name.hash, name.address), sentence.length);
    }
    // A dry run is this host's own.
    if !ban.dry_run()
        && let Some(worker) = worker::current()
    {
        worker.bans.hit(&worker, zone, (&name, &counting.rule), made);
    }
}
