//! The cells of one subject in all shards: counting in one's own, adding up and resetting over all.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use super::cells::{Cells, Codes, NAMED};
use super::{Key, Record};
use crate::policy::Millis;
use crate::policy::traffic::{CLASSES, class_of, code_at, index_of};

/// A claimed series. Plain references into the zone: valid as long as the zone is mapped and the key in use.
pub struct Series<T: Cells> {
    pub(super) shards: Box<[&'static T]>,
    /// As many words, to be taken off the sum: what the counters were at the last reset. Its states are those of the
    /// series as a whole.
    pub(super) base: &'static T,
    pub(super) words: Box<[&'static [AtomicU64]]>,
    pub(super) offs: &'static [AtomicU64],
    pub(super) record: &'static Record,
    pub(super) key: [AtomicU64; 2],
    /// The number of its gauge in each process's table.
    pub number: usize,
}

/// One more.
pub fn count(cell: &AtomicU64) {
    cell.fetch_add(1, Relaxed);
}

/// So many more.
pub fn add(cell: &AtomicU64, more: u64) {
    cell.fetch_add(more, Relaxed);
}

impl<T: Cells> Series<T> {
    /// The cells of a worker: nobody else writes there as long as there are as many shards as workers.
    pub fn shard(&self, worker: usize) -> &'static T {
        match self.shards.get(worker) {
            Some(shard) => shard,
            None => self.shards.get(worker % self.shards.len().max(1)).copied().unwrap_or(self.base),
        }
    }

    /// The states of the series as a whole.
    pub fn whole(&self) -> &'static T {
        self.base
    }

    fn key(&self) -> Key {
        [self.key[0].load(SeqCst), self.key[1].load(SeqCst)]
    }

    /// The record has been given to another subject, as `other` knows.
    pub fn follow(&self, other: &Self) {
        self.key.iter().zip(other.key()).for_each(|(to, half)| to.store(half, SeqCst));
    }

    /// Its subject has gone, at `mono` of the host's monotonic clock. A while later the record may be another's.
    pub fn leave(&self, mono: Millis) {
        if self.record.is(self.key()) {
            // Whoever said so first is right.
            let _ = self.record.left.compare_exchange(0, mono.max(1), SeqCst, Relaxed);
        }
    }

    /// All shards, for what does not add up.
    pub fn all(&self) -> impl Iterator<Item = &'static T> + '_ {
        self.shards.iter().copied()
    }

    /// A counter over all shards since the last reset.
    pub fn sum(&self, cell: impl Fn(&'static T) -> &'static AtomicU64) -> u64 {
        let sum = self.shards.iter().fold(0u64, |sum, shard| sum.wrapping_add(cell(shard).load(Relaxed)));
        sum.saturating_sub(cell(self.base).load(Relaxed))
    }

    /// As [`Self::sum`], of counters that lie side by side: shard by shard, as memory likes it.
    pub fn sums<const N: usize>(&self, cells: impl Fn(&'static T) -> &'static [AtomicU64; N]) -> [u64; N] {
        let mut sums = [0u64; N];
        for shard in &self.shards {
            for (sum, cell) in sums.iter_mut().zip(cells(shard)) {
                *sum = sum.wrapping_add(cell.load(Relaxed));
            }
        }
        for (sum, base) in sums.iter_mut().zip(cells(self.base)) {
            *sum = sum.saturating_sub(base.load(Relaxed));
        }
        sums
    }

    /// Takes all counters back to 0. What is counted at the same time is counted after it, or not at all.
    pub fn reset(&self) {
        for at in 0..T::COUNTERS {
            let sum = self.words.iter().filter_map(|words| words.get(at));
            let sum = sum.fold(0u64, |sum, cell| sum.wrapping_add(cell.load(Relaxed)));
            if let Some(base) = self.offs.get(at) {
                base.store(sum, Relaxed);
            }
        }
    }

    /// Takes one counter back to 0.
    pub fn reset_one(&self, cell: impl Fn(&'static T) -> &'static AtomicU64) {
        let sum = self.shards.iter().fold(0u64, |sum, shard| sum.wrapping_add(cell(shard).load(Relaxed)));
        cell(self.base).store(sum, Relaxed);
    }

    /// Counts a response. What is no status of three digits is in no cell.
    pub fn count_code(&self, codes: &Codes, code: u16) {
        let cell = match index_of(code) {
            Some(index) => codes.known.get(index),
            None if !(100..=999).contains(&code) => None,
            None => match self.record.name(code) {
                Some(named) => codes.named.get(named),
                None => class_of(code).and_then(|class| codes.other.get(class)),
            },
        };
        cell.into_iter().for_each(count);
    }

    /// All codes met, in order, and how often; and the sums of the classes, which count what the codes leave out too.
    pub fn codes(&self, of: impl Fn(&'static T) -> &'static Codes) -> (Vec<(u16, u64)>, [u64; CLASSES]) {
        let mut classes = [0; CLASSES];
        let mut codes = Vec::new();
        let mut met = |code: u16, times: u64| {
            if times > 0 {
                codes.push((code, times));
                class_of(code)
                    .and_then(|class| classes.get_mut(class))
                    .into_iter()
                    .for_each(|sum| *sum += times);
            }
        };
        let (known, named) = (self.sums(|cells| &of(cells).known), self.sums(|cells| &of(cells).named));
        for (index, times) in known.into_iter().enumerate() {
            code_at(index).into_iter().for_each(|code| met(code, times));
        }
        for (at, code) in self.record.names() {
            met(code, named.get(at).copied().unwrap_or(0));
        }
        for (sum, other) in classes.iter_mut().zip(self.sums(|cells| &of(cells).other)) {
            *sum += other;
        }
        codes.sort_unstable();
        (codes, classes)
    }
}

/// Codes in a word of names.
const LANES: usize = 4;

impl Record {
    /// The cell of a code that has none of its own, given to it if one is left.
    fn name(&self, code: u16) -> Option<usize> {
        for lane in 0..NAMED {
            let word = self.names.get(lane / LANES)?;
            let shift = lane % LANES * 16;
            let mut seen = word.load(Relaxed);
            while (seen >> shift) as u16 == 0 {
                match word.compare_exchange(seen, seen | u64::from(code) << shift, SeqCst, Relaxed) {
                    Ok(_) => return Some(lane),
                    Err(actual) => seen = actual,
                }
            }
            if (seen >> shift) as u16 == code {
                return Some(lane);
            }
        }
        None
    }

    fn names(&self) -> impl Iterator<Item = (usize, u16)> + '_ {
        (0..NAMED).filter_map(|lane| {
            let word = self.names.get(lane / LANES)?.load(Relaxed);
            Some((lane, (word >> (lane % LANES * 16)) as u16)).filter(|(_, code)| *code != 0)
        })
    }
}
