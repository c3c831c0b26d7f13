//! What Redis is asked about a request, and what becomes of the answers.

use smallvec::smallvec;

use super::super::sys::now;
use super::super::worker::{NOBODY, Worker};
use super::applied::Applied;
use super::desk::Desk;
use super::{Few, Zones};
use crate::policy::Millis;
use crate::remote::Job;
use crate::remote::redis::{Act, Call, Ruled};

/// A request between the question and the answers.
pub struct Wait {
    pub ticket: u64,
    pub applied: Few<Applied>,
    pub parts: Few<Part>,
    pub outstanding: usize,
    /// When the question was put: what Redis says of times to come counts from then at the latest.
    pub asked: Millis,
}

/// What one Redis is asked in one call.
pub struct Part {
    pub link: usize,
    /// Positions in `applied`.
    pub members: Few<usize>,
    pub enforced: bool,
    pub answer: Option<Answer>,
}

/// A Redis's decisions, or none.
pub type Answer = Option<Vec<Ruled>>;

impl Wait {
    pub fn new(applied: Few<Applied>) -> Self {
        let parts = plan(&applied);
        Self { ticket: 0, applied, parts, outstanding: 0, asked: now().mono }
    }

    /// The limits of a part.
    pub fn members<'a>(&'a self, part: &'a Part) -> impl Iterator<Item = &'a Applied> {
        part.members.iter().filter_map(|&member| self.applied.get(member))
    }

    /// Hands the parts to the I/O thread, as far as their gates let a request wait; the others are answered with
    /// nothing at once. Returns how long the answers may take at most.
    pub fn ask(&mut self, worker: &Worker, zones: &Zones) -> Millis {
        let desk = Desk::new(Some(worker), zones);
        let mut longest = 0;
        let Self { ticket, applied, parts, outstanding, .. } = self;
        for (number, part) in parts.iter_mut().enumerate() {
            let redis = worker.conf.redis.get(part.link).filter(|_| desk.answers(part.link));
            let Some(redis) = redis else {
                part.answer = Some(None);
                continue;
            };
            let timeout = redis.timeout.as_millis() as Millis;
            let question =
                |&member: &usize| Some(desk.question(&redis.key_prefix, applied.get_mut(member)?, timeout));
            let limits = part.members.iter().filter_map(question).collect();
            worker.send(Job::Limit(Call { ticket: *ticket | number as u64, link: part.link, limits }));
            longest = longest.max(timeout);
            *outstanding += 1;
        }
        longest
    }

    /// Gives back what a Redis has charged for a request that was refused elsewhere. Nobody waits for it, and
    /// it is never tried twice: a lost refund errs to the strict side.
    pub fn refund(&self, worker: &Worker, part: &Part, zones: &Zones) {
        let Some(redis) = worker.conf.redis.get(part.link) else { return };
        let desk = Desk::new(Some(worker), zones);
        let back = |one: &Applied| {
            let act = Act::GiveBack { cost: one.cost };
            desk.give_back(one);
            desk.remote(&redis.key_prefix, (one.zone, &one.key, &one.rule), act, false)
        };
        let limits = self.members(part).map(back).collect();
        worker.send(Job::Limit(Call { ticket: NOBODY, link: part.link, limits }));
    }
}

/// One call for each Redis with enforced limits, and one for each limit that is only tried.
fn plan(applied: &[Applied]) -> Few<Part> {
    let mut parts: Few<Part> = Few::new();
    for (position, one) in applied.iter().enumerate().filter(|(_, one)| one.decided.is_none()) {
        let Some(link) = one.mode.asks() else { continue };
        match parts.iter_mut().find(|part| part.link == link && part.enforced && one.enforced) {
            Some(part) => part.members.push(position),
            None => {
                parts.push(Part { link, members: smallvec![position], enforced: one.enforced, answer: None })
            }
        }
    }
    parts
}

impl Part {
    /// Its limit was decided by this host after all.
    pub fn settled_here(&mut self) {
        self.members.clear();
        self.answer = Some(Some(Vec::new()));
    }

    /// Whether its Redis has charged this call.
    pub fn charged(&self) -> bool {
        matches!(&self.answer, Some(Some(ruled)) if !self.members.is_empty() && ruled.iter().all(|ruled| ruled.decision.admitted))
    }
}
