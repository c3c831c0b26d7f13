//! Whether a request may wait for Redis: a few atomics that the event loop reads and the link writes.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::settings::Breaker;

/// How long Redis is told what this host knows, after it was away.
const LEARNING: Duration = Duration::from_secs(60);
/// So many counts of gateways are kept: longer than one that lives is ever missing from the list.
const COUNTS: usize = 4;

/// Counts failures in a row and opens at the configured number. While open no request waits; only the link's
/// own successful test closes it.
#[derive(Debug)]
pub struct Gate {
    open: AtomicBool,
    run: AtomicU32,
    failures: u32,
    opened: Notify,
    /// The last counts.
    gateways: [AtomicU32; COUNTS],
    counts: AtomicUsize,
    born: Instant,
    /// End of learning, in milliseconds after `born`.
    learning: AtomicU64,
}

impl Gate {
    /// A closed gate: until the first connection is up requests may wait, each up to its own deadline.
    pub(super) fn new(breaker: &Breaker) -> Self {
        Self {
            open: AtomicBool::new(false),
            run: AtomicU32::new(0),
            failures: breaker.failures.max(1),
            opened: Notify::new(),
            gateways: Default::default(),
            counts: AtomicUsize::new(0),
            born: Instant::now(),
            learning: AtomicU64::new(0),
        }
    }

    /// May a request wait for this Redis now?
    pub fn admits(&self) -> bool {
        !self.open.load(Ordering::Acquire)
    }

    /// A request's deadline passed without an answer. The worker, which owns the deadlines, reports each.
    pub fn timed_out(&self) {
        self.failed();
    }

    /// How many gateways share this Redis, as far as is known: at least 1. The greatest of the last few counts: after a
    /// restart of Redis they come back to its list one after the other.
    pub fn gateways(&self) -> u32 {
        self.heard().unwrap_or(1)
    }

    /// The same; none before the first count.
    pub fn heard(&self) -> Option<u32> {
        self.gateways.iter().map(|count| count.load(Ordering::Relaxed)).max().filter(|count| *count > 0)
    }

    /// For a minute after Redis was away: it may have been started anew, or be another one that was promoted and missed
    /// the last writes. (It need not be. To ask it would take a right that no ACL for this module has granted so
    /// far, and what is known is true of the same server too.)
    pub fn learning(&self) -> bool {
        self.age() < self.learning.load(Ordering::Relaxed)
    }

    /// A heartbeat was answered.
    pub(super) fn counted(&self, gateways: u32) {
        let place = self.counts.fetch_add(1, Ordering::Relaxed) % COUNTS;
        self.gateways[place].store(gateways, Ordering::Relaxed);
    }

    /// There is a connection again, to whatever server: it is to be told what is known.
    pub(super) fn learn(&self) {
        let until = self.age().saturating_add(LEARNING.as_millis() as u64);
        self.learning.store(until, Ordering::Relaxed);
    }

    /// Milliseconds since it was made.
    fn age(&self) -> u64 {
        self.born.elapsed().as_millis() as u64
    }

    /// One more failure in a row, whatever it was.
    pub(super) fn failed(&self) {
        if self.run.fetch_add(1, Ordering::AcqRel).saturating_add(1) >= self.failures {
            self.open();
        }
    }

    /// An answer in time ends the run. It does not close an open gate: what was on its way when the gate
    /// opened says nothing about now.
    pub(super) fn answered(&self) {
        self.run.store(0, Ordering::Release);
    }

    /// Opens at once, as when there is no connection at all.
    pub(super) fn open(&self) {
        if !self.open.swap(true, Ordering::AcqRel) {
            self.opened.notify_one();
        }
    }

    /// Closes after a successful test, with the run forgotten.
    pub(super) fn close(&self) {
        self.run.store(0, Ordering::Release);
        self.open.store(false, Ordering::Release);
    }

    /// Waits until the gate is open.
    pub(super) async fn opened(&self) {
        while self.admits() {
            self.opened.notified().await;
        }
    }
}
