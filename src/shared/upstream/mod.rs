//! The zone of upstream state: a header, the records of health checks and of servers from the front, those of
//! breakers from the back.
//!
//! A record belongs to a key, a 128-bit hash of what it is about, never to a position: a reload finds its
//! records again whatever moved in the configuration. The master claims them in `init_module`, before it starts the
//! workers of the new cycle; workers of the old one keep using theirs meanwhile. Servers that come later have theirs
//! claimed by the first worker that sees them ([`claims`]).

mod claims;
mod slots;

mod fill;

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU32, AtomicU64};

use super::balance::Server;
use super::breaker::Breaker;
use super::cell::{Region, Shared, shared_struct};
use super::health::Check;
use super::seal::{Format, LayoutError, Seal};
pub use claims::{Claims, Found};
use slots::{BREAKER, BreakerSlot, CHECK, FrontSlot, IDENT, Slot};

pub const LAYOUT: u64 = 7;
const FORMAT: Format = Format::new(*b"sluiceUP", LAYOUT, "upstream state");
/// Worker indices that `enter` tells apart.
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
        /// Verdicts changed.
        changes: AtomicU64,
        /// Records of checks and servers ever claimed: all in use lie below.
        checks: AtomicU64,
        /// Breaker records ever claimed.
        breakers: AtomicU64,
        /// Changes of the groups' servers that the core does not count itself.
        members: AtomicU64,
        /// Records that there was no room for.
        failures: AtomicU64,
        /// The cycle in which a worker of this index started last.
        entered: [AtomicU32; WORKERS],
    }
}

const HEADER: usize = size_of::<Header>();
/// The smallest zone: a record of each kind.
const LEAST: usize = HEADER + CHECK + BREAKER;
const _: () = assert!(HEADER == 640);

pub use fill::Fill;

/// What a record is about: a hash that does not collide.
pub type Key = [u64; 2];

/// No record is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no room for another {what} in {checks} health checks and {breakers} circuit breakers")]
pub struct Full {
    pub what: &'static str,
    /// Check records claimed so far.
    pub checks: usize,
    /// Breaker records claimed so far.
    pub breakers: usize,
}

/// The zone of upstream state. A plain handle: copies view the same memory.
#[derive(Clone, Copy, Debug)]
pub struct Store {
    region: Region,
    header: &'static Header,
}

impl Store {
    /// Bytes for so many records of a configuration, twice over: a reload may rename them all. `checks` are those
    /// of checks and of servers.
    #[must_use]
    pub const fn size_for(checks: usize, breakers: usize) -> usize {
        let (checks, breakers) = (checks.saturating_add(1), breakers.saturating_add(1));
        let records = checks.saturating_mul(CHECK).saturating_add(breakers.saturating_mul(BREAKER));
        records.saturating_mul(2).saturating_add(HEADER + Region::ALIGN)
    }

    /// Lays out fresh, zeroed memory.
    ///
    /// # Errors
    /// [`LayoutError::TooSmall`] when not one record of each kind fits.
    pub fn create(region: Region) -> Result<Self, LayoutError> {
        FORMAT.fits(region, LEAST)?;
        let store = Self { region, header: region.get(0)? };
        store.header.size.store(region.len() as u64, Relaxed);
        store.header.seal.set(&FORMAT);
        Ok(store)
    }

    /// Takes over memory that an earlier cycle, perhaps another binary, laid out.
    ///
    /// # Errors
    /// When it is not ours, or not of this layout or size; the memory is untouched, start with a fresh zone.
    pub fn adopt(region: Region) -> Result<Self, LayoutError> {
        FORMAT.fits(region, LEAST)?;
        let store = Self { region, header: region.get(0)? };
        store.header.seal.check(&FORMAT)?;
        FORMAT.laid_out_so(store.header.size.load(Relaxed) == region.len() as u64)?;
        Ok(store)
    }

    /// Begins a cycle and returns its number, 1 or more. Only the master, once per cycle, in `init_module`.
    pub fn begin_cycle(&self) -> u32 {
        (self.header.generation.fetch_add(1, SeqCst) + 1) as u32
    }

    /// The cycle begun last. Remember it when this process starts: it moves on at a reload.
    pub fn generation(&self) -> u32 {
        self.header.generation.load(SeqCst) as u32
    }

    /// Says that worker `index` of cycle `generation` starts. `true`: it replaces one that died, whose
    /// permits may be reclaimed ([`Breaker::reclaim`]). Indices from 128 on are never told apart: `false`.
    pub fn enter(&self, index: usize, generation: u32) -> bool {
        self.header.entered.get(index).is_some_and(|entered| entered.swap(generation, SeqCst) == generation)
    }

    /// Verdicts changed so far: each worker compares with what it saw last.
    pub fn changes(&self) -> u64 {
        self.header.changes.load(Acquire)
    }

    /// Tells all workers that a verdict changed. After the change, so that whoever sees this sees that.
    pub fn note_change(&self) {
        self.header.changes.fetch_add(1, Release);
    }

    /// Servers that came or left without the core's counting it: each worker compares with what it saw last.
    pub fn memberships(&self) -> u64 {
        self.header.members.load(Acquire)
    }

    /// Tells all workers that a server has come or left. After the change.
    pub fn note_membership(&self) {
        self.header.members.fetch_add(1, Release);
    }

    /// The check at an index that [`Claims::check`] returned.
    pub fn check_at(&self, index: usize) -> Option<&'static Check> {
        self.front(index)
    }

    /// The server at an index that [`Claims::server`] returned.
    pub fn server_at(&self, index: usize) -> Option<&'static Server> {
        self.front(index)
    }

    /// The breaker at an index that [`Claims::breaker`] returned.
    pub fn breaker_at(&self, index: usize) -> Option<&'static Breaker> {
        self.slot::<BreakerSlot>(index).map(|slot| &slot.body)
    }

    /// Carries everything over from the zone of another size that this one replaces: cycle, changes, records.
    /// Only the master, right after `create`. Returns how many records found no room.
    pub fn copy_from(&self, old: &Self) -> usize {
        self.header.generation.store(old.header.generation.load(SeqCst), SeqCst);
        self.header.changes.store(old.header.changes.load(SeqCst), SeqCst);
        self.header.members.store(old.header.members.load(SeqCst), SeqCst);
        self.header.failures.store(old.header.failures.load(SeqCst), SeqCst);
        for (to, from) in self.header.entered.iter().zip(&old.header.entered) {
            to.store(from.load(SeqCst), SeqCst);
        }
        self.copy_slots::<FrontSlot>(old) + self.copy_slots::<BreakerSlot>(old)
    }

    /// The body of a front record, as what its claimer knows it to be.
    fn front<T: Shared>(&self, index: usize) -> Option<&'static T> {
        self.slot::<FrontSlot>(index)?;
        self.region.get(FrontSlot::offset(index, self.region.len())? + IDENT).ok()
    }

    fn slot<T: Slot>(&self, index: usize) -> Option<&'static T> {
        let claimed = index < T::count(self.header).load(Acquire) as usize;
        let offset = T::offset(index, self.region.len())?;
        if claimed { self.region.get(offset).ok() } else { None }
    }

    fn slots<T: Slot>(&self) -> impl Iterator<Item = (usize, &'static T)> + '_ {
        let count = T::count(self.header).load(Acquire) as usize;
        (0..count).map_while(|index| Some((index, self.slot(index)?)))
    }

    /// One more record, if the two kinds do not meet.
    fn extend<T: Slot>(&self) -> Option<(usize, &'static T)> {
        let [checks, breakers] = self.counts();
        let index = T::count(self.header).load(SeqCst) as usize;
        let (checks, breakers) =
            if T::WHAT == FrontSlot::WHAT { (checks + 1, breakers) } else { (checks, breakers + 1) };
        let front = FrontSlot::offset(checks, self.region.len())?;
        let back = match breakers {
            0 => self.region.len(),
            some => BreakerSlot::offset(some - 1, self.region.len())?,
        };
        if front > back {
            return None;
        }
        T::count(self.header).store(index as u64 + 1, Release);
        Some((index, self.slot(index)?))
    }

    fn counts(&self) -> [usize; 2] {
        [&self.header.checks, &self.header.breakers].map(|count| count.load(SeqCst) as usize)
    }

    fn full<T: Slot>(&self) -> Full {
        let [checks, breakers] = self.counts();
        Full { what: T::WHAT, checks, breakers }
    }

    fn copy_slots<T: Slot>(&self, old: &Self) -> usize {
        let now = old.generation();
        let mut lost = 0;
        for (_, from) in old.slots::<T>() {
            let (ident, usage) = (from.ident(), from.ident().usage());
            if usage.cycle == 0 || usage.idle(now) > 2 {
                continue;
            }
            let Some((_, to)) = self.extend::<T>() else {
                lost += 1;
                continue;
            };
            to.copy_from(from);
            to.ident().take(ident.owner(), ident.key(), usage);
        }
        lost
    }
}

#[cfg(test)]
mod tests;
