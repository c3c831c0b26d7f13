//! Rate-limit decisions taken by Redis: one script call for a whole batch, Redis's clock, state that expires
//! exactly when it stops to matter.
//!
//! [`Settings`] describe one `redis NAME { … }`, a [`link`](self::link) task keeps one connection to it, and a
//! [`Gate`] tells the event loop, without a lock, whether a request may wait for it at all.

mod batch;
mod cluster;
mod connect;
mod failure;
mod gate;
mod link;
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
/// Largest cost of one [`Limit`], either way, in requests.
pub const MAX_COST: i64 = 1_000_000_000;

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
        let costs = self.limits.iter().all(|limit| (-MAX_COST..=MAX_COST).contains(&limit.cost));
        costs && (1..=MAX_LIMITS).contains(&self.limits.len())
    }
}

/// One key under one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// Complete name of the state, as [`redis_key`](crate::policy::limit::redis_key) makes it.
    pub key: String,
    /// What is decided.
    pub rule: Rule,
    /// Requests to charge, up to [`MAX_COST`] either way. 0 peeks; below 0 gives back, and is always admitted.
    /// A fixed window takes back into the current window whichever it was charged in; a sliding one out of its
    /// oldest bucket, so that it errs on the strict side.
    pub cost: i64,
}

/// The answer to one [`Call`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Of the call.
    pub ticket: u64,
    /// One decision for each limit, in the call's order. The call as a whole was charged if all are admitted.
    pub result: Result<Vec<Decision>, Failure>,
}

/// What the operator should read in the log: one line when a connection is lost, one when it is back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkEvent {
    /// No request waits for this Redis any more. Sent once per outage.
    Lost { name: Arc<str>, reason: String },
    /// Requests wait for it again.
    Back { name: Arc<str>, after: Duration },
    /// Values under our keys that were not ours; they were taken for absent.
    Foreign { name: Arc<str>, values: u64 },
    /// The code of this link failed (a bug); it was started again.
    Fault { name: Arc<str>, reason: String },
}
