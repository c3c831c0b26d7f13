//! How full the zone is.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use super::{BREAKER, BreakerSlot, CHECK, FrontSlot, HEADER, Slot, Store};

/// The zone at one moment, for the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Fill {
    /// Bytes of the zone, and those that its head and the records in use take.
    pub bytes: usize,
    pub used: usize,
    /// Records of checks and of servers that this cycle or the two before it asked for.
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
        let now = self.header.generation.load(SeqCst);
        self.slots::<T>().filter(|(_, slot)| slot.ident().idle(now) <= 2).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::cell::Region;
    use crate::shared::upstream::LEAST;

    #[test]
    fn what_is_claimed_and_what_is_not_is_counted() {
        let store = Store::create(Region::on_heap(LEAST + CHECK)).expect("room");
        store.begin_cycle();
        assert_eq!(store.fill(), Fill { bytes: LEAST + CHECK, used: HEADER, ..Fill::default() });
        store.check([1, 1]).expect("room");
        store.check([2, 2]).expect("room");
        store.breaker([3, 3]).expect("room");
        assert!(store.check([4, 4]).is_err());
        let full = store.fill();
        assert_eq!((full.checks, full.breakers, full.failures), (2, 1, 1));
        assert_eq!(full.used, full.bytes);
        for _ in 0..3 {
            store.begin_cycle();
        }
        assert_eq!((store.fill().checks, store.fill().failures), (0, 1));
    }
}
