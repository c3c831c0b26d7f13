//! `$circuit_breaker_state` and `$circuit_breaker_retry_after`.

use super::super::request::Request;
use super::super::sys::mono;
use super::super::variables::Variable;
use super::{Gate, target};
use crate::policy::breaker::State;

pub static VARIABLES: [Variable; 2] = [
    Variable { name: "circuit_breaker_state", text: state },
    Variable { name: "circuit_breaker_retry_after", text: retry_after },
];

/// The breaker of the upstream that the location names, else of the one the request met last.
fn gate(request: &Request) -> Option<&'static Gate> {
    let met = || request.ctx()?.passage.try_borrow().ok()?.gate;
    target::named(request).map(|target| target.gate).or_else(met)
}

fn state(request: &Request) -> Option<String> {
    let gate = gate(request)?;
    Some(gate.breaker.view(&gate.settings, mono()).name().to_owned())
}

/// Whole seconds until it is worth trying again; empty when it is now, or when nobody knows.
fn retry_after(request: &Request) -> Option<String> {
    let gate = gate(request)?;
    let view = gate.breaker.view(&gate.settings, mono());
    let closed = view.forced.is_none() && view.state == State::Closed;
    if closed || view.retry_after == 0 {
        return Some(String::new());
    }
    Some(gate.patience(view.retry_after).div_ceil(1_000).to_string())
}
