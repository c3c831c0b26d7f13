//! How far a probe has come, and how much a server may say before it answers.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What a probe is waiting for. Said in the report when the deadline cuts it off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Stage {
    Connecting,
    ReadingHeader,
    ReadingBody,
}

impl Stage {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::ReadingHeader => "waiting for the response header",
            Self::ReadingBody => "reading the response body",
        }
    }
}

/// The stage of one probe. Atomic only so that the probe may be moved between threads.
#[derive(Debug, Default)]
pub(super) struct Progress(AtomicU8);

impl Progress {
    pub fn enter(&self, stage: Stage) {
        self.0.store(stage as u8, Ordering::Relaxed);
    }

    pub fn stage(&self) -> Stage {
        match self.0.load(Ordering::Relaxed) {
            0 => Stage::Connecting,
            1 => Stage::ReadingHeader,
            _ => Stage::ReadingBody,
        }
    }
}

/// The error of a [`Metered`] stream whose server sent too much before its answer.
#[derive(Debug, thiserror::Error)]
#[error("too much before the answer")]
pub(super) struct Flood;

/// A stream that fails when too many bytes come before the answer's header is complete.
///
/// The HTTP library bounds each header, but not how many interim (1xx) ones it skips, and it skips all that it
/// can read at one go: a flood of them would hold the thread past every deadline.
#[derive(Debug)]
pub(super) struct Metered<'a, S> {
    inner: S,
    progress: &'a Progress,
    left: usize,
}

impl<'a, S> Metered<'a, S> {
    pub fn new(inner: S, progress: &'a Progress, limit: usize) -> Self {
        Self { inner, progress, left: limit }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<'_, S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let counting = self.progress.stage() != Stage::ReadingBody;
        if counting && self.left == 0 {
            return Poll::Ready(Err(io::Error::other(Flood)));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        if counting {
            self.left = self.left.saturating_sub(buf.filled().len() - before);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
