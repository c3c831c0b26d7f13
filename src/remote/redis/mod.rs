//! Rate-limit decisions taken by Redis: one script call for a whole batch, Redis's clock, state that expires
//! exactly when it stops to matter.
//!
//! [`Settings`] describe one `redis NAME { … }`, a [`link`](self::link) task keeps one connection to it, and a
//! [`Gate`] tells the event loop, without a lock, whether a request may wait for it at all.

pub mod ban;
mod batch;
mod beat;
mod certificate;
mod cluster;
mod connect;
mod failure;
mod flight;
#[cfg(any(test, sluice_fuzz))]
pub mod fuzz;
mod gate;
mod link;
mod replay;
mod reply;
mod script;
mod sentinel;
mod settings;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use crate::policy::limit::{Decision, Rule};

pub use failure::Failure;
pub use gate::Gate;
pub(super) use link::{Feed, Link};
pub use settings::{Mode, Secret, Server, Settings, Tls};

/// Most limits in one [`Call`]; a call with more is answered [`Failure::Invalid`].
pub const MAX_LIMITS: usize = 64;
/// Most requests that any number of an [`Act`] may name.
pub const MAX_COST: u64 = 1_000_000_000;

/// The limits of one request, decided all or nothing: if one refuses, none is charged.
///
/// In a cluster that is atomic only where all keys share a slot. For a call over several slots see
/// [`cluster`](self::cluster).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Given back in the [`Reply`]; means nothing here.
    pub ticket: u64,
    /// Which of the [`Settings`] given to the engine, by position.
    pub link: usize,
    /// At most [`MAX_LIMITS`].
    pub limits: Vec<Limit>,
}

impl Call {
    /// Whether it keeps to the limits written above.
    fn is_valid(&self) -> bool {
        self.limits.iter().all(|limit| limit.act.is_valid()) && (1..=MAX_LIMITS).contains(&self.limits.len())
    }
}

/// One key under one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// Complete name of the state, as [`redis_key`](crate::policy::limit::redis_key) makes it.
    pub key: String,
    /// What is decided.
    pub rule: Rule,
    /// What is to be done.
    pub act: Act,
    /// What this host knows to be in use at least: ticks of level for gcra, requests for windows; 0 if nothing is
    /// known. Redis raises the state to it before it decides, up to a full one, and never lowers it. Sent only
    /// while [`Gate::learning`]. Stays whatever becomes of the call.
    pub known: u64,
}

/// What a limit is to do with its key. All numbers are requests, up to [`MAX_COST`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Charges `cost` requests if they fit; 0 peeks. If the call is admitted as a whole, takes up to `more`
    /// further requests of cost 1 in advance: at most half of one gateway's part of what is left then, but one
    /// if there is one. None where the call names the key twice, and in a cluster none where it spans slots.
    Take { cost: u64, more: u64, unused: Option<Unused> },
    /// Gives back `cost` of a call that was charged and whose request was refused elsewhere. Always admitted.
    /// A fixed window takes back into the current window whichever it was charged in; a sliding one out of its
    /// oldest buckets, so that it errs on the strict side.
    GiveBack { cost: u64 },
    /// Charges `cost` whatever the state says. Always admitted. A bucket (gcra) rises above a full one by no more
    /// than what drains in a second; the count of a window may exceed its limit.
    Post { cost: u64 },
}

impl Act {
    /// A plain request.
    pub const fn take(cost: u64) -> Self {
        Self::Take { cost, more: 0, unused: None }
    }

    fn is_valid(self) -> bool {
        let numbers = match self {
            Self::Take { cost, more, unused } => [cost, more, unused.map_or(0, |unused| unused.tokens)],
            Self::GiveBack { cost } | Self::Post { cost } => [cost, 0, 0],
        };
        numbers.into_iter().all(|number| number <= MAX_COST)
    }
}

/// Of what was taken in advance, what was not spent. Given back before the call is decided and whatever becomes
/// of it, but never more than a state that was never charged for it would have room for by now. To be sent once:
/// if it gets lost that errs on the strict side, twice would not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unused {
    /// Requests, at most what was granted.
    pub tokens: u64,
    /// Of the grant, see [`Ruled::stamp`].
    pub stamp: u64,
}

/// What became of one [`Limit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ruled {
    /// For the cost alone, as if nothing had been taken in advance. [`Act::GiveBack`] and [`Act::Post`] are told
    /// the same as `after`.
    pub decision: Decision,
    /// Where the key stands after everything, as a peek says.
    pub after: Decision,
    /// Of `more`: 0 unless the whole call was admitted.
    pub granted: u64,
    /// Names this grant in Redis's time, for [`Unused`]; 0 if nothing was granted.
    pub stamp: u64,
}

/// The answer to one [`Call`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Of the call.
    pub ticket: u64,
    /// One for each limit, in the call's order. The call as a whole was charged if all are admitted.
    pub result: Result<Vec<Ruled>, Failure>,
}

/// What the operator should read in the log: one line when a connection is lost, one when it is back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// No request waits for this Redis any more. Sent once per outage.
    Lost { name: Arc<str>, reason: String },
    /// Requests wait for it again.
    Back { name: Arc<str>, after: Duration },
    /// The first connection of this link's life stands.
    Connected { name: Arc<str> },
    /// Values under our keys that were not ours; they were taken for absent.
    Foreign { name: Arc<str>, values: u64 },
    /// Bans made elsewhere are found by looking now and then, and not heard of at once.
    Deaf { name: Arc<str>, reason: String },
    /// Bans are not shared: what Redis said to that. Once until it does not any more.
    Bans { name: Arc<str>, reason: String },
    /// The code of this link failed (a bug); it was started again.
    Fault { name: Arc<str>, reason: String },
}
