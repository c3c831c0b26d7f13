//! The zone of counters: a header, a table of worker processes, a directory of series, and the cells.
//!
//! A series is what is counted of one subject: a block of cells per shard, found by a 128-bit hash of what it is
//! about, never by position. Each worker counts in its own shard, so that no two of them write to the same line of
//! cache; who reads adds the shards up. One more block of each series says what to take off since its last reset.
//!
//! Series are claimed while nobody else does so: by the master, when a cycle begins, or under the zone's mutex.

mod carry;
pub mod cells;
mod plan;
pub mod process;
mod series;

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU32, AtomicU64};

use super::cell::{Region, RegionError, shared_struct};
use super::seal::{Format, LayoutError, Seal};
use crate::policy::Millis;
use cells::Cells;
pub use plan::Plan;
pub use process::{Presence, Process, down, up};
pub use series::{Series, add, count};

const FORMAT: Format = Format::new(*b"sluiceTR", 1, "counters");
/// Worker indices whose respawns are counted.
const WORKERS: usize = 128;

shared_struct! {
    #[derive(Debug)]
    #[repr(align(64))]
    struct Header {
        seal: Seal,
        /// Bytes of the zone that were laid out.
        size: AtomicU64,
        /// Cycles begun; the present one's number.
        generation: AtomicU64,
        /// The plan.
        shards: AtomicU64,
        processes: AtomicU64,
        records: AtomicU64,
        /// Words of each shard.
        words: AtomicU64,
        /// Records ever claimed, and words given out.
        claimed: AtomicU64,
        given: AtomicU64,
        /// When somebody last looked at what changes by itself, monotonic clock.
        looked: AtomicU64,
        spare: [AtomicU64; 5],
        /// The cycle in which a worker of this index started last.
        entered: [AtomicU32; WORKERS],
    }
}

shared_struct! {
    /// Whose a series is, and where.
    #[derive(Debug)]
    #[repr(align(64))]
    pub struct Record {
        key: [AtomicU64; 2],
        kind: AtomicU64,
        /// The last cycle that asked for it; 0: nobody's.
        used: AtomicU64,
        /// Its first word in each shard.
        offset: AtomicU64,
        /// Codes that were given a cell, four to a word.
        names: [AtomicU64; 2],
        /// When its subject went, milliseconds; 0: it is there.
        left: AtomicU64,
    }
}

const HEADER: usize = size_of::<Header>();
const RECORD: usize = size_of::<Record>();
const LINE: usize = Region::ALIGN / 8;
const _: () = assert!(HEADER == 640 && RECORD == 64);

/// How long, in milliseconds, the counts of a subject that has gone are kept at least.
const FORGOTTEN: Millis = 60_000;

/// What a series is about: a hash that does not collide.
pub type Key = [u64; 2];

/// No series is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no room for another series of {words} words in {records} records")]
pub struct Full {
    pub words: usize,
    pub records: usize,
}

/// The zone of counters. A plain handle: copies view the same memory.
#[derive(Clone, Copy, Debug)]
pub struct Store {
    region: Region,
    header: &'static Header,
    plan: Plan,
}

impl Store {
    /// Lays out fresh, zeroed memory.
    ///
    /// # Errors
    /// [`LayoutError::TooSmall`] when the plan does not fit.
    pub fn create(region: Region, plan: Plan) -> Result<Self, LayoutError> {
        FORMAT.fits(region, plan.size())?;
        let header: &Header = region.get(0)?;
        let said = [(&header.shards, plan.shards), (&header.processes, plan.processes)];
        let said = said.into_iter().chain([(&header.records, plan.records), (&header.words, plan.words)]);
        said.for_each(|(cell, value)| cell.store(value as u64, Relaxed));
        header.size.store(region.len() as u64, Relaxed);
        header.seal.set(&FORMAT);
        Ok(Self { region, header, plan })
    }

    /// Takes over memory that an earlier cycle, perhaps another binary, laid out, as it was laid out.
    ///
    /// # Errors
    /// When it is not ours, or not of this layout or size; the memory is untouched, start with a fresh zone.
    pub fn adopt(region: Region) -> Result<Self, LayoutError> {
        FORMAT.fits(region, HEADER)?;
        let header: &Header = region.get(0)?;
        header.seal.check(&FORMAT)?;
        let number = |cell: &AtomicU64| cell.load(Relaxed) as usize;
        let plan = Plan {
            shards: number(&header.shards),
            processes: number(&header.processes),
            records: number(&header.records),
            words: number(&header.words),
        };
        let size = region.len();
        FORMAT.laid_out_so(header.size.load(Relaxed) == size as u64 && plan.size() <= size)?;
        Ok(Self { region, header, plan })
    }

    /// Begins a cycle and returns its number, 1 or more. Only the master, once per cycle, in `init_module`.
    pub fn begin_cycle(&self) -> u64 {
        self.header.generation.fetch_add(1, SeqCst) + 1
    }

    /// The cycle begun last.
    pub fn generation(&self) -> u64 {
        self.header.generation.load(SeqCst)
    }

    /// Whether it is this caller's turn to look at what changes by itself: once every `pause` milliseconds, for
    /// whoever asks first.
    pub fn may_look(&self, now: u64, pause: u64) -> bool {
        let last = self.header.looked.load(Relaxed);
        now.wrapping_sub(last) >= pause
            && self.header.looked.compare_exchange(last, now, SeqCst, Relaxed).is_ok()
    }

    /// Finds the series of this key or claims one, for the present cycle, at `mono` of the host's monotonic clock. Only
    /// the master when a cycle begins, or under the zone's mutex.
    ///
    /// # Errors
    /// [`Full`]: the zone is too small.
    pub fn claim<T: Cells>(&self, key: Key, mono: Millis) -> Result<Series<T>, Full> {
        let now = self.generation();
        let ours = |record: &Record| record.kind.load(Relaxed) == T::KIND && record.is(key);
        let found = self.records().find(|(_, record)| ours(record));
        let (number, record) = match found {
            Some(found) => found,
            None => self.take::<T>(now, mono)?,
        };
        record.key[0].store(key[0], SeqCst);
        record.key[1].store(key[1], SeqCst);
        record.left.store(0, SeqCst);
        record.used.store(now.max(1), Release);
        self.series(number, record).map_err(|_| self.full::<T>())
    }

    /// The series of this key, if somebody has claimed it: without a lock, at any time.
    pub fn find<T: Cells>(&self, key: Key) -> Option<Series<T>> {
        let ours = |record: &Record| record.kind.load(Relaxed) == T::KIND && record.is(key);
        let (number, record) = self.records().find(|(_, record)| ours(record))?;
        if record.left.load(Relaxed) != 0 {
            record.left.store(0, SeqCst);
        }
        self.series(number, record).ok()
    }

    /// Subjects of this kind come and go faster than they are forgotten: if there is no room for another one, forgets those
    /// that have gone and for whom nobody counts any more, as processes that are `alive` say. Only under the zone's mutex.
    pub fn make_room<T: Cells>(&self, mono: Millis, alive: impl Fn(u64) -> bool) {
        let given = self.header.given.load(SeqCst) as usize;
        let fresh = self.record(self.header.claimed.load(SeqCst) as usize).is_some();
        if fresh && given + T::WORDS <= self.plan.words {
            return;
        }
        let gone = self
            .records()
            .filter(|(_, record)| record.kind.load(Relaxed) == T::KIND && record.left.load(SeqCst) != 0);
        for (number, record) in gone {
            if self.gauge(number, &alive) == 0 {
                record.left.store(mono.saturating_sub(FORGOTTEN + 1).max(1), SeqCst);
            }
        }
    }

    /// A record of this kind that no cycle has used for long, or whose subject went a while ago, cleared; or a fresh one.
    fn take<T: Cells>(&self, now: u64, mono: Millis) -> Result<(usize, &'static Record), Full> {
        let gone = |record: &Record| match record.left.load(SeqCst) {
            0 => false,
            left => mono.saturating_sub(left) > FORGOTTEN,
        };
        let idle = |record: &Record| now.saturating_sub(record.used.load(SeqCst)) > 2 || gone(record);
        let old = self.records().find(|(_, record)| record.kind.load(Relaxed) == T::KIND && idle(record));
        if let Some((number, record)) = old {
            record.used.store(0, SeqCst);
            record.left.store(0, SeqCst);
            record.names.iter().for_each(|names| names.store(0, SeqCst));
            let series = self.series::<T>(number, record).map_err(|_| self.full::<T>())?;
            let cells = series.words.iter().flat_map(|words| words.iter()).chain(series.offs);
            cells.for_each(|cell| cell.store(0, SeqCst));
            return Ok((number, record));
        }
        let (claimed, given) = (self.header.claimed.load(SeqCst), self.header.given.load(SeqCst));
        let record = self.record(claimed as usize).ok_or_else(|| self.full::<T>())?;
        if given as usize + T::WORDS > self.plan.words {
            return Err(self.full::<T>());
        }
        record.kind.store(T::KIND, SeqCst);
        record.offset.store(given, SeqCst);
        self.header.given.store(given + T::WORDS as u64, SeqCst);
        self.header.claimed.store(claimed + 1, Release);
        Ok((claimed as usize, record))
    }

    fn full<T: Cells>(&self) -> Full {
        Full { words: T::WORDS, records: self.plan.records }
    }

    fn series<T: Cells>(&self, number: usize, record: &'static Record) -> Result<Series<T>, RegionError> {
        let offset = record.offset.load(Relaxed) as usize * 8;
        let at = |shard: usize| self.plan.cells_at() + shard * self.plan.shard_size() + offset;
        let shards = (1..=self.plan.shards).map(|shard| self.region.get(at(shard)));
        let words = (1..=self.plan.shards).map(|shard| self.region.slice(at(shard), T::WORDS));
        Ok(Series {
            shards: shards.collect::<Result<_, _>>()?,
            base: self.region.get(at(0))?,
            words: words.collect::<Result<_, _>>()?,
            offs: self.region.slice(at(0), T::WORDS)?,
            record,
            key: [&record.key[0], &record.key[1]].map(|half| AtomicU64::new(half.load(SeqCst))),
            number,
        })
    }

    fn record(&self, number: usize) -> Option<&'static Record> {
        let inside = number < self.plan.records;
        inside.then(|| self.region.get(self.plan.records_at() + number * RECORD).ok())?
    }

    fn records(&self) -> impl Iterator<Item = (usize, &'static Record)> + '_ {
        let claimed = self.header.claimed.load(Acquire) as usize;
        (0..claimed).map_while(|number| Some((number, self.record(number)?)))
    }

    /// Says that worker `index` of cycle `generation` starts. `true`: it replaces one of its cycle that died.
    pub fn enter(&self, index: u64, generation: u64) -> bool {
        let cell = self.header.entered.get(index as usize);
        cell.is_some_and(|cell| cell.swap(generation as u32, SeqCst) == generation as u32)
    }

    /// A place for worker `index` of cycle `generation`, which is process `pid`. `alive` tells whether a process lives:
    /// the places of those that do not are free. `None`: there are more processes than places.
    pub fn seat(
        &self,
        pid: u64,
        (index, generation): (u64, u64),
        alive: impl Fn(u64) -> bool,
    ) -> Option<Presence> {
        let free = |before: u64| before == 0 || !alive(before & !process::CLAIMING);
        self.processes().find(|place| {
            let before = place.pid();
            // One that has not cleared itself yet lives, or died in that very moment.
            free(before) && place.take(before, pid, (index, generation))
        })
    }

    /// All places of processes, whosever they are.
    pub fn processes(&self) -> impl Iterator<Item = Presence> + '_ {
        (0..self.plan.processes).map_while(|number| {
            let at = HEADER + number * self.plan.process_size();
            let process = self.region.get(at).ok()?;
            let gauges = self.region.slice(at + size_of::<Process>(), self.plan.gauges()).ok()?;
            Some(Presence { process, gauges })
        })
    }

    /// What the processes that live have in a gauge together.
    pub fn gauge(&self, series: usize, alive: impl Fn(u64) -> bool) -> u64 {
        let living = self.processes().filter(|place| matches!(place.pid(), pid if pid != 0 && alive(pid)));
        living.filter_map(|place| place.gauge(series)).map(|cell| cell.load(Relaxed)).sum()
    }
}

impl Record {
    fn is(&self, key: Key) -> bool {
        self.used.load(Acquire) != 0
            && self.key[0].load(SeqCst) == key[0]
            && self.key[1].load(SeqCst) == key[1]
    }
}

#[cfg(test)]
mod tests;
