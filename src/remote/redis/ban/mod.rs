//! Bans that gateways share: what Redis is told, and what it tells.
//!
//! Redis keeps a list of the bans in force for each zone, counts hits over all gateways, and publishes each change on
//! one channel, which every link of a Redis with bans subscribes to on the connection that it has anyway (RESP3).
//! Whoever missed a message, or cannot subscribe, reads the list: it has a version, so that asking costs little.
//!
//! All times are lengths of time from now, on both sides: no clock but Redis's own is written down there.

mod desk;
mod wire;

use std::time::Instant;

use crate::policy::Millis;
use crate::policy::ban::{Cause, Terms};
use crate::policy::limit::KeyHash;

pub(super) use desk::{Bans, Health};

/// Something to tell Redis, or to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ask {
    /// Which of the [`Settings`](super::Settings) given to the engine, by position.
    pub link: usize,
    /// Letters, digits, `_`, `-` and `.`.
    pub zone: String,
    /// What lengths of time are counted from.
    pub at: Instant,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A hit of `key`, counted under `counter`. Sent once or not at all.
    Hit { key: KeyHash, counter: KeyHash, terms: Terms, cause: Cause },
    /// A ban of this host's. May be sent again.
    Ban { ban: Banned, force: bool, memory: Millis },
    /// An operator has ended a ban, so long ago, which had so much time left. May be sent again.
    Lift { key: KeyHash, ago: Millis, left: Millis },
    /// All bans in force, unless the list is still at this version.
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
    Banned(Banned),
    Lifted {
        key: KeyHash,
        ago: Millis,
    },
    /// All that are in force, if it is a list of one moment (`whole`).
    Listed {
        version: u64,
        bans: Vec<Banned>,
        whole: bool,
    },
    /// Something could not be told; if it may be told again, it is to be.
    Failed,
}
