//! What a probe asks, and how the question is put.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::Method;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};

use super::Target;
use crate::policy::health::Match;

/// Headers every probe sends unless the configuration says otherwise. A body that arrives encoded could not be
/// judged, so none is asked for.
const DEFAULTS: [(&str, &str); 3] = [
    ("user-agent", "sluice health check"),
    ("accept", "application/json, */*;q=0.8"),
    ("accept-encoding", "identity"),
];

/// Headers that say how the message is framed or what becomes of the connection: the probe's business alone.
const OURS: [&str; 8] =
    ["connection", "content-length", "expect", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];

/// One probe to make.
#[derive(Debug, Clone)]
pub struct Request {
    /// The caller's, returned in the report.
    pub ticket: u64,
    pub target: Target,
    /// The `Host` header.
    pub host: String,
    pub method: String,
    /// In origin form: `/health?from=gateway`.
    pub uri: String,
    /// More headers. One of the same name replaces a default, an empty value removes it.
    pub headers: Vec<(String, String)>,
    /// For the whole probe: connecting, the answer and its body.
    pub timeout: Duration,
    pub expect: Arc<Match>,
    /// Bytes of the body that are read and looked at.
    pub body_limit: usize,
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
    /// Whether the request can be sent, for the reader of the configuration to ask once.
    ///
    /// # Errors
    /// A method, URI, host or header that HTTP does not allow, or a header that frames the message.
    pub fn validate(&self) -> Result<(), RequestError> {
        self.message().map(drop)
    }

    pub(super) fn message(&self) -> Result<hyper::Request<Empty<Bytes>>, RequestError> {
        let method =
            Method::from_bytes(self.method.as_bytes()).ok().filter(|method| *method != Method::CONNECT);
        let method = method.ok_or_else(|| RequestError::Method(self.method.clone()))?;
        let uri = self.uri.parse::<hyper::Uri>().ok().filter(|_| self.uri.starts_with('/'));
        let uri = uri.ok_or_else(|| RequestError::Uri(self.uri.clone()))?;
        let mut message = hyper::Request::new(Empty::new());
        *message.headers_mut() = self.header_map()?;
        *message.method_mut() = method;
        *message.uri_mut() = uri;
        Ok(message)
    }

    fn header_map(&self) -> Result<HeaderMap, RequestError> {
        let mut map = HeaderMap::new();
        let host = HeaderValue::from_str(&self.host).map_err(|_| RequestError::Host(self.host.clone()))?;
        map.insert(hyper::header::HOST, host);
        for (name, value) in DEFAULTS {
            map.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        map.insert(hyper::header::CONNECTION, HeaderValue::from_static("close"));
        let mut own: Vec<HeaderName> = Vec::new();
        for (text, value) in &self.headers {
            let name = HeaderName::from_bytes(text.as_bytes())
                .map_err(|_| RequestError::HeaderName(text.clone()))?;
            if OURS.contains(&name.as_str()) {
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
        Ok(map)
    }
}
