//! `$circuit_breaker_state` and `$circuit_breaker_retry_after`.

use super::super::request::Request;
use super::super::sys::mono;
use super::super::variables::Variable;
use super::peer::Peer;
use super::{Gate, target};

pub static VARIABLES: [Variable; 2] = [
    Variable { name: "circuit_breaker_state", text: state },
    Variable { name: "circuit_breaker_retry_after", text: retry_after },
];

/// The breaker of the location, or that of the upstream it names, else of the one the request met last; of two the
/// first that is not closed.
fn gate(request: &Request) -> Option<&'static Gate> {
    let seat = || request.ctx()?.passage.try_borrow().ok()?.upstream.guard;
    let met = || Peer::of(request)?.upstream().or_else(seat);
    let place = target::place(request);
    let both = [place.route, place.upstream.or_else(met)].map(|guard| guard.map(|guard| guard.gate));
    let mut gates = both.into_iter().flatten();
    let first = gates.next()?;
    Some(if is_closed(first) { gates.find(|gate| !is_closed(gate)).unwrap_or(first) } else { first })
}

fn is_closed(gate: &Gate) -> bool {
    let view = gate.breaker.view(&gate.settings, mono());
    view.name() == "closed"
}

fn state(request: &Request) -> Option<String> {
    let gate = gate(request)?;
    Some(gate.breaker.view(&gate.settings, mono()).name().to_owned())
}

/// Whole seconds until it is worth trying again; empty when it is now, or when nobody knows.
fn retry_after(request: &Request) -> Option<String> {
    let gate = gate(request)?;
    let view = gate.breaker.view(&gate.settings, mono());
    if is_closed(gate) || view.retry_after == 0 {
        return Some(String::new());
    }
    Some(gate.patience(view.retry_after).div_ceil(1_000).to_string())
}
