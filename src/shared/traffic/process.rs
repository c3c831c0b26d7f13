//! The table of worker processes: what each has open at this moment, and what only it can tell of itself.
//!
//! A gauge that all workers move up and down would stay wrong after a worker was killed. So each process keeps its own,
//! and who adds up leaves out those that live no more.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};

use crate::shared::cell::shared_struct;

shared_struct! {
    /// One process. Written by it alone but for `pid`, which says whose the place is.
    #[derive(Debug)]
    #[repr(align(64))]
    pub struct Process {
        /// 0: nobody's.
        pid: AtomicU64,
        /// Worker index, and the cycle it serves.
        index: AtomicU64,
        generation: AtomicU64,
        /// Connections: taken so far, open now, and those of them that wait for a request.
        pub accepted: AtomicU64,
        pub active: AtomicU64,
        pub idle: AtomicU64,
        /// Requests: ended so far, and under way.
        pub requests: AtomicU64,
        pub current: AtomicU64,
        pub spare: [AtomicU64; 8],
    }
}

const _: () = assert!(size_of::<Process>() == 128);

/// A process's own cells, and its gauges by the numbers of series.
#[derive(Clone, Copy, Debug)]
pub struct Presence {
    pub(super) process: &'static Process,
    pub(super) gauges: &'static [AtomicU64],
}

/// One up. Only the process whose cell it is writes there.
pub fn up(cell: &AtomicU64) {
    cell.store(cell.load(Relaxed).wrapping_add(1), Relaxed);
}

/// One down, never below 0.
pub fn down(cell: &AtomicU64) {
    cell.store(cell.load(Relaxed).saturating_sub(1), Relaxed);
}

impl Presence {
    pub fn process(&self) -> &'static Process {
        self.process
    }

    /// The gauge of a series.
    pub fn gauge(&self, series: usize) -> Option<&'static AtomicU64> {
        self.gauges.get(series)
    }

    pub fn pid(&self) -> u64 {
        self.process.pid.load(Acquire)
    }

    /// Worker index and cycle.
    pub fn place(&self) -> (u64, u64) {
        (self.process.index.load(Relaxed), self.process.generation.load(Relaxed))
    }

    /// Takes the place from `before`, if it is still his.
    pub(super) fn take(&self, before: u64, pid: u64, (index, generation): (u64, u64)) -> bool {
        let its = self.process;
        if its.pid.compare_exchange(before, CLAIMING | pid, SeqCst, Relaxed).is_err() {
            return false;
        }
        let cells = [&its.accepted, &its.active, &its.idle, &its.requests, &its.current];
        cells.into_iter().chain(&its.spare).chain(self.gauges).for_each(|cell| cell.store(0, Relaxed));
        its.index.store(index, Relaxed);
        its.generation.store(generation, Relaxed);
        its.pid.store(pid, Release);
        true
    }

    /// The process ends: what it had open is over.
    pub fn leave(&self) {
        self.process.pid.store(0, Release);
    }
}

/// Marks a place whose new owner still clears it; readers take it for a dead one's.
pub(super) const CLAIMING: u64 = 1 << 63;
