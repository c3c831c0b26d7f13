//! What a probe asks, and how the question is put.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::Method;
use hyper::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue};
use hyper::http::uri::{Authority, PathAndQuery, Scheme, Uri};

use super::Target;
use super::manner::{Manner, Protocol};
use crate::policy::health::Match;

/// A header's name and value.
type Line = (&'static str, &'static str);

/// Headers every HTTP probe sends unless the configuration says otherwise. A body that arrives encoded could not
/// be judged, so none is asked for.
const HTTP: &[Line] = &[
    ("user-agent", "sluice health check"),
    ("accept", "application/json, */*;q=0.8"),
    ("accept-encoding", "identity"),
];
/// The same of gRPC.
const GRPC: &[Line] = &[("user-agent", "sluice health check"), ("grpc-accept-encoding", "identity")];

/// Headers that say how the message is framed or what becomes of the connection: the probe's business alone.
const OURS: [&str; 8] =
    ["connection", "content-length", "expect", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];
/// More of these for gRPC.
const OURS_IN_GRPC: [&str; 3] = ["content-type", "grpc-encoding", "grpc-timeout"];

/// Whether a header that is meant for requests of clients can go with probes too: it is valid, and neither frames the message
/// nor says what comes back how.
pub fn may_send(name: &str, value: &str) -> bool {
    let valid = HeaderName::from_bytes(name.as_bytes())
        .is_ok_and(|name| !OURS.iter().chain(&OURS_IN_GRPC).any(|ours| *ours == name.as_str()));
    valid && HeaderValue::from_str(value).is_ok() && !name.eq_ignore_ascii_case("accept-encoding")
}

/// The method that every gRPC server with health checking has.
const CHECK: &str = "/grpc.health.v1.Health/Check";
/// The longest time that `grpc-timeout` can say in milliseconds: eight digits.
const MAX_TIMEOUT: u128 = 99_999_999;

/// One probe to make.
#[derive(Debug, Clone)]
pub struct Request {
    /// The caller's, returned in the report.
    pub ticket: u64,
    pub target: Target,
    /// The `Host` header, and its like in HTTP/2.
    pub host: String,
    pub method: String,
    /// In origin form: `/health?from=gateway`.
    pub uri: String,
    /// More headers. One of the same name replaces a default, an empty value removes it.
    pub headers: Vec<(String, String)>,
    /// For the whole probe: connecting, TLS, the answer and its body.
    pub timeout: Duration,
    pub expect: Arc<Match>,
    /// Bytes of the body that are read and looked at.
    pub body_limit: usize,
    /// Whether the report is to tell status and headers of an HTTP answer.
    pub tells_head: bool,
}

/// A request that cannot be sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("invalid method \"{0}\"")]
    Method(String),
    #[error("invalid uri \"{0}\", expected a path")]
    Uri(String),
    #[error("invalid host \"{0}\"")]
    Host(String),
    #[error("invalid header name \"{0}\"")]
    HeaderName(String),
    #[error("invalid value of header \"{0}\"")]
    HeaderValue(String),
    #[error("header \"{0}\" cannot be set, the health check sets it itself")]
    HeaderReserved(String),
}

impl Request {
    /// Whether the request can be sent over HTTP/1.1, for the reader of the configuration to ask once.
    ///
    /// # Errors
    /// A method, URI, host or header that HTTP does not allow, or a header that frames the message.
    pub fn validate(&self) -> Result<(), RequestError> {
        self.message(false).map(drop)
    }

    /// Whether the request can be sent in that manner.
    ///
    /// # Errors
    /// As of [`validate`](Self::validate), as far as the protocol uses what is wrong.
    pub fn validate_for(&self, manner: &Manner) -> Result<(), RequestError> {
        match manner.protocol() {
            Protocol::Http => self.validate(),
            Protocol::Tcp => Ok(()),
            Protocol::Grpc(_) => self.grpc_message(manner.tls().is_some()).map(drop),
        }
    }

    /// The request over HTTP/1.1, after which the connection may be kept.
    pub(super) fn message(&self, keep: bool) -> Result<hyper::Request<Empty<Bytes>>, RequestError> {
        let method =
            Method::from_bytes(self.method.as_bytes()).ok().filter(|method| *method != Method::CONNECT);
        let method = method.ok_or_else(|| RequestError::Method(self.method.clone()))?;
        let uri = self.uri.parse::<Uri>().ok().filter(|_| self.uri.starts_with('/'));
        let uri = uri.ok_or_else(|| RequestError::Uri(self.uri.clone()))?;
        let mut message = hyper::Request::new(Empty::new());
        let headers = message.headers_mut();
        headers.insert(HOST, self.host_header()?);
        self.fill(headers, HTTP, &[])?;
        // Servers refuse these with 411 if nobody says that there is no body (RFC 9110, 8.6).
        if matches!(method, Method::POST | Method::PUT | Method::PATCH) {
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        if !keep {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        *message.method_mut() = method;
        *message.uri_mut() = uri;
        Ok(message)
    }

    /// The head of a gRPC health check; its body is the protocol's.
    pub(super) fn grpc_message(&self, secure: bool) -> Result<hyper::Request<()>, RequestError> {
        let mut message = hyper::Request::new(());
        let headers = message.headers_mut();
        headers.insert(HOST, self.host_header()?);
        self.fill(headers, GRPC, &OURS_IN_GRPC)?;
        // HTTP/2 has a place of its own for the host.
        let host = headers.remove(HOST).ok_or_else(|| RequestError::Host(String::new()))?;
        let timeout = self.timeout.as_millis().clamp(1, MAX_TIMEOUT);
        let timeout = HeaderValue::from_str(&format!("{timeout}m"));
        headers.extend(timeout.ok().map(|timeout| (HeaderName::from_static("grpc-timeout"), timeout)));
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        headers.insert("te", HeaderValue::from_static("trailers"));
        let invalid = || RequestError::Host(String::from_utf8_lossy(host.as_bytes()).into_owned());
        let authority = Authority::try_from(host.as_bytes()).map_err(|_| invalid())?;
        let mut parts = hyper::http::uri::Parts::default();
        parts.scheme = Some(if secure { Scheme::HTTPS } else { Scheme::HTTP });
        parts.authority = Some(authority);
        parts.path_and_query = Some(PathAndQuery::from_static(CHECK));
        *message.method_mut() = Method::POST;
        *message.uri_mut() = Uri::from_parts(parts).map_err(|_| invalid())?;
        Ok(message)
    }

    fn host_header(&self) -> Result<HeaderValue, RequestError> {
        HeaderValue::from_str(&self.host).map_err(|_| RequestError::Host(self.host.clone()))
    }

    /// Puts in the defaults, and over them what the configuration says.
    fn fill(&self, map: &mut HeaderMap, defaults: &[Line], reserved: &[&str]) -> Result<(), RequestError> {
        for (name, value) in defaults {
            map.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let mut own: Vec<HeaderName> = Vec::new();
        for (text, value) in &self.headers {
            let name = HeaderName::from_bytes(text.as_bytes())
                .map_err(|_| RequestError::HeaderName(text.clone()))?;
            if OURS.contains(&name.as_str()) || reserved.contains(&name.as_str()) {
                return Err(RequestError::HeaderReserved(text.clone()));
            }
            let value = HeaderValue::from_str(value).map_err(|_| RequestError::HeaderValue(text.clone()))?;
            // The first of its name replaces a default, further ones stand beside it.
            if !own.contains(&name) {
                map.remove(&name);
                own.push(name.clone());
            }
            if !value.is_empty() {
                map.append(name, value);
            }
        }
        Ok(())
    }
}
