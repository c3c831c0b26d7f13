//! Claiming records, and letting go of those whose servers have left.
//!
//! Whoever claims is alone: nginx's own mutex of the zone is held meanwhile, which the master frees when a worker dies.
//! Each step leaves the zone whole, so that a death between two of them costs at most one record for a while.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering::Relaxed;

use super::slots::{BreakerSlot, FrontSlot, Slot, Use};
use super::{Full, Key, Store};

/// Seconds after which nobody looks at the record of a server that has left: every worker has learnt of it within one.
const GRACE: u32 = 60;
/// The same when no other record is left.
const LEAST_GRACE: u32 = 3;

/// The right to claim records, for as long as it lives. It knows the zone as it was when that began.
pub struct Claims<'s> {
    store: &'s Store,
    cycle: u32,
    now: u32,
    fronts: Catalog,
    breakers: Catalog,
}

/// A record claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its number, which holds until the zone is replaced.
    pub index: usize,
    pub found: Found,
}

/// Where a record came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nobody had it.
    New,
    /// Its server had left this cycle, and is back.
    Returned,
    Kept,
}

/// The records of one kind.
#[derive(Default)]
struct Catalog {
    known: HashMap<Key, usize>,
    /// May be given to another key.
    free: Vec<usize>,
    /// May be if need be: a worker that is leaving could still have a request there.
    last: Vec<usize>,
}

impl Catalog {
    fn of<T: Slot>(store: &Store, cycle: u32, now: u32) -> Self {
        let mut catalog = Self::default();
        for (index, slot) in store.slots::<T>() {
            let usage = slot.ident().usage();
            if usage.cycle != 0 {
                catalog.known.insert(slot.ident().key(), index);
            }
            if is_free(usage, cycle, now) {
                catalog.free.push(index);
            } else if is_last(usage, cycle, now) {
                catalog.last.push(index);
            }
        }
        // From the front.
        catalog.free.reverse();
        catalog.last.reverse();
        catalog
    }
}

/// A list of a catalogue, and what still has to be true of what is in it.
type Listed = (fn(Use, u32, u32) -> bool, fn(&mut Catalog) -> &mut Vec<usize>);

fn is_free(usage: Use, cycle: u32, now: u32) -> bool {
    usage.idle(cycle) > 2 || usage.unused_for(now).is_some_and(|time| time >= GRACE)
}

fn is_last(usage: Use, cycle: u32, now: u32) -> bool {
    usage.idle(cycle) == 2 || usage.unused_for(now).is_some_and(|time| time >= LEAST_GRACE)
}

impl<'s> Claims<'s> {
    /// For the present cycle, at `now` in seconds of the host's monotonic clock. The caller holds the zone's mutex.
    pub fn new(store: &'s Store, now: u64) -> Self {
        let (cycle, now) = (store.generation(), now as u32);
        let (fronts, breakers) =
            (Catalog::of::<FrontSlot>(store, cycle, now), Catalog::of::<BreakerSlot>(store, cycle, now));
        Self { store, cycle, now, fronts, breakers }
    }

    pub fn store(&self) -> &'s Store {
        self.store
    }

    /// What is said when no record is left.
    pub fn full(&self) -> Full {
        self.store.full::<BreakerSlot>()
    }

    /// Finds the check of this key or claims one. `owner` is a hash of the group's name; `first` the verdict of a new
    /// one.
    ///
    /// # Errors
    /// [`Full`]: the zone is too small.
    pub fn check(&mut self, owner: u64, key: Key, first: u64) -> Result<Claim, Full> {
        let store = self.store;
        self.find_or_claim::<FrontSlot>(owner, key, |index| {
            if let Some(check) = store.check_at(index) {
                check.set_state(|_| first);
            }
        })
    }

    /// As [`Self::check`], for a server.
    ///
    /// # Errors
    /// [`Full`]: the zone is too small.
    pub fn server(&mut self, owner: u64, key: Key) -> Result<Claim, Full> {
        self.find_or_claim::<FrontSlot>(owner, key, |_| {}).map_err(|full| Full { what: "server", ..full })
    }

    /// As [`Self::check`], for a breaker. One that is no server's has the owner 0.
    ///
    /// # Errors
    /// [`Full`]: the zone is too small.
    pub fn breaker(&mut self, owner: u64, key: Key) -> Result<Claim, Full> {
        self.find_or_claim::<BreakerSlot>(owner, key, |_| {})
    }

    /// Lets go of what this cycle had claimed for the servers of `owner`, but for the numbers of checks and servers, and
    /// of breakers, that are `kept`.
    pub fn release_others(&self, owner: u64, [fronts, breakers]: [&HashSet<usize>; 2]) {
        self.release::<FrontSlot>(owner, fronts);
        self.release::<BreakerSlot>(owner, breakers);
    }

    fn release<T: Slot>(&self, owner: u64, kept: &HashSet<usize>) {
        for (index, slot) in self.store.slots::<T>() {
            let (ident, usage) = (slot.ident(), slot.ident().usage());
            let ours = ident.owner() == owner && usage.cycle == self.cycle && usage.released == 0;
            if ours && !kept.contains(&index) {
                ident.set_usage(Use { released: self.now.max(1), ..usage });
            }
        }
    }

    fn catalog<T: Slot>(&mut self) -> &mut Catalog {
        if T::WHAT == FrontSlot::WHAT { &mut self.fronts } else { &mut self.breakers }
    }

    fn find_or_claim<T: Slot>(
        &mut self,
        owner: u64,
        key: Key,
        prepare: impl FnOnce(usize),
    ) -> Result<Claim, Full> {
        let known = self.catalog::<T>().known.get(&key).copied();
        let slot = known.and_then(|index| Some((index, self.store.slot::<T>(index)?)));
        let usage = Use { cycle: self.cycle, released: 0 };
        if let Some((index, slot)) = slot {
            let before = slot.ident().usage();
            // Forgotten for two whole cycles: what it remembers is of another time.
            if before.idle(self.cycle) <= 2 {
                slot.ident().set_usage(usage);
                let found = if before.released == 0 { Found::Kept } else { Found::Returned };
                return Ok(Claim { index, found });
            }
        }
        let (index, slot) = match slot {
            Some(forgotten) => forgotten,
            None => self.claim::<T>()?,
        };
        // In this order, so that a key never stands over another's state.
        slot.ident().vacate();
        slot.clear();
        prepare(index);
        slot.ident().take(owner, key, usage);
        self.catalog::<T>().known.insert(key, index);
        Ok(Claim { index, found: Found::New })
    }

    /// A record for a new key.
    fn claim<T: Slot>(&mut self) -> Result<(usize, &'static T), Full> {
        let [free, last]: [Listed; 2] = [(is_free, |its| &mut its.free), (is_last, |its| &mut its.last)];
        let found = self.reuse::<T>(free).or_else(|| self.store.extend()).or_else(|| self.reuse::<T>(last));
        found.ok_or_else(|| {
            self.store.header.failures.fetch_add(1, Relaxed);
            self.store.full::<T>()
        })
    }

    /// One of those listed that nobody has asked for since.
    fn reuse<T: Slot>(&mut self, (still, list): Listed) -> Option<(usize, &'static T)> {
        let (cycle, now, store) = (self.cycle, self.now, self.store);
        let catalog = self.catalog::<T>();
        while let Some(index) = list(catalog).pop() {
            let Some(slot) = store.slot::<T>(index) else { continue };
            if still(slot.ident().usage(), cycle, now) {
                catalog.known.remove(&slot.ident().key());
                return Some((index, slot));
            }
        }
        None
    }
}
