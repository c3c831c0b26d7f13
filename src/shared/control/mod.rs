//! What operators have said, so that a reload or a dead worker forgets nothing of it: what was changed of a server, servers
//! that were added or taken away, and why a breaker was overruled.
//!
//! Records are claimed, written and given back by one process at a time: the caller holds the zone's mutex, which the
//! master frees when a worker dies. What a record says is written beside what it said before, and one store makes it
//! count: a writer that dies half way has said nothing. Readers need no mutex.

mod note;
mod seat;

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};

use super::cell::{Region, shared_struct};
use super::seal::{Format, LayoutError, Seal};

pub use note::Note;
pub use seat::{Added, Base, Seat};

const FORMAT: Format = Format::new(*b"sluiceCT", 1, "what operators said");
/// Words of what a record says.
const WORDS: usize = 28;

/// What a record says, as words.
type Words = [u64; WORDS];

/// A 128-bit hash of what something is about.
pub type Key = [u64; 2];

shared_struct! {
    #[repr(align(64))]
    struct Header {
        seal: Seal,
        size: AtomicU64,
        /// Records ever claimed: all in use lie below.
        records: AtomicU64,
        /// Configurations begun.
        cycle: AtomicU64,
        spare: [AtomicU64; 3],
    }
}

shared_struct! {
    /// One record.
    #[repr(align(64))]
    pub struct Record {
        /// [`Kind`] as a number; 0: free.
        kind: AtomicU64,
        key: [AtomicU64; 2],
        /// The group it belongs to.
        owner: [AtomicU64; 2],
        spare: AtomicU64,
        /// The configuration that asked for it last.
        cycle: AtomicU64,
        /// Which copy counts: 0 none, else one more than its number, in the lowest two bits; writes above.
        live: AtomicU64,
        copies: [[AtomicU64; WORDS]; 2],
    }
}

const HEADER: usize = size_of::<Header>();
const RECORD: usize = size_of::<Record>();
const _: () = assert!(HEADER == 64 && RECORD == 512);

/// What a record is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Server = 1,
    Breaker = 2,
}

/// The records. A plain handle: copies view the same memory.
#[derive(Clone, Copy)]
pub struct Table {
    region: Region,
    header: &'static Header,
}

impl Table {
    /// Bytes for so many records.
    #[must_use]
    pub const fn size_for(records: usize) -> usize {
        HEADER + records.saturating_mul(RECORD)
    }

    /// Lays out fresh, zeroed memory.
    ///
    /// # Errors
    /// [`LayoutError`] if the region is too small.
    pub fn create(region: Region) -> Result<Self, LayoutError> {
        let table = Self { region, header: region.get(0)? };
        table.header.size.store(region.len() as u64, Relaxed);
        table.header.seal.set(&FORMAT);
        Ok(table)
    }

    /// Takes over what an earlier cycle laid out.
    ///
    /// # Errors
    /// [`LayoutError`]: it is not ours, start clean.
    pub fn adopt(region: Region) -> Result<Self, LayoutError> {
        let header: &Header = region.get(0)?;
        header.seal.check(&FORMAT)?;
        FORMAT.laid_out_so(header.size.load(Relaxed) == region.len() as u64)?;
        Ok(Self { region, header })
    }

    /// Carries everything over from the table of another size that this one replaces. Returns how many records found
    /// no room.
    pub fn copy_from(&self, old: &Self) -> usize {
        self.header.cycle.store(old.header.cycle.load(SeqCst), SeqCst);
        let mut lost = 0;
        for from in old.records().filter(|record| record.kind.load(Acquire) != 0) {
            match self.extend() {
                Some(to) => to.copy_from(from),
                None => lost += 1,
            }
        }
        lost
    }

    /// Begins a configuration and returns its number: [`Table::forget`] forgets what it does not ask for. Only the master.
    pub fn begin_cycle(&self) -> u64 {
        self.header.cycle.fetch_add(1, SeqCst) + 1
    }

    /// The configuration begun last.
    pub fn cycle(&self) -> u64 {
        self.header.cycle.load(SeqCst)
    }

    /// Gives back the records that the present configuration has not asked for, and calls `lost` with each before.
    pub fn forget(&self, lost: impl Fn(&Record)) {
        let now = self.header.cycle.load(SeqCst);
        for record in self.records().filter(|record| record.kind.load(Acquire) != 0) {
            if record.cycle.load(Relaxed) != now {
                lost(record);
                record.free();
            }
        }
    }

    /// The record of this key.
    pub fn find(&self, kind: Kind, key: Key) -> Option<&'static Record> {
        self.of(kind).find(|record| record.key() == key)
    }

    /// All servers of a group.
    pub fn servers(&self, owner: Key) -> impl Iterator<Item = &'static Record> + '_ {
        self.of(Kind::Server).filter(move |record| record.owner() == owner)
    }

    /// Finds the record of this key or claims one, and says that the present configuration asks for it. `None`: no room.
    pub fn claim(&self, kind: Kind, owner: Key, key: Key) -> Option<&'static Record> {
        let record = self.find(kind, key).or_else(|| {
            let free = self.records().find(|record| record.kind.load(Acquire) == 0);
            let record = free.or_else(|| self.extend())?;
            record.take(kind, owner, key);
            Some(record)
        })?;
        record.cycle.store(self.header.cycle.load(SeqCst), Relaxed);
        Some(record)
    }

    fn of(&self, kind: Kind) -> impl Iterator<Item = &'static Record> + '_ {
        self.records().filter(move |record| record.kind.load(Acquire) == kind as u64)
    }

    fn records(&self) -> impl Iterator<Item = &'static Record> + '_ {
        let count = self.header.records.load(Acquire) as usize;
        (0..count).map_while(|index| self.record(index))
    }

    fn record(&self, index: usize) -> Option<&'static Record> {
        self.region.get(HEADER + index.checked_mul(RECORD)?).ok()
    }

    fn extend(&self) -> Option<&'static Record> {
        let index = self.header.records.load(SeqCst);
        let record = self.record(index as usize)?;
        self.header.records.store(index + 1, Release);
        Some(record)
    }
}

impl Record {
    pub fn key(&self) -> Key {
        [self.key[0].load(SeqCst), self.key[1].load(SeqCst)]
    }

    pub fn owner(&self) -> Key {
        [self.owner[0].load(SeqCst), self.owner[1].load(SeqCst)]
    }

    /// Nobody's from now on.
    pub fn free(&self) {
        self.kind.store(0, Release);
        self.live.store(0, SeqCst);
    }

    fn take(&self, kind: Kind, owner: Key, key: Key) {
        self.live.store(0, SeqCst);
        for (to, from) in self.key.iter().chain(&self.owner).zip(key.into_iter().chain(owner)) {
            to.store(from, SeqCst);
        }
        self.kind.store(kind as u64, Release);
    }

    fn read(&self) -> Option<Words> {
        // Written twice while we read, and a third time: not by people.
        for _ in 0..8 {
            let live = self.live.load(Acquire);
            let copy = self.copies.get((live & 3).checked_sub(1)? as usize)?;
            let words = core::array::from_fn(|at| copy[at].load(Acquire));
            if self.live.load(Acquire) == live {
                return Some(words);
            }
        }
        None
    }

    fn write(&self, words: &Words) {
        let live = self.live.load(SeqCst);
        let next = usize::from(live & 3 == 1);
        self.copies[next].iter().zip(words).for_each(|(to, word)| to.store(*word, Release));
        self.live.store(((live >> 2) + 1) << 2 | (next as u64 + 1), SeqCst);
    }

    fn copy_from(&self, old: &Self) {
        self.take(Kind::Server, old.owner(), old.key());
        self.cycle.store(old.cycle.load(Relaxed), Relaxed);
        if let Some(words) = old.read() {
            self.write(&words);
        }
        self.kind.store(old.kind.load(Acquire), Release);
    }
}

/// Text as words, and back: what does not fit is cut at a character's end.
fn put(words: &mut [u64], text: &str) -> u64 {
    let mut end = text.len().min(words.len() * 8);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    for (word, chunk) in words.iter_mut().zip(text.as_bytes()[..end].chunks(8)) {
        let mut bytes = [0; 8];
        bytes[..chunk.len()].copy_from_slice(chunk);
        *word = u64::from_le_bytes(bytes);
    }
    end as u64
}

fn text(words: &[u64], len: u64) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).take(len as usize).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests;
