//! One HTTP/1.1 request over a fresh connection, and a bounded reading of what comes back.
//!
//! Redirects are answers like any other and are not followed. The connection is not used again.

use std::pin::pin;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Request;
use super::fault::Fault;
use super::progress::{Metered, Progress, Stage};
use crate::policy::health::{Answer, Verdict};

/// Bytes of response header that are read, and of trailers.
const MAX_HEADER: usize = 64 * 1024;
/// Bytes that may be read before the header is complete: one full buffer of header, interim answers included, and
/// one of what follows it.
const MAX_BEFORE_BODY: usize = 2 * MAX_HEADER;
/// Lines of response header that are read.
const MAX_HEADER_LINES: usize = 512;

/// Asks over `stream` and judges the answer. The caller bounds the time.
pub(super) async fn probe<S>(stream: S, request: &Request, progress: &Progress) -> Result<Verdict, Fault>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    progress.enter(Stage::ReadingHeader);
    let handshake = Builder::new()
        .max_buf_size(MAX_HEADER)
        .max_header_size(MAX_HEADER)
        .max_headers(MAX_HEADER_LINES)
        .title_case_headers(true)
        .handshake(TokioIo::new(Metered::new(stream, progress, MAX_BEFORE_BODY)));
    let (sender, connection) = handshake.await.map_err(|error| Fault::exchange(&error))?;
    let mut connection = pin!(connection);
    let mut exchange = pin!(exchange(sender, request, progress));
    // The connection is driven from here, not by a task: dropping the probe closes it.
    tokio::select! {
        biased;
        verdict = &mut exchange => verdict,
        // Once it is over, what it read last is still with the exchange.
        _ = &mut connection => exchange.await,
    }
}

async fn exchange(
    mut sender: SendRequest<Empty<Bytes>>,
    request: &Request,
    progress: &Progress,
) -> Result<Verdict, Fault> {
    let message = request.message().map_err(|error| Fault::Own(error.to_string()))?;
    let response = sender.send_request(message).await.map_err(|error| Fault::exchange(&error))?;
    let (head, incoming) = response.into_parts();
    let headers: Vec<(&str, &[u8])> =
        head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let status = head.status.as_u16();
    let bare = Answer { status, headers: &headers, body: b"", body_complete: false };
    if let Some(reason) = request.expect.judge_head(&bare) {
        return Ok(Verdict::Fail(reason));
    }
    progress.enter(Stage::ReadingBody);
    let (body, body_complete) = read(incoming, request.body_limit).await?;
    Ok(request.expect.judge(&Answer { status, headers: &headers, body: &body, body_complete }))
}

/// The first `limit` bytes of the body, and whether that is all of it.
///
/// Read even if no line looks at it: a server that cannot finish its answer is not well.
async fn read(mut incoming: Incoming, limit: usize) -> Result<(Vec<u8>, bool), Fault> {
    let mut body = Vec::new();
    while let Some(frame) = incoming.frame().await {
        let frame = frame.map_err(|error| Fault::exchange(&error))?;
        let Some(data) = frame.data_ref() else { continue };
        let room = limit - body.len();
        if data.len() > room {
            body.extend_from_slice(&data[..room]);
            return Ok((body, false));
        }
        body.extend_from_slice(data);
    }
    Ok((body, true))
}
