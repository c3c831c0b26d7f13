//! The table of slots: set-associative, so that a lookup reads a few cache lines and never walks.
//!
//! A key's hash names its group of 16 slots, and only there can it sit. Slots of a group are filled from the
//! front and never become empty again, so all workers that bring a new key meet at the same first empty slot
//! and one compare-and-swap decides whose it is. In a full group the slot nearest to drained is taken over:
//! marked busy, wiped, given its new key. Workers that were about to charge it see after their own
//! compare-and-swap that the key has changed, and start over.
//!
//! A slot knows its key by 64 bits of the hash (the group, from other bits, adds to them). To get into
//! somebody else's slot takes 2^64 tries of a second preimage; two of one's own keys that collide by birthday
//! merely share a limit.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use std::ops::Range;

use super::cell::{Region, RegionError};
use crate::policy::Millis;
use crate::policy::limit::{CLOCK_SLACK, KeyHash, Tat};

const GROUP: usize = 16;
/// Never used; the group is empty from here on.
const EMPTY: u64 = 0;
/// Being wiped by a worker. If that worker dies, the slot is out of use until the zone is adopted anew.
const BUSY: u64 = 1;
/// Wiped, without a key, in the middle of the others: the first to be taken over.
const FREED: u64 = 2;
/// How long to wait for a busy slot to get its key, which is a few stores away, before it counts as dead.
const SPINS: usize = 100;

/// The slot was given to another key in the middle of something.
pub struct Moved;

/// Words of a slot besides key and `until`.
#[derive(Clone, Copy)]
pub struct Words {
    pub state: usize,
    /// After the state.
    pub lease: usize,
}

impl Words {
    /// Words of one group.
    const fn stride(self) -> usize {
        GROUP * (2 + self.state + self.lease)
    }

    /// Bytes of one group.
    pub const fn group_size(self) -> usize {
        self.stride() * size_of::<AtomicU64>()
    }
}

/// All groups of a zone. In each, the keys of its slots lie together, then their `until`, then the rest.
#[derive(Clone, Copy)]
pub struct Table {
    memory: &'static [AtomicU64],
    words: Words,
}

/// One key's state.
#[derive(Clone, Copy)]
pub struct Slot {
    key: &'static AtomicU64,
    /// A [`Tat`]: when the slot will be as good as new. The whole state of gcra. Zero only before the first
    /// charge.
    pub until: &'static AtomicU64,
    state: &'static [AtomicU64],
    lease: &'static [AtomicU64],
}

/// A slot that holds the key asked for.
pub struct Claim {
    pub slot: Slot,
    /// Another key lost its quota in use for it.
    pub evicted: bool,
}

/// All slots of one group.
#[derive(Clone, Copy)]
pub struct Group {
    memory: &'static [AtomicU64],
    words: Words,
}

/// A slot that could be taken over: what it held when it was looked at.
#[derive(Clone, Copy)]
struct Victim {
    index: usize,
    key: u64,
    until: u64,
}

impl Table {
    /// The table that fills these bytes of `region`.
    pub fn new(region: Region, bytes: Range<usize>, words: Words) -> Result<Self, RegionError> {
        let groups = bytes.end.saturating_sub(bytes.start) / words.group_size();
        Ok(Self { memory: region.slice(bytes.start, groups * words.stride())?, words })
    }

    pub const fn slots(&self) -> usize {
        self.groups() * GROUP
    }

    const fn groups(&self) -> usize {
        self.memory.len() / self.words.stride()
    }

    pub fn wipe(&self) {
        self.memory.iter().for_each(|word| word.store(0, Relaxed));
    }

    /// Frees the slots that killed workers left busy. A living worker in the middle of taking one over is given
    /// the time it needs. Should it be held up even longer, it notices and starts over; at worst the slot's next
    /// key loses what it used in that instant.
    pub fn sweep(&self) {
        for slot in self.all().filter(|slot| slot.settled_key() == BUSY) {
            slot.free();
        }
    }

    /// Slots with a key and quota in use.
    #[cfg(test)]
    pub fn used(&self, now: Millis) -> usize {
        self.all().filter(|slot| slot.key.load(Relaxed) > FREED && !slot.tat().is_empty_at(now)).count()
    }

    /// Slots with a key: counted in so many groups, spread over the table, and the rest taken to be like them.
    pub fn taken(&self) -> usize {
        const SAMPLE: usize = 16_384;
        let groups = self.groups();
        let sample = groups.clamp(1, SAMPLE);
        let seen = (0..sample.min(groups)).map(|at| self.group(at * groups / sample));
        let taken = seen.flat_map(Group::slots).filter(|slot| slot.key.load(Relaxed) > FREED).count();
        taken * groups / sample
    }

    /// The name of a key within its group, and that group.
    pub fn locate(&self, key: &KeyHash) -> (u64, Group) {
        let (name, place) = key.as_u64s();
        let groups = self.groups() as u128;
        let index = ((u128::from(place) * groups) >> 64) as usize;
        (if name > FREED { name } else { name + 1 + FREED }, self.group(index))
    }

    /// The slot of a key that has one.
    pub fn find(&self, group: Group, id: u64) -> Option<Slot> {
        let keys = group.slots().map(|slot| (slot, slot.key.load(SeqCst)));
        keys.take_while(|(_, key)| *key != EMPTY).find(|(_, key)| *key == id).map(|(slot, _)| slot)
    }

    /// The slot of a key, which is given one if need be. `None`: another worker was faster, try again.
    pub fn claim(&self, group: Group, id: u64, now: Millis) -> Option<Claim> {
        match group.seat(id) {
            Ok(slot) => Some(Claim { slot, evicted: false }),
            Err(victim) => group.take_over(victim?, id, now),
        }
    }

    /// Of a full group, the time of the slot that would be taken over; `None` if there is room.
    pub fn soonest(&self, group: Group) -> Option<Tat> {
        let mut soonest: Option<Victim> = None;
        for (index, slot) in group.slots().enumerate() {
            let found = Victim { index, key: slot.key.load(SeqCst), until: slot.until.load(SeqCst) };
            match found.key {
                EMPTY | FREED => return None,
                BUSY => {}
                _ if soonest.is_none_or(|best| found.rank() < best.rank()) => soonest = Some(found),
                _ => {}
            }
        }
        soonest.map(|victim| Tat::from_bits(victim.until))
    }

    fn group(&self, index: usize) -> Group {
        let stride = self.words.stride();
        Group { memory: &self.memory[index * stride..][..stride], words: self.words }
    }

    /// Every slot, with a key or without.
    pub fn all(&self) -> impl Iterator<Item = Slot> + use<> {
        let table = *self;
        (0..self.groups()).flat_map(move |index| table.group(index).slots())
    }
}

impl Group {
    fn slot(self, index: usize) -> Slot {
        let Words { state, lease } = self.words;
        let words = &self.memory[2 * GROUP + index * (state + lease)..][..state + lease];
        let (state, lease) = words.split_at(state);
        Slot { key: &self.memory[index], until: &self.memory[GROUP + index], state, lease }
    }

    fn slots(self) -> impl Iterator<Item = Slot> {
        (0..GROUP).map(move |index| self.slot(index))
    }

    #[cfg(test)]
    pub fn keys(self) -> &'static [AtomicU64] {
        &self.memory[..GROUP]
    }

    /// The key's slot or the first empty one, made the key's. If there is neither, the one to take over.
    fn seat(self, id: u64) -> Result<Slot, Option<Victim>> {
        let mut victim: Option<Victim> = None;
        for (index, slot) in self.slots().enumerate() {
            let key = match slot.settled_key() {
                EMPTY => match slot.key.compare_exchange(EMPTY, id, SeqCst, SeqCst) {
                    Ok(_) => return Ok(slot),
                    Err(key) => key,
                },
                key => key,
            };
            if key == id {
                return Ok(slot);
            }
            let found = Victim { index, key, until: slot.until.load(SeqCst) };
            if key != BUSY && victim.is_none_or(|best| found.rank() < best.rank()) {
                victim = Some(found);
            }
        }
        Err(victim)
    }

    fn take_over(self, victim: Victim, id: u64, now: Millis) -> Option<Claim> {
        let slot = self.slot(victim.index);
        if !slot.rename(victim.key, BUSY) {
            return None;
        }
        if slot.until.load(SeqCst) != victim.until {
            // Charged since it was chosen. Whoever charged it after this load will find the key gone.
            slot.rename(BUSY, victim.key);
            return None;
        }
        slot.wipe();
        if !slot.rename(BUSY, id) {
            return None;
        }
        let evicted = victim.key != FREED && !Tat::from_bits(victim.until).is_empty_at(now);
        Some(Claim { slot: self.settle(slot, id), evicted })
    }

    /// Two workers may have taken over two slots for one key. The first slot of the group stays, the others
    /// are merged into it; whichever worker looks last sees both.
    pub fn settle(self, mine: Slot, id: u64) -> Slot {
        let mut same = self.slots().filter(|slot| slot.settled_key() == id);
        let Some(first) = same.next() else { return mine };
        same.filter(|other| other.rename(id, BUSY)).for_each(|other| {
            other.merge_into(first);
            other.free();
        });
        first
    }
}

impl Victim {
    /// Freed slots first, then the nearest to drained. Last is one that got its key this instant and is about
    /// to be charged: workers in need of slots would only take it from each other.
    const fn rank(self) -> u64 {
        if self.key == FREED { 0 } else { self.until.wrapping_sub(1) }
    }
}

impl Slot {
    /// The key that has it now, if one does.
    pub fn owner(&self) -> Option<u64> {
        Some(self.key.load(SeqCst)).filter(|key| *key > FREED)
    }

    /// A word of the state besides `until`.
    pub fn word(&self, index: usize) -> &'static AtomicU64 {
        &self.state[index]
    }

    pub const fn state(&self) -> &'static [AtomicU64] {
        self.state
    }

    /// The words of the lease, if the zone keeps any.
    pub const fn lease(&self) -> &'static [AtomicU64] {
        self.lease
    }

    pub fn tat(&self) -> Tat {
        Tat::from_bits(self.until.load(SeqCst))
    }

    /// Whether the slot still is the key's.
    pub fn still(&self, id: u64) -> Result<(), Moved> {
        if self.key.load(SeqCst) == id { Ok(()) } else { Err(Moved) }
    }

    /// Makes the slot count as in use up to `time`. Called before what is to be kept is stored, so that a
    /// worker killed in between leaves it kept too long rather than too short.
    pub fn keep_until(&self, time: Millis) {
        let until = Tat::new(time, 0).to_bits();
        if self.until.load(SeqCst) < until {
            self.until.fetch_max(until, SeqCst);
        }
    }

    /// Gives a slot without a charge a time when it was drained, so that it is not the last to be taken over.
    /// That time lies back so far that no worker's clock finds a charge in it.
    pub fn begin(&self, now: Millis) {
        if self.until.load(SeqCst) == 0 {
            let past = Tat::new(now.saturating_sub(CLOCK_SLACK).max(1), 0);
            let _ = self.until.compare_exchange(0, past.to_bits(), SeqCst, SeqCst);
        }
    }

    /// Applies `change` to one word for as long as the slot is the key's.
    pub fn change(&self, word: &AtomicU64, id: u64, change: impl Fn(u64) -> u64) {
        let mut bits = word.load(SeqCst);
        while self.still(id).is_ok() {
            match word.compare_exchange_weak(bits, change(bits), SeqCst, SeqCst) {
                Ok(_) => return,
                Err(found) => bits = found,
            }
        }
    }

    /// Takes the slot from its key. False if another worker already does.
    pub fn release(&self, id: u64) -> bool {
        let mine = self.rename(id, BUSY);
        if mine {
            self.free();
        }
        mine
    }

    /// All state zero, `until` last.
    fn wipe(&self) {
        self.state.iter().chain(self.lease).for_each(|word| word.store(0, SeqCst));
        self.until.store(0, SeqCst);
    }

    /// Moves a busy slot's state over. Later times compare greater in every word, so the greater is the truer.
    /// A lease stays behind and is lost: to add it up here could spend it twice.
    fn merge_into(&self, other: Self) {
        other.until.fetch_max(self.until.load(SeqCst), SeqCst);
        for (from, to) in self.state.iter().zip(other.state) {
            to.fetch_max(from.load(SeqCst), SeqCst);
        }
    }

    /// Ends the use of a busy slot.
    fn free(&self) {
        self.wipe();
        self.rename(BUSY, FREED);
    }

    fn rename(&self, from: u64, to: u64) -> bool {
        self.key.compare_exchange(from, to, SeqCst, SeqCst).is_ok()
    }

    fn settled_key(&self) -> u64 {
        for _ in 0..SPINS {
            match self.key.load(SeqCst) {
                BUSY => spin_loop(),
                key => return key,
            }
        }
        BUSY
    }
}
