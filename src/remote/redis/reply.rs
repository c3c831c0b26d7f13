//! The script's reply: read, checked against the policy, and made into what each call is told.

use ::redis::Value;

use super::batch::{Batch, Entry};
use super::replay::{self, State};
use super::{Act, Ruled};
use crate::policy::Millis;
use crate::policy::limit::{Bucket, LIVE_BUCKETS, Rule};

/// What one script run said.
#[derive(Debug)]
pub(super) struct Decoded {
    /// For each call, for each limit.
    pub(super) rulings: Vec<Vec<Ruled>>,
    /// Values under our keys that were not ours.
    pub(super) foreign: u64,
    /// Redis's clock.
    #[cfg_attr(not(test), expect(dead_code, reason = "the tests replay a run at its own time"))]
    pub(super) now: Millis,
}

impl Batch {
    /// Reads the reply to [`command`](Self::command).
    ///
    /// # Errors
    /// If it is not what our script says, or the script judged otherwise than the policy does.
    pub(super) fn decode(&self, reply: Value) -> Result<Decoded, &'static str> {
        let Value::Array(values) = reply else { return Err("not an array") };
        let mut numbers = Numbers(values.into_iter());
        let (now, foreign) = (numbers.take()?, numbers.take()?);
        let mut rulings = Vec::with_capacity(self.tickets().count());
        for entry in &self.entries {
            if entry.times() > 1 {
                rulings.extend(numbers.often(entry, now)?.into_iter().map(|ruled| vec![ruled]));
            } else {
                rulings.push(numbers.once(entry, self.terms.gateways, now)?);
            }
        }
        match numbers.0.next() {
            None => Ok(Decoded { rulings, foreign, now }),
            Some(_) => Err("too long"),
        }
    }
}

/// Script and policy are two writings of one arithmetic.
const DISAGREE: &str = "script and policy disagree";

/// Walks over the reply.
struct Numbers(std::vec::IntoIter<Value>);

impl Numbers {
    fn take(&mut self) -> Result<u64, &'static str> {
        match self.0.next() {
            Some(Value::Int(number)) => u64::try_from(number).map_err(|_| "negative number"),
            Some(_) => Err("not a number"),
            None => Err("too short"),
        }
    }

    /// A call that was asked once.
    fn once(&mut self, entry: &Entry, gateways: u32, now: Millis) -> Result<Vec<Ruled>, &'static str> {
        let limits = &entry.call.limits;
        let passed = self.take()? == 1;
        let mut met = Vec::with_capacity(limits.len());
        for limit in limits {
            let state = self.state(&limit.rule)?;
            let decision = replay::decide(limit, &state, now);
            met.push((limit, state, decision));
        }
        if met.iter().all(|(_, _, decision)| decision.admitted) != passed {
            return Err(DISAGREE);
        }
        let mut rulings = Vec::with_capacity(met.len());
        for (limit, state, decision) in met {
            if !passed {
                rulings.push(replay::refused(limit, &state, decision, now));
                continue;
            }
            let granted = match limit.act {
                Act::Take { more: more @ 1.., .. } => {
                    let granted = self.take()?;
                    if granted != replay::allot(decision.remaining, more, gateways) {
                        return Err(DISAGREE);
                    }
                    granted
                }
                _ => 0,
            };
            rulings.push(replay::admitted(limit, state, decision, granted, now));
        }
        Ok(rulings)
    }

    /// A limit that was asked several times.
    fn often(&mut self, entry: &Entry, now: Millis) -> Result<Vec<Ruled>, &'static str> {
        let passed = self.take()?;
        let limit = entry.call.limits.first().ok_or("a call without limits")?;
        let state = self.state(&limit.rule)?;
        match replay::often(limit, state, entry.times(), now) {
            (count, rulings) if count == passed => Ok(rulings),
            _ => Err(DISAGREE),
        }
    }

    fn state(&mut self, rule: &Rule) -> Result<State, &'static str> {
        match rule {
            Rule::Gcra(_) => Ok(State::Level(self.take()?)),
            Rule::Sliding { .. } => {
                let (newest, level, count) = (self.take()?, self.take()?, self.take()?);
                let mut buckets = Vec::with_capacity(LIVE_BUCKETS + 1);
                for age in 0..count {
                    let tick = newest.checked_sub(age).ok_or("bucket before the epoch")?;
                    buckets.push(Bucket { tick, count: self.take()? });
                }
                Ok(State::Window { newest, level, buckets })
            }
            Rule::Fixed(_) => Ok(State::Fixed(Bucket { tick: self.take()?, count: self.take()? })),
        }
    }
}
