//! From the limits of a location to one verdict about one request: what the answers mean together. All or
//! nothing: if one enforced limit refuses, none is charged.

use super::applied::{Applied, Mode};
use super::ask::{Part, Wait};
use super::desk::{Charge, Desk};
use super::{Few, OnError, Ruling, Source, Status, Verdict};
use crate::policy::limit::Decision;

/// What came of the enforced limits.
#[derive(Default)]
struct Outcome {
    rulings: Few<Ruling>,
    refused: bool,
    denied: bool,
    allowed: bool,
}

/// Whether an enforced limit is known to refuse already, so that no Redis needs to be asked. Charges nothing.
pub fn refused_early(desk: &Desk<'_>, applied: &[Applied]) -> Option<Verdict> {
    let enforced = || applied.iter().filter(|one| one.enforced);
    let known = enforced().filter_map(|one| {
        one.decided.filter(|(decision, _)| !decision.admitted).map(|(decision, by)| one.ruling(decision, by))
    });
    let charges: Few<Charge<'_>> = enforced().filter_map(|one| desk.charge(one)).collect();
    let rulings: Few<Ruling> = known.chain(desk.refusals(&charges)).collect();
    if rulings.is_empty() {
        return None;
    }
    desk.unspend(applied);
    Some(Verdict::new(Status::Rejected, rulings))
}

/// All answers are in: the verdict, with everything charged that is to be charged and given back that is not.
pub fn conclude(desk: &Desk<'_>, wait: &mut Wait) -> Verdict {
    take_in(desk, wait);
    let wait = &*wait;
    let mut outcome = Outcome::default();
    let mut charges = Few::new();
    for one in wait.applied.iter().filter(|one| one.enforced) {
        decided(desk, one, &mut outcome, &mut charges);
    }
    for part in &wait.parts {
        if part.enforced {
            gather(desk, part, wait, &mut outcome, &mut charges);
        }
    }
    if !outcome.refused && !outcome.denied && !charges.is_empty() {
        let (admitted, rulings) = desk.decide_locally(&charges);
        outcome.rulings.extend(rulings);
        outcome.refused = !admitted;
    }
    if outcome.refused || outcome.denied {
        give_back(desk, wait);
        let status = if outcome.refused { Status::Rejected } else { Status::ErrorDenied };
        return Verdict::new(status, outcome.rulings);
    }
    let tried = try_out(desk, wait);
    let delayed = outcome.rulings.iter().any(|ruling| ruling.decision.wait > 0);
    let status = match (delayed, tried) {
        (true, _) => Status::Delayed,
        (false, Some(status)) => status,
        (false, None) if outcome.allowed && outcome.rulings.is_empty() => Status::ErrorAllowed,
        (false, None) => Status::Passed,
    };
    Verdict::new(status, outcome.rulings)
}

/// An enforced limit that is not Redis's to decide now.
fn decided<'a>(desk: &Desk<'a>, one: &'a Applied, outcome: &mut Outcome, charges: &mut Few<Charge<'a>>) {
    if let Some((decision, source)) = one.decided {
        outcome.refused |= !decision.admitted;
        outcome.rulings.push(one.ruling(decision, source));
    } else if let Some(charge) = desk.charge(one) {
        charges.push(charge);
    } else if let Mode::Async(link) = one.mode {
        without_redis(desk, one, link, outcome, charges);
    }
}

/// What the answers tell this host's memory.
fn take_in(desk: &Desk<'_>, wait: &mut Wait) {
    for part in &wait.parts {
        match &part.answer {
            Some(Some(ruled)) => {
                wait.members(part).zip(ruled).for_each(|(one, ruled)| desk.settle(one, ruled, wait.asked));
            }
            _ => wait.members(part).for_each(|one| desk.abandon(one)),
        }
    }
    for part in &mut wait.parts {
        // Redis counts a grant as used that another request of this host has fetched meanwhile.
        if let ([member], Some(Some(ruled))) = (&part.members[..], &part.answer)
            && ruled.iter().any(|ruled| !ruled.decision.admitted)
            && let Some(one) = wait.applied.get_mut(*member)
            && let Some(decision) = desk.spend(one)
        {
            one.decided = Some((decision, Source::Lease));
            part.settled_here();
        }
    }
}

/// One enforced part's answer, or what the zones want done without one.
fn gather<'a>(
    desk: &Desk<'a>,
    part: &Part,
    wait: &'a Wait,
    outcome: &mut Outcome,
    charges: &mut Few<Charge<'a>>,
) {
    let members = part.members.iter().filter_map(|&member| wait.applied.get(member));
    let Some(Some(ruled)) = &part.answer else {
        members.for_each(|one| without_redis(desk, one, part.link, outcome, charges));
        return;
    };
    for (one, ruled) in members.zip(ruled) {
        outcome.refused |= !ruled.decision.admitted;
        outcome.rulings.push(one.ruling(ruled.decision, Source::Redis));
    }
}

/// `on_error`
fn without_redis<'a>(
    desk: &Desk<'a>,
    one: &'a Applied,
    link: usize,
    outcome: &mut Outcome,
    charges: &mut Few<Charge<'a>>,
) {
    match desk.on_error(one.zone) {
        OnError::Local => charges.push(desk.fallback(one, link)),
        OnError::Allow => {
            outcome.allowed = true;
            desk.count(one.zone, Status::ErrorAllowed, None);
        }
        OnError::Deny => {
            outcome.denied = true;
            desk.count(one.zone, Status::ErrorDenied, None);
        }
    }
}

/// The request is refused: nothing it was charged for stays charged.
fn give_back(desk: &Desk<'_>, wait: &Wait) {
    desk.unspend(&wait.applied);
    let Some(worker) = desk.worker else { return };
    for part in wait.parts.iter().filter(|part| part.enforced && part.charged()) {
        wait.refund(worker, part, desk.zones);
    }
}

/// The limits that are only tried: charged each on its own, enforced never. Returns the worst that would have
/// happened.
fn try_out(desk: &Desk<'_>, wait: &Wait) -> Option<Status> {
    let remote = wait.parts.iter().filter(|part| !part.enforced).flat_map(|part| {
        let ruled = part.answer.iter().flatten().flatten().map(|ruled| ruled.decision);
        wait.members(part).zip(ruled).map(|(one, decision)| (one.zone, decision, Source::Redis))
    });
    let local = wait.applied.iter().filter(|one| !one.enforced).filter_map(|one| match one.decided {
        Some((decision, source)) => Some((one.zone, decision, source)),
        None => Some((one.zone, desk.try_locally(&desk.charge(one)?)?, Source::Local)),
    });
    remote.chain(local).fold(None, |worst, (zone, decision, source)| {
        let status = worse(None, &decision);
        desk.count(zone, status.unwrap_or(Status::Passed), Some(source));
        worse(worst, &decision)
    })
}

fn worse(worst: Option<Status>, decision: &Decision) -> Option<Status> {
    match (decision.admitted, decision.wait, worst) {
        (false, _, _) | (_, _, Some(Status::RejectedDryRun)) => Some(Status::RejectedDryRun),
        (true, wait, _) if wait > 0 => Some(Status::DelayedDryRun),
        (true, _, worst) => worst,
    }
}
