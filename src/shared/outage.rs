//! Since when a Redis is lost, as the workers of this host agree: the first that loses it says so in the log, and
//! the first that has it back. The same for each primary of a cluster, which may be away while the others serve.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use super::cell::{Region, RegionError, shared_struct};
use crate::policy::Millis;

shared_struct! {
    /// One cache line; zero: not lost.
    struct Mark {
        /// Monotonic milliseconds of the loss, plus one.
        since: AtomicU64,
        /// Hash of the name of a part, never 0; 0: free. It stays once given.
        name: AtomicU64,
        /// Gateways that share it, as heard last; 0: never.
        gateways: AtomicU64,
        reserved: [AtomicU64; 5],
    }
}

/// Parts of one Redis that have marks.
const PARTS: usize = 127;

/// One Redis of this host, or a part of it.
#[derive(Clone, Copy)]
pub struct Outage {
    mark: &'static Mark,
    parts: &'static [Mark],
}

impl Outage {
    /// Takes or takes over the marks at the head of a zone of at least 8 kilobytes.
    ///
    /// # Errors
    /// [`RegionError`] if the region is too small.
    pub fn new(region: Region) -> Result<Self, RegionError> {
        Ok(Self { mark: region.get(0)?, parts: region.slice(size_of::<Mark>(), PARTS)? })
    }

    /// The part of this name; none if too many others have had marks.
    pub fn part(&self, name: &str) -> Option<Self> {
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        let hash = hasher.finish().max(1);
        let ours = |mark: &&Mark| match mark.name.compare_exchange(0, hash, SeqCst, SeqCst) {
            Ok(_) => true,
            Err(taken) => taken == hash,
        };
        let mark = self.parts.iter().find(ours)?;
        Some(Self { mark, parts: &[] })
    }

    /// Whether it is lost.
    pub fn is_lost(&self) -> bool {
        self.mark.since.load(SeqCst) != 0
    }

    /// How many of its parts are lost.
    pub fn lost_parts(&self) -> usize {
        self.parts.iter().filter(|mark| mark.since.load(SeqCst) != 0).count()
    }

    /// A worker has lost it. True for the first.
    pub fn begin(&self, now: Millis) -> bool {
        self.mark.since.compare_exchange(0, now + 1, SeqCst, SeqCst).is_ok()
    }

    /// A worker has heard how many gateways are alive.
    pub fn heard(&self, gateways: u32) {
        if self.mark.gateways.load(Relaxed) != u64::from(gateways) {
            self.mark.gateways.store(gateways.into(), Relaxed);
        }
    }

    /// What was heard last, at least 1: for a worker that has started while Redis is lost.
    pub fn gateways(&self) -> u32 {
        u32::try_from(self.mark.gateways.load(Relaxed)).unwrap_or(1).max(1)
    }

    /// A worker has it back. Milliseconds that it was lost, for the first.
    pub fn end(&self, now: Millis) -> Option<Millis> {
        match self.mark.since.swap(0, SeqCst) {
            0 => None,
            since => Some(now.saturating_sub(since - 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_worker_says_it() {
        let outage = Outage::new(Region::on_heap(8192)).unwrap();
        let other = outage;
        assert_eq!(outage.end(5), None);
        assert!(outage.begin(0));
        assert!(!other.begin(3));
        assert_eq!(other.end(1_500), Some(1_500));
        assert_eq!(outage.end(1_600), None);
        assert!(other.begin(1_700));
    }

    #[test]
    fn a_worker_knows_what_another_heard() {
        let outage = Outage::new(Region::on_heap(8192)).unwrap();
        assert_eq!(outage.gateways(), 1);
        outage.heard(3);
        assert_eq!(outage.gateways(), 3);
    }

    #[test]
    fn each_part_is_lost_for_itself() {
        let outage = Outage::new(Region::on_heap(8192)).unwrap();
        let part = |name: &str| outage.part(name);
        assert!(part("a").unwrap().begin(1) && part("b").unwrap().begin(2) && outage.begin(3));
        assert!(!part("a").unwrap().begin(4));
        assert!(outage.is_lost() && outage.lost_parts() == 2);
        assert_eq!(part("a").unwrap().end(5), Some(4));
        assert_eq!(part("b").unwrap().end(5), Some(3));
        assert!(outage.is_lost() && outage.lost_parts() == 0);
        assert_eq!((2..PARTS).filter(|n| part(&n.to_string()).is_some()).count(), PARTS - 2);
        assert!(part("one too many").is_none() && part("b").is_some());
    }
}
