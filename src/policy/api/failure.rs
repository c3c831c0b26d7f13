//! Why a call failed, and how NGINX Plus says it.

use std::borrow::Cow;

use serde_json::{Value, json};

/// Where the codes are explained.
const HREF: &str = "https://nginx.org/en/docs/http/ngx_http_api_module.html";

/// A call that failed: the status, a code for programs, a text for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub status: u16,
    pub code: &'static str,
    pub text: Cow<'static, str>,
    /// For 405: the methods the resource has.
    pub allow: Option<&'static str>,
}

impl Failure {
    pub fn new(status: u16, code: &'static str, text: impl Into<Cow<'static, str>>) -> Self {
        Self { status, code, text: text.into(), allow: None }
    }

    /// 404: `what` ("upstream") is not there. `code` is Plus's name for that ("UpstreamNotFound").
    pub fn not_found(code: &'static str, what: &str) -> Self {
        Self::new(404, code, format!("{what} not found"))
    }

    /// 404: no such resource.
    pub fn no_path() -> Self {
        Self::not_found("PathNotFound", "path")
    }

    /// 404: no such version.
    pub fn no_version() -> Self {
        Self::new(404, "UnknownVersion", "unknown version")
    }

    /// 405: the resource, or this API as it is configured, only knows the methods of `allow` ("GET, HEAD").
    pub fn method(allow: &'static str) -> Self {
        Self { allow: Some(allow), ..Self::new(405, "MethodDisabled", "method disabled") }
    }

    /// 400: what the body says is not what is taken.
    pub fn format(code: &'static str, text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(400, code, text)
    }

    /// 500: our fault or the machine's.
    pub fn internal(text: &'static str) -> Self {
        Self::new(500, "InternalError", text)
    }

    /// The body.
    pub fn document(&self, request_id: &str) -> Value {
        json!({
            "error": { "status": self.status, "text": self.text, "code": self.code },
            "request_id": request_id,
            "href": HREF,
        })
    }
}
