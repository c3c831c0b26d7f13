//! What the error log says of a transition.

use core::fmt;

use crate::policy::breaker::{Cause, Seconds, State, Transition};

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

#[cfg(test)]
mod tests {
    use super::*;
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
