//! What servers answer to probes, as functions of plain bytes: see `policy::fuzz`.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::grpc::wire;
use super::manner::{Manner, Protocol};
use super::session::{Probe, Session, Shared};
use super::{GrpcCheck, Outcome, Request, Target};
use crate::policy::health::Builder;

/// Longest text of an outcome.
const MOST_TOLD: usize = 2_000;

/// A connection on which a server says what it has to say, in pieces, and then nothing more.
struct Script {
    rest: Vec<u8>,
    /// Bytes of a piece.
    piece: usize,
    /// Whether it breaks the connection in the end.
    resets: bool,
}

impl AsyncRead for Script {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.rest.is_empty() && self.resets {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let length = self.piece.min(into.remaining()).min(self.rest.len());
        let rest = self.rest.split_off(length);
        into.put_slice(&std::mem::replace(&mut self.rest, rest));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Script {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// An answer to an HTTP probe; the first byte says how it comes.
pub fn http_answer(data: &[u8]) {
    answer(data, Protocol::Http);
}

/// An answer to a gRPC probe, likewise, and as a message by itself.
pub fn grpc_answer(data: &[u8]) {
    if let Ok(status) = wire::serving(data) {
        assert!(!wire::serving_name(status).is_empty());
    }
    let service = "health.v1".to_owned();
    answer(data, Protocol::Grpc(GrpcCheck { service, status: 0 }));
}

fn answer(data: &[u8], protocol: Protocol) {
    let Some((how, rest)) = data.split_first() else { return };
    let script = Script {
        rest: rest.to_vec(),
        piece: [1, 2, 7, 1_500, 65_536][usize::from(how % 5)],
        resets: how & 0x80 != 0,
    };
    let mut block = Builder::new("t");
    for (directive, args) in [("status", &["200-299"][..]), ("json", &["$.status", "=", "\"ok\""])] {
        block.line(directive, args).unwrap_or_else(|error| panic!("{error}"));
    }
    let request = Request {
        ticket: 0,
        target: Target::Unix("none".into()),
        host: "backend".to_owned(),
        method: "GET".to_owned(),
        uri: "/health".to_owned(),
        headers: Vec::new(),
        timeout: Duration::from_secs(1),
        expect: Arc::new(block.finish().unwrap_or_default()),
        body_limit: 256,
        tells_head: true,
    };
    let manner = Manner::new(protocol, None, Duration::ZERO).unwrap_or_else(|error| panic!("{error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let asked = async {
        let progress = Shared::default();
        let probe = Probe { request: &request, manner: &manner };
        let Some(mut session) = Session::over(Box::new(script), probe, &progress).await? else {
            return Ok(None);
        };
        session.ask(probe).await.map(Some)
    };
    let limited = async { tokio::time::timeout(Duration::from_secs(20), asked).await };
    let ended = runtime.unwrap_or_else(|error| panic!("{error}")).block_on(limited);
    // Everything there is to read was there at once.
    let outcome = match ended.unwrap_or_else(|_| panic!("the probe hangs")) {
        Ok(answered) => answered.map_or(Outcome::Pass, |answered| answered.judged.verdict.into()),
        Err(fault) => fault.into(),
    };
    if let Outcome::Degraded(told) | Outcome::Unknown(told) | Outcome::Fail { detail: told, .. } = &outcome {
        assert!(told.len() <= MOST_TOLD && !told.chars().any(char::is_control), "{told:?}");
    }
    assert!(!matches!(outcome, Outcome::Unknown(_)), "{outcome:?}: nothing is wrong on this side");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fuzz::smoke;

    #[test]
    fn no_answer_is_too_strange() {
        smoke("http_answer", http_answer);
        smoke("grpc_answer", grpc_answer);
    }
}
