//! One server of a group as balancing sees it: since when it warms up.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use super::cell::shared_struct;
use crate::policy::Millis;
use crate::policy::balance::{PICK, deposit};

shared_struct! {
    /// The record of one server. Times are milliseconds of the host's monotonic clock.
    #[derive(Debug, Default)]
    pub struct Server {
        /// When it came back; 0: it is warm.
        began: AtomicU64,
        /// What it has earned and not spent, as an i64.
        credit: AtomicU64,
        spare: [AtomicU64; 6],
    }
}

const _: () = assert!(size_of::<Server>() == 64);

impl Server {
    /// It has come back and begins to warm up.
    pub fn begin(&self, now: Millis) {
        self.credit.store(0, Relaxed);
        self.began.store(now.max(1), SeqCst);
    }

    /// When it came back, if it is not known to be warm.
    pub fn began(&self) -> Option<Millis> {
        Some(self.began.load(Relaxed)).filter(|began| *began != 0)
    }

    /// It is warm, having come back at `began`.
    pub fn settle(&self, began: Millis) {
        // Otherwise it has come back once more meanwhile.
        let _ = self.began.compare_exchange(began, 0, SeqCst, Relaxed);
    }

    /// Earns its part of one pick of the group. Whether it may be picked.
    pub fn earn(&self, part: i64) -> bool {
        let mut before = self.credit.load(Relaxed);
        loop {
            let after = deposit(before.cast_signed(), part);
            match self.credit.compare_exchange_weak(before, after.cast_unsigned(), Relaxed, Relaxed) {
                Ok(_) => return after >= PICK,
                Err(actual) => before = actual,
            }
        }
    }

    /// It has been picked.
    pub fn spend(&self) {
        let _ = self.earn(-PICK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_pick_is_earned_before_it_is_spent() {
        let server = Server::default();
        server.begin(0);
        assert_eq!(server.began(), Some(1));
        assert!(!server.earn(PICK / 2) && server.earn(PICK / 2));
        server.spend();
        assert!(!server.earn(PICK / 2) && server.earn(PICK / 2));
        server.settle(7);
        assert_eq!(server.began(), Some(1));
        server.settle(1);
        assert_eq!(server.began(), None);
    }

    #[test]
    fn eight_threads_spend_what_they_earned() {
        let server = Server::default();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        server.earn(PICK / 8);
                        server.earn(-PICK / 8);
                    }
                });
            }
        });
        assert!(!server.earn(0));
        assert!(server.earn(PICK));
    }
}
