//! The one state of a server, and that of a breaker, which one-hot gauges show.

use crate::policy::balance::State;

/// All states of a server, in the order in which they are written.
pub const PEER_STATES: [&str; 10] = [
    "up",
    "checking",
    "unhealthy",
    "degraded",
    "open",
    "half_open",
    "draining",
    "down",
    "slow_start",
    "unavail",
];

/// All states of a breaker, in the order in which they are written.
pub const BREAKER_STATES: [&str; 7] =
    ["closed", "open", "half_open", "forced_open", "forced_closed", "dry_run", "disabled"];

/// What bears upon a server's state beside what [`State`] knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Beside {
    /// The state of its breaker, as `$circuit_breaker_state` has it, unless that only pretends.
    pub breaker: Option<&'static str>,
    pub degraded: bool,
    pub warming: bool,
}

/// A server's state, one of [`PEER_STATES`]: the strongest reason why it gets no requests, else why it gets fewer.
#[must_use]
pub fn peer_state(state: State, beside: Beside) -> &'static str {
    match (state, beside.breaker) {
        (State::Down | State::Unhealthy | State::Checking, _) => state.as_str(),
        (_, Some("open" | "forced_open")) => "open",
        (_, Some("half_open")) => "half_open",
        (State::Unavail | State::Draining, _) => state.as_str(),
        (State::Up, _) if beside.degraded => "degraded",
        (State::Up, _) if beside.warming => "slow_start",
        (State::Up, _) => "up",
    }
}

/// Whether a server of this state is offered new requests.
#[must_use]
pub fn is_available(state: &str) -> bool {
    matches!(state, "up" | "degraded" | "slow_start")
}

/// Whether somebody wants a server of this state to have no new requests: then it is not missed.
#[must_use]
pub fn is_meant(state: &str) -> bool {
    matches!(state, "down" | "draining")
}

/// The state of a breaker that `$circuit_breaker_state` calls `state`: in a dry run it lets everything pass, unless an
/// operator says otherwise.
#[must_use]
pub fn breaker_state(state: &'static str, dry_run: bool) -> &'static str {
    if dry_run && !state.starts_with("forced") { "dry_run" } else { state }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [State; 6] =
        [State::Up, State::Draining, State::Down, State::Unavail, State::Checking, State::Unhealthy];
    const BREAKERS: [Option<&str>; 6] =
        [None, Some("closed"), Some("open"), Some("half_open"), Some("forced_open"), Some("forced_closed")];

    #[test]
    fn every_server_has_one_known_state() {
        for state in ALL {
            for breaker in BREAKERS {
                for (degraded, warming) in [(false, false), (true, false), (false, true), (true, true)] {
                    let shown = peer_state(state, Beside { breaker, degraded, warming });
                    assert!(PEER_STATES.contains(&shown), "{shown}");
                    assert!(!(is_available(shown) && is_meant(shown)));
                }
            }
        }
    }

    #[test]
    fn the_strongest_reason_is_shown() {
        let of = |state, breaker, degraded, warming| peer_state(state, Beside { breaker, degraded, warming });
        assert_eq!(of(State::Down, Some("open"), true, true), "down");
        assert_eq!(of(State::Unhealthy, Some("open"), true, true), "unhealthy");
        assert_eq!(of(State::Draining, Some("open"), false, false), "open");
        assert_eq!(of(State::Unavail, Some("half_open"), false, false), "half_open");
        assert_eq!(of(State::Unavail, Some("closed"), true, true), "unavail");
        assert_eq!(of(State::Up, Some("closed"), true, true), "degraded");
        assert_eq!(of(State::Up, Some("forced_closed"), false, true), "slow_start");
        assert_eq!(of(State::Up, None, false, false), "up");
    }

    #[test]
    fn a_dry_run_is_not_an_open_breaker() {
        assert_eq!(breaker_state("open", true), "dry_run");
        assert_eq!(breaker_state("open", false), "open");
        assert_eq!(breaker_state("forced_open", true), "forced_open");
        for state in ["closed", "open", "half_open", "forced_open", "forced_closed"] {
            assert!(BREAKER_STATES.contains(&breaker_state(state, false)));
        }
    }
}
