//! Refusals this module makes itself: one format of body, the headers that go with it, and `error_page` first.

use core::fmt::Write;

use nginx_sys as sys;

use super::cf::{ConfError, Directive, Result, set_once};
use super::conf;
use super::request::Request;
use super::sys::DONE;
use crate::policy::Millis;

/// Room for the JSON body, in bytes.
const BODY_SIZE: usize = 192;

/// `reject_format json|problem|html`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    #[default]
    Json,
    Problem,
    Html,
}

#[derive(Default)]
pub struct LocConf {
    format: Option<Format>,
}

impl LocConf {
    pub fn merge(&mut self, prev: &Self) {
        self.format = self.format.or(prev.format);
    }
}

/// Why we refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    RateLimit,
    Unavailable,
    Banned,
}

/// A refusal as the header filter needs to know it.
#[derive(Debug, Clone, Copy)]
pub struct Refusal {
    pub cause: Cause,
    /// Of the response we meant; `error_page` may have turned it into another.
    pub status: u32,
    /// Milliseconds until it is worth trying again.
    pub retry_after: Millis,
}

impl Refusal {
    /// `Retry-After`: whole seconds, never earlier than the truth, at least 1.
    pub fn retry_seconds(&self) -> u64 {
        self.retry_after.div_ceil(1000).max(1)
    }
}

impl Cause {
    fn code(self) -> &'static str {
        match self {
            Self::RateLimit => "RATE_LIMIT_EXCEEDED",
            Self::Unavailable => "SERVICE_UNAVAILABLE",
            Self::Banned => "BANNED",
        }
    }

    fn message(self) -> &'static str {
        match self {
            Self::RateLimit => "Rate limit exceeded. Please try again later.",
            Self::Unavailable => "Service temporarily unavailable. Please try again later.",
            Self::Banned => "Access is blocked for now. Please try again later.",
        }
    }

    /// The IANA problem types of draft-ietf-httpapi-ratelimit-headers; RFC 9457's for what has none.
    fn problem(self) -> (&'static str, &'static str) {
        match self {
            Self::RateLimit => {
                ("https://iana.org/assignments/http-problem-types#quota-exceeded", "Rate limit exceeded")
            }
            Self::Unavailable => (
                "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity",
                "Service temporarily unavailable",
            ),
            Self::Banned => ("about:blank", "Access is blocked for now"),
        }
    }
}

/// `reject_format`
pub fn format(directive: &Directive, conf: &mut conf::LocConf) -> Result {
    let format = match directive.arg() {
        "json" => Format::Json,
        "problem" => Format::Problem,
        "html" => Format::Html,
        other => {
            return Err(ConfError::invalid("reject_format", other, "\"json\", \"problem\" or \"html\""));
        }
    };
    set_once(&mut conf.reject.format, format)
}

/// Refuses the request; the phase handler returns what this returns. An `error_page` for the status wins over
/// the built-in body; the headers stay either way, they are the header filter's.
pub fn refuse(request: &Request, refusal: Refusal) -> sys::ngx_int_t {
    if let Some(ctx) = request.ctx_or_new() {
        ctx.refusal.set(Some(refusal));
    }
    let format = request.loc_conf().reject.format.unwrap_or_default();
    // 444 closes the connection without an answer, as it does for limit_req_status.
    if refusal.status == sys::NGX_HTTP_CLOSE
        || format == Format::Html
        || !request.is_main()
        || request.has_error_page(refusal.status)
    {
        return refusal.status as sys::ngx_int_t;
    }
    let (content_type, body) = body(format, &refusal);
    request.respond(refusal.status, content_type, body.as_bytes());
    DONE
}

fn body(format: Format, refusal: &Refusal) -> (&'static str, String) {
    let seconds = refusal.retry_seconds();
    match format {
        Format::Problem => {
            let (kind, title) = refusal.cause.problem();
            let document = serde_json::json!({
                "type": kind, "title": title, "status": refusal.status,
                "detail": refusal.cause.message(), "retryAfter": seconds,
            });
            ("application/problem+json", document.to_string())
        }
        // Written out, so that the members come in the documented order.
        Format::Json | Format::Html => {
            let (code, message) = (refusal.cause.code(), refusal.cause.message());
            let mut body = String::with_capacity(BODY_SIZE);
            for part in [
                r#"{"success":false,"error":{"code":""#,
                code,
                r#"","message":""#,
                message,
                r#"","retryAfter":"#,
            ] {
                body.push_str(part);
            }
            // Writing to a String does not fail.
            let _ = write!(body, "{seconds}}}}}");
            ("application/json", body)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_body_is_the_documented_one() {
        let refusal = Refusal { cause: Cause::RateLimit, status: 429, retry_after: 59_001 };
        let (content_type, body) = body(Format::Json, &refusal);
        assert_eq!(content_type, "application/json");
        assert_eq!(
            body,
            r#"{"success":false,"error":{"code":"RATE_LIMIT_EXCEEDED","message":"Rate limit exceeded. Please try again later.","retryAfter":60}}"#
        );
    }

    #[test]
    fn a_retry_is_never_announced_too_early_nor_at_once() {
        let after =
            |retry_after| Refusal { cause: Cause::Unavailable, status: 503, retry_after }.retry_seconds();
        assert_eq!([after(0), after(1), after(1000), after(1001)], [1, 1, 1, 2]);
    }
}
