//! Why a server takes no traffic, or less of it, in words for people.

use crate::policy::Millis;
use crate::policy::breaker::{Cause, Failure, Seconds};

/// What keeps a server. Lengths of time are milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reasons<'s> {
    pub down: bool,
    pub draining: bool,
    /// For how long its checks have failed.
    pub unhealthy: Option<Millis>,
    /// What they found, or what makes it degraded.
    pub finding: Option<&'s str>,
    pub checking: bool,
    /// Failed attempts, and how long until the core tries again.
    pub unavail: Option<(u64, Millis)>,
    pub breaker: Option<Barred>,
    /// Degraded, so that it waits until no other is left.
    pub degraded: bool,
    /// Requests it serves, as many as it may.
    pub full: Option<u64>,
    /// Percent of its share while it warms up.
    pub warming: Option<u32>,
}

/// How its circuit breaker keeps it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Barred {
    /// Why it opened, the failure seen last, and how long until it tests again; 0: nobody knows.
    Open(Option<Cause>, Option<Failure>, Millis),
    HalfOpen,
    /// By an operator, for so long; 0: until told otherwise.
    Forced(Millis),
}

/// One sentence for each, the strongest first.
#[must_use]
pub fn because(of: Reasons<'_>) -> Vec<String> {
    let mut said = Vec::new();
    let found = of.finding.map(|finding| format!(": {finding}")).unwrap_or_default();
    if of.down {
        said.push("takes no traffic: it is down".to_owned());
    }
    if let Some(length) = of.unhealthy {
        said.push(format!("takes no traffic: its health check has failed for {}{found}", tenths(length)));
    }
    if of.checking {
        said.push("takes no traffic: its health check has yet to pass".to_owned());
    }
    if let Some(barred) = of.breaker {
        said.push(barred.to_string());
    }
    if let Some((fails, left)) = of.unavail {
        let attempts = if fails == 1 { "attempt" } else { "attempts" };
        said.push(format!("takes no traffic: {fails} failed {attempts}, tried again in {}", tenths(left)));
    }
    if of.draining {
        said.push("takes bound sessions only: it drains".to_owned());
    }
    if of.degraded {
        let found = if of.unhealthy.is_none() { found.as_str() } else { "" };
        said.push(format!("takes traffic when no other is left: its health check calls it degraded{found}"));
    }
    if let Some(most) = of.full {
        said.push(format!("takes no more for now: it serves {most} requests, as many as it may"));
    }
    if let Some(percent) = of.warming {
        said.push(format!("takes {percent} % of its share: it warms up"));
    }
    said
}

/// Nobody wants to know it to the millisecond.
fn tenths(length: Millis) -> Seconds {
    Seconds(length / 100 * 100)
}

impl std::fmt::Display for Barred {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Open(why, last, left) => {
                match why {
                    Some(why) => write!(f, "takes no traffic: {}", why.rounded())?,
                    None => f.write_str("takes no traffic: its circuit breaker is open")?,
                }
                if let Some(last) = last {
                    write!(f, ", last {last}")?;
                }
                if *left > 0 { write!(f, ", tests again in {}", tenths(*left)) } else { Ok(()) }
            }
            Self::HalfOpen => f.write_str("takes test requests only: its circuit breaker is half-open"),
            Self::Forced(0) => f.write_str("takes no traffic: an operator holds its circuit breaker open"),
            Self::Forced(left) => {
                write!(
                    f,
                    "takes no traffic: an operator holds its circuit breaker open for {}",
                    tenths(*left)
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_keeps_a_server_that_is_up() {
        assert!(because(Reasons::default()).is_empty());
    }

    #[test]
    fn each_reason_is_a_sentence() {
        let why = Cause::Failures { count: 5, over: 28_071 };
        let of = Reasons {
            down: true,
            draining: true,
            unhealthy: Some(12_000),
            finding: Some("status: wanted 200-399, got 503"),
            checking: true,
            unavail: Some((3, 8_000)),
            breaker: Some(Barred::Open(Some(why), Some(Failure::Http(502)), 12_483)),
            degraded: true,
            full: Some(10),
            warming: Some(34),
        };
        let said = because(of);
        assert_eq!(
            said,
            [
                "takes no traffic: it is down",
                "takes no traffic: its health check has failed for 12.0 s: status: wanted 200-399, got 503",
                "takes no traffic: its health check has yet to pass",
                "takes no traffic: 5 failures in 28.0 s, last http_502, tests again in 12.4 s",
                "takes no traffic: 3 failed attempts, tried again in 8.0 s",
                "takes bound sessions only: it drains",
                "takes traffic when no other is left: its health check calls it degraded",
                "takes no more for now: it serves 10 requests, as many as it may",
                "takes 34 % of its share: it warms up",
            ]
        );
    }

    #[test]
    fn a_breaker_says_what_is_known() {
        let said = |barred: Barred| barred.to_string();
        assert_eq!(said(Barred::Open(None, None, 0)), "takes no traffic: its circuit breaker is open");
        assert_eq!(said(Barred::HalfOpen), "takes test requests only: its circuit breaker is half-open");
        let held = "takes no traffic: an operator holds its circuit breaker open";
        assert_eq!(said(Barred::Forced(0)), held);
        assert_eq!(said(Barred::Forced(90_000)), format!("{held} for 90.0 s"));
        let degraded = Reasons { degraded: true, finding: Some("json $.status"), ..Reasons::default() };
        let waits = "takes traffic when no other is left: its health check calls it degraded: json $.status";
        assert_eq!(because(degraded), [waits]);
        let once = Reasons { unavail: Some((1, 500)), ..Reasons::default() };
        assert_eq!(because(once), ["takes no traffic: 1 failed attempt, tried again in 0.5 s"]);
    }
}
