//! The script's arithmetic again, by the policy: from the state that each limit met to what its client is told.

use super::{Act, Limit, Ruled};
use crate::policy::Millis;
use crate::policy::limit::{Bucket, Decision, Gcra, Rule};

/// The state that a limit met.
#[derive(Debug, Clone)]
pub(super) enum State {
    Level(u64),
    /// Buckets from the newest, whose number `newest` is, to older ones.
    Window {
        newest: u64,
        level: u64,
        buckets: Vec<Bucket>,
    },
    Fixed(Bucket),
}

impl State {
    /// The policy's decision here.
    pub(super) fn decide(&self, rule: &Rule, now: Millis, cost: u64) -> Decision {
        match (rule, self) {
            (Rule::Gcra(gcra), Self::Level(level)) => gcra.decide(*level, cost),
            (Rule::Sliding { window, burst }, Self::Window { level, buckets, .. }) => {
                let usage = window.usage(buckets.iter().copied(), now);
                window.decide_with(burst.as_ref(), &usage, *level, now, cost)
            }
            (Rule::Fixed(window), Self::Fixed(bucket)) => window.decide(*bucket, now, cost),
            // The state was made for this very rule.
            _ => Decision::default(),
        }
    }

    /// As a peek says.
    fn peek(&self, rule: &Rule, now: Millis) -> Decision {
        self.decide(rule, now, 0)
    }

    /// Charges what was admitted.
    fn charge(&mut self, rule: &Rule, cost: u64) {
        self.pour(rule, cost, |gcra, level| gcra.poured(level, cost));
    }

    /// Charges without asking; see the script's `poured`.
    fn post(&mut self, rule: &Rule, cost: u64) {
        self.pour(rule, cost, |gcra, level| gcra.poured(level, cost).min(brim(gcra).max(level)));
    }

    fn pour(&mut self, rule: &Rule, cost: u64, level_after: impl Fn(&Gcra, u64) -> u64) {
        match (rule, self) {
            (Rule::Gcra(gcra), Self::Level(level)) => *level = level_after(gcra, *level),
            (Rule::Sliding { burst, .. }, Self::Window { newest, level, buckets }) => {
                match buckets.first_mut().filter(|bucket| bucket.tick == *newest) {
                    Some(bucket) => bucket.count = counted(bucket.count, cost),
                    None => buckets.insert(0, Bucket { tick: *newest, count: cost }),
                }
                if let Some(gcra) = burst {
                    *level = level_after(gcra, *level);
                }
            }
            (Rule::Fixed(_), Self::Fixed(bucket)) => bucket.count = counted(bucket.count, cost),
            _ => {}
        }
    }

    /// Takes back: out of the oldest buckets, never below nothing.
    fn give_back(&mut self, rule: &Rule, cost: u64) {
        let drained = |gcra: &Gcra, level: u64| level.saturating_sub(cost.saturating_mul(gcra.p()));
        match (rule, self) {
            (Rule::Gcra(gcra), Self::Level(level)) => *level = drained(gcra, *level),
            (Rule::Sliding { burst, .. }, Self::Window { level, buckets, .. }) => {
                let mut owed = cost;
                for bucket in buckets.iter_mut().rev() {
                    let less = bucket.count.min(owed);
                    bucket.count -= less;
                    owed -= less;
                }
                if let Some(gcra) = burst {
                    *level = drained(gcra, *level);
                }
            }
            (Rule::Fixed(_), Self::Fixed(bucket)) => bucket.count = bucket.count.saturating_sub(cost),
            _ => {}
        }
    }

    /// What names a grant that leaves this state behind.
    fn stamp(&self, rule: &Rule, now: Millis) -> u64 {
        match (rule, self) {
            (Rule::Gcra(gcra), Self::Level(level)) => gcra.tat(*level, now).to_bits(),
            _ => now,
        }
    }
}

/// The highest level, in ticks, that is not taken for another configuration's.
const fn brim(gcra: &Gcra) -> u64 {
    let slack = gcra.horizon() - gcra.capacity() / gcra.n();
    gcra.capacity() + slack * gcra.n()
}

/// A count of a window with `cost` more, as far as the script counts.
fn counted(count: u64, cost: u64) -> u64 {
    const CEILING: u64 = 1 << 48;
    count.saturating_add(cost).min(count.max(CEILING))
}

/// Requests in advance of `more` where `room` are left; see the script's `allot`.
pub(super) fn allot(room: u64, more: u64, gateways: u32) -> u64 {
    more.min((room / (2 * u64::from(gateways.max(1)))).max(1)).min(room)
}

/// What this limit alone decides, on the state that it met.
pub(super) fn decide(limit: &Limit, state: &State, now: Millis) -> Decision {
    let cost = if let Act::Take { cost, .. } = limit.act { cost } else { 0 };
    state.decide(&limit.rule, now, cost)
}

/// What becomes of a limit whose call was admitted, with so many requests in advance.
pub(super) fn admitted(
    limit: &Limit,
    mut state: State,
    decision: Decision,
    granted: u64,
    now: Millis,
) -> Ruled {
    let rule = &limit.rule;
    match limit.act {
        // The decision says already where a charge leads.
        Act::Take { .. } if granted == 0 => return told(decision),
        Act::Take { cost, .. } => {
            state.charge(rule, cost);
            state.charge(rule, granted);
            let (after, stamp) = (state.peek(rule, now), state.stamp(rule, now));
            return Ruled { decision, after, granted, stamp };
        }
        Act::GiveBack { cost } => state.give_back(rule, cost),
        Act::Post { cost } => state.post(rule, cost),
    }
    told(state.peek(rule, now))
}

/// What becomes of a limit whose call was refused. If it would have admitted alone it says where it stands.
pub(super) fn refused(limit: &Limit, state: &State, decision: Decision, now: Millis) -> Ruled {
    told(if decision.admitted { state.peek(&limit.rule, now) } else { decision })
}

/// What becomes of one limit asked so often one after another, and how many of them were admitted.
pub(super) fn often(limit: &Limit, mut state: State, times: usize, now: Millis) -> (u64, Vec<Ruled>) {
    let (mut passed, mut rulings) = (0, Vec::with_capacity(times));
    while rulings.len() < times {
        let decision = decide(limit, &state, now);
        rulings.push(told(decision));
        if !decision.admitted {
            // Nothing changes any more.
            rulings.resize(times, told(decision));
            break;
        }
        passed += 1;
        if let Act::Take { cost: cost @ 1.., .. } = limit.act {
            state.charge(&limit.rule, cost);
        }
    }
    (passed, rulings)
}

/// Nothing was taken in advance: after the decision the key stands where that says.
fn told(decision: Decision) -> Ruled {
    let after = Decision { admitted: true, wait: 0, retry_after: 0, ..decision };
    Ruled { decision, after, granted: 0, stamp: 0 }
}
