//! What a zone has counted, and says of itself.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use super::{BanZone, Origin, SHARDS, book};
use crate::policy::Millis;
use crate::policy::ban::Cause;

/// What a zone has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub by_status: u64,
    pub by_rate_limit: u64,
    pub by_hand: u64,
    /// Learnt from Redis.
    pub by_others: u64,
    pub dry: u64,
    pub lifted: u64,
    /// Requests.
    pub refused: u64,
    pub refused_dry: u64,
    /// Bans that ended early because the zone was too small.
    pub evicted: u64,
}

impl BanZone {
    /// A ban begins.
    pub(super) fn tally(&self, dry: bool, origin: Origin, cause: Cause) {
        let header = self.header;
        let count = match (dry, origin, cause) {
            (true, ..) => &header.dry,
            (_, Origin::Other, _) => &header.by_others,
            (_, Origin::Own, Cause::Status) => &header.by_status,
            (_, Origin::Own, Cause::RateLimited) => &header.by_rate_limit,
            (_, Origin::Own, Cause::Manual) => &header.by_hand,
        };
        count.fetch_add(1, Relaxed);
    }

    /// Counts a refused request, or one that would have been.
    pub fn refused(&self, worker: usize, dry: bool) {
        if let Some(shard) = self.shards.get(worker % SHARDS) {
            let count = if dry { &shard.refused_dry } else { &shard.refused };
            count.fetch_add(1, Relaxed);
        }
    }

    /// How many hold, dry runs left out. Reads three words of each place.
    pub fn active(&self, now: Millis) -> usize {
        self.bans
            .all()
            .filter(|slot| slot.tat().ms() > now && slot.owner().is_some() && !book::is_dry(*slot))
            .count()
    }

    pub fn counters(&self) -> Counters {
        let (header, of) = (self.header, |word: &AtomicU64| word.load(Relaxed));
        Counters {
            by_status: of(&header.by_status),
            by_rate_limit: of(&header.by_rate_limit),
            by_hand: of(&header.by_hand),
            by_others: of(&header.by_others),
            dry: of(&header.dry),
            lifted: of(&header.lifted),
            refused: self.shards.iter().map(|shard| of(&shard.refused)).sum(),
            refused_dry: self.shards.iter().map(|shard| of(&shard.refused_dry)).sum(),
            evicted: of(&header.evicted),
        }
    }

    /// Bans lost to a zone that is too small, since any process was last told.
    pub fn report(&self) -> Option<u64> {
        let (count, told) = (self.header.evicted.load(SeqCst), &self.header.evicted_told);
        let new =
            if told.load(SeqCst) >= count { 0 } else { count.saturating_sub(told.fetch_max(count, SeqCst)) };
        (new > 0).then_some(new)
    }

    /// The counts of another zone, whose bans have been carried over.
    pub(super) fn copy_counts(&self, old: &Self) {
        let header = self.header;
        let pairs = [
            (&header.by_status, &old.header.by_status),
            (&header.by_rate_limit, &old.header.by_rate_limit),
            (&header.by_hand, &old.header.by_hand),
            (&header.by_others, &old.header.by_others),
            (&header.dry, &old.header.dry),
            (&header.lifted, &old.header.lifted),
        ];
        pairs.into_iter().for_each(|(count, old)| count.store(old.load(Relaxed), Relaxed));
        // Some may have been lost on the way.
        header.evicted.fetch_add(old.header.evicted.load(Relaxed), Relaxed);
        header.evicted_told.fetch_add(old.header.evicted_told.load(Relaxed), Relaxed);
        for (shard, old) in self.shards.iter().zip(old.shards) {
            shard.refused.store(old.refused.load(Relaxed), Relaxed);
            shard.refused_dry.store(old.refused_dry.load(Relaxed), Relaxed);
        }
    }
}
