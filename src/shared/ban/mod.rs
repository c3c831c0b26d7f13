//! Bans of one host: two fixed tables in a zone, shared by all workers, without a lock.
//!
//! - **bans** (a third of the zone): who is put away, until when, and how often he was. Only bans take room here, so
//!   however many keys misbehave a little, no ban is lost to them. In a full group the ban that ends soonest is.
//! - **hits**: when each key misbehaved lately, under each rule.
//!
//! A slot of bans is read by requests through two words: its key and the end of its ban, which is stored last. All
//! other words are for whoever reads slowly. A worker killed at any instruction leaves a ban that has not begun, or one
//! that is whole but for what is told of it.
//!
//! What Redis says of a key has a stamp, which rises: a slot follows the word with the greatest. What this host has said itself
//! holds until Redis has answered it.
//!
//! Bytes: 168 a ban, 288 a key and rule that is counted.

mod book;
mod count;
mod log;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

pub use self::book::{Entry, Heeded, Origin, Told, Word};
pub use self::count::Counters;
use super::cell::{Region, shared_struct};
use super::seal::{Format, LayoutError, Seal};
use super::table::{Slot, Table, Words};
use crate::policy::Millis;
use crate::policy::ban::{Cause, Past, Sentence, Terms};
use crate::policy::limit::{KeyHash, Tat};

const FORMAT: Format = Format::new(*b"sluiceBA", 2, "bans");
/// How often something starts over because its slot was taken away.
const ATTEMPTS: usize = 16;
/// Parts of the count of refusals, a cache line each: a flood of banned clients is refused by all workers at once.
const SHARDS: usize = 16;

shared_struct! {
    struct Header {
        seal: Seal,
        /// No ban ends later: from then on no request needs to be looked up.
        last_end: AtomicU64,
        /// Whether Redis has to be told something.
        untold: AtomicU64,
        /// When Redis was asked last for its bans, monotonic.
        asked: AtomicU64,
        /// Which state of its list this host has.
        version: AtomicU64,
        /// Bans that ended because the zone was too small, and how many of them were reported.
        evicted: AtomicU64,
        evicted_told: AtomicU64,
        by_status: AtomicU64,
        by_rate_limit: AtomicU64,
        by_hand: AtomicU64,
        by_others: AtomicU64,
        lifted: AtomicU64,
        dry: AtomicU64,
        /// What this host calls itself; see [`BanZone::origin`].
        origin: AtomicU64,
        reserved: AtomicU64,
    }
}

shared_struct! {
    #[repr(align(64))]
    struct Shard {
        refused: AtomicU64,
        refused_dry: AtomicU64,
        reserved: [AtomicU64; 6],
    }
}

const HEAD: usize = size_of::<Header>() + SHARDS * size_of::<Shard>();
const BANS: Words = Words { state: book::WORDS, lease: 0 };
const HITS: Words = Words { state: log::WORDS, lease: 0 };

/// What a hit is counted under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    pub terms: Terms,
    /// What counts. Hits of other rules are not mixed with these.
    pub id: KeyHash,
    pub cause: Cause,
    /// Nobody is refused by these bans.
    pub dry: bool,
}

/// A ban to be put into force.
#[derive(Clone, Copy, Debug)]
pub struct New<'a> {
    pub until: Millis,
    pub since: Millis,
    pub level: u32,
    pub cause: Cause,
    pub origin: Origin,
    pub dry: bool,
    /// Redis has it.
    pub told: bool,
    /// Set aside what is in force, rather than add to it: an operator's word.
    pub force: bool,
    pub address: Option<IpAddr>,
    /// An operator's reason; the first bytes are kept.
    pub reason: &'a str,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The key was not banned before.
    pub fresh: bool,
    pub until: Millis,
}

/// What a hit came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hit {
    /// The key is banned already: what it gets now does not prolong that.
    Ignored,
    /// One more.
    Counted,
    /// It was one too many.
    Banned(Sentence),
}

/// The bans of one `ban_zone`.
#[derive(Clone, Copy)]
pub struct BanZone {
    header: &'static Header,
    shards: &'static [Shard],
    bans: Table,
    hits: Table,
}

impl BanZone {
    /// Smallest region in bytes.
    pub const MIN_SIZE: usize = HEAD + 3 * (BANS.group_size() + HITS.group_size());

    /// Starts a clean zone: whatever the region held is wiped.
    ///
    /// # Errors
    /// [`LayoutError`] when the region is smaller than [`BanZone::MIN_SIZE`].
    pub fn create(region: Region) -> Result<Self, LayoutError> {
        let zone = Self::view(region)?;
        zone.header.seal.lift();
        zone.bans.wipe();
        zone.hits.wipe();
        zone.header.origin.store(random(), SeqCst);
        zone.header.seal.set(&FORMAT);
        Ok(zone)
    }

    /// Takes over a zone that lives. Slots that a killed worker left half taken are freed.
    ///
    /// # Errors
    /// [`LayoutError`] when the region is not a zone of this layout; start clean then.
    pub fn adopt(region: Region) -> Result<Self, LayoutError> {
        let zone = Self::view(region)?;
        zone.header.seal.check(&FORMAT)?;
        zone.bans.sweep();
        zone.hits.sweep();
        // What Redis has may have been read under another configuration.
        zone.header.version.store(0, SeqCst);
        zone.header.asked.store(0, SeqCst);
        Ok(zone)
    }

    fn view(region: Region) -> Result<Self, LayoutError> {
        FORMAT.fits(region, Self::MIN_SIZE)?;
        let third = (region.len() - HEAD) / 3;
        let border = (HEAD + third).next_multiple_of(Region::ALIGN);
        Ok(Self {
            header: region.get(0)?,
            shards: region.slice(size_of::<Header>(), SHARDS)?,
            bans: Table::new(region, HEAD..border, BANS)?,
            hits: Table::new(region, border..region.len(), HITS)?,
        })
    }

    /// Whether any ban can be in force.
    pub fn any(&self, now: Millis) -> bool {
        self.header.last_end.load(SeqCst) > now
    }

    /// When the ban of a key ends, if one is in force. Reads only.
    pub fn banned(&self, key: &KeyHash, now: Millis) -> Option<Millis> {
        if !self.any(now) {
            return None;
        }
        let (id, group) = self.bans.locate(key);
        let slot = self.bans.find(group, id)?;
        let until = slot.tat().ms();
        (until > now && slot.still(id).is_ok()).then_some(until)
    }

    /// Counts a hit, and bans the key if it was one too many.
    ///
    /// Of several workers that see enough hits at once, one bans. Should no slot be had, the hit is not counted.
    pub fn hit(&self, key: &KeyHash, rule: &Rule, address: Option<IpAddr>, now: Millis) -> Hit {
        if self.banned(key, now).is_some() {
            return Hit::Ignored;
        }
        let past = self.past(key);
        // Whatever led to the last ban is paid for.
        let since = past.map_or(0, |past| past.ended.min(now));
        if !self.log(&key.with(&rule.id), &rule.terms, since, now) {
            return Hit::Counted;
        }
        let sentence = rule.terms.sentence(past, now);
        let new = New {
            until: now + sentence.length,
            since: now,
            level: sentence.level,
            cause: rule.cause,
            origin: Origin::Own,
            dry: rule.dry,
            told: false,
            force: false,
            address,
            reason: "",
        };
        self.ban(key, &new, now);
        Hit::Banned(sentence)
    }

    /// Enters a hit; whether it was one too many.
    fn log(&self, key: &KeyHash, terms: &Terms, since: Millis, now: Millis) -> bool {
        let (id, group) = self.hits.locate(key);
        for _ in 0..ATTEMPTS {
            let Some(claim) = self.hits.claim(group, id, now) else { continue };
            if let Ok(enough) = log::enter(claim.slot, id, terms, since, now) {
                return enough;
            }
        }
        false
    }

    /// The last ban of a key, if it is over and still known.
    fn past(&self, key: &KeyHash) -> Option<Past> {
        let (id, group) = self.bans.locate(key);
        let slot = self.bans.find(group, id)?;
        let past = Past { level: book::level(slot), ended: slot.tat().ms() };
        slot.still(id).is_ok().then_some(past)
    }

    /// Puts a ban into force, or adds it to the one that is: the later end and the higher level hold. `None`: it
    /// was lifted after it began, or no slot could be had.
    pub fn ban(&self, key: &KeyHash, new: &New, now: Millis) -> Option<Placed> {
        let (id, group) = self.bans.locate(key);
        for _ in 0..ATTEMPTS {
            let Some(claim) = self.bans.claim(group, id, now) else { continue };
            claim.slot.begin(now);
            if claim.evicted {
                self.header.evicted.fetch_add(1, Relaxed);
            }
            if !new.force && book::lifted(claim.slot).is_some_and(|at| at >= new.since) {
                return None;
            }
            // Before anybody can find it, so that nobody is let by unseen.
            self.header.last_end.fetch_max(new.until, SeqCst);
            let Ok(placed) = book::write(claim.slot, id, key, new, now) else { continue };
            if placed.fresh {
                self.tally(new.dry, new.origin, new.cause);
            }
            if !new.told && !new.dry {
                self.header.untold.store(1, SeqCst);
            }
            return Some(placed);
        }
        None
    }

    /// Ends a ban that began up to `at`, and forgets how often the key was banned. False if there was none.
    pub fn lift(&self, key: &KeyHash, at: Millis, told: bool, now: Millis) -> bool {
        let (id, group) = self.bans.locate(key);
        let Some(slot) = self.bans.find(group, id) else { return false };
        let lifted = book::lift(slot, id, at, told, now);
        if lifted {
            self.header.lifted.fetch_add(1, Relaxed);
            if !told {
                self.header.untold.store(1, SeqCst);
            }
        }
        lifted
    }

    /// What is known of a key: a ban in force, or one that was lifted.
    pub fn get(&self, key: &KeyHash) -> Option<Entry> {
        let (id, group) = self.bans.locate(key);
        book::read(self.bans.find(group, id)?)
    }

    /// Heeds a word of Redis's about a key, unless a later one is known. `None`: there is no room for a ban that ends so soon.
    pub fn hear(&self, key: &KeyHash, told: &Told, now: Millis) -> Option<Heeded> {
        let (id, group) = self.bans.locate(key);
        for _ in 0..ATTEMPTS {
            let slot = match (self.bans.find(group, id), told.what) {
                (Some(slot), _) => slot,
                (None, Word::Banned { until, .. }) if until > now => {
                    // Who is pushed out by this would come back with the next list, and push out another.
                    if self
                        .bans
                        .soonest(group)
                        .is_some_and(|soonest| soonest.ms() > now && soonest.ms() >= until)
                    {
                        return None;
                    }
                    let Some(claim) = self.bans.claim(group, id, now) else { continue };
                    claim.slot.begin(now);
                    if claim.evicted {
                        self.header.evicted.fetch_add(1, Relaxed);
                    }
                    claim.slot
                }
                (None, _) => return Some(Heeded::Known),
            };
            if let Word::Banned { until, .. } = told.what {
                self.header.last_end.fetch_max(until, SeqCst);
            }
            let Ok(heeded) = book::hear(slot, id, key, told, now) else { continue };
            match (heeded, told.what) {
                (Heeded::Turned, Word::Banned { cause, origin, .. }) => self.tally(false, origin, cause),
                (Heeded::Turned, Word::Lifted { .. }) => {
                    self.header.lifted.fetch_add(1, Relaxed);
                }
                // The list is to be read again, whatever its version.
                (Heeded::Raced, _) => self.set_version(0),
                _ => {}
            }
            return Some(heeded);
        }
        self.set_version(0);
        Some(Heeded::Raced)
    }

    /// What this host is called where several talk about bans: a number that no other has, for as long as the zone lives.
    pub fn origin(&self) -> u64 {
        self.header.origin.load(SeqCst)
    }

    /// A banned client of this address was seen: a ban that came from another host does not tell it.
    pub fn seen(&self, key: &KeyHash, address: IpAddr) {
        let (id, group) = self.bans.locate(key);
        if let Some(slot) = self.bans.find(group, id) {
            book::name(slot, id, address);
        }
    }

    /// All that the table of bans holds, past bans included. Reads the whole of it: not for requests.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + use<> {
        self.bans.all().filter_map(book::read)
    }

    /// Those that are in force, dry runs included: as costly as there are places, and more for each of them.
    pub fn in_force(&self, now: Millis) -> impl Iterator<Item = Entry> + use<> {
        let live = self.bans.all().filter(move |slot| slot.tat().ms() > now);
        live.filter_map(book::read).filter(move |entry| entry.in_force(now))
    }

    /// Whether there is something to tell Redis, since it was taken last.
    pub fn take_untold(&self) -> bool {
        self.header.untold.load(SeqCst) != 0 && self.header.untold.swap(0, SeqCst) != 0
    }

    pub fn untold(&self) {
        self.header.untold.store(1, SeqCst);
    }

    /// Takes the turn of asking Redis, if nobody took one for `pause`. Who then dies holds up nobody for longer.
    pub fn take_turn(&self, now: Millis, pause: Millis) -> bool {
        let asked = self.header.asked.load(SeqCst);
        now.saturating_sub(asked) >= pause
            && self.header.asked.compare_exchange(asked, now, SeqCst, SeqCst).is_ok()
    }

    /// The state of Redis's list that was read last; 0: none.
    pub fn version(&self) -> u64 {
        self.header.version.load(SeqCst)
    }

    pub fn set_version(&self, version: u64) {
        self.header.version.store(version, SeqCst);
    }

    /// Bans that there is room for, if they spread evenly.
    pub const fn capacity(&self) -> usize {
        self.bans.slots()
    }

    /// Carries over the bans of another zone, as far as there is room.
    pub fn copy_from(&self, old: &Self, now: Millis) {
        // What ends last comes last: it puts out the others where there is no room for all.
        let mut entries: Vec<_> = old.entries().collect();
        entries.sort_by_key(|entry| entry.until);
        for entry in entries {
            let new = New {
                // What was lifted is lifted anew below.
                until: entry.lifted.map_or(entry.until, |_| entry.sentence),
                since: entry.since,
                level: entry.level,
                cause: entry.cause,
                origin: entry.origin,
                dry: entry.dry,
                told: entry.told,
                force: true,
                address: entry.address,
                reason: &entry.reason,
            };
            self.ban(&entry.key, &new, now);
            if let Some(at) = entry.lifted {
                self.lift(&entry.key, at, entry.told, now);
            }
            let (id, group) = self.bans.locate(&entry.key);
            if let Some(slot) = self.bans.find(group, id) {
                book::follow(slot, id, &entry);
            }
        }
        self.header.origin.store(old.origin(), SeqCst);
        // These were counted when they began.
        self.copy_counts(old);
    }
}

/// A number that nobody else draws.
fn random() -> u64 {
    // What the standard library keys its maps with comes from the system.
    RandomState::new().build_hasher().finish().max(1)
}

/// The end of a ban as its slot keeps it.
fn end(until: Millis) -> u64 {
    Tat::new(until, 0).to_bits()
}

#[cfg(test)]
mod tests;
