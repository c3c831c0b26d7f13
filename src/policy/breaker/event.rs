//! What a breaker is told, and what it reports.

use super::super::Millis;
use super::{Kept, State};
use std::fmt;

/// Why an attempt at the upstream failed; the names of `circuit_breaker_failure`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Could not connect, send or read.
    Error,
    Timeout,
    InvalidHeader,
    /// An answer with a status that counts as a failure, 100 to 999.
    Http(u16),
}

impl Failure {
    /// A number other than 0, for shared memory.
    #[must_use]
    pub const fn to_bits(self) -> u32 {
        match self {
            Self::Error => 1,
            Self::Timeout => 2,
            Self::InvalidHeader => 3,
            Self::Http(status) => 0x1_0000 | status as u32,
        }
    }

    /// The failure that [`Self::to_bits`] wrote; `None` for 0 and for what a later version may write.
    #[must_use]
    pub const fn from_bits(bits: u32) -> Option<Self> {
        match bits {
            1 => Some(Self::Error),
            2 => Some(Self::Timeout),
            3 => Some(Self::InvalidHeader),
            0x1_0000..=0x1_FFFF => Some(Self::Http(bits as u16)),
            _ => None,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Error => f.write_str("error"),
            Self::Timeout => f.write_str("timeout"),
            Self::InvalidHeader => f.write_str("invalid_header"),
            Self::Http(status) => write!(f, "http_{status:03}"),
        }
    }
}

/// How a request that the breaker admitted ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Success,
    Failure(Failure),
}

/// Why the breaker changed its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// So many failures within `over` milliseconds.
    Failures { count: u32, over: Millis },
    /// So many failures in a row.
    Consecutive { count: u32 },
    /// This share (percent) of so many calls in the window failed.
    FailureRate { percent: u32, calls: u32 },
    /// This share (percent) of so many calls in the window was slow.
    SlowRate { percent: u32, calls: u32 },
    /// A test request failed.
    TestFailed,
    /// A test request was slow.
    TestSlow,
    /// So many test requests were all good.
    TestsPassed { count: u32 },
    /// The stay in OPEN is over: test requests may pass.
    Elapsed,
    /// The operator reset the breaker.
    Reset,
}

impl Cause {
    const A_BITS: u32 = 7;
    const B_BITS: u32 = 22;
    const A_MAX: u32 = (1 << Self::A_BITS) - 1;
    const B_MAX: u32 = (1 << Self::B_BITS) - 1;
    /// Lengths of time from here on are whole seconds.
    const SECONDS: u32 = 1 << (Self::B_BITS - 1);

    /// Why a breaker opened, for shared memory, as close as 32 bits allow; 0 for what opens none.
    #[must_use]
    pub fn to_bits(self) -> u32 {
        let small = |value: u64, most: u32| u32::try_from(value).map_or(most, |value| value.min(most));
        let (kind, a, b) = match self {
            Self::Failures { count, over } if over < u64::from(Self::SECONDS) => {
                (1, count, small(over, Self::B_MAX))
            }
            Self::Failures { count, over } => {
                (1, count, Self::SECONDS | small(over / 1_000, Self::SECONDS - 1))
            }
            Self::Consecutive { count } => (2, 0, count),
            Self::FailureRate { percent, calls } => (3, percent, calls),
            Self::SlowRate { percent, calls } => (4, percent, calls),
            Self::TestFailed => (5, 0, 0),
            Self::TestSlow => (6, 0, 0),
            Self::TestsPassed { .. } | Self::Elapsed | Self::Reset => return 0,
        };
        kind << (Self::A_BITS + Self::B_BITS) | a.min(Self::A_MAX) << Self::B_BITS | b.min(Self::B_MAX)
    }

    /// For people who read it now: to the tenth of a second.
    #[must_use]
    pub const fn rounded(self) -> Self {
        match self {
            Self::Failures { count, over } if over >= 100 => Self::Failures { count, over: over / 100 * 100 },
            other => other,
        }
    }

    /// What [`Self::to_bits`] wrote; `None` for 0 and for what a later version may write.
    #[must_use]
    pub fn from_bits(bits: u32) -> Option<Self> {
        let (a, b) = (bits >> Self::B_BITS & Self::A_MAX, bits & Self::B_MAX);
        Some(match bits >> (Self::A_BITS + Self::B_BITS) {
            1 if b & Self::SECONDS == 0 => Self::Failures { count: a, over: b.into() },
            1 => Self::Failures { count: a, over: Millis::from(b & !Self::SECONDS) * 1_000 },
            2 => Self::Consecutive { count: b },
            3 => Self::FailureRate { percent: a, calls: b },
            4 => Self::SlowRate { percent: a, calls: b },
            5 => Self::TestFailed,
            6 => Self::TestSlow,
            _ => return None,
        })
    }
}

/// One change of state, reported once: by the worker that won it. See [`Told`] for its words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    pub from: State,
    pub to: State,
    pub cause: Cause,
    /// The failure seen last, if any ever was.
    pub last: Option<Failure>,
    /// How long OPEN will last, when `to` is OPEN.
    pub open_for: Millis,
    /// Failed recoveries in a row so far.
    pub attempts: u8,
    /// The rule fired but the caller did not allow OPEN: CLOSED with an empty window.
    pub kept: Option<Kept>,
}

impl Transition {
    /// Whether it ends the time in which a server was kept out.
    #[must_use]
    pub fn readmits(&self) -> bool {
        self.from != State::Closed && self.to == State::Closed
    }
}

impl State {
    /// Its name in logs and in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Failures { count, over } => write!(f, "{count} failures in {}", Seconds(over)),
            Self::Consecutive { count } => write!(f, "{count} failures in a row"),
            Self::FailureRate { percent, calls } => write!(f, "{percent}% of {calls} calls failed"),
            Self::SlowRate { percent, calls } => write!(f, "{percent}% of {calls} calls were slow"),
            Self::TestFailed => f.write_str("test request failed"),
            Self::TestSlow => f.write_str("test request was slow"),
            Self::TestsPassed { count: 1 } => f.write_str("test request passed"),
            Self::TestsPassed { count } => write!(f, "{count} test requests passed"),
            Self::Elapsed => f.write_str("time for a test request"),
            Self::Reset => f.write_str("reset"),
        }
    }
}

/// A transition in the words of a log line, what it happened to left out.
pub struct Told {
    pub transition: Transition,
    pub dry_run: bool,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Transition { to, cause, last, open_for, kept, .. } = self.transition;
        let is = if self.dry_run { "would be" } else { "is" };
        match to {
            _ if kept.is_some() => f.write_str("stays closed")?,
            State::Open => write!(f, "{is} open for {}", Seconds(open_for))?,
            State::HalfOpen => write!(f, "{is} half-open")?,
            State::Closed => write!(f, "{is} closed")?,
        }
        write!(f, ": {cause}")?;
        if let Some(last) = last.filter(|_| (kept.is_some() || to == State::Open) && cause != Cause::TestSlow)
        {
            write!(f, ", last {last}")?;
        }
        f.write_str(match kept {
            Some(Kept::MaxOpen) => ", but as many servers as may be are out",
            Some(Kept::LastPeer) => ", but no other server would be left",
            None => "",
        })?;
        if self.dry_run { f.write_str(", dry run") } else { Ok(()) }
    }
}

/// Milliseconds as seconds: one decimal, three when the first would hide something.
pub struct Seconds(pub Millis);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, thousandths) = (self.0 / 1_000, self.0 % 1_000);
        if thousandths % 100 == 0 {
            write!(f, "{whole}.{} s", thousandths / 100)
        } else {
            write!(f, "{whole}.{thousandths:03} s")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_survive_shared_memory() {
        for failure in [Failure::Error, Failure::Timeout, Failure::InvalidHeader, Failure::Http(502)] {
            assert_eq!(Failure::from_bits(failure.to_bits()), Some(failure));
        }
        assert_eq!(Failure::from_bits(0), None);
        assert_eq!(Failure::from_bits(u32::MAX), None);
    }

    #[test]
    fn causes_survive_shared_memory() {
        let exact = [
            Cause::Failures { count: 32, over: 0 },
            Cause::Failures { count: 5, over: 28_123 },
            Cause::Failures { count: 1, over: 604_800_000 },
            Cause::Consecutive { count: 1_000_000 },
            Cause::FailureRate { percent: 100, calls: 8_191 },
            Cause::SlowRate { percent: 7, calls: 1 },
            Cause::TestFailed,
            Cause::TestSlow,
        ];
        for cause in exact {
            assert_eq!(Cause::from_bits(cause.to_bits()), Some(cause));
        }
        let many = Cause::FailureRate { percent: 50, calls: u32::MAX };
        let most = Cause::FailureRate { percent: 50, calls: (1 << 22) - 1 };
        assert_eq!(Cause::from_bits(many.to_bits()), Some(most));
        let long = Cause::Failures { count: 3, over: 2_100_999 };
        assert_eq!(Cause::from_bits(long.to_bits()), Some(Cause::Failures { count: 3, over: 2_100_000 }));
        assert_eq!(
            (Cause::Elapsed.to_bits(), Cause::from_bits(0), Cause::from_bits(u32::MAX)),
            (0, None, None)
        );
    }

    #[test]
    fn a_transition_reads_as_a_log_line() {
        let trip = Transition {
            from: State::Closed,
            to: State::Open,
            cause: Cause::Failures { count: 5, over: 28_000 },
            last: Some(Failure::Http(502)),
            open_for: 30_000,
            attempts: 0,
            kept: None,
        };
        let told = |dry_run, transition| Told { transition, dry_run }.to_string();
        let open = "open for 30.0 s: 5 failures in 28.0 s, last http_502";
        assert_eq!(told(false, trip), format!("is {open}"));
        assert_eq!(told(true, trip), format!("would be {open}, dry run"));
        let cause = Cause::TestsPassed { count: 1 };
        let closed = Transition { from: State::HalfOpen, to: State::Closed, cause, ..trip };
        assert_eq!(told(false, closed), "is closed: test request passed");
        let stays = "stays closed: 5 failures in 28.0 s, last http_502, but";
        for (kept, why) in [
            (Kept::MaxOpen, "as many servers as may be are out"),
            (Kept::LastPeer, "no other server would be left"),
        ] {
            let kept = Transition { to: State::Closed, kept: Some(kept), ..trip };
            assert_eq!(told(false, kept), format!("{stays} {why}"));
        }
        assert_eq!(Seconds(7).to_string(), "0.007 s");
    }
}
