//! The operator's hand on a breaker: open, closed or in a dry run over the machine's head, and back to the start.

use super::super::conf::MainConf;
use super::super::log::{self, Level};
use super::super::request::Request;
use super::super::sys::mono;
use super::super::upstream::Group;
use super::{Gate, words};
use crate::policy::Millis;
use crate::policy::breaker::{Forced, Transition};

/// Which breaker is meant.
#[derive(Clone, Copy)]
pub enum At<'a> {
    Route(&'a str),
    Upstream(&'a Group),
    /// The server of this number in the order of the group's lists.
    Server(&'a Group, usize),
}

/// Puts an override on a breaker for `ttl` milliseconds (0: until it is taken off), or takes it off. Says so in the
/// log, of the request that asks for it if there is one. False: there is no such breaker.
pub fn force(
    conf: &MainConf,
    at: At<'_>,
    forced: Option<Forced>,
    ttl: Millis,
    request: Option<&Request>,
) -> bool {
    // A dry run over a breaker that is configured so is one all the same.
    let until = if ttl == 0 { 0 } else { mono().saturating_add(ttl) };
    let there = find(conf, at, |gate| {
        gate.breaker.force(forced, until);
        gate.tell(request, ttl);
    });
    if there.is_some() {
        changed(conf, at, None);
    }
    there.is_some()
}

/// Closes a breaker and forgets: no failures, no attempts, no override. Whether that changed its state.
pub fn reset(conf: &MainConf, at: At<'_>, request: Option<&Request>) -> bool {
    let made = find(conf, at, |gate| {
        let made = gate.breaker.reset(mono());
        gate.say(request, made);
        made
    });
    if let Some(made) = made {
        changed(conf, at, made);
    }
    made.is_some()
}

/// `None`: there is no such breaker.
fn find<T>(conf: &MainConf, at: At<'_>, see: impl FnOnce(&Gate) -> T) -> Option<T> {
    match at {
        At::Route(name) => conf.breaker.routes.iter().find(|route| route.name == name)?.gate.get().map(see),
        At::Upstream(group) => group.breaker.gate.get().map(see),
        At::Server(group, number) => group.breaker.servers()?.member(number).map(|member| see(&member.gate)),
    }
}

/// All workers are to look at the group's servers.
fn changed(conf: &MainConf, at: At<'_>, made: Option<Transition>) {
    let At::Server(group, number) = at else { return };
    if made.is_some_and(|made| made.readmits()) {
        group.health.readmit(number);
    }
    if let Some(servers) = group.breaker.servers() {
        servers.changed(conf, group);
    }
}

impl Gate {
    /// Logs what the operator's override is now.
    pub(super) fn tell(&self, request: Option<&Request>, ttl: Millis) {
        let view = self.breaker.view(&self.settings, mono());
        let line = words::Forced { name: &self.name, forced: view.forced, state: view.state, ttl };
        let level = if view.forced.is_some() { Level::Warn } else { Level::Notice };
        match request {
            Some(request) => request.log(level, format_args!("{line}")),
            None => log::cycle(level, format_args!("{line}")),
        }
    }
}
