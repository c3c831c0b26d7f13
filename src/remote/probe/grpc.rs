//! `grpc.health.v1.Health/Check` over HTTP/2, and a bounded reading of what comes back.
//!
//! The protocol: <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>, on
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.

pub(super) mod wire;

use std::future::poll_fn;

use bytes::Bytes;
use h2::RecvStream;
use h2::client::Builder;
use hyper::header::{CONTENT_TYPE, HeaderMap};

use super::FailKind;
use super::connect::Stream;
use super::fault::{Fault, shown};
use super::progress::{Limit, Metered, Progress, Stage};
use super::session::{Answered, Driver, Probe, Shared};
use crate::policy::health::Verdict;

/// Bytes that may be read for one answer, whatever they are: frames, headers, padding.
const MAX_EXCHANGE: usize = 256 * 1024;
/// Bytes of decoded header, and of trailers, that are read.
const MAX_HEADER: u32 = 64 * 1024;
/// Bytes of messages that are read. The one that is wanted has two.
const MAX_MESSAGES: usize = 64 * 1024;

/// What is asked of a gRPC server, and which answer is good.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GrpcCheck {
    /// The service asked for; empty asks for the server as a whole.
    pub service: String,
    /// The gRPC status of a good answer. With 0 the answer must say SERVING, too; any other is good by itself, so
    /// that a server without health checking passes by 12 (UNIMPLEMENTED).
    pub status: u32,
}

pub(super) type Sender = h2::client::SendRequest<Bytes>;

/// Makes a connection of `stream`; the driver must be polled for anything to happen on it.
pub(super) async fn open(stream: Stream, progress: &Shared) -> Result<(Sender, Driver), Fault> {
    let metered = Metered::new(stream, progress.clone(), Limit::Http2(MAX_EXCHANGE));
    let opened = Builder::new().enable_push(false).max_header_list_size(MAX_HEADER).handshake(metered).await;
    let (sender, connection) = opened.map_err(|error| Fault::http2(&error, progress))?;
    // What ended a connection is told by the exchange on it.
    Ok((sender, Box::pin(async { drop(connection.await) })))
}

/// Asks and judges the answer. The caller bounds the time, and drives the connection.
pub(super) async fn exchange(
    sender: &mut Sender,
    check: &GrpcCheck,
    probe: Probe<'_>,
    progress: &Progress,
) -> Result<Answered, Fault> {
    let secure = probe.manner.tls().is_some();
    let message = probe.request.grpc_message(secure).map_err(|error| Fault::Own(error.to_string()))?;
    let broke = |error: h2::Error| Fault::http2(&error, progress);
    poll_fn(|cx| sender.poll_ready(cx)).await.map_err(broke)?;
    let (response, mut body) = sender.send_request(message, false).map_err(broke)?;
    body.send_data(wire::question(&check.service), true).map_err(broke)?;
    let (head, body) = response.await.map_err(broke)?.into_parts();
    progress.enter(Stage::ReadingBody);
    begins_well(head.status.as_u16(), &head.headers)?;
    let whole = Answer::read(body, head.headers).await.map_err(broke)?;
    whole.judge(check)?;
    Ok(Answered { judged: Verdict::Pass.into(), whole: true })
}

/// Whether an answer can be gRPC's at all.
fn begins_well(status: u16, headers: &HeaderMap) -> Result<(), Fault> {
    if status != 200 {
        return Err(unwell(format!("wanted HTTP status 200, got {status}")));
    }
    let kind = headers.get(CONTENT_TYPE).map(|value| value.as_bytes()).unwrap_or_default();
    if !kind.starts_with(b"application/grpc") {
        let kind = shown(&String::from_utf8_lossy(kind));
        return Err(unwell(format!("not a gRPC answer, its content type is \"{kind}\"")));
    }
    Ok(())
}

/// All that came, but for the HTTP status.
struct Answer {
    /// The trailers, or the header if that is all there is.
    closing: HeaderMap,
    /// None if there were more than is read.
    messages: Option<Vec<u8>>,
}

impl Answer {
    async fn read(mut body: RecvStream, headers: HeaderMap) -> Result<Self, h2::Error> {
        let mut messages = Vec::new();
        while let Some(data) = body.data().await {
            let data = data?;
            if messages.len() + data.len() > MAX_MESSAGES {
                return Ok(Self { closing: headers, messages: None });
            }
            messages.extend_from_slice(&data);
            body.flow_control().release_capacity(data.len())?;
        }
        let closing = body.trailers().await?.unwrap_or(headers);
        Ok(Self { closing, messages: Some(messages) })
    }

    fn judge(&self, check: &GrpcCheck) -> Result<(), Fault> {
        let messages = self.messages.as_deref();
        let messages = messages.ok_or_else(|| unwell(format!("more than {MAX_MESSAGES} bytes of answer")))?;
        let status = self.status()?;
        if status != check.status {
            let (wanted, got) = (named(check.status), named(status));
            return Err(unwell(format!("wanted grpc-status {wanted}, got {got}{}", self.message())));
        }
        if status != 0 {
            return Ok(());
        }
        match wire::serving(messages) {
            Ok(wire::SERVING) => Ok(()),
            Ok(other) => Err(unwell(format!("wanted SERVING, got {}", wire::serving_name(other)))),
            Err(error) => Err(unwell(error.to_string())),
        }
    }

    fn status(&self) -> Result<u32, Fault> {
        let value = self.closing.get("grpc-status").ok_or_else(|| unwell("no grpc-status".to_owned()))?;
        let number = value.to_str().ok().and_then(|text| text.parse().ok());
        number.ok_or_else(|| {
            let text = shown(&String::from_utf8_lossy(value.as_bytes()));
            unwell(format!("invalid grpc-status \"{text}\""))
        })
    }

    /// The server's own words, as they came, ready to be put behind others.
    fn message(&self) -> String {
        let words = self.closing.get("grpc-message").filter(|words| !words.is_empty());
        words.map_or_else(String::new, |words| {
            format!(" \"{}\"", shown(&String::from_utf8_lossy(words.as_bytes())))
        })
    }
}

fn unwell(what: String) -> Fault {
    Fault::Peer(FailKind::Grpc, what)
}

/// A status with its name.
fn named(status: u32) -> String {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    let name = usize::try_from(status).ok().and_then(|at| NAMES.get(at));
    name.map_or_else(|| status.to_string(), |name| format!("{status} ({name})"))
}
