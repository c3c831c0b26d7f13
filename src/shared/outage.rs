//! Since when a Redis is lost, as the workers of this host agree: the first that loses it says so in the log, and
//! the first that has it back.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::cell::{Region, RegionError, shared_struct};
use crate::policy::Millis;

shared_struct! {
    /// One cache line; zero: not lost.
    struct Mark {
        /// Monotonic milliseconds of the loss, plus one.
        since: AtomicU64,
        reserved: [AtomicU64; 7],
    }
}

/// One Redis of this host.
#[derive(Clone, Copy)]
pub struct Outage {
    mark: &'static Mark,
}

impl Outage {
    /// Takes or takes over the mark at the head of a zone.
    ///
    /// # Errors
    /// [`RegionError`] if the region is too small.
    pub fn new(region: Region) -> Result<Self, RegionError> {
        Ok(Self { mark: region.get(0)? })
    }

    /// A worker has lost it. True for the first.
    pub fn begin(&self, now: Millis) -> bool {
        self.mark.since.compare_exchange(0, now + 1, SeqCst, SeqCst).is_ok()
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
        let outage = Outage::new(Region::on_heap(64)).unwrap();
        let other = outage;
        assert_eq!(outage.end(5), None);
        assert!(outage.begin(0));
        assert!(!other.begin(3));
        assert_eq!(other.end(1_500), Some(1_500));
        assert_eq!(outage.end(1_600), None);
        assert!(other.begin(1_700));
    }
}
