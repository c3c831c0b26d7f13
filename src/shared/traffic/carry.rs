//! Into a zone of another size.

use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use super::cells::{self, Cells};
use super::{Record, Series, Store};

impl Store {
    /// Carries over what the zone of another size that this one replaces has counted. Only the master, right after
    /// `create`. Returns how many series found no room.
    pub fn copy_from(&self, old: &Self) -> usize {
        let now = old.generation();
        self.header.generation.store(now, SeqCst);
        for (to, from) in self.header.entered.iter().zip(&old.header.entered) {
            to.store(from.load(SeqCst), SeqCst);
        }
        let used = |record: &Record| match record.used.load(SeqCst) {
            0 => false,
            used => now.saturating_sub(used) <= 2,
        };
        old.records().filter(|(_, record)| used(record)).filter(|(_, record)| !self.copy(old, record)).count()
    }

    fn copy(&self, old: &Self, from: &Record) -> bool {
        match from.kind.load(Relaxed) {
            cells::Zone::KIND => self.copy_as::<cells::Zone>(old, from),
            cells::Http::KIND => self.copy_as::<cells::Http>(old, from),
            cells::Peer::KIND => self.copy_as::<cells::Peer>(old, from),
            cells::Cache::KIND => self.copy_as::<cells::Cache>(old, from),
            cells::CoreLimit::KIND => self.copy_as::<cells::CoreLimit>(old, from),
            cells::RateLimit::KIND => self.copy_as::<cells::RateLimit>(old, from),
            cells::Host::KIND => self.copy_as::<cells::Host>(old, from),
            cells::Group::KIND => self.copy_as::<cells::Group>(old, from),
            cells::Probes::KIND => self.copy_as::<cells::Probes>(old, from),
            _ => false,
        }
    }

    /// All shards' counts become the first shard's.
    fn copy_as<T: Cells>(&self, old: &Self, from: &Record) -> bool {
        let key = [from.key[0].load(SeqCst), from.key[1].load(SeqCst)];
        let Some((number, record)) = old.records().find(|(_, record)| std::ptr::eq(*record, from)) else {
            return false;
        };
        let (Ok(source), Ok(target)) = (old.series::<T>(number, record), self.claim::<T>(key, 0)) else {
            return false;
        };
        target.record.used.store(from.used.load(SeqCst), SeqCst);
        for (to, from) in target.record.names.iter().zip(&from.names) {
            to.store(from.load(SeqCst), SeqCst);
        }
        target.absorb(&source);
        true
    }
}

impl<T: Cells> Series<T> {
    fn absorb(&self, old: &Self) {
        let Some(first) = self.words.first() else { return };
        for at in 0..T::WORDS {
            let cells = || old.words.iter().filter_map(|words| words.get(at)).map(|cell| cell.load(Relaxed));
            // Of states, the greatest: it is the only one, or the latest time.
            let value = if at < T::COUNTERS {
                cells().fold(0u64, u64::wrapping_add)
            } else {
                cells().max().unwrap_or(0)
            };
            for (to, value) in [(first.get(at), value), (self.offs.get(at), old.offs[at].load(Relaxed))] {
                to.into_iter().for_each(|to| to.store(value, Relaxed));
            }
        }
    }
}
