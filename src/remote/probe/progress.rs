//! How far a probe has come, how much a server may say before it answers, and what broke the connection.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::connect::Stream;

/// What a probe is waiting for. Said in the report when the deadline cuts it off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Stage {
    Connecting,
    Securing,
    ReadingHeader,
    ReadingBody,
}

impl Stage {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Securing => "negotiating TLS",
            Self::ReadingHeader => "waiting for the response header",
            Self::ReadingBody => "reading the response body",
        }
    }
}

/// What is known of one exchange on one connection. Atomic only so that the probe may be moved between threads.
#[derive(Debug, Default)]
pub(super) struct Progress {
    stage: AtomicU8,
    received: AtomicUsize,
    broken: Mutex<Option<io::Error>>,
}

impl Progress {
    pub fn enter(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Relaxed);
    }

    pub fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Relaxed) {
            0 => Stage::Connecting,
            1 => Stage::Securing,
            2 => Stage::ReadingHeader,
            _ => Stage::ReadingBody,
        }
    }

    /// A request is about to be sent: what came before is not part of its answer.
    pub fn begin(&self) {
        self.received.store(0, Ordering::Relaxed);
        self.enter(Stage::ReadingHeader);
    }

    /// Bytes that came since [`begin`](Self::begin).
    pub fn received(&self) -> usize {
        self.received.load(Ordering::Relaxed)
    }

    /// What the stream said when it broke: the libraries above it keep less of that, each in its own way.
    pub fn take_broken(&self) -> Option<io::Error> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Keeps `error` and gives one of its kind in its place.
    fn breaks(&self, error: io::Error) -> io::Error {
        let kind = error.kind();
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        io::Error::from(kind)
    }
}

/// Why a [`Metered`] stream was broken from this side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Foul {
    #[error("response header is too large")]
    Header,
    #[error("too much came in place of an answer")]
    Flood,
    #[error("not HTTP/2, the server speaks HTTP/1")]
    Http1,
    #[error("not HTTP/2")]
    NotHttp2,
}

/// How much a [`Metered`] stream lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limit {
    /// So many bytes before the body begins; the body has a limit of its own.
    BeforeBody(usize),
    /// HTTP/2, and so many bytes for each exchange, whatever they are.
    Http2(usize),
}

/// What an answer of HTTP/1 begins with.
const HTTP1: &[u8] = b"HTTP/";

/// A stream that fails when too many bytes come before the answer is complete.
///
/// The HTTP library bounds each header, but not how many interim (1xx) ones it skips, and it skips all that it
/// can read at one go: a flood of them would hold the thread past every deadline. The same goes for HTTP/2's
/// control frames.
pub(super) struct Metered {
    inner: Stream,
    progress: Arc<Progress>,
    limit: Limit,
    opened: bool,
}

impl Metered {
    pub fn new(inner: Stream, progress: Arc<Progress>, limit: Limit) -> Self {
        Self { inner, progress, limit, opened: false }
    }

    /// Why no more may be read.
    fn exhausted(&self) -> Option<Foul> {
        match self.limit {
            Limit::BeforeBody(most) => {
                let counting = self.progress.stage() != Stage::ReadingBody;
                (counting && self.progress.received() >= most).then_some(Foul::Header)
            }
            Limit::Http2(most) => (self.progress.received() >= most).then_some(Foul::Flood),
        }
    }

    /// Counts what came, and looks at the first of it.
    fn note(&mut self, bytes: &[u8]) -> Option<Foul> {
        self.progress.received.fetch_add(bytes.len(), Ordering::Relaxed);
        let first = *bytes.first()?;
        let opened = std::mem::replace(&mut self.opened, true);
        // The length of a frame comes first, and no frame of the length we allow has any other first byte.
        if opened || first == 0 || matches!(self.limit, Limit::BeforeBody(_)) {
            return None;
        }
        let seen = bytes.len().min(HTTP1.len());
        Some(if bytes[..seen] == HTTP1[..seen] { Foul::Http1 } else { Foul::NotHttp2 })
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(foul) = self.exhausted() {
            return Poll::Ready(Err(self.progress.breaks(io::Error::other(foul))));
        }
        let before = buf.filled().len();
        let outcome = match std::task::ready!(Pin::new(&mut self.inner).poll_read(cx, buf)) {
            Ok(()) => self.note(&buf.filled()[before..]).map_or(Ok(()), |foul| Err(io::Error::other(foul))),
            // TLS without a closing alert. Whether the answer is complete is for HTTP to say, as it is for nginx.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
            Err(error) => Err(error),
        };
        Poll::Ready(outcome.map_err(|error| self.progress.breaks(error)))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        written.map_err(|error| self.progress.breaks(error))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        flushed.map_err(|error| self.progress.breaks(error))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
