//! One slot of the table of bans, word by word.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::Ordering::SeqCst;

use super::{New, Placed, Slot, end};
use crate::policy::Millis;
use crate::policy::ban::Cause;
use crate::policy::limit::{KeyHash, Tat};
use crate::shared::table::Moved;

/// When the ban began.
const SINCE: usize = 0;
/// Level, cause and flags.
const RECORD: usize = 1;
/// When it was lifted; 0: it was not.
const LIFTED: usize = 2;
/// When it would have ended had it not been lifted.
const SENTENCE: usize = 3;
/// The hash.
const KEY: usize = 4;
const ADDRESS: usize = 6;
/// An operator's words.
const REASON: usize = 8;
const REASON_WORDS: usize = 8;
/// Longest text of them that is kept, in bytes.
const REASON_BYTES: usize = REASON_WORDS * 8;
/// The stamp of Redis's word that the slot follows; 0: it never said one.
const STAMP: usize = REASON + REASON_WORDS;
/// When Redis, by its clock, ends the ban.
const ENDS: usize = STAMP + 1;
/// The number of this host's last word about the key; 0: it never said one.
const SEQ: usize = ENDS + 1;
/// Words of a slot.
pub const WORDS: usize = SEQ + 1;

/// Milliseconds that two readings of the end of one ban may be apart.
const GRAIN: Millis = 50;
/// And of its beginning.
const SECOND: Millis = 1_000;

/// Bits of the record.
const LEVEL: u64 = 0xff;
const CAUSE_AT: u32 = 8;
const CAUSE: u64 = 0xff;
const ORIGIN: u64 = 1 << 16;
const DRY: u64 = 1 << 17;
const TOLD: u64 = 1 << 18;
const V4: u64 = 1 << 19;
const V6: u64 = 1 << 20;

/// Where a ban was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// On this host.
    Own,
    /// By another gateway, or by Redis over several.
    Other,
}

/// A slot as somebody slow reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: KeyHash,
    pub since: Millis,
    pub until: Millis,
    pub level: u32,
    pub cause: Cause,
    pub origin: Origin,
    pub dry: bool,
    pub told: bool,
    /// When an operator ended it.
    pub lifted: Option<Millis>,
    /// When it was to end.
    pub sentence: Millis,
    pub address: Option<IpAddr>,
    pub reason: String,
    /// The stamp of Redis's word that it follows; 0: none.
    pub stamp: u64,
    /// Its end by Redis's clock.
    pub ends: u64,
    /// The number of this host's last word; 0: none.
    pub seq: u64,
}

/// A word of Redis's about a key.
#[derive(Clone, Copy, Debug)]
pub struct Told {
    pub stamp: u64,
    /// The number of the word of this host that it answers or repeats.
    pub answers: Option<u64>,
    /// It is what Redis holds just now, not something on its way.
    pub listed: bool,
    pub what: Word,
}

#[derive(Clone, Copy, Debug)]
pub enum Word {
    Banned {
        since: Millis,
        until: Millis,
        ends: u64,
        level: u32,
        cause: Cause,
        origin: Origin,
    },
    Lifted {
        at: Millis,
    },
    /// Nothing is in force, of the word of that stamp.
    Over,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heeded {
    /// It holds here now. The key was not banned before and is now, or the other way round.
    Turned,
    /// It holds here now, and has changed no more than its times.
    Kept,
    /// It is known already.
    Known,
    /// A later word is known.
    Old,
    /// This host has said something that Redis has still to hear.
    Pending,
    /// Another worker heeded another word in the middle of this: nothing here is sure.
    Raced,
}

impl Entry {
    pub fn in_force(&self, now: Millis) -> bool {
        self.until > now
    }
}

/// Enters a ban; the end of it comes last.
pub fn write(slot: Slot, id: u64, key: &KeyHash, new: &New, now: Millis) -> Result<Placed, Moved> {
    slot.still(id)?;
    call(slot, key);
    if !new.told {
        speak(slot, now);
    }
    let before = slot.until.load(SeqCst);
    let running = Tat::from_bits(before).ms() > now;
    let replaces = new.force || !running;
    let level = u64::from(new.level.min(LEVEL as u32));
    if replaces {
        slot.word(SINCE).store(new.since, SeqCst);
        slot.word(SENTENCE).store(new.until, SeqCst);
        slot.word(LIFTED).store(0, SeqCst);
        text(slot, new.reason);
        let keep = slot.word(RECORD).load(SeqCst) & (V4 | V6);
        let flags = [(ORIGIN, new.origin == Origin::Other), (DRY, new.dry), (TOLD, new.told)];
        let flags = flags.iter().filter(|(_, set)| *set).fold(keep, |all, (flag, _)| all | flag);
        slot.word(RECORD).store(flags | level | u64::from(new.cause.code()) << CAUSE_AT, SeqCst);
    } else {
        slot.word(SENTENCE).fetch_max(new.until, SeqCst);
        slot.change(slot.word(RECORD), id, |bits| {
            let told = if new.told { TOLD } else { 0 };
            (bits & !(LEVEL | TOLD)) | (bits & LEVEL).max(level) | told
        });
    }
    if let Some(address) = new.address {
        name(slot, id, address);
    }
    put_end(slot, id, new, replaces, now)
}

/// Notes the key.
fn call(slot: Slot, key: &KeyHash) {
    let (high, low) = key.as_u64s();
    slot.word(KEY).store(high, SeqCst);
    slot.word(KEY + 1).store(low, SeqCst);
}

/// This host says something about the key: numbered by the clock, so that the words of one boot are in order even if the slot was
/// another key's in between.
fn speak(slot: Slot, now: Millis) {
    let next = |seq: u64| Some((seq + 1).max(now.saturating_mul(1_000)));
    let _ = slot.word(SEQ).fetch_update(SeqCst, SeqCst, next);
}

/// Whether a record is of a ban for this cause.
fn is_for(record: u64, cause: Cause) -> bool {
    record >> CAUSE_AT & CAUSE == u64::from(cause.code())
}

/// Heeds a word of Redis's, unless a later one is known. The stamp comes last: a worker killed before that leaves the word to be
/// heard again.
pub fn hear(slot: Slot, id: u64, key: &KeyHash, told: &Told, now: Millis) -> Result<Heeded, Moved> {
    slot.still(id)?;
    let [seen, seq, record] = [STAMP, SEQ, RECORD].map(|at| slot.word(at).load(SeqCst));
    let answers = told.answers == Some(seq);
    let before = slot.until.load(SeqCst);
    // What is over, and was never more than what this host counted, has nothing to wait for.
    let speaks = Tat::from_bits(before).ms() > now
        || slot.word(LIFTED).load(SeqCst) > 0
        || is_for(record, Cause::Manual);
    let pending = record & TOLD == 0 && seq > 0 && speaks;
    if pending && !answers {
        return Ok(Heeded::Pending);
    }
    let off = |until: Millis| Tat::from_bits(before).ms().abs_diff(until) > GRAIN;
    let corrects = match told.what {
        Word::Banned { until, .. } => told.listed && off(until) || pending,
        // Of the very word that is followed here, or in answer to one that is still to be answered.
        Word::Over => told.stamp == seen || record & TOLD == 0,
        Word::Lifted { .. } => pending,
    };
    let over = matches!(told.what, Word::Over);
    let stamp = if over { seen } else { told.stamp };
    if stamp < seen || stamp == seen && !corrects {
        slot.change(slot.word(RECORD), id, |bits| if answers { bits | TOLD } else { bits });
        return Ok(if stamp < seen { Heeded::Old } else { Heeded::Known });
    }
    call(slot, key);
    let until = store(slot, id, told, answers).unwrap_or(now);
    let (was, is) = (Tat::from_bits(before).ms() > now, until > now);
    let end = if was || is { end(until) } else { before };
    slot.still(id)?;
    // Lost to another worker: as a rule one that has heard the same. Looks again.
    slot.until.compare_exchange(before, end, SeqCst, SeqCst).map_err(|_| Moved)?;
    match slot.word(STAMP).compare_exchange(seen, stamp, SeqCst, SeqCst) {
        Ok(_) if was == is => Ok(Heeded::Kept),
        Ok(_) => Ok(Heeded::Turned),
        Err(found) if found == stamp => Ok(Heeded::Known),
        Err(_) => {
            // Whatever Redis says next is to be heeded.
            slot.word(STAMP).store(0, SeqCst);
            Ok(Heeded::Raced)
        }
    }
}

/// Stores what Redis's word says, but for the end, which comes after it: that is what is returned; `None`: now.
fn store(slot: Slot, id: u64, told: &Told, answers: bool) -> Option<Millis> {
    match told.what {
        Word::Banned { since, until, ends, level, cause, origin } => {
            // Told again after Redis had lost it, it is still the one that an operator gave his reason for.
            let record = slot.word(RECORD).load(SeqCst);
            let same = is_for(record, cause) && slot.word(SINCE).load(SeqCst).abs_diff(since) < SECOND;
            let words = [(SINCE, since), (SENTENCE, until), (LIFTED, 0), (ENDS, ends)];
            words.iter().for_each(|(at, word)| slot.word(*at).store(*word, SeqCst));
            if !answers && !same {
                text(slot, "");
            }
            let flags = if origin == Origin::Other { ORIGIN | TOLD } else { TOLD };
            let level = u64::from(level.min(LEVEL as u32)) | u64::from(cause.code()) << CAUSE_AT;
            slot.change(slot.word(RECORD), id, |bits| bits & (V4 | V6) | flags | level);
            Some(until)
        }
        Word::Lifted { at } => {
            slot.word(LIFTED).store(at.max(1), SeqCst);
            slot.change(slot.word(RECORD), id, |bits| bits & !LEVEL | TOLD);
            None
        }
        Word::Over => {
            slot.change(slot.word(RECORD), id, |bits| bits | TOLD);
            None
        }
    }
}

/// The end of the ban, and whether it is this call that begins it.
fn put_end(slot: Slot, id: u64, new: &New, replaces: bool, now: Millis) -> Result<Placed, Moved> {
    let mut before = slot.until.load(SeqCst);
    loop {
        slot.still(id)?;
        let until = if replaces && new.force { end(new.until) } else { before.max(end(new.until)) };
        match slot.until.compare_exchange(before, until, SeqCst, SeqCst) {
            Ok(_) => {
                let fresh = Tat::from_bits(before).ms() <= now && Tat::from_bits(until).ms() > now;
                return Ok(Placed { fresh, until: Tat::from_bits(until).ms() });
            }
            Err(found) => before = found,
        }
    }
}

/// Ends the ban that began up to `at`; false if there was none.
pub fn lift(slot: Slot, id: u64, at: Millis, told: bool, now: Millis) -> bool {
    let mut before = slot.until.load(SeqCst);
    loop {
        let over = Tat::from_bits(before).ms() <= now;
        if over || slot.word(SINCE).load(SeqCst) > at || slot.still(id).is_err() {
            return false;
        }
        match slot.until.compare_exchange(before, end(now), SeqCst, SeqCst) {
            Ok(_) => break,
            Err(found) => before = found,
        }
    }
    slot.word(LIFTED).store(at.max(1), SeqCst);
    if !told {
        speak(slot, now);
    }
    let told = if told { TOLD } else { 0 };
    slot.change(slot.word(RECORD), id, |bits| (bits & !(TOLD | LEVEL)) | told);
    true
}

/// What is told of a slot; `None` if it holds no ban, or another one meanwhile.
pub fn read(slot: Slot) -> Option<Entry> {
    let id = slot.owner()?;
    let word = |at: usize| slot.word(at).load(SeqCst);
    let record = word(RECORD);
    let bytes: Vec<u8> = (REASON..REASON + REASON_WORDS).flat_map(|at| word(at).to_be_bytes()).collect();
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let entry = Entry {
        key: KeyHash::from_u64s((word(KEY), word(KEY + 1))),
        since: word(SINCE),
        until: slot.tat().ms(),
        level: (record & LEVEL) as u32,
        cause: Cause::from_code(record >> CAUSE_AT & CAUSE)?,
        origin: if record & ORIGIN == 0 { Origin::Own } else { Origin::Other },
        dry: record & DRY != 0,
        told: record & TOLD != 0,
        lifted: Some(word(LIFTED)).filter(|at| *at > 0),
        sentence: word(SENTENCE),
        address: address(slot, record),
        reason: String::from_utf8_lossy(text).into_owned(),
        stamp: word(STAMP),
        ends: word(ENDS),
        seq: word(SEQ),
    };
    slot.still(id).is_ok().then_some(entry)
}

pub fn level(slot: Slot) -> u32 {
    (slot.word(RECORD).load(SeqCst) & LEVEL) as u32
}

pub fn is_dry(slot: Slot) -> bool {
    slot.word(RECORD).load(SeqCst) & DRY != 0
}

pub fn lifted(slot: Slot) -> Option<Millis> {
    Some(slot.word(LIFTED).load(SeqCst)).filter(|at| *at > 0)
}

/// Takes over what an entry of another zone says of Redis.
pub fn follow(slot: Slot, id: u64, entry: &Entry) {
    let words = [(STAMP, entry.stamp), (ENDS, entry.ends), (SEQ, entry.seq)];
    words.iter().for_each(|(at, word)| slot.word(*at).store(*word, SeqCst));
    let flags = (if entry.told { TOLD } else { 0 }) | if entry.origin == Origin::Other { ORIGIN } else { 0 };
    slot.change(slot.word(RECORD), id, |bits| bits & !TOLD | flags);
}

/// Notes the address of the key.
pub fn name(slot: Slot, id: u64, address: IpAddr) {
    if slot.word(RECORD).load(SeqCst) & (V4 | V6) != 0 {
        return;
    }
    let (bits, flag) = match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()), V4),
        IpAddr::V6(v6) => (v6.to_bits(), V6),
    };
    if slot.still(id).is_ok() {
        slot.word(ADDRESS).store((bits >> 64) as u64, SeqCst);
        slot.word(ADDRESS + 1).store(bits as u64, SeqCst);
        slot.change(slot.word(RECORD), id, |record| record | flag);
    }
}

fn address(slot: Slot, record: u64) -> Option<IpAddr> {
    let [high, low] = [ADDRESS, ADDRESS + 1].map(|at| slot.word(at).load(SeqCst));
    match record & (V4 | V6) {
        0 => None,
        V4 => Some(Ipv4Addr::from_bits(low as u32).into()),
        _ => Some(Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low)).into()),
    }
}

/// Keeps a text, cut where a character ends.
fn text(slot: Slot, text: &str) {
    let mut length = text.len().min(REASON_BYTES);
    while !text.is_char_boundary(length) {
        length -= 1;
    }
    let mut bytes = [0; REASON_BYTES];
    bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
    for (at, chunk) in bytes.chunks_exact(8).enumerate() {
        let word = <[u8; 8]>::try_from(chunk).map_or(0, u64::from_be_bytes);
        slot.word(REASON + at).store(word, SeqCst);
    }
}
