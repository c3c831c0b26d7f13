//! How full the zone is.

use std::sync::atomic::Ordering::Relaxed;

use super::slots::{BREAKER, BreakerSlot, CHECK, FrontSlot, Slot};
use super::{HEADER, Store};

/// The zone at one moment, for the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Fill {
    /// Bytes of the zone, and those that its head and the records in use take.
    pub bytes: usize,
    pub used: usize,
    /// Records of checks and of servers that this cycle or the two before it asked for, and that are of servers that
    /// are still there.
    pub checks: usize,
    pub breakers: usize,
    /// Records that there was no room for.
    pub failures: u64,
}

impl Store {
    /// How full the zone is.
    pub fn fill(&self) -> Fill {
        let (checks, breakers) = (self.used::<FrontSlot>(), self.used::<BreakerSlot>());
        Fill {
            bytes: self.region.len(),
            used: HEADER + checks * CHECK + breakers * BREAKER,
            checks,
            breakers,
            failures: self.header.failures.load(Relaxed),
        }
    }

    fn used<T: Slot>(&self) -> usize {
        let cycle = self.generation();
        let used = |slot: &T| {
            let usage = slot.ident().usage();
            usage.released == 0 && usage.idle(cycle) <= 2
        };
        self.slots::<T>().filter(|(_, slot)| used(slot)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::cell::Region;
    use crate::shared::upstream::{Claims, LEAST};

    #[test]
    fn what_is_claimed_and_what_is_not_is_counted() {
        let size = LEAST + CHECK;
        let store = Store::create(Region::on_heap(size)).expect("room");
        store.begin_cycle();
        assert_eq!(store.fill(), Fill { bytes: size, used: HEADER, ..Fill::default() });
        let mut claims = Claims::new(&store, 1);
        claims.check(1, [1, 1], 0).expect("room");
        claims.check(1, [2, 2], 0).expect("room");
        claims.breaker(0, [3, 3]).expect("room");
        assert!(claims.check(1, [4, 4], 0).is_err());
        let full = store.fill();
        assert_eq!((full.checks, full.breakers, full.failures, full.used), (2, 1, 1, size));
        claims.release_others(1, [&[0].into(), &[].into()]);
        assert_eq!(store.fill().checks, 1, "one that left is not in use");
        for _ in 0..3 {
            store.begin_cycle();
        }
        assert_eq!((store.fill().checks, store.fill().failures), (0, 1));
    }
}
