//! Health probes: one request, judged, within one deadline for connecting, TLS and the answer.
//!
//! [`run_as`] is a future without a task of its own: whoever drops it closes the connection, and nothing is left
//! behind. What is asked is a [`Request`], by what means a [`Manner`]. A protocol is a module that talks over any
//! byte stream ([`http1`], [`grpc`]); what it talks over is opened by [`connect`], which is all that a probe of
//! type `tcp` does. Between probes, connections wait in [`Kept`].

mod connect;
mod fault;
#[cfg(any(test, sluice_fuzz))]
pub mod fuzz;
mod grpc;
mod http1;
mod kept;
mod manner;
mod progress;
mod request;
mod session;
mod tls;

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use crate::policy::health::{ReasonKind, Verdict};

pub use connect::Target;
pub use grpc::GrpcCheck;
pub use kept::Kept;
pub use manner::{Manner, Protocol};
pub use request::{Request, may_send};
pub use tls::TlsSettings;

use fault::Fault;
use kept::Key;
use session::{Answered, Judged, Probe, Session, Shared};

/// What came of one probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The request's, returned as it was.
    pub ticket: u64,
    pub outcome: Outcome,
    /// Of an HTTP answer that is no failure, if the request asked for it.
    pub head: Option<Head>,
    /// From the start of connecting to the verdict.
    pub elapsed: Duration,
}

/// The beginning of an HTTP answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub status: u16,
    /// In the order they came.
    pub headers: Vec<(String, Vec<u8>)>,
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
    /// The handshake failed, or the certificate is not to be trusted.
    Tls,
    /// What came is not of the protocol that is spoken.
    Protocol,
    /// More than 64 KB of header.
    HeaderTooLarge,
    /// A gRPC answer that is not the wanted one.
    Grpc,
    /// A line of the `match` block did not hold, or the body could not be judged.
    Match(ReasonKind),
}

impl FailKind {
    /// The name used in metrics and in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Timeout => "timeout",
            Self::Reset => "reset",
            Self::Tls => "tls",
            Self::Protocol => "protocol",
            Self::HeaderTooLarge => "header_too_large",
            Self::Grpc => "grpc",
            Self::Match(kind) => kind.as_str(),
        }
    }
}

/// Makes one probe. Never takes longer than the request's timeout, whatever the server sends.
///
/// Must run on a tokio runtime with I/O and time enabled.
pub async fn run_as(request: Request, manner: &Manner, kept: &Kept) -> Report {
    let started = Instant::now();
    let mut progress = Shared::default();
    let probe = Probe { request: &request, manner };
    let ended = tokio::time::timeout(request.timeout, attempt(probe, kept, &mut progress)).await;
    let mut head = None;
    let outcome = match ended {
        Ok(Ok(judged)) => {
            head = judged.head;
            judged.verdict.into()
        }
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
    Report { ticket: request.ticket, outcome, head, elapsed: started.elapsed() }
}

/// On a kept connection if there is one, else, or if that turns out to be dead, on a new one.
///
/// `progress` is always that of the connection which is used.
async fn attempt(probe: Probe<'_>, kept: &Kept, progress: &mut Shared) -> Result<Judged, Fault> {
    let key = (probe.manner.id(), probe.request.target.clone());
    if probe.manner.keeps()
        && let Some(mut session) = kept.take(&key).await
    {
        *progress = session.progress();
        match session.ask(probe).await {
            // A server may close a connection while nothing is asked on it, and we may be too late to notice.
            Err(Fault::Peer(..)) if session.is_unanswered() => {}
            answered => return conclude(probe, answered, session, (kept, key)),
        }
    }
    *progress = Shared::default();
    let Some(mut session) = Session::open(probe, progress).await? else { return Ok(Verdict::Pass.into()) };
    let answered = session.ask(probe).await;
    conclude(probe, answered, session, (kept, key))
}

/// Keeps the connection if it may be used again.
fn conclude(
    probe: Probe<'_>,
    answered: Result<Answered, Fault>,
    session: Session,
    (kept, key): (&Kept, Key),
) -> Result<Judged, Fault> {
    let Answered { judged, whole } = answered?;
    if whole && let Some(until) = session.kept_until(probe.manner.keep()) {
        kept.put(key, session, until);
    }
    Ok(judged)
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
