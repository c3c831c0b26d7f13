//! What one of several hosts may admit while none of them can ask the others: its part of the limit.
//!
//! All hosts together then admit about what the limit says, instead of that many times over. The state stays
//! one of the whole limit, counted as if every host were doing what this one does: so it may be seeded from
//! what Redis said last, and be told to Redis afterwards.

use super::{Decision, Delay, Gcra, Rate, Rule};

/// One host's part of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    rule: Rule,
    /// So many requests of the whole limit stand for one of this host's.
    factor: u64,
    /// More than that the limit never admits at once.
    most: u64,
}

impl Share {
    /// The part of one of `hosts` hosts, at least 1 of them. Even the smallest part admits one request now and
    /// then: with more hosts than a window has requests, or than a burst has room for, each gets one.
    pub fn new(rule: Rule, hosts: u32) -> Self {
        let factor = u64::from(hosts.max(1));
        let (rule, factor, most) = match rule {
            Rule::Gcra(gcra) => match slower(&gcra, factor) {
                Some(part) => (Rule::Gcra(part), 1, u64::MAX),
                None => (rule, 1, u64::MAX),
            },
            Rule::Sliding { window, burst } => {
                let burst = burst.map_or(u64::MAX, |gcra| gcra.burst() + 1);
                (rule, factor, window.rate().count.min(burst))
            }
            Rule::Fixed(window) => (rule, factor, window.rate().count),
        };
        Self { rule, factor, most }
    }

    /// The rule to decide by.
    pub const fn rule(&self) -> &Rule {
        &self.rule
    }

    /// What `cost` requests of this host cost by that rule. A cost that the limit could never admit stays so.
    pub fn cost(&self, cost: u64) -> u64 {
        if cost > self.most { cost } else { cost.saturating_mul(self.factor).min(self.most) }
    }

    /// A decision by that rule, in requests of this host.
    #[must_use]
    pub fn of(&self, decision: Decision) -> Decision {
        Decision { remaining: decision.remaining / self.factor, ..decision }
    }
}

/// As many requests in `hosts` times the period, with that part of the burst: the same drain time, so a state
/// of one means as much under the other. `None` if it cannot be decided exactly.
fn slower(gcra: &Gcra, hosts: u64) -> Option<Gcra> {
    let rate = gcra.rate();
    let period = rate.period.checked_mul(hosts).filter(|period| *period <= Rate::MAX_PERIOD)?;
    let burst = ((gcra.burst() + 1) / hosts).max(1) - 1;
    let delay = if gcra.delay() == gcra.burst() { Delay::None } else { Delay::After(gcra.delay() / hosts) };
    Gcra::new(Rate { period, ..rate }, burst, delay).ok()
}

#[cfg(test)]
mod tests {
    use super::super::{Algorithm, Tat};
    use super::*;

    fn rule(algorithm: Algorithm, text: &str, burst: Option<u64>) -> Rule {
        Rule::new(algorithm, Rate::parse(text).unwrap(), burst, Delay::None).unwrap()
    }

    /// Admissions of one host that asks as fast as it can for `ms`, beginning with `tat`.
    fn admitted(share: &Share, mut tat: Tat, ms: u64) -> u64 {
        let Rule::Gcra(gcra) = share.rule() else { unreachable!() };
        let mut count = 0;
        for now in 1_000_000..1_000_000 + ms {
            loop {
                let (decision, next) = gcra.admit(tat, now, share.cost(1));
                tat = next;
                if !decision.admitted {
                    break;
                }
                count += 1;
            }
        }
        count
    }

    #[test]
    fn hosts_together_admit_what_the_limit_says() {
        for (burst, hosts) in [(20, 1), (20, 2), (20, 4), (0, 4), (7, 3)] {
            let share = Share::new(rule(Algorithm::Gcra, "100r/s", Some(burst)), hosts);
            let all = admitted(&share, Tat::EMPTY, 2_000) * u64::from(hosts);
            // The last term: each host may be in the middle of its own burst.
            let bound = (burst + 1).max(u64::from(hosts)) + 200;
            assert!(all <= bound, "{all} of {bound}: burst {burst}, {hosts} hosts");
            assert!(all + u64::from(hosts) * 2 >= 200, "{all}: burst {burst}, {hosts} hosts");
        }
    }

    #[test]
    fn begins_where_the_whole_limit_stopped() {
        let whole = rule(Algorithm::Gcra, "20r/m", Some(19));
        let Rule::Gcra(gcra) = whole else { unreachable!() };
        let (_, tat) = gcra.admit(Tat::EMPTY, 1_000_000, 12);
        assert_eq!(admitted(&Share::new(whole, 1), tat, 10), 8);
        assert_eq!(admitted(&Share::new(whole, 2), tat, 10), 4);
        assert_eq!(admitted(&Share::new(whole, 4), tat, 10), 2);
    }

    #[test]
    fn windows_count_for_all_hosts() {
        for algorithm in [Algorithm::SlidingWindow, Algorithm::FixedWindow] {
            let share = Share::new(rule(algorithm, "20r/m", None), 4);
            assert_eq!((share.cost(0), share.cost(1), share.cost(5), share.cost(21)), (0, 4, 20, 21));
            let left = Decision { remaining: 11, ..Decision::default() };
            assert_eq!(share.of(left).remaining, 2);
        }
        let burst = Share::new(rule(Algorithm::SlidingWindow, "20r/m", Some(2)), 4);
        assert_eq!(burst.cost(1), 3, "never more than fits at once");
    }
}
