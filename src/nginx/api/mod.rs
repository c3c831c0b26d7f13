//! `api`: the API of NGINX Plus, version 9, for what this module and open-source nginx know, and ours beside it.
//!
//! A call goes this way: the content handler refuses what may not be, reads the body (`body`), makes a [`Call`] of the
//! request and has it answered (`router`), and sends the [`Answer`] (`send`), at once or when it is there ([`later`]).
//! Resources are functions from a call to an outcome.

mod access;
mod bans;
mod body;
mod breakers;
mod call;
mod conf;
mod documents;
mod events;
mod general;
mod handler;
mod host;
mod http;
mod limit_keys;
mod limits;
mod router;
mod send;
mod upstreams;
mod zones;

use super::later;

pub use call::{Answer, Call, Outcome};
pub use conf::{Conf, LocConf, api, finish};
pub use general::note_cycle;

/// Answers the call of a ticket, if it still waits; see [`later::resume`].
pub fn resume(ticket: u64, outcome: Outcome) {
    later::resume(ticket, |request| send::outcome(request, outcome));
}
