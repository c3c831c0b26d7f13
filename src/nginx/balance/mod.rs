//! Balancing beside the balancer: slow start, draining, sticky sessions, degraded servers as the last choice.
//!
//! The balancer stays the group's own. A thin wrap around it ([`inner`], inside `keepalive`) keeps a server that warms
//! up out of some of its picks, takes the server a session is bound to, and when the balancer finds none, one that is
//! degraded. Servers that get nothing for the time being are marked in the core's `down` with all other verdicts.

pub mod conf;
pub mod inner;
mod pick;
pub mod sticky;

use super::health::Server;
use super::sys::mono;
use crate::policy::Millis;
use crate::policy::balance::{FULL, share};
use crate::policy::control::Patch;
use crate::policy::limit::KeyHash;
use crate::shared::balance::Server as Words;

pub use conf::GroupConf;

/// What balancing knows of one server of a group.
#[derive(Default)]
pub struct Tuning {
    /// How long it warms up; 0: not at all.
    pub slow_start: Millis,
    /// It gets bound sessions only.
    drain: bool,
    /// What names it in cookies and routes.
    pub id: String,
    /// It has a `route`.
    routed: bool,
    /// The same as a number, never 0.
    pub hash: u64,
    /// What all workers know of it.
    pub words: Option<&'static Words>,
}

impl Tuning {
    /// As its `server` line says, or an operator, whose word goes first; `words` is its record.
    pub fn new(
        line: Option<&conf::Line>,
        said: &Patch,
        server: &Server,
        words: Option<&'static Words>,
    ) -> Self {
        let route = said.route.clone().or_else(|| line.and_then(|line| line.route.clone()));
        let route = route.filter(|route| !route.is_empty());
        // An address is nobody's business; its hash is the same on every gateway.
        let routed = route.is_some();
        let id = route.unwrap_or_else(|| KeyHash::new(server.name.as_bytes()).to_string());
        Self {
            slow_start: said.slow_start.unwrap_or(line.map_or(0, |line| line.slow_start)),
            drain: said.drain.unwrap_or(line.is_some_and(|line| line.drain)),
            hash: hash(id.as_bytes()),
            id,
            routed,
            words,
        }
    }

    /// Its `route`; empty without.
    pub fn route(&self) -> &str {
        if self.routed { &self.id } else { "" }
    }

    /// Whether it gets bound sessions only.
    pub fn drains(&self) -> bool {
        self.drain
    }

    /// What it gets of its share now, 0 to 1: less than all of it while it warms up.
    pub fn share(&self) -> f64 {
        let began = self.words.filter(|_| self.slow_start > 0).and_then(Words::began);
        began.map_or(1.0, |began| f64::from(share(began, mono(), self.slow_start)) / f64::from(FULL))
    }

    /// It has come back: begins to warm up.
    pub fn recover(&self, now: Millis) {
        if let Some(words) = self.words.filter(|_| self.slow_start > 0) {
            words.begin(now);
        }
    }
}

/// A server's id as a number, never 0.
fn hash(id: &[u8]) -> u64 {
    KeyHash::new(id).as_u64s().0.max(1)
}
