//! A connection that has been set up for its protocol, and one exchange after another on it.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use super::connect::{self, Stream};
use super::fault::Fault;
use super::manner::{Manner, Protocol};
use super::progress::{Progress, Stage};
use super::request::Request;
use super::{Head, grpc, http1};
use crate::policy::health::Verdict;

/// The future that moves a connection's bytes. It ends when the connection does, and dropping it closes that.
pub(super) type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The progress of a connection, which outlives each of its exchanges.
pub(super) type Shared = Arc<Progress>;

/// What is asked, and by what means.
#[derive(Clone, Copy)]
pub(super) struct Probe<'a> {
    pub request: &'a Request,
    pub manner: &'a Manner,
}

/// A verdict, and what else is to be told of the answer.
pub(super) struct Judged {
    pub verdict: Verdict,
    pub head: Option<Head>,
}

impl From<Verdict> for Judged {
    fn from(verdict: Verdict) -> Self {
        Self { verdict, head: None }
    }
}

/// What an exchange came to.
pub(super) struct Answered {
    pub judged: Judged,
    /// Nothing of the answer is left on the connection.
    pub whole: bool,
}

/// One connection.
pub(super) struct Session {
    line: Line,
    /// None once the connection is over.
    driver: Option<Driver>,
    progress: Shared,
    opened: Instant,
}

/// The end of a connection that requests are put in.
enum Line {
    Http1(http1::Sender),
    Grpc(grpc::Sender, grpc::GrpcCheck),
}

impl Session {
    /// Connects. None if the protocol asks for no more than that.
    pub async fn open(probe: Probe<'_>, progress: &Shared) -> Result<Option<Self>, Fault> {
        let stream = connect::open(&probe.request.target, probe.manner.tls(), progress).await?;
        Self::over(stream, probe, progress).await
    }

    /// As [`Self::open`], over what is connected.
    pub async fn over(
        mut stream: Stream,
        probe: Probe<'_>,
        progress: &Shared,
    ) -> Result<Option<Self>, Fault> {
        let opened = Instant::now();
        let (line, driver) = match probe.manner.protocol() {
            Protocol::Tcp => {
                // In TLS a goodbye is good manners; without one, some servers complain in their logs.
                let _ = stream.shutdown().await;
                return Ok(None);
            }
            Protocol::Http => {
                let (sender, driver) = http1::open(stream, progress).await?;
                (Line::Http1(sender), driver)
            }
            Protocol::Grpc(check) => {
                let (sender, driver) = grpc::open(stream, progress).await?;
                (Line::Grpc(sender, check.clone()), driver)
            }
        };
        Ok(Some(Self { line, driver: Some(driver), progress: progress.clone(), opened }))
    }

    /// Asks once. The connection is driven from here, not by a task: dropping the future, and then the session,
    /// closes it.
    pub async fn ask(&mut self, probe: Probe<'_>) -> Result<Answered, Fault> {
        self.progress.begin();
        let mut exchange = pin!(self.line.exchange(probe, &self.progress));
        if let Some(driver) = &mut self.driver {
            tokio::select! {
                biased;
                answered = &mut exchange => return answered,
                () = driver => self.driver = None,
            }
        }
        // The connection is over, but what was read last is still with the exchange.
        exchange.await
    }

    /// Whether nothing of an answer has come since the last request.
    pub fn is_unanswered(&self) -> bool {
        match self.line {
            Line::Http1(_) => self.progress.received() == 0,
            // Frames that say goodbye are no answer.
            Line::Grpc(..) => self.progress.stage() != Stage::ReadingBody,
        }
    }

    pub fn progress(&self) -> Shared {
        self.progress.clone()
    }

    /// Until when it may be used again, if it may at all.
    pub fn kept_until(&self, time: Duration) -> Option<Instant> {
        let until = self.opened + time;
        (self.driver.is_some() && until > Instant::now()).then_some(until)
    }

    /// Waits for the end of a connection on which nothing is asked.
    pub async fn ended(&mut self) {
        if let Some(driver) = &mut self.driver {
            driver.await;
        }
        self.driver = None;
    }
}

impl Line {
    async fn exchange(&mut self, probe: Probe<'_>, progress: &Progress) -> Result<Answered, Fault> {
        match self {
            Self::Http1(sender) => http1::exchange(sender, probe, progress).await,
            Self::Grpc(sender, check) => grpc::exchange(sender, check, probe, progress).await,
        }
    }
}
