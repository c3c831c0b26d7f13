//! A key as the policy sees it: the oracle of the script, and of what follows from its rules.

use crate::policy::limit::{Bucket, Decision, Gcra, LIVE_BUCKETS, Rule, Tat};
use crate::remote::redis::Unused;

/// xorshift64*, so that a failure can be repeated.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % bound
    }

    pub(super) fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

/// One key in the model: the parts of state that any rule has.
#[derive(Clone, Default)]
pub(super) struct Model {
    pub(super) tat: Tat,
    buckets: Vec<Bucket>,
    fixed: Bucket,
}

impl Model {
    pub(super) fn decide(&self, rule: &Rule, now: u64, cost: u64) -> Decision {
        match rule {
            Rule::Gcra(gcra) => gcra.decide(gcra.level(self.tat, now), cost),
            Rule::Sliding { window, burst } => {
                let usage = window.usage(self.buckets.iter().copied(), now);
                let level = burst.map_or(0, |gcra| gcra.level(self.tat, now));
                window.decide_with(burst.as_ref(), &usage, level, now, cost)
            }
            Rule::Fixed(window) => window.decide(window.current(self.fixed, now), now, cost),
        }
    }

    pub(super) fn charge(&mut self, rule: &Rule, now: u64, cost: u64) {
        self.pour(rule, now, cost, |gcra, level| gcra.poured(level, cost));
    }

    /// A second's worth above a full bucket is the most.
    pub(super) fn post(&mut self, rule: &Rule, now: u64, cost: u64) {
        let brim = |gcra: &Gcra| gcra.capacity() + 1000 * gcra.n();
        self.pour(rule, now, cost, |gcra, level| gcra.poured(level, cost).min(brim(gcra).max(level)));
    }

    fn pour(&mut self, rule: &Rule, now: u64, cost: u64, level: impl Fn(&Gcra, u64) -> u64) {
        let pour = |tat: Tat, gcra: &Gcra| gcra.tat(level(gcra, gcra.level(tat, now)), now);
        match rule {
            Rule::Gcra(gcra) => self.tat = pour(self.tat, gcra),
            Rule::Sliding { window, burst } => {
                let tick = window.usage(self.buckets.iter().copied(), now).newest;
                self.buckets.push(Bucket { tick, count: cost });
                if let Some(gcra) = burst {
                    self.tat = pour(self.tat, gcra);
                }
            }
            Rule::Fixed(window) => {
                self.fixed = window.current(self.fixed, now);
                self.fixed.count += cost;
            }
        }
    }

    pub(super) fn give_back(&mut self, rule: &Rule, now: u64, cost: u64) {
        match rule {
            Rule::Gcra(gcra) => self.tat = gcra.refund(self.tat, now, cost),
            Rule::Sliding { burst, .. } => {
                self.take_out(rule, now, cost);
                if let Some(gcra) = burst {
                    self.tat = gcra.refund(self.tat, now, cost);
                }
            }
            Rule::Fixed(_) => self.take_out(rule, now, cost),
        }
    }

    /// Out of the oldest buckets that count, or of the window.
    fn take_out(&mut self, rule: &Rule, now: u64, cost: u64) {
        if let Rule::Fixed(window) = rule {
            self.fixed = window.current(self.fixed, now);
            self.fixed.count = self.fixed.count.saturating_sub(cost);
        }
        if let Rule::Sliding { window, .. } = rule {
            let newest = window.usage(self.buckets.iter().copied(), now).newest;
            self.buckets.retain(|bucket| bucket.tick + LIVE_BUCKETS as u64 > newest);
            self.buckets.sort_by_key(|bucket| bucket.tick);
            let mut owed = cost;
            for bucket in &mut self.buckets {
                let less = owed.min(bucket.count);
                bucket.count -= less;
                owed -= less;
            }
        }
    }

    /// What a grant has left unspent, as far as the charge for it has not drained or gone.
    pub(super) fn take_unused(&mut self, rule: &Rule, now: u64, unused: Unused) {
        match rule {
            Rule::Gcra(gcra) => {
                let left = gcra.level(Tat::from_bits(unused.stamp), now);
                let ticks = (unused.tokens * gcra.p()).min(left);
                self.tat = gcra.tat(gcra.level(self.tat, now).saturating_sub(ticks), now);
            }
            Rule::Sliding { window, .. } => {
                let newest = window.usage(self.buckets.iter().copied(), now).newest;
                if unused.stamp / window.tick() + LIVE_BUCKETS as u64 > newest {
                    self.take_out(rule, now, unused.tokens);
                }
            }
            Rule::Fixed(window) => {
                if unused.stamp / window.rate().period == window.current(self.fixed, now).tick {
                    self.take_out(rule, now, unused.tokens);
                }
            }
        }
    }

    /// To what is known to be in use.
    pub(super) fn raise(&mut self, rule: &Rule, now: u64, known: u64) {
        match rule {
            Rule::Gcra(gcra) => self.tat = self.tat.max(gcra.tat(known.min(gcra.capacity()), now)),
            Rule::Sliding { window, .. } => {
                let usage = window.usage(self.buckets.iter().copied(), now);
                let missing = known.min(window.rate().count).saturating_sub(usage.used);
                self.buckets.push(Bucket { tick: usage.newest, count: missing });
            }
            Rule::Fixed(window) => {
                self.fixed = window.current(self.fixed, now);
                self.fixed.count = self.fixed.count.max(known.min(window.rate().count));
            }
        }
    }

    /// What names a grant that has just been charged.
    pub(super) fn stamp(&self, rule: &Rule, now: u64) -> u64 {
        if matches!(rule, Rule::Gcra(_)) { self.tat.to_bits() } else { now }
    }

    /// The millisecond at which the state says nothing any more.
    pub(super) fn drained_at(&self, rule: &Rule) -> u64 {
        let tat = self.tat.ms() + u64::from(self.tat.fraction() > 0);
        match rule {
            Rule::Gcra(_) => tat,
            Rule::Sliding { window, .. } => {
                let counting = self.buckets.iter().filter(|bucket| bucket.count > 0);
                let last = counting.map(|bucket| bucket.tick).max();
                tat.max(last.map_or(0, |tick| window.leaves_at(tick)))
            }
            Rule::Fixed(window) if self.fixed.count > 0 => window.ends_at(self.fixed.tick),
            Rule::Fixed(_) => 0,
        }
    }
}
