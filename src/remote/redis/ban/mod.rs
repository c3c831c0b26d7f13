//! Bans that gateways share: what Redis is told, and what it tells.
//!
//! Redis keeps a list of the bans in force for each zone, counts hits over all gateways, and publishes each change on
//! one channel, which every link of a Redis with bans subscribes to on the connection that it has anyway (RESP3).
//! Whoever missed a message, or cannot subscribe, reads the list: it has a version, so that asking costs little.
//!
//! All times are lengths of time from now, on both sides: no clock but Redis's own is written down there. Each word about a
//! key gets a stamp from Redis, which rises: whoever heard them in another order, late or twice still holds the last.

mod desk;
mod wire;

use std::net::IpAddr;
use std::time::Instant;

use crate::policy::Millis;
use crate::policy::ban::{Cause, Terms};
use crate::policy::limit::KeyHash;

pub(super) use desk::{Bans, Clock, Health};

/// Something to tell Redis, or to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Which of the [`Settings`](super::Settings) given to the engine, by position.
    pub link: usize,
    /// Letters, digits, `_`, `-` and `.`.
    pub zone: String,
    /// Who asks: a number that no other host has.
    pub origin: u64,
    /// The stamp of the last word that he has heard about the key; 0: none.
    pub known: u64,
    /// What lengths of time are counted from.
    pub at: Instant,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A hit of `key`, counted under `counter`; `address` is the key, if it is one. Sent once or not at all.
    Hit { key: KeyHash, counter: KeyHash, terms: Terms, cause: Cause, address: Option<IpAddr> },
    /// A ban of this host's, its `seq`th word. May be sent again.
    Ban { ban: Banned, force: bool, memory: Millis, seq: u64 },
    /// What Redis once said, and may have lost. May be sent again.
    Again { ban: Banned, memory: Millis, said: Said },
    /// An operator has ended a ban, so long ago, which had so much time left; `stamp` as Redis said so, or 0 if it
    /// did not yet. May be sent again.
    Lift { key: KeyHash, ago: Millis, left: Millis, seq: u64, stamp: u64 },
    /// All bans in force, unless the list is still at this version; 0: it has not been read.
    List { known: u64 },
}

/// A ban in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Banned {
    pub key: KeyHash,
    /// Milliseconds until it ends.
    pub left: Millis,
    /// Milliseconds since it began.
    pub ago: Millis,
    pub level: u32,
    pub cause: Cause,
}

/// When a ban ends by Redis's clock, and the stamp of the word that says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Said {
    pub ends: u64,
    pub stamp: u64,
}

/// Which word about a key something is. Of two words, the one with the greater stamp holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Word {
    pub stamp: u64,
    /// Whose it was, and the number that he gave it; 0: Redis's own, after a hit of his.
    pub origin: u64,
    pub seq: u64,
}

/// How something was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// It was published, or is the answer to a hit that changed nothing.
    Told,
    /// The answer to the word of that number.
    Answer(u64),
    /// A hit of this host was one too many over all of them.
    Decided(Option<IpAddr>),
}

/// What a link heard of one zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct News {
    pub link: usize,
    pub zone: String,
    /// What lengths of time are counted from.
    pub at: Instant,
    pub what: Heard,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// `ends` by Redis's clock.
    Banned {
        ban: Banned,
        ends: u64,
        word: Word,
        how: How,
    },
    Lifted {
        key: KeyHash,
        ago: Millis,
        word: Word,
        how: How,
    },
    /// Nothing is in force of what was told; the number of that word, or the stamp of what was told again.
    Over {
        key: KeyHash,
        seq: u64,
        stamp: u64,
    },
    /// All that are in force, if it is a list of one moment (`whole`).
    Listed {
        version: u64,
        bans: Vec<(Banned, u64, Word)>,
        whole: bool,
    },
    /// Something could not be told; if it may be told again, it is to be.
    Failed,
}
