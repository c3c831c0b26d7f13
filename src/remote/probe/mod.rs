//! Health probes: one request on a fresh connection, judged, within one deadline.
//!
//! [`run`] is a future without a task of its own: whoever drops it closes the connection, and nothing is left
//! behind. A kind of probe is a module that talks over any byte stream ([`http1`] today); what it talks over is
//! opened by [`connect`].

mod connect;
mod fault;
mod http1;
mod progress;
mod request;

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use crate::policy::health::{ReasonKind, Verdict};

pub use connect::Target;
pub use request::Request;

use fault::Fault;
use progress::Progress;

/// What came of one probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The request's, returned as it was.
    pub ticket: u64,
    pub outcome: Outcome,
    /// From the start of connecting to the verdict.
    pub elapsed: Duration,
}

/// The verdict of a probe, with the reason as text for the log and the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Pass,
    Degraded(String),
    Fail {
        kind: FailKind,
        detail: String,
    },
    /// The probe could not be made, for a reason on this side (no descriptor, no memory, no free port): it says
    /// nothing about the server and must not be counted.
    Unknown(String),
}

/// The closed set of reasons to fail, for counters and the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailKind {
    /// No connection: refused, unreachable, no such socket.
    Connect,
    /// The deadline passed, at whatever stage.
    Timeout,
    /// The connection was closed or reset before the answer was complete.
    Reset,
    /// What came is not HTTP/1.
    Protocol,
    /// More than 64 KB of header.
    HeaderTooLarge,
    /// A line of the `match` block did not hold, or the body could not be judged.
    Match(ReasonKind),
}

impl FailKind {
    /// The name used in metrics and in the API.
    #[allow(dead_code, reason = "for the API, which is to come")]
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::Protocol => "protocol",
            Self::HeaderTooLarge => "header_too_large",
            Self::Match(kind) => kind.as_str(),
        }
    }
}

/// Makes one probe. Never takes longer than the request's timeout, whatever the server sends.
///
/// Must run on a tokio runtime with I/O and time enabled.
pub async fn run(request: Request) -> Report {
    let started = Instant::now();
    let progress = Progress::default();
    let outcome = match tokio::time::timeout(request.timeout, attempt(&request, &progress)).await {
        Ok(Ok(verdict)) => verdict.into(),
        Ok(Err(fault)) => fault.into(),
        Err(_) => {
            let detail = format!(
                "timed out after {} ms while {}",
                request.timeout.as_millis(),
                progress.stage().as_str()
            );
            Outcome::Fail { kind: FailKind::Timeout, detail }
        }
    };
    Report { ticket: request.ticket, outcome, elapsed: started.elapsed() }
}

async fn attempt(request: &Request, progress: &Progress) -> Result<Verdict, Fault> {
    match &request.target {
        Target::Tcp(address) => http1::probe(connect::tcp(*address).await?, request, progress).await,
        Target::Unix(path) => http1::probe(connect::unix(path).await?, request, progress).await,
    }
}

impl From<Verdict> for Outcome {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Pass => Self::Pass,
            Verdict::Degraded(reason) => Self::Degraded(reason.to_string()),
            Verdict::Fail(reason) => {
                Self::Fail { kind: FailKind::Match(reason.kind()), detail: reason.to_string() }
            }
        }
    }
}

impl From<Fault> for Outcome {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Own(detail) => Self::Unknown(detail),
            Fault::Peer(kind, detail) => Self::Fail { kind, detail },
        }
    }
}
