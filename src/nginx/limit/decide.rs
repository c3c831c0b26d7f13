//! From the limits of a location to one verdict about one request: what is asked where, and what the answers
//! mean together. All or nothing: if one enforced limit refuses, none is charged.

use super::super::log::Level;
use super::super::request::Request;
use super::super::sys::now;
use super::super::worker::Worker;
use super::conf::Form;
use super::{Limit, OnError, RateSpec, Ruling, Source, Status, Verdict, ZoneConf, Zones};
use crate::policy::Millis;
use crate::policy::limit::{Decision, KeyHash, Now, Rate, Rule, redis_key};
use crate::remote::Job;
use crate::remote::redis::{Call, Gate, Limit as RemoteLimit};
use crate::shared::limit::LimitZone;

/// Most requests one request may count for.
const MAX_COST: u64 = 1_000_000_000;
/// The ticket of calls nobody waits for.
const NOBODY: u64 = u64::MAX;
/// Milliseconds between two log lines about one zone's bad variable rate.
const COMPLAINT_PAUSE: u64 = 60_000;

/// One limit as it applies to one request.
pub struct Applied {
    pub zone: usize,
    key: KeyHash,
    pub rule: Rule,
    cost: u64,
    pub enforced: bool,
}

/// What one Redis is asked in one call.
pub struct Part {
    link: usize,
    /// Positions in `applied`.
    members: Vec<usize>,
    pub enforced: bool,
    pub answer: Option<Answer>,
}

/// A Redis's decisions, or none.
pub type Answer = Option<Vec<Decision>>;

/// A request between the question and the answers.
pub struct Wait {
    pub ticket: u64,
    pub applied: Vec<Applied>,
    pub parts: Vec<Part>,
    pub outstanding: usize,
    /// When the question was put: what Redis says of times to come counts from then at the latest.
    pub asked: Millis,
}

/// The limits that apply to this request, with their keys.
pub fn collect(request: &Request, limits: &[Limit], all_dry: bool) -> Vec<Applied> {
    let zones = &request.main_conf().limits;
    limits.iter().filter_map(|limit| apply(request, zones, limit, all_dry)).collect()
}

fn apply(request: &Request, zones: &Zones, limit: &Limit, all_dry: bool) -> Option<Applied> {
    let (number, rule) = limit.settled.as_ref()?;
    let zone = zones.get(*number)?;
    if let Some(when) = &limit.when
        && matches!(when.eval(request)?, b"" | b"0")
    {
        return None;
    }
    let key = zone.key.eval(request)?;
    if key.is_empty() {
        return None;
    }
    let rule = match rule {
        Some(rule) => *rule,
        None => variable_rule(request, zone, limit)?,
    };
    let cost = limit.cost.as_ref().map_or(Some(1), |cost| number_of(request, cost.eval(request)?))?;
    Some(Applied { zone: *number, key: KeyHash::new(key), rule, cost, enforced: !(all_dry || limit.dry_run) })
}

/// The cost of this request; a value that is not a whole number counts as 1, and is logged.
fn number_of(request: &Request, text: &[u8]) -> Option<u64> {
    let number = core::str::from_utf8(text).ok().and_then(|text| text.trim().parse::<u64>().ok());
    if number.is_none() {
        let text = text.escape_ascii();
        request.log(
            Level::Error,
            format_args!("rate limit cost \"{text}\" is not a whole number, 1 is charged"),
        );
    }
    Some(number.unwrap_or(1).min(MAX_COST))
}

/// The rule of a zone whose rate is a variable. A bad value: the limit is not applied, one line a minute.
fn variable_rule(request: &Request, zone: &ZoneConf, limit: &Limit) -> Option<Rule> {
    let RateSpec::Variable(value) = &zone.rate else { return None };
    let text = value.eval(request)?;
    let text = core::str::from_utf8(text).unwrap_or("\u{fffd}");
    let rule = Rate::parse(text).map_err(|e| e.to_string()).and_then(|rate| {
        let (burst, delay) = (limit.burst.or(zone.burst), limit.delay_of(zone.algorithm));
        Rule::new(zone.algorithm, rate, burst, delay).map_err(|e| e.to_string())
    });
    rule.map_err(|error| {
        let now = now().mono;
        if zone.complained.get().is_none_or(|last| now.saturating_sub(last) >= COMPLAINT_PAUSE) {
            zone.complained.set(Some(now));
            let error: String = error.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            request.log(Level::Error, format_args!("limit not applied: {error}, zone \"{}\"", zone.name));
        }
    })
    .ok()
}

/// One call for each Redis with enforced limits, and one for each limit that is only tried.
pub fn plan(applied: &[Applied], zones: &Zones) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    for (position, one) in applied.iter().enumerate() {
        let Some(link) = zones.get(one.zone).and_then(|zone| zone.redis) else { continue };
        match parts.iter_mut().find(|part| part.link == link && part.enforced && one.enforced) {
            Some(part) => part.members.push(position),
            None => parts.push(Part { link, members: vec![position], enforced: one.enforced, answer: None }),
        }
    }
    parts
}

/// Hands the parts to the I/O thread, as far as their gates let a request wait; the others are answered with
/// nothing at once. Returns how many answers are to come, and how long at most.
pub fn ask(worker: &Worker, wait: &mut Wait, zones: &Zones) -> u64 {
    let mut longest = 0;
    let Wait { ticket, applied, parts, outstanding, asked: _ } = wait;
    for (number, part) in parts.iter_mut().enumerate() {
        let open = worker.gate(part.link).is_none_or(|gate| !gate.admits());
        let Some(redis) = worker.conf.redis.get(part.link).filter(|_| !open) else {
            part.answer = Some(None);
            continue;
        };
        let limits =
            part.members.iter().map(|&m| remote_limit(&redis.key_prefix, zones, &applied[m], 1)).collect();
        worker.send(Job::Limit(Call { ticket: *ticket | number as u64, link: part.link, limits }));
        longest = longest.max(redis.timeout.as_millis() as u64);
        *outstanding += 1;
    }
    longest
}

fn remote_limit(prefix: &str, zones: &Zones, one: &Applied, sign: i64) -> RemoteLimit {
    let zone = zones.get(one.zone).map_or("", |zone| zone.name.as_str());
    let key = redis_key(prefix, zone, &one.key, one.rule.algorithm());
    RemoteLimit { key, rule: one.rule, cost: one.cost as i64 * sign }
}

/// Gives back what a Redis has charged for a request that was refused elsewhere. Nobody waits for it, and it
/// is never tried twice: a lost refund errs to the strict side.
fn refund(worker: &Worker, part: &Part, applied: &[Applied], zones: &Zones) {
    let Some(redis) = worker.conf.redis.get(part.link) else { return };
    let limits =
        part.members.iter().map(|&m| remote_limit(&redis.key_prefix, zones, &applied[m], -1)).collect();
    worker.send(Job::Limit(Call { ticket: NOBODY, link: part.link, limits }));
}

/// The memory of a zone.
fn memory(zones: &Zones, number: usize) -> Option<&LimitZone> {
    Some(&zones.get(number)?.shm.get()?.0)
}

/// What shared memory would refuse now. Charges nothing.
fn refusals<'a>(asked: impl Iterator<Item = (&'a Applied, Source)>, zones: &Zones, now: &Now) -> Vec<Ruling> {
    asked
        .filter_map(|(one, source)| {
            let decision = memory(zones, one.zone)?.peek(&one.key, &one.rule, now, one.cost);
            Some(Ruling { zone: one.zone, rule: one.rule, decision, source })
        })
        .filter(|ruling| !ruling.decision.admitted)
        .collect()
}

/// Decides over shared memory, all or nothing. Charges if all admit.
fn decide_locally(applied: &[(&Applied, Source)], zones: &Zones) -> (bool, Vec<Ruling>) {
    let now = now();
    let mut rulings: Vec<Ruling> = Vec::with_capacity(applied.len());
    // One limit alone needs no look before it charges.
    if applied.len() > 1 {
        let refused = refusals(applied.iter().copied(), zones, &now);
        if !refused.is_empty() {
            return (false, refused);
        }
    }
    for (position, (one, source)) in applied.iter().enumerate() {
        let Some(zone) = memory(zones, one.zone) else { continue };
        let decision = zone.admit(&one.key, &one.rule, &now, one.cost);
        rulings.push(Ruling { zone: one.zone, rule: one.rule, decision, source: *source });
        if !decision.admitted {
            // Another worker was quicker between the look and the charge.
            for (charged, _) in &applied[..position] {
                if let Some(zone) = memory(zones, charged.zone) {
                    zone.refund(&charged.key, &charged.rule, &now, charged.cost);
                }
            }
            return (false, rulings);
        }
    }
    (true, rulings)
}

/// Whether an enforced limit refuses already, so that no Redis needs to be asked. Charges nothing.
///
/// For a limit of Redis's this is exact: shared memory never knows of more than Redis does, because what Redis said is
/// booked as of when it was asked, and nothing but a refund or a reset makes room sooner than that. It holds for gcra,
/// whose whole state an answer tells; of a window it tells only a sum. While Redis is lost `on_error` decides instead.
pub fn refused_locally(worker: Option<&Worker>, applied: &[Applied], zones: &Zones) -> Option<Verdict> {
    let answers = |link| worker.and_then(|worker| worker.gate(link)).is_some_and(Gate::admits);
    let known = applied.iter().filter(|one| one.enforced).filter_map(|one| {
        match (zones.get(one.zone)?.redis, one.rule) {
            (None, _) => Some((one, Source::Local)),
            (Some(link), Rule::Gcra(_)) if answers(link) => Some((one, Source::Cache)),
            (Some(_), _) => None,
        }
    });
    let rulings = refusals(known, zones, &now());
    if rulings.is_empty() { None } else { Some(verdict(Status::Rejected, rulings)) }
}

/// What came of the enforced limits.
#[derive(Default)]
struct Outcome {
    rulings: Vec<Ruling>,
    refused: bool,
    denied: bool,
    allowed: bool,
}

/// All answers are in: the verdict, with everything charged that is to be charged and given back that is not.
pub fn conclude(worker: Option<&Worker>, wait: &Wait, zones: &Zones) -> Verdict {
    let mut outcome = Outcome::default();
    let mut local: Vec<(&Applied, Source)> = wait
        .applied
        .iter()
        .filter(|one| one.enforced && zones.get(one.zone).is_some_and(|zone| zone.redis.is_none()))
        .map(|one| (one, Source::Local))
        .collect();
    for part in wait.parts.iter().filter(|part| part.enforced) {
        gather(part, wait, zones, &mut outcome, &mut local);
    }
    if !outcome.refused && !outcome.denied && !local.is_empty() {
        let (admitted, rulings) = decide_locally(&local, zones);
        outcome.rulings.extend(rulings);
        outcome.refused = !admitted;
    }
    if outcome.refused || outcome.denied {
        let charged = wait.parts.iter().filter(|part| part.enforced && part.charged());
        charged.for_each(|part| {
            worker.inspect(|worker| refund(worker, part, &wait.applied, zones));
        });
        let status = if outcome.refused { Status::Rejected } else { Status::ErrorDenied };
        return verdict(status, outcome.rulings);
    }
    let tried = try_out(wait, zones);
    let delayed = outcome.rulings.iter().any(|ruling| ruling.decision.wait > 0);
    let status = match (delayed, tried) {
        (true, _) => Status::Delayed,
        (false, Some(status)) => status,
        (false, None) if outcome.allowed && outcome.rulings.is_empty() => Status::ErrorAllowed,
        (false, None) => Status::Passed,
    };
    verdict(status, outcome.rulings)
}

impl Part {
    /// Which Redis it is for.
    pub fn link(&self) -> usize {
        self.link
    }

    /// Whether its Redis has charged this call.
    fn charged(&self) -> bool {
        matches!(&self.answer, Some(Some(decisions)) if decisions.iter().all(|d| d.admitted))
    }
}

/// One enforced part's answer, or what the zones want done without one.
fn gather<'a>(
    part: &Part,
    wait: &'a Wait,
    zones: &Zones,
    outcome: &mut Outcome,
    local: &mut Vec<(&'a Applied, Source)>,
) {
    let members = part.members.iter().filter_map(|&m| wait.applied.get(m));
    let Some(Some(decisions)) = &part.answer else {
        for one in members {
            match zones.get(one.zone).map(|zone| zone.on_error).unwrap_or_default() {
                OnError::Local => local.push((one, Source::Fallback)),
                OnError::Allow => outcome.allowed = true,
                OnError::Deny => outcome.denied = true,
            }
        }
        return;
    };
    // One millisecond for what Redis rounds up.
    let then = Now { mono: wait.asked.saturating_sub(1), ..now() };
    for (one, decision) in members.zip(decisions) {
        // For the next refusal, and for the local fallback: when Redis is lost, nobody starts with a full bucket.
        if let Some(zone) = memory(zones, one.zone) {
            zone.observe(&one.key, &one.rule, &then, decision);
        }
        outcome.refused |= !decision.admitted;
        outcome.rulings.push(Ruling {
            zone: one.zone,
            rule: one.rule,
            decision: *decision,
            source: Source::Redis,
        });
    }
}

/// The limits that are only tried: charged each on its own, enforced never. Returns the worst that would have
/// happened.
fn try_out(wait: &Wait, zones: &Zones) -> Option<Status> {
    let remote = wait.parts.iter().filter(|part| !part.enforced);
    let remote = remote.flat_map(|part| part.answer.iter().flatten().flatten().copied());
    let local = wait.applied.iter().filter(|one| !one.enforced);
    let local = local.filter(|one| zones.get(one.zone).is_some_and(|zone| zone.redis.is_none()));
    let local =
        local.filter_map(|one| Some(memory(zones, one.zone)?.admit(&one.key, &one.rule, &now(), one.cost)));
    remote.chain(local).fold(None, |worst, decision| match (decision.admitted, decision.wait, worst) {
        (false, _, _) | (_, _, Some(Status::RejectedDryRun)) => Some(Status::RejectedDryRun),
        (true, wait, _) if wait > 0 => Some(Status::DelayedDryRun),
        (true, _, worst) => worst,
    })
}

/// No limit had anything to say.
pub fn bypassed() -> Verdict {
    verdict(Status::Bypassed, Vec::new())
}

fn verdict(status: Status, rulings: Vec<Ruling>) -> Verdict {
    let speaker = speaker(&rulings);
    Verdict { status, rulings, speaker, form: Form::default() }
}

/// The ruling that refused for longest; without a refusal, the one that refuses next: with least left. (A share of
/// the rate would favour rates with a small burst, which a client never comes to feel.)
fn speaker(rulings: &[Ruling]) -> Option<usize> {
    let positions = rulings.iter().enumerate();
    let refused =
        positions.clone().filter(|(_, r)| !r.decision.admitted).max_by_key(|(_, r)| r.decision.retry_after);
    refused.or_else(|| positions.min_by_key(|(_, r)| r.decision.remaining)).map(|(position, _)| position)
}
