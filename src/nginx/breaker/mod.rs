//! The circuit breaker: admission before the upstream is touched, outcomes after it.
//!
//! A request is admitted once per upstream it is sent to: in the precontent phase when the location names the
//! upstream, else when the balancer is asked for a peer. It is judged once, when the core has finished with the
//! upstream, all retries done. What is neither (a client that leaves, a redirect elsewhere) gives the admission
//! back. Subrequests look at the state, take no permit and bring no result.

pub mod conf;
mod keeper;
mod outcome;
pub mod peer;
mod refusal;
mod target;
pub mod variables;
mod words;

use core::cell::OnceCell;

use nginx_sys as sys;

use super::context::Context;
use super::log::{self, Level};
use super::request::Request;
use super::sys::{DECLINED, mono, worker_index};
use super::upstream::{Group, conf_of};
use crate::policy::Millis;
use crate::policy::breaker::{Outcome, Settings, State, Transition};
use crate::policy::limit::KeyHash;
use crate::shared::breaker::{Admission, Breaker, Report, Token};
use crate::shared::upstream::Store;

pub use conf::{Conf, Failing, GroupConf, LocConf};
pub use keeper::Keeper;

/// What a group knows of its breaker, once the zone is mapped.
#[derive(Default)]
pub struct GroupState {
    gate: OnceCell<Gate>,
}

impl GroupState {
    /// The group's breaker, if it has one.
    pub fn gate(&self) -> Option<&Gate> {
        self.gate.get()
    }
}

/// One upstream's breaker: the record all workers share, and what this cycle's configuration makes of it.
pub struct Gate {
    upstream: String,
    settings: Settings,
    failing: Failing,
    breaker: &'static Breaker,
}

impl Gate {
    /// May this request pass? Takes a permit if it must.
    fn admit(&self, request: &Request) -> Result<Token, Millis> {
        let (admission, made) = self.breaker.admit(&self.settings, mono(), worker_index() as u8);
        self.say(Some(request), made);
        match admission {
            Admission::Allow(token) => Ok(token),
            Admission::Reject { retry_after } => Err(retry_after),
        }
    }

    fn record(&self, request: &Request, token: Token, outcome: Outcome, slow: bool) {
        let random = if self.settings.jitter > 0 { random() } else { 0 };
        let report = Report { outcome, slow, random, may_open: true };
        self.say(Some(request), self.breaker.record(&self.settings, mono(), token, report));
    }

    /// What clients are told to wait. A test request under way holds its permit for a `lease` at most, but its
    /// result is what counts: if bad, the next test comes after `open`.
    fn patience(&self, retry_after: Millis) -> Millis {
        let view = self.breaker.view(&self.settings, mono());
        let testing = view.forced.is_none() && view.state == State::HalfOpen;
        if testing { retry_after.min(self.settings.open) } else { retry_after }
    }

    fn say(&self, request: Option<&Request>, transition: Option<Transition>) {
        let Some(transition) = transition else { return };
        let level = if transition.to == State::Open { Level::Warn } else { Level::Notice };
        let line = words::Line { upstream: &self.upstream, dry_run: self.settings.dry_run, transition };
        match request {
            Some(request) => request.log(level, format_args!("{line}")),
            None => log::cycle(level, format_args!("{line}")),
        }
    }
}

/// Uniform but for the lowest bit.
fn random() -> u32 {
    // SAFETY: no memory is involved; nginx seeds the generator per worker.
    let bits = unsafe { sys::random() };
    (bits as u32) << 1
}

/// The admission of one request: at which breaker, and the token that has yet to be given back.
#[derive(Default)]
pub struct Passage {
    /// The breaker met last, whatever it said.
    gate: Option<&'static Gate>,
    token: Option<Token>,
    /// The peer wrap that will tell how it ends.
    flight: Option<&'static peer::Peer>,
}

impl Passage {
    fn holds(&self, gate: &'static Gate) -> bool {
        self.token.is_some() && self.is_at(gate)
    }

    fn is_at(&self, gate: &'static Gate) -> bool {
        self.gate.is_some_and(|met| core::ptr::eq(met, gate))
    }

    /// Takes the token out, to be recorded or aborted.
    fn take(&mut self, gate: &'static Gate) -> Option<Token> {
        if self.is_at(gate) { self.token.take() } else { None }
    }

    /// The request ends, or goes elsewhere, without a result.
    fn release(&mut self) {
        if let (Some(gate), Some(token)) = (self.gate, self.token.take()) {
            gate.breaker.abort(token);
        }
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        self.release();
    }
}

/// Ties a group to its record. The key is the upstream's name, so the state survives a reload, whatever moved.
pub fn adopt(group: &Group, store: &Store) {
    // SAFETY: groups are explicit ones of the cycle being set up.
    let Some(conf) = (unsafe { conf_of(group.upstream) }) else { return };
    let Some(settings) = conf.breaker.settings else { return };
    let (high, low) = KeyHash::new(format!("breaker\0upstream {}", group.name).as_bytes()).as_u64s();
    let found = store.breaker([high, low]).map(|(index, _)| store.breaker_at(index));
    match found {
        Ok(Some(breaker)) => {
            let failing = conf.breaker.failing.clone().unwrap_or_default();
            let gate = Gate { upstream: group.name.clone(), settings, failing, breaker };
            // A group is adopted once per cycle.
            let _ = group.breaker.gate.set(gate);
        }
        Ok(None) => {
            log::cycle(Level::Alert, format_args!("no circuit breaker for upstream \"{}\"", group.name))
        }
        Err(full) => log::cycle(
            Level::Alert,
            format_args!("no circuit breaker for upstream \"{}\": {full}, raise \"sluice_zone\"", group.name),
        ),
    }
}

/// The precontent handler: a location that names a guarded upstream asks before the body is read.
pub fn handler(request: &Request) -> sys::ngx_int_t {
    if request.main_conf().breaker.modules.is_empty() {
        return DECLINED;
    }
    let target = target::named(request);
    leave_others(request, target.as_ref().map(|target| target.gate));
    let Some(target) = target.filter(|target| target.early) else { return DECLINED };
    match enter(request, target.gate) {
        Ok(()) => DECLINED,
        Err(retry_after) => refusal::early(request, target.gate, retry_after),
    }
}

/// An internal redirect may have brought the request here with the token of another upstream.
fn leave_others(request: &Request, gate: Option<&'static Gate>) {
    let Some(ctx) = request.ctx() else { return };
    let mut passage = ctx.passage.borrow_mut();
    if !gate.is_some_and(|gate| passage.is_at(gate)) {
        passage.release();
    }
}

/// Admits the client's request, or has a subrequest look.
fn enter(request: &Request, gate: &'static Gate) -> Result<(), Millis> {
    if !request.is_main() {
        return gate.breaker.peek(&gate.settings, mono());
    }
    // Without memory for a context there is nothing to remember a token in: the request passes uncounted.
    let Some(ctx) = request.ctx_or_new() else { return Ok(()) };
    if ctx.passage.borrow().holds(gate) {
        return Ok(());
    }
    let admitted = gate.admit(request);
    let mut passage = ctx.passage.borrow_mut();
    passage.release();
    passage.gate = Some(gate);
    passage.token = admitted.as_ref().ok().copied();
    admitted.map(|_| ())
}

/// A response header is being sent. An upgraded connection may last for days: its handshake is the result.
pub fn header_sent(request: &Request, ctx: &Context) {
    // SAFETY: a live request.
    let (status, upstream) =
        unsafe { ((*request.as_ptr()).headers_out.status, (*request.as_ptr()).upstream) };
    if status != sys::NGX_HTTP_SWITCHING_PROTOCOLS as usize || upstream.is_null() {
        return;
    }
    let mut passage = ctx.passage.borrow_mut();
    let (Some(gate), Some(token)) = (passage.gate, passage.token.take()) else { return };
    drop(passage);
    // SAFETY: a request that sends an upstream's header has its upstream.
    let slow = unsafe { outcome::is_slow(upstream, &gate.settings) };
    gate.record(request, token, Outcome::Success, slow);
}
