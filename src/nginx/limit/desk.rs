//! What decisions are made with: this worker, the zones and their memory, and one reading of the clocks.

use super::super::sys::now;
use super::super::worker::Worker;
use super::applied::{Applied, Mode};
use super::{Few, OnError, Ruling, Source, Status, Zones};
use crate::policy::Millis;
use crate::policy::limit::{Decision, KeyHash, Now, Rule, Share, redis_key};
use crate::remote::redis::{Act, Gate, Limit as RemoteLimit, Ruled, Unused};
use crate::shared::limit::LimitZone;
use crate::shared::outage::Outage;

/// How long after a request's own deadline its ask for a grant may still be taken to be on its way.
const LATE: Millis = 10;

/// For one turn of one request.
#[derive(Clone, Copy)]
pub struct Desk<'a> {
    pub worker: Option<&'a Worker>,
    pub zones: &'a Zones,
    pub now: Now,
}

/// A charge on shared memory: the limit, or this host's share of it while its Redis is lost.
pub struct Charge<'a> {
    one: &'a Applied,
    share: Share,
    source: Source,
}

impl<'a> Desk<'a> {
    pub fn new(worker: Option<&'a Worker>, zones: &'a Zones) -> Self {
        Self { worker, zones, now: now() }
    }

    /// The memory of a zone.
    pub fn memory(&self, zone: usize) -> Option<&'a LimitZone> {
        Some(&self.zones.get(zone)?.shm.get()?.0)
    }

    pub fn on_error(&self, zone: usize) -> OnError {
        self.zones.get(zone).map(|zone| zone.on_error).unwrap_or_default()
    }

    /// Counts what a request came to at one zone.
    pub fn count(&self, zone: usize, status: Status, source: Option<Source>) {
        if let Some(zone) = self.zones.get(zone) {
            zone.count(status, source);
        }
    }

    fn gate(&self, link: usize) -> Option<&'a Gate> {
        self.worker?.gate(link)
    }

    /// Whether a request may wait for this Redis.
    pub fn answers(&self, link: usize) -> bool {
        self.gate(link).is_some_and(Gate::admits)
    }

    fn gateways(&self, link: usize) -> u32 {
        let shared = self.worker.and_then(|worker| worker.conf.redis.shared(link));
        match (self.gate(link).and_then(Gate::heard), shared) {
            (Some(count), shared) => {
                shared.inspect(|shared| shared.heard(count));
                count
            }
            (None, shared) => shared.map_or(1, Outage::gateways),
        }
    }

    /// Decides what can be decided about Redis's limits without Redis: spends this host's grants, and remembers
    /// refusals.
    ///
    /// A remembered refusal is exact: shared memory never knows of more than Redis does, because what Redis said is
    /// booked as of when it was asked, and nothing but a refund or a reset makes room sooner than that. While
    /// Redis is lost `on_error` decides instead.
    pub fn decide_early(&self, applied: &mut [Applied]) {
        for one in applied {
            let Some(link) = one.mode.asks() else { continue };
            one.decided = match self.spend(one) {
                Some(decision) => Some((decision, Source::Lease)),
                None if self.answers(link) => self.denied(one).map(|decision| (decision, Source::Cache)),
                None => None,
            };
        }
    }

    /// Takes a request out of this host's grant, if it has one.
    pub fn spend(&self, one: &Applied) -> Option<Decision> {
        let Mode::Lease(link, _) = one.mode else { return None };
        self.memory(one.zone)?.spend(&one.key, &one.rule, &self.now, one.cost, self.gateways(link))
    }

    fn denied(&self, one: &Applied) -> Option<Decision> {
        self.memory(one.zone)?.denied(&one.key, &one.rule, &self.now, one.cost)
    }

    /// Gives back what [`Desk::decide_early`] spent for a request that is refused after all.
    pub fn unspend(&self, applied: &[Applied]) {
        let spent = |one: &&Applied| matches!(one.decided, Some((decision, _)) if decision.admitted);
        for one in applied.iter().filter(|one| one.enforced).filter(spent) {
            if let Some(zone) = self.memory(one.zone) {
                zone.unspend(&one.key, &one.rule, &self.now, one.cost);
            }
        }
    }

    /// A limit's charge on shared memory. None: it is not decided there.
    pub fn charge(&self, one: &'a Applied) -> Option<Charge<'a>> {
        match one.mode {
            Mode::Local => Some(Charge { one, share: Share::new(one.rule, 1), source: Source::Local }),
            Mode::Async(link) if self.answers(link) => {
                Some(Charge { one, share: Share::new(one.rule, 1), source: Source::Local })
            }
            Mode::Async(_) | Mode::Strict(_) | Mode::Lease(..) => None,
        }
    }

    /// This host's part of a limit whose Redis is lost.
    pub fn fallback(&self, one: &'a Applied, link: usize) -> Charge<'a> {
        Charge { one, share: Share::new(one.rule, self.gateways(link)), source: Source::Fallback }
    }

    /// A limit as its Redis is asked about it. For a lease that includes the question for the next grant, if no
    /// other request of this host is asking already.
    pub fn question(&self, prefix: &str, one: &mut Applied, timeout: Millis) -> RemoteLimit {
        let (mut more, mut unused) = (0, None);
        if let (Mode::Lease(_, life), Some(zone)) = (one.mode, self.memory(one.zone)) {
            let want = zone.want(&one.key, &one.rule, &self.now, life, timeout + LATE);
            one.asker = want.asker;
            more = want.more;
            unused = (want.unused > 0).then_some(Unused { tokens: want.unused, stamp: want.stamp });
        }
        let learning = one.mode.asks().and_then(|link| self.gate(link)).is_some_and(Gate::learning);
        let act = Act::Take { cost: one.cost, more, unused };
        self.remote(prefix, (one.zone, &one.key, &one.rule), act, learning)
    }

    /// Names a limit to Redis; with `tell`, what this host knows of it too. Of gcra only: what this host knows of a window
    /// is when it heard of it, which at the window's edge may be more than there is.
    pub fn remote(
        &self,
        prefix: &str,
        (zone, key, rule): (usize, &KeyHash, &Rule),
        act: Act,
        tell: bool,
    ) -> RemoteLimit {
        let name = self.zones.get(zone).map_or("", |zone| zone.name.as_str());
        let memory = self.memory(zone).filter(|_| tell && matches!(rule, Rule::Gcra(_)));
        let known = memory.map_or(0, |zone| zone.known(key, rule, &self.now));
        RemoteLimit { key: redis_key(prefix, name, key, rule.algorithm()), rule: *rule, act, known }
    }

    /// Redis has decided: for the next refusal, for the next requests of a lease, and for the local fallback, so that when
    /// Redis is lost nobody starts with a full bucket. `asked` is when the question was put.
    pub fn settle(&self, one: &Applied, ruled: &Ruled, asked: Millis) {
        let Some(zone) = self.memory(one.zone) else { return };
        let asked = Now { mono: asked, ..self.now };
        if let (Mode::Lease(_, life), true) = (one.mode, one.asker) {
            zone.grant(&one.key, &one.rule, &asked, life, ruled.granted, ruled.stamp);
        }
        // One millisecond for what Redis rounds up.
        let then = Now { mono: asked.mono.saturating_sub(1), ..asked };
        let (seen, cost) = match ruled.decision.admitted {
            true => (&ruled.after, one.cost + ruled.granted),
            false => (&ruled.decision, one.cost),
        };
        zone.observe(&one.key, &one.rule, &then, seen, cost);
    }

    /// Redis is told that a request of the limit was refused elsewhere: so is this host's memory.
    pub fn give_back(&self, one: &Applied) {
        if let Some(zone) = self.memory(one.zone) {
            zone.refund(&one.key, &one.rule, &self.now, one.cost);
        }
    }

    /// No answer came.
    pub fn abandon(&self, one: &Applied) {
        if one.asker
            && let Some(zone) = self.memory(one.zone)
        {
            zone.abandon(&one.key);
        }
    }

    /// Decides charges over shared memory, all or nothing. Charges if all admit.
    pub fn decide_locally(&self, charges: &[Charge<'_>]) -> (bool, Few<Ruling>) {
        let mut rulings: Few<Ruling> = Few::new();
        // One limit alone needs no look before it charges.
        if charges.len() > 1 {
            let refused = self.refusals(charges);
            if !refused.is_empty() {
                return (false, refused);
            }
        }
        for (position, charge) in charges.iter().enumerate() {
            let Some(ruling) = self.admit(charge) else { continue };
            rulings.push(ruling);
            if !ruling.decision.admitted {
                // Another worker was quicker between the look and the charge.
                charges[..position].iter().for_each(|charged| self.refund(charged));
                return (false, rulings);
            }
        }
        charges.iter().for_each(|charge| self.note(charge));
        (true, rulings)
    }

    /// What shared memory would refuse now. Charges nothing.
    pub fn refusals(&self, charges: &[Charge<'_>]) -> Few<Ruling> {
        let looked = charges.iter().filter_map(|charge| {
            let (rule, cost) = (charge.share.rule(), charge.share.cost(charge.one.cost));
            let decision = self.memory(charge.one.zone)?.peek(&charge.one.key, rule, &self.now, cost);
            Some(charge.one.ruling(charge.share.of(decision), charge.source))
        });
        looked.filter(|ruling| !ruling.decision.admitted).collect()
    }

    fn admit(&self, charge: &Charge<'_>) -> Option<Ruling> {
        let (rule, cost) = (charge.share.rule(), charge.share.cost(charge.one.cost));
        let decision = self.memory(charge.one.zone)?.admit(&charge.one.key, rule, &self.now, cost);
        Some(charge.one.ruling(charge.share.of(decision), charge.source))
    }

    fn refund(&self, charge: &Charge<'_>) {
        if let Some(zone) = self.memory(charge.one.zone) {
            let (rule, cost) = (charge.share.rule(), charge.share.cost(charge.one.cost));
            zone.refund(&charge.one.key, rule, &self.now, cost);
        }
    }

    /// One limit that is only tried, charged for itself.
    pub fn try_locally(&self, charge: &Charge<'_>) -> Option<Decision> {
        let decision = self.admit(charge)?.decision;
        if decision.admitted {
            self.note(charge);
        }
        Some(decision)
    }

    /// Redis is to hear of this charge: of its amount, or after a time without Redis of where a gcra key stands.
    fn note(&self, charge: &Charge<'_>) {
        let (Some(worker), one) = (self.worker, charge.one) else { return };
        match (one.mode, charge.source) {
            (Mode::Async(link), _) => worker.ledger.owe(link, one, one.cost),
            (Mode::Strict(link) | Mode::Lease(link, _), Source::Fallback) => {
                let told = matches!(one.rule, Rule::Gcra(_));
                worker.ledger.owe(link, one, if told { 0 } else { one.cost });
            }
            _ => {}
        }
    }
}
