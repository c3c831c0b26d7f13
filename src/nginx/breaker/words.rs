//! What the error log says of a transition.

use core::fmt;

use crate::policy::Millis;
use crate::policy::breaker::{self as policy, Cause, Seconds, State, Transition};

/// One line of the error log.
pub struct Line<'a> {
    /// What the breaker is of: `upstream "api"`.
    pub name: &'a str,
    pub dry_run: bool,
    pub transition: Transition,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Transition { to, cause, last, open_for, suppressed, .. } = self.transition;
        let is = if self.dry_run { "would be" } else { "is" };
        write!(f, "circuit breaker of {} ", self.name)?;
        match to {
            _ if suppressed => f.write_str("stays closed")?,
            State::Open => write!(f, "{is} open for {}", Seconds(open_for))?,
            State::HalfOpen => write!(f, "{is} half-open")?,
            State::Closed => write!(f, "{is} closed")?,
        }
        write!(f, ": {cause}")?;
        if let Some(last) = last.filter(|_| (suppressed || to == State::Open) && cause != Cause::TestSlow) {
            write!(f, ", last {last}")?;
        }
        if suppressed {
            f.write_str(", but as many servers as may be are out")?;
        }
        if self.dry_run { f.write_str(", dry run") } else { Ok(()) }
    }
}

/// What the operator has done to a breaker.
pub struct Forced<'a> {
    /// As in [`Line`].
    pub name: &'a str,
    /// `None`: an override has ended, and the machine stands so.
    pub forced: Option<policy::Forced>,
    pub state: State,
    /// How long it will last; 0: until the operator ends it.
    pub ttl: Millis,
}

impl fmt::Display for Forced<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "circuit breaker of {} ", self.name)?;
        match self.forced {
            Some(policy::Forced::Open) => f.write_str("is forced open by the operator")?,
            Some(policy::Forced::Closed) => f.write_str("is forced closed by the operator")?,
            Some(policy::Forced::DryRun) => f.write_str("is in a dry run by the operator")?,
            None => return write!(f, "is no longer forced, and {}", self.state),
        }
        if self.ttl > 0 { write!(f, " for {}", Seconds(self.ttl)) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operator_is_named() {
        let said =
            |forced, ttl| Forced { name: "route \"pay\"", forced, state: State::HalfOpen, ttl }.to_string();
        let of = "circuit breaker of route \"pay\" is";
        let open = format!("{of} forced open by the operator for 600.0 s");
        assert_eq!(said(Some(policy::Forced::Open), 600_000), open);
        assert_eq!(said(Some(policy::Forced::Closed), 0), format!("{of} forced closed by the operator"));
        assert_eq!(said(Some(policy::Forced::DryRun), 0), format!("{of} in a dry run by the operator"));
        assert_eq!(said(None, 0), format!("{of} no longer forced, and half_open"));
    }
    use crate::policy::breaker::Failure;

    #[test]
    fn a_line_names_upstream_length_and_reason() {
        let transition = Transition {
            from: State::Closed,
            to: State::Open,
            cause: Cause::Failures { count: 5, over: 28_000 },
            last: Some(Failure::Http(502)),
            open_for: 30_000,
            attempts: 0,
            suppressed: false,
        };
        let line = |dry_run, transition| Line { name: "upstream \"api\"", dry_run, transition }.to_string();
        let open = "open for 30.0 s: 5 failures in 28.0 s, last http_502";
        assert_eq!(line(false, transition), format!("circuit breaker of upstream \"api\" is {open}"));
        assert_eq!(
            line(true, transition),
            format!("circuit breaker of upstream \"api\" would be {open}, dry run")
        );
        let cause = Cause::TestsPassed { count: 1 };
        let closed = Transition { from: State::HalfOpen, to: State::Closed, cause, ..transition };
        assert_eq!(line(false, closed), "circuit breaker of upstream \"api\" is closed: test request passed");
        let kept = Transition { to: State::Closed, suppressed: true, ..transition };
        let stays =
            "stays closed: 5 failures in 28.0 s, last http_502, but as many servers as may be are out";
        assert_eq!(line(false, kept), format!("circuit breaker of upstream \"api\" {stays}"));
    }
}
