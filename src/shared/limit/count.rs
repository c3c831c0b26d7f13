//! What a zone says of itself.

#[cfg(test)]
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};

use super::LimitZone;
#[cfg(test)]
use crate::policy::limit::Now;

/// A zone was too small, since it was last said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pressure {
    /// Keys put out before their quota was back.
    pub evicted: u64,
    /// Requests refused because no slot could be had.
    pub exhausted: u64,
}

impl LimitZone {
    /// Keys that fit, if they spread evenly.
    #[cfg(test)]
    pub const fn slots(&self) -> usize {
        self.table.slots()
    }

    /// Keys with quota in use at `now`.
    #[cfg(test)]
    pub fn used(&self, now: &Now) -> usize {
        self.table.used(self.clock(now))
    }

    /// Keys put out before their quota was back, because the zone was too small.
    #[cfg(test)]
    pub fn evictions(&self) -> u64 {
        self.header.evicted.load(Relaxed)
    }

    /// Requests refused because no slot could be had.
    #[cfg(test)]
    pub fn exhausted(&self) -> u64 {
        self.header.full.load(Relaxed)
    }

    /// What has come since any process was last told. Each count is told to one process, once.
    pub fn report(&self) -> Option<Pressure> {
        let header = self.header;
        let pressure = Pressure {
            evicted: untold(&header.evicted, &header.evicted_told),
            exhausted: untold(&header.full, &header.full_told),
        };
        (pressure.evicted > 0 || pressure.exhausted > 0).then_some(pressure)
    }
}

fn untold(count: &AtomicU64, told: &AtomicU64) -> u64 {
    let count = count.load(SeqCst);
    if told.load(SeqCst) >= count { 0 } else { count.saturating_sub(told.fetch_max(count, SeqCst)) }
}
