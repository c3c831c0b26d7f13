//! The way of a request through its limits: decided at once, or asleep until Redis has answered or the
//! deadline has passed.

use nginx_sys as sys;

use super::super::context::Context;
use super::super::log::Level;
use super::super::reject::{Cause, Refusal, refuse};
use super::super::request::Request;
use super::super::sys::{AGAIN, DECLINED};
use super::super::worker::{self, PART_MASK, Worker};
use super::applied::{Applied, collect};
use super::ask::Wait;
use super::desk::Desk;
use super::inspect;
use super::{Few, Limit, Stage, Status, Verdict, Zones, decide};
use crate::policy::Millis;
use crate::policy::limit::Decision;
use crate::remote::redis::Reply;

/// What a client is told when Redis is lost and the zone denies: how long until the gate is tried again is the
/// thread's business, so the shortest honest answer.
const DENIED_RETRY: Millis = 1000;

/// The preaccess handler. Subrequests and internal redirects are not charged again.
pub fn handler(request: &Request) -> sys::ngx_int_t {
    let conf = &request.loc_conf().limit;
    if conf.limits.is_empty() || !request.is_main() {
        return DECLINED;
    }
    let Some(ctx) = request.ctx_or_new() else {
        return sys::NGX_HTTP_INTERNAL_SERVER_ERROR as _;
    };
    // An error_page has brought here what was refused before limits: a ban is not to cost its client his limit too.
    if ctx.refusal.get().is_some() {
        return DECLINED;
    }
    let stage = core::mem::take(&mut ctx.limit.borrow_mut().stage);
    match stage {
        Stage::New => begin(request, ctx),
        Stage::Waiting(wait) if wait.outstanding > 0 => {
            ctx.limit.borrow_mut().stage = Stage::Waiting(wait);
            AGAIN
        }
        Stage::Waiting(mut wait) => answer(request, ctx, &mut wait),
        Stage::Done => {
            ctx.limit.borrow_mut().stage = Stage::Done;
            DECLINED
        }
    }
}

/// The first look at a request.
fn begin(request: &Request, ctx: &Context) -> sys::ngx_int_t {
    let conf = &request.loc_conf().limit;
    let zones = &request.main_conf().limits;
    let mut applied = collect(request, &conf.limits, conf.dry_run());
    if applied.len() < conf.limits.len() {
        bypassed(zones, &conf.limits, &applied);
    }
    if applied.is_empty() {
        return close(request, ctx, Verdict::new(Status::Bypassed, Few::new()));
    }
    let worker = worker::current();
    let desk = Desk::new(worker.as_deref(), zones);
    desk.decide_early(&mut applied);
    let mut wait = Wait::new(applied);
    if wait.parts.is_empty() {
        return close(request, ctx, decide::conclude(&desk, &mut wait));
    }
    if let Some(verdict) = decide::refused_early(&desk, &wait.applied) {
        return close(request, ctx, verdict);
    }
    let Some(worker) = worker.as_ref() else { return answer(request, ctx, &mut wait) };
    wait.ticket = worker.ticket(request);
    let longest = wait.ask(worker, zones);
    if wait.outstanding == 0 {
        worker.cancel(wait.ticket);
        return answer(request, ctx, &mut wait);
    }
    worker.deadline(wait.ticket, longest);
    ctx.limit.borrow_mut().stage = Stage::Waiting(Box::new(wait));
    request.sleep();
    AGAIN
}

/// All answers are in, or will not come.
fn answer(request: &Request, ctx: &Context, wait: &mut Wait) -> sys::ngx_int_t {
    let worker = worker::current();
    let desk = Desk::new(worker.as_deref(), &request.main_conf().limits);
    close(request, ctx, decide::conclude(&desk, wait))
}

/// Acts on the verdict.
fn close(request: &Request, ctx: &Context, mut verdict: Verdict) -> sys::ngx_int_t {
    let conf = &request.loc_conf().limit;
    let (status, delay, retry_after) = (
        verdict.status,
        verdict.rulings.iter().map(|ruling| ruling.decision.wait).max().unwrap_or(0),
        verdict.speaker().map_or(DENIED_RETRY, |ruling| ruling.decision.retry_after),
    );
    verdict.form = conf.form();
    tally(&request.main_conf().limits, &verdict);
    log(request, &verdict, delay);
    {
        let mut limited = ctx.limit.borrow_mut();
        limited.stage = Stage::Done;
        limited.verdict = Some(verdict);
    }
    match status {
        Status::Rejected => {
            refuse(request, Refusal { cause: Cause::RateLimit, status: conf.status(), retry_after })
        }
        Status::ErrorDenied => {
            let status = sys::NGX_HTTP_SERVICE_UNAVAILABLE;
            refuse(request, Refusal { cause: Cause::Unavailable, status, retry_after: DENIED_RETRY })
        }
        Status::Delayed => {
            request.delay(delay);
            AGAIN
        }
        _ => DECLINED,
    }
}

/// Counts the verdict in each zone that had a say in it. One that would have let a request pass that another refused has
/// not been charged, and counts nothing.
fn tally(zones: &Zones, verdict: &Verdict) {
    let refused = matches!(verdict.status, Status::Rejected | Status::ErrorDenied);
    for ruling in &verdict.rulings {
        let status = match ruling.decision {
            Decision { admitted: false, .. } => Status::Rejected,
            _ if refused => continue,
            Decision { wait: 1.., .. } => Status::Delayed,
            _ => Status::Passed,
        };
        if let Some(zone) = zones.get(ruling.zone) {
            zone.count(status, Some(ruling.source));
        }
    }
}

/// Counts limits that do not apply to this request.
fn bypassed(zones: &Zones, limits: &[Limit], applied: &[Applied]) {
    for limit in limits {
        let Some((number, _)) = limit.settled else { continue };
        if applied.iter().all(|one| one.zone != number)
            && let Some(zone) = zones.get(number)
        {
            zone.count(Status::Bypassed, None);
        }
    }
}

/// One line for what was refused, delayed or would have been.
fn log(request: &Request, verdict: &Verdict, delay: Millis) {
    let level = request.loc_conf().limit.log_level();
    let zone = verdict.speaker().and_then(|ruling| request.main_conf().limits.get(ruling.zone));
    let zone = zone.map_or("", |zone| zone.name.as_str());
    let retry = verdict.speaker().map_or(0, |ruling| ruling.decision.retry_after);
    let source = verdict.speaker().map_or("", |ruling| ruling.source.as_str());
    match verdict.status {
        Status::Rejected => {
            request.log(
                level,
                format_args!("limiting requests, retry after {retry} ms, zone \"{zone}\", by {source}"),
            );
        }
        Status::Delayed => {
            request.log(
                level.below(),
                format_args!("delaying request, {delay} ms, zone \"{zone}\", by {source}"),
            );
        }
        Status::RejectedDryRun => request.log(level, format_args!("limiting requests, dry run")),
        Status::DelayedDryRun => request.log(level.below(), format_args!("delaying request, dry run")),
        Status::ErrorDenied => {
            request.log(Level::Error, format_args!("refusing request, redis gave no decision"))
        }
        Status::ErrorAllowed => {
            request.log(Level::Info, format_args!("request not limited, redis gave no decision"))
        }
        Status::Passed | Status::Bypassed => {}
    }
}

/// An answer from the I/O thread.
pub fn answered(worker: &Worker, reply: Reply) {
    if worker.ledger.answered(worker, &reply) || inspect::answered(worker, &reply) {
        return;
    }
    let ticket = reply.ticket & !PART_MASK;
    let Some(r) = worker.waiting(ticket) else { return };
    // SAFETY: a ticket names a request only as long as that is alive: its context cancels the ticket when the
    // request's pool goes.
    let request = unsafe { Request::from_ptr(r) };
    let part = (reply.ticket & PART_MASK) as usize;
    let failed = reply.result.is_err();
    if failed {
        request.log(
            Level::Info,
            format_args!(
                "redis gave no decision: {}",
                reply.result.as_ref().err().map_or(String::new(), ToString::to_string)
            ),
        );
    }
    let complete = with_wait(request, |wait| {
        if let Some(part) = wait.parts.get_mut(part)
            && part.answer.is_none()
        {
            part.answer = Some(reply.result.ok());
            wait.outstanding -= 1;
        }
        wait.outstanding == 0
    });
    if complete {
        worker.cancel(ticket);
        request.wake();
    }
}

/// The deadline of a waiting request has passed: what has not been answered will not be waited for.
pub fn expired(worker: &Worker, ticket: u64) {
    if inspect::expired(worker, ticket) {
        return;
    }
    let Some(r) = worker.waiting(ticket) else { return };
    // SAFETY: as in `answered`.
    let request = unsafe { Request::from_ptr(r) };
    with_wait(request, |wait| {
        for part in wait.parts.iter_mut().filter(|part| part.answer.is_none()) {
            part.answer = Some(None);
            if let Some(gate) = worker.gate(part.link) {
                gate.timed_out();
            }
        }
        wait.outstanding = 0;
        true
    });
    worker.cancel(ticket);
    request.wake();
}

fn with_wait(request: &Request, f: impl FnOnce(&mut Wait) -> bool) -> bool {
    let Some(ctx) = request.ctx() else { return false };
    match &mut ctx.limit.borrow_mut().stage {
        Stage::Waiting(wait) => f(wait),
        Stage::New | Stage::Done => false,
    }
}

impl Drop for Wait {
    /// A request that goes while it waits takes its ticket with it, and its question for a grant.
    fn drop(&mut self) {
        if let Some(worker) = worker::current()
            && self.ticket != 0
            && worker.waiting(self.ticket).is_some()
        {
            worker.cancel(self.ticket);
            let desk = Desk::new(Some(&worker), &worker.conf.limits);
            self.applied.iter().for_each(|one| desk.abandon(one));
        }
    }
}
