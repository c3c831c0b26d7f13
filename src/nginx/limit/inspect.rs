//! One key, for the API: where it stands, and having it forgotten.
//!
//! What this host's shared memory decides is known at once. A zone with a Redis is asked there, by the I/O thread: a look
//! is a question of cost 0, and to forget is to give back more than can have been used, which deletes the key.

use std::cell::RefCell;
use std::collections::HashMap;

use super::super::api::{self, Outcome};
use super::super::sys::now;
use super::super::worker::Worker;
use super::desk::Desk;
use super::{RateSpec, Source, Sync, ZoneConf};
use crate::policy::Millis;
use crate::policy::api::Failure;
use crate::policy::limit::{Decision, Delay, KeyHash, Rate, Rule};
use crate::remote::Job;
use crate::remote::redis::{Act, Call, MAX_COST, Reply, Ruled};

/// One key of a zone.
#[derive(Clone)]
pub struct Subject {
    /// The zone's number.
    pub zone: usize,
    pub key: KeyHash,
    /// As the zone's limits are used, at least one.
    pub rules: Vec<Rule>,
}

/// Where a key stands under one rule.
pub struct Standing {
    pub rule: Rule,
    /// As a peek says.
    pub at: Decision,
    /// What one more request would be told.
    pub next: Decision,
}

/// Where a key stands.
pub struct Report {
    pub standings: Vec<Standing>,
    pub source: Source,
}

/// What is done with what comes of it.
pub type Told = Box<dyn FnOnce(Option<Report>) -> Outcome>;

/// Takes a ticket for whoever asks.
pub type Ticket<'t> = &'t dyn Fn() -> Result<u64, Failure>;

/// What waits for Redis.
struct Pending {
    subject: Subject,
    link: usize,
    /// It is a look: without an answer this host's own knowledge will do.
    looks: bool,
    told: Told,
}

thread_local! {
    /// By ticket.
    static PENDING: RefCell<HashMap<u64, Pending>> = RefCell::default();
}

/// The rules under which a zone is used. A rate that is a variable is for the caller to say.
pub fn rules(zone: &ZoneConf, said: Option<&str>) -> Result<Vec<Rule>, String> {
    let rate = match (&zone.rate, said) {
        (RateSpec::Fixed(rate), _) => *rate,
        (RateSpec::Variable(_), Some(said)) => Rate::parse(said).map_err(|error| error.to_string())?,
        (RateSpec::Variable(_), None) => {
            return Err("the rate of this zone is a variable: say which with \"rate\"".to_owned());
        }
    };
    let uses = zone.uses.borrow();
    let own = [(zone.burst, zone.usual_delay())];
    let uses = if uses.is_empty() { own.as_slice() } else { uses.as_slice() };
    let rule = |(burst, delay): &(Option<u64>, Delay)| {
        Rule::new(zone.algorithm, rate, *burst, *delay).map_err(|error| error.to_string())
    };
    uses.iter().map(rule).collect()
}

/// The Redis that knows, if the zone has one that answers.
fn link(desk: &Desk<'_>, zone: usize) -> Option<usize> {
    let conf = desk.zones.get(zone)?;
    let asked = !matches!(conf.sync, Sync::Async);
    conf.redis.filter(|link| asked && desk.answers(*link))
}

/// Where a key stands. `Ok`: told at once; `Err`: it will be, by the ticket.
pub fn look(worker: &Worker, subject: Subject, ticket: Ticket<'_>, told: Told) -> Option<Outcome> {
    let desk = Desk::new(Some(worker), &worker.conf.limits);
    let redis = desk.zones.get(subject.zone).and_then(|zone| zone.redis);
    let Some(link) = link(&desk, subject.zone) else {
        let lost = redis.is_some_and(|link| !desk.answers(link));
        let source = if lost { Source::Fallback } else { Source::Local };
        return Some(told(Some(here(&desk, &subject, source))));
    };
    ask(worker, link, subject, Act::take(0), ticket, told)
}

/// Has a key forgotten: here, and in Redis. As [`look`].
pub fn forget(worker: &Worker, subject: Subject, ticket: Ticket<'_>, told: Told) -> Option<Outcome> {
    let desk = Desk::new(Some(worker), &worker.conf.limits);
    if let Some(zone) = desk.memory(subject.zone) {
        zone.reset(&subject.key);
    }
    match desk.zones.get(subject.zone).and_then(|zone| zone.redis) {
        None => Some(told(Some(here(&desk, &subject, Source::Local)))),
        Some(link) if desk.answers(link) => {
            ask(worker, link, subject, Act::GiveBack { cost: MAX_COST }, ticket, told)
        }
        Some(_) => Some(told(None)),
    }
}

fn ask(
    worker: &Worker,
    link: usize,
    subject: Subject,
    act: Act,
    ticket: Ticket<'_>,
    told: Told,
) -> Option<Outcome> {
    let Some(redis) = worker.conf.redis.get(link) else { return Some(told(None)) };
    let ticket = match ticket() {
        Ok(ticket) => ticket,
        Err(failure) => return Some(Err(failure)),
    };
    let desk = Desk::new(Some(worker), &worker.conf.limits);
    let limit = |rule: &Rule| desk.remote(&redis.key_prefix, (subject.zone, &subject.key, rule), act, false);
    // To forget is said once.
    let looks = matches!(act, Act::Take { .. });
    let limits = subject.rules.iter().take(if looks { usize::MAX } else { 1 }).map(limit).collect();
    PENDING.with_borrow_mut(|pending| pending.insert(ticket, Pending { subject, link, looks, told }));
    worker.send(Job::Limit(Call { ticket, link, limits }));
    worker.deadline(ticket, redis.timeout.as_millis() as Millis);
    None
}

/// An answer from the I/O thread; false if it is not one of ours.
pub fn answered(worker: &Worker, reply: &Reply) -> bool {
    tell(worker, reply.ticket, reply.result.as_deref().ok())
}

/// No answer came in time; false if the ticket is not one of ours.
pub fn expired(worker: &Worker, ticket: u64) -> bool {
    let link = PENDING.with_borrow(|pending| pending.get(&ticket).map(|pending| pending.link));
    if let Some(gate) = link.and_then(|link| worker.gate(link)) {
        gate.timed_out();
    }
    tell(worker, ticket, None)
}

fn tell(worker: &Worker, ticket: u64, ruled: Option<&[Ruled]>) -> bool {
    let pending = PENDING.with_borrow_mut(|pending| pending.remove(&ticket));
    let Some(Pending { subject, looks, told, .. }) = pending else { return false };
    let desk = Desk::new(Some(worker), &worker.conf.limits);
    let report = match ruled {
        Some(ruled) => Some(there(&subject, ruled, &desk)),
        None => looks.then(|| here(&desk, &subject, Source::Fallback)),
    };
    api::resume(ticket, told(report));
    true
}

/// As this host's shared memory has it.
pub fn here(desk: &Desk<'_>, subject: &Subject, source: Source) -> Report {
    let Some(zone) = desk.memory(subject.zone) else { return Report { standings: Vec::new(), source } };
    let peek = |rule: &Rule, cost| zone.peek(&subject.key, rule, &desk.now, cost);
    let standing = |rule: &Rule| Standing { rule: *rule, at: peek(rule, 0), next: peek(rule, 1) };
    Report { standings: subject.rules.iter().map(standing).collect(), source }
}

/// As Redis has it. It was asked about nothing, so what one more request would be told is worked out here.
fn there(subject: &Subject, ruled: &[Ruled], desk: &Desk<'_>) -> Report {
    let standing = |(rule, ruled): (&Rule, &Ruled)| {
        let next = next(rule, &ruled.after, subject, desk);
        Standing { rule: *rule, at: ruled.after, next }
    };
    Report { standings: subject.rules.iter().zip(ruled).map(standing).collect(), source: Source::Redis }
}

/// What one more request would be told where `at` is what a peek was.
fn next(rule: &Rule, at: &Decision, subject: &Subject, desk: &Desk<'_>) -> Decision {
    if let Rule::Gcra(gcra) = rule {
        // What takes so long to drain, to the millisecond.
        return gcra.decide(at.reset_after.saturating_mul(gcra.n()), 1);
    }
    match at.remaining.checked_sub(1) {
        Some(remaining) => Decision { admitted: true, remaining, ..*at },
        None => {
            let known = desk.memory(subject.zone).map(|zone| zone.peek(&subject.key, rule, &now(), 1));
            let known =
                known.filter(|known| !known.admitted).map_or(at.reset_after, |known| known.retry_after);
            Decision { admitted: false, retry_after: known.clamp(1, at.reset_after.max(1)), ..*at }
        }
    }
}
