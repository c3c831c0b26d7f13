//! What the error log says of an override.

use core::fmt;

use crate::policy::Millis;
use crate::policy::breaker::{self as policy, Seconds, State};

/// What the operator has done to a breaker.
pub struct Forced<'a> {
    /// What the breaker is of: `upstream "api"`.
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
}
