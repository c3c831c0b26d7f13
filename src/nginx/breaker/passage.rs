//! What one request holds of its breakers until it is known how it ends.

use super::{Gate, Guard};
use crate::shared::breaker::Token;

/// The admissions of one request that have yet to be given back. Those by calm breakers hold nothing, and are in the
/// wrap around the balancer ([`super::peer::Peer`]) alone: most requests need no context.
#[derive(Default)]
pub struct Passage {
    pub(super) route: Seat,
    pub(super) upstream: Seat,
}

/// The admission by one breaker.
#[derive(Default)]
pub(super) struct Seat {
    /// The breaker met last, whatever it said.
    pub(super) guard: Option<Guard<'static>>,
    pub(super) token: Option<Token>,
    /// That breaker has admitted the request as a test, whatever has become of it.
    pub(super) tested: bool,
}

impl Seat {
    /// Sits down: with a token, or refused.
    pub(super) fn enter(&mut self, guard: Guard<'static>, token: Option<Token>) {
        self.release();
        self.tested = token.as_ref().is_some_and(Token::is_test);
        (self.guard, self.token) = (Some(guard), token);
    }

    pub(super) fn is_at(&self, gate: &Gate) -> bool {
        self.guard.is_some_and(|met| core::ptr::eq(met.gate, gate))
    }

    /// Takes the token out, to be recorded or aborted.
    pub(super) fn take(&mut self, gate: &Gate) -> Option<Token> {
        if self.is_at(gate) { self.token.take() } else { None }
    }

    /// The request ends, or goes elsewhere, without a result.
    pub(super) fn release(&mut self) {
        if let (Some(guard), Some(token)) = (self.guard, self.token.take()) {
            guard.gate.breaker.abort(token);
        }
    }

    /// An internal redirect may have brought the request here with the token of another breaker.
    pub(super) fn leave_all_but(&mut self, guard: Option<Guard<'_>>) {
        if !guard.is_some_and(|guard| self.is_at(guard.gate)) {
            self.release();
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.release();
    }
}

/// Which of a request's admissions is meant.
#[derive(Clone, Copy)]
pub(super) enum Scope {
    Route,
    Upstream,
}

impl Scope {
    pub(super) const fn bit(self) -> u8 {
        match self {
            Self::Route => 1,
            Self::Upstream => 2,
        }
    }
}

impl Passage {
    pub(super) fn seat(&mut self, scope: Scope) -> &mut Seat {
        match scope {
            Scope::Route => &mut self.route,
            Scope::Upstream => &mut self.upstream,
        }
    }
}
