//! One breaker as this process has it: asking it, telling it, and saying what it does.

use core::cell::Cell;

use nginx_sys as sys;

use super::super::events::{self, Event, Kind};
use super::super::log::{self, Level};
use super::super::request::Request;
use super::super::sys::{mono, worker_index};
use super::About;
use super::target;
use crate::policy::Millis;
use crate::policy::breaker::{Outcome, Settings, State, Told, Transition, Via};
use crate::policy::limit::KeyHash;
use crate::shared::breaker::{Admission, Breaker, Caller, Detailed, Era, Report, Token, View};
use crate::shared::upstream::{Claims, Full};

/// One breaker: the record all workers share, and what this cycle's configuration makes of it.
pub struct Gate {
    /// For the log: `upstream "api"` and the like.
    pub(super) name: String,
    about: About,
    pub(super) settings: Settings,
    pub(super) breaker: &'static Breaker,
    /// When this process last said that a trip was suppressed.
    said: Cell<Option<Millis>>,
}

impl Gate {
    /// Finds the record of `name` in the zone, or claims one; its number beside it. The key says what it is about, so the
    /// state survives a reload, whatever moved.
    pub(super) fn claim(
        (claims, owner): (&mut Claims<'_>, u64),
        about: About,
        key: &str,
        settings: Settings,
    ) -> Result<(Self, usize), Full> {
        let (high, low) = KeyHash::new(format!("breaker\0{key}").as_bytes()).as_u64s();
        let index = claims.breaker(owner, [high, low])?.index;
        // What has been claimed is there.
        let breaker = claims.store().breaker_at(index).ok_or_else(|| claims.full())?;
        Ok((Self { name: about.to_string(), about, settings, breaker, said: Cell::new(None) }, index))
    }

    /// The same for a breaker that is no server's.
    pub(super) fn adopt(
        claims: &mut Claims<'_>,
        about: About,
        key: &str,
        settings: Settings,
    ) -> Option<Self> {
        let name = about.to_string();
        let claimed = Self::claim((claims, 0), about, key, settings);
        let said = |full: &Full| {
            let alert = format_args!("no circuit breaker for {name}: {full}, raise \"sluice_zone\"");
            log::cycle(Level::Alert, alert);
        };
        claimed.inspect_err(said).ok().map(|(gate, _)| gate)
    }

    /// What logs call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether both are about the same record.
    pub(super) fn is(&self, other: &Self) -> bool {
        core::ptr::eq(self.breaker, other.breaker)
    }

    /// What [`Breaker::calm`] says.
    pub(super) fn calm(&self) -> Option<Era> {
        self.breaker.calm()
    }

    /// May this request pass? Takes a permit if it must.
    pub(super) fn admit(&self, request: &Request) -> Result<Token, Millis> {
        let patience = target::of(request).patience;
        let caller = Caller { worker: worker_index(), patience, may_test: self.may_test(request) };
        let (admission, made) = self.breaker.admit(&self.settings, mono(), caller);
        self.say(Some(request), made);
        match admission {
            Admission::Allow(token) => Ok(token),
            Admission::Reject { retry_after } => Err(retry_after),
        }
    }

    /// What only the metrics tell apart.
    pub fn details(&self) -> Detailed {
        self.breaker.details(mono())
    }

    /// What it is set to, how it stands, and the milliseconds until it is worth trying again.
    pub fn shown(&self) -> (&Settings, View, Millis) {
        let view = self.breaker.view(&self.settings, mono());
        let closed = view.forced.is_none() && view.state == State::Closed;
        let patience = if closed || view.retry_after == 0 { 0 } else { self.patience(view.retry_after) };
        (&self.settings, view, patience)
    }

    fn may_test(&self, request: &Request) -> bool {
        match self.settings.via {
            Via::Traffic => true,
            Via::Safe => request.is_safe(),
            Via::Probe => false,
        }
    }

    /// Whether this request would be a test.
    pub(super) fn is_due(&self, request: &Request) -> bool {
        self.may_test(request) && self.breaker.is_due(&self.settings, mono())
    }

    /// What [`Breaker::peek`] says.
    pub(super) fn peek(&self) -> Result<(), Millis> {
        self.breaker.peek(&self.settings, mono())
    }

    pub(super) fn record(&self, request: &Request, token: Token, outcome: Outcome, slow: bool) {
        let made = self.breaker.record(&self.settings, mono(), token, self.report(outcome, slow));
        self.say(Some(request), made);
    }

    pub(super) fn report(&self, outcome: Outcome, slow: bool) -> Report {
        let random = if self.settings.jitter > 0 { random() } else { 0 };
        Report { outcome, slow, random, kept: None }
    }

    /// What clients are told to wait. A test request under way holds its permit for a `lease` at most, but its
    /// result is what counts: if bad, the next test comes after `open`. That is also what is said when only the
    /// operator knows.
    pub(super) fn patience(&self, retry_after: Millis) -> Millis {
        let usual = self.settings.open;
        match retry_after {
            0 => usual,
            _ if self.breaker.is_testing(mono()) => retry_after.min(usual),
            _ => retry_after,
        }
    }

    pub(super) fn say(&self, request: Option<&Request>, transition: Option<Transition>) {
        let Some(transition) = transition else { return };
        if transition.kept.is_some() && self.has_just_said() {
            return;
        }
        let worse = transition.to == State::Open || transition.kept.is_some();
        let level = if worse { Level::Warn } else { Level::Notice };
        let dry_run = self.breaker.is_dry(&self.settings, mono());
        let told = Told { transition, dry_run };
        let line = format!("circuit breaker of {} {told}", self.name);
        match request {
            Some(request) => request.log(level, format_args!("{line}")),
            None => log::cycle(level, format_args!("{line}")),
        }
        self.note([transition.from.name(), transition.to.name()], &line);
    }

    /// Writes into the event log.
    pub(super) fn note(&self, [from, to]: [&str; 2], text: &str) {
        let (upstream, peer) = self.about.names();
        events::note(&Event { kind: Kind::Breaker, upstream: &upstream, peer, from, to, text });
    }
}

impl Gate {
    /// A server that fails but has to stay trips again and again: one line per window is enough.
    fn has_just_said(&self) -> bool {
        let now = mono();
        let just = self.said.get().is_some_and(|said| now.saturating_sub(said) < self.settings.window);
        if !just {
            self.said.set(Some(now));
        }
        just
    }
}

/// Uniform but for the lowest bit.
fn random() -> u32 {
    // SAFETY: no memory is involved; nginx seeds the generator per worker.
    let bits = unsafe { sys::random() };
    (bits as u32) << 1
}
