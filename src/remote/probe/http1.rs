//! One HTTP/1.1 request over an open connection, and a bounded reading of what comes back.
//!
//! Redirects are answers like any other and are not followed.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::Builder;
use hyper_util::rt::TokioIo;

use super::Head;
use super::connect::Stream;
use super::fault::Fault;
use super::progress::{Limit, Metered, Progress, Stage};
use super::session::{Answered, Driver, Judged, Probe, Shared};
use crate::policy::health::{Answer, Verdict};

/// Bytes of response header that are read, and of trailers.
const MAX_HEADER: usize = 64 * 1024;
/// Bytes that may be read before the header is complete: one full buffer of header, interim answers included, and
/// one of what follows it.
const MAX_BEFORE_BODY: usize = 2 * MAX_HEADER;
/// Lines of response header that are read.
const MAX_HEADER_LINES: usize = 512;

pub(super) type Sender = hyper::client::conn::http1::SendRequest<Empty<Bytes>>;

/// Makes a connection of `stream`; the driver must be polled for anything to happen on it.
pub(super) async fn open(stream: Stream, progress: &Shared) -> Result<(Sender, Driver), Fault> {
    let metered = Metered::new(stream, progress.clone(), Limit::BeforeBody(MAX_BEFORE_BODY));
    let handshake = Builder::new()
        .max_buf_size(MAX_HEADER)
        .max_header_size(MAX_HEADER)
        .max_headers(MAX_HEADER_LINES)
        .title_case_headers(true)
        .handshake(TokioIo::new(metered));
    let (sender, connection) = handshake.await.map_err(|error| Fault::http1(&error, progress))?;
    // What ended a connection is told by the exchange on it.
    Ok((sender, Box::pin(async { drop(connection.await) })))
}

/// Asks and judges the answer. The caller bounds the time, and drives the connection.
pub(super) async fn exchange(
    sender: &mut Sender,
    probe: Probe<'_>,
    progress: &Progress,
) -> Result<Answered, Fault> {
    let Probe { request, manner } = probe;
    let message = request.message(manner.keeps()).map_err(|error| Fault::Own(error.to_string()))?;
    let broke = |error: hyper::Error| Fault::http1(&error, progress);
    sender.ready().await.map_err(broke)?;
    let (head, incoming) = sender.send_request(message).await.map_err(broke)?.into_parts();
    let headers: Vec<(&str, &[u8])> =
        head.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let status = head.status.as_u16();
    let bare = Answer { status, headers: &headers, body: b"", body_complete: false };
    if let Some(reason) = request.expect.judge_head(&bare) {
        return Ok(Answered { judged: Verdict::Fail(reason).into(), whole: false });
    }
    progress.enter(Stage::ReadingBody);
    let (body, whole) = read(incoming, request.body_limit).await.map_err(broke)?;
    let verdict =
        request.expect.judge(&Answer { status, headers: &headers, body: &body, body_complete: whole });
    let told = request.tells_head && !matches!(verdict, Verdict::Fail(_));
    let head = told.then(|| Head {
        status,
        headers: headers.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect(),
    });
    Ok(Answered { judged: Judged { verdict, head }, whole })
}

/// The first `limit` bytes of the body, and whether that is all of it.
///
/// Read even if no line looks at it: a server that cannot finish its answer is not well.
async fn read(mut incoming: Incoming, limit: usize) -> Result<(Vec<u8>, bool), hyper::Error> {
    let mut body = Vec::new();
    while let Some(frame) = incoming.frame().await {
        let frame = frame?;
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
