//! Leases: how much quota a host takes from Redis in advance, to spend from its own memory.
//!
//! A host asks for one request at first, as it would without leases, and for twice as many whenever what it
//! got was gone inside its life: the slow start of TCP (RFC 5681). What it takes too much of is missing
//! elsewhere for a while, so it asks for half as soon as half would have done. Steps are powers of two: a
//! host whose demand is steady settles at the first that outlives its grant, and changes nothing more.

use super::Rule;
use crate::policy::Millis;

/// Most requests that one ask is for, the one that asks included.
pub const LEASE_MAX: u64 = u16::MAX as u64;

/// What became of the grant before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Former {
    /// Nothing that would tell: there was none, or it was used up and then nobody came while it lived.
    Idle,
    /// Somebody came inside its life and found too little left of the `granted` requests.
    Short { granted: u64 },
    /// Its life ended when only `used` of its requests were spent.
    Left { used: u64 },
}

/// How many requests a host asks for at once: a power of two, 1 to begin with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace(u32);

impl Pace {
    /// Bits that [`Pace::exponent`] needs.
    pub const BITS: u32 = 5;

    /// The pace that [`Pace::exponent`] told; beyond 2^16 counts as that.
    pub fn new(exponent: u64) -> Self {
        Self(u32::try_from(exponent).unwrap_or(u32::MAX).min(LEASE_MAX.next_power_of_two().trailing_zeros()))
    }

    /// At most 16.
    pub const fn exponent(self) -> u64 {
        self.0 as u64
    }

    /// Requests to ask for, from 1 to `cap`, with the one that asks.
    pub fn total(self, cap: u64) -> u64 {
        (1 << self.0).min(cap.max(1))
    }

    /// The pace after a grant: doubled when one given in full was too short, halved when half would have done
    /// (with the request that asked). A grant smaller than asked for shows that Redis has no more to give.
    #[must_use]
    pub fn after(self, former: Former, cap: u64) -> Self {
        let top = cap.clamp(1, LEASE_MAX).next_power_of_two().trailing_zeros();
        let now = Self(self.0.min(top));
        match former {
            Former::Short { granted } if granted + 1 >= now.total(cap) => Self((now.0 + 1).min(top)),
            Former::Left { used } if used < now.total(cap) / 2 => Self(now.0 - 1),
            _ => now,
        }
    }
}

impl Rule {
    /// Whether quota can be leased for `life` milliseconds: if at least one request comes back in that time.
    /// Below that, asking Redis for each request costs less and is exact.
    pub fn leases(&self, life: Millis) -> bool {
        self.earned(life) >= 1
    }

    /// Most requests that one host asks for at once: what the rate gives back in `life` milliseconds, from 1
    /// to [`LEASE_MAX`]. The overshoot of all hosts together is at most this much in any span of time.
    pub fn lease_cap(&self, life: Millis) -> u64 {
        self.earned(life).clamp(1, LEASE_MAX.into()) as u64
    }

    fn earned(&self, life: Millis) -> u128 {
        let rate = self.rate();
        u128::from(rate.count) * u128::from(life) / u128::from(rate.period.max(1))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::limit::{Algorithm, Delay, Rate};

    fn rule(rate: &str) -> Rule {
        Rule::new(Algorithm::Gcra, Rate::parse(rate).unwrap(), None, Delay::None).unwrap()
    }

    fn any_former() -> impl Strategy<Value = Former> {
        let some = 0..LEASE_MAX;
        prop_oneof![
            Just(Former::Idle),
            some.clone().prop_map(|granted| Former::Short { granted }),
            Just(Former::Short { granted: LEASE_MAX }),
            some.prop_map(|used| Former::Left { used }),
        ]
    }

    /// A host that is asked `demand` requests, evenly, in each life of a grant. Returns what it asked for at
    /// each ask, and how many asks the last ten lives took.
    fn lives(demand: u64, cap: u64) -> (Vec<u64>, usize) {
        let (mut pace, mut asks, mut late) = (Pace::default(), Vec::new(), 0);
        let (mut former, mut left, mut granted, mut until) = (Former::Idle, 0, 0, 0);
        for request in 0..demand * 40 {
            if request < until && left > 0 {
                left -= 1;
                continue;
            }
            if !asks.is_empty() {
                former = match (request < until, left) {
                    (true, _) => Former::Short { granted },
                    (false, 0) => Former::Idle,
                    (false, left) => Former::Left { used: granted - left },
                };
            }
            pace = pace.after(former, cap);
            (granted, until) = (pace.total(cap) - 1, request + demand);
            left = granted;
            asks.push(granted + 1);
            late += usize::from(request >= demand * 30);
        }
        (asks, late)
    }

    proptest! {
        #[test]
        fn stays_within_its_bounds(formers in prop::collection::vec((any_former(), 0..200_000u64), 1..200)) {
            let mut pace = Pace::default();
            for (former, cap) in formers {
                let (before, next) = (pace.total(cap), pace.after(former, cap));
                let asked = next.total(cap);
                prop_assert!((1..=cap.clamp(1, LEASE_MAX.next_power_of_two())).contains(&asked));
                prop_assert!(asked <= before * 2 && asked >= before / 2);
                prop_assert_eq!(Pace::new(next.exponent()), next);
                prop_assert!(next.exponent() < 1 << Pace::BITS);
                match former {
                    Former::Short { granted } => prop_assert!(asked == before || granted + 1 >= before),
                    // Never less than what was needed.
                    Former::Left { used } => prop_assert!(asked == before || asked > used),
                    Former::Idle => prop_assert_eq!(asked, before),
                }
                pace = next;
            }
        }

        #[test]
        fn settles_where_a_grant_outlives_the_demand(demand in 1..500u64, cap in 1..600u64) {
            let (asks, late) = lives(demand, cap);
            let last = *asks.last().unwrap();
            // Enough for one life, or all there is; and less than half of it in vain.
            prop_assert!(last >= demand.min(cap) && (last < 2 * demand || last == 1), "{} for {}", last, demand);
            prop_assert!(asks.iter().all(|asked| *asked <= cap));
            // One ask in each life, where the cap allows it.
            prop_assert!(cap < demand || late <= 11, "{}", late);
        }
    }

    #[test]
    fn starts_slowly_and_comes_down_slowly() {
        let mut pace = Pace::default();
        let mut ask = |former| {
            pace = pace.after(former, 50);
            pace.total(50)
        };
        assert_eq!(ask(Former::Idle), 1);
        for (granted, total) in [(0, 2), (1, 4), (3, 8), (7, 16), (15, 32), (31, 50), (49, 50)] {
            assert_eq!(ask(Former::Short { granted }), total);
        }
        // Redis gave less than asked for.
        assert_eq!(ask(Former::Short { granted: 20 }), 50);
        assert_eq!(ask(Former::Left { used: 25 }), 50);
        assert_eq!(ask(Former::Left { used: 24 }), 32);
        assert_eq!(ask(Former::Left { used: 0 }), 16);
        assert_eq!(ask(Former::Idle), 16);
    }

    #[test]
    fn a_lower_cap_holds_at_once() {
        let pace = Pace::new(16);
        assert_eq!((pace.total(u64::MAX), pace.total(10), pace.total(0)), (65_536, 10, 1));
        assert_eq!(pace.after(Former::Idle, 10), Pace::new(4));
        assert_eq!(Pace::new(u64::MAX), pace);
    }

    #[test]
    fn only_what_the_rate_gives_back_is_leased() {
        for (rate, life, leases, cap) in [
            ("1000r/s", 50, true, 50),
            ("100r/m", 50, false, 1),
            ("20r/s", 50, true, 1),
            ("20r/s", 49, false, 1),
            ("4000000r/s", 10_000, true, LEASE_MAX),
            ("1r/d", 0, false, 1),
        ] {
            assert_eq!((rule(rate).leases(life), rule(rate).lease_cap(life)), (leases, cap), "{rate}");
        }
    }
}
