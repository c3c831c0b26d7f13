//! From a request to an answer.

use nginx_sys as sys;

use super::super::entry::entry;
use super::super::later;
use super::super::request::Request;
use super::super::sys::DONE;
use super::{Answer, Call, Outcome, body, router, send};
use crate::policy::api::{Failure, Method, Prefix, Query, is_foreign, segments};

/// The content handler of a location with `api`.
pub unsafe extern "C" fn content(r: *mut sys::ngx_http_request_t) -> sys::ngx_int_t {
    entry!("the API", sys::NGX_HTTP_INTERNAL_SERVER_ERROR as _, {
        // SAFETY: nginx passes a live request.
        let request = unsafe { Request::from_ptr(r) };
        let method = method(request);
        let body = permitted(request, method).and_then(|()| match method.has_body() {
            true => body::expected(request),
            false => Ok(false),
        });
        match body {
            Ok(true) => read(request),
            Ok(false) => discarding(request, || answer(request, method, None)),
            Err(failure) => discarding(request, || Err(failure)),
        }
    })
}

/// The body is not wanted.
fn discarding(request: &Request, outcome: impl FnOnce() -> Outcome) -> sys::ngx_int_t {
    if let Err(rc) = body::discard(request) {
        return rc;
    }
    match outcome() {
        Ok(Answer::Later) => {
            later::hold(request);
            DONE
        }
        outcome => send::outcome(request, outcome),
    }
}

/// The body first; then `received`.
fn read(request: &Request) -> sys::ngx_int_t {
    let r = request.as_ptr();
    // SAFETY: a live request in its content handler.
    unsafe {
        // In memory, whatever `client_body_in_file_only` says.
        (*r).set_request_body_in_file_only(0);
        (*r).set_request_body_in_single_buf(1);
        match sys::ngx_http_read_client_request_body(r, Some(received)) {
            rc if rc >= sys::NGX_HTTP_SPECIAL_RESPONSE as sys::ngx_int_t => rc,
            _ => DONE,
        }
    }
}

/// The body is there. Reading it has counted the request up, so that it ends here or, for a later answer, there.
unsafe extern "C" fn received(r: *mut sys::ngx_http_request_t) {
    let rc = entry!("the API", Some(sys::NGX_HTTP_INTERNAL_SERVER_ERROR as _), {
        // SAFETY: nginx passes a live request.
        let request = unsafe { Request::from_ptr(r) };
        let outcome = body::document(request).and_then(|body| answer(request, method(request), body));
        match outcome {
            Ok(Answer::Later) => {
                request.sleep();
                None
            }
            outcome => Some(send::outcome(request, outcome)),
        }
    });
    if let Some(rc) = rc {
        // SAFETY: as above; nobody touches the request after.
        unsafe { sys::ngx_http_finalize_request(r, rc) };
    }
}

fn method(request: &Request) -> Method {
    // SAFETY: a live request.
    match unsafe { (*request.as_ptr()).method } as u32 {
        sys::NGX_HTTP_GET | sys::NGX_HTTP_HEAD => Method::Get,
        sys::NGX_HTTP_POST => Method::Post,
        sys::NGX_HTTP_PATCH => Method::Patch,
        sys::NGX_HTTP_DELETE => Method::Delete,
        _ => Method::Other,
    }
}

/// Whether the method may be used here at all: before anything is looked up, so that a client learns of it by asking for
/// something that is not there.
fn permitted(request: &Request, method: Method) -> Result<(), Failure> {
    if method.is_safe() {
        return Ok(());
    }
    if !request.loc_conf().api.may_write() || !request.is_main() {
        return Err(Failure::method("GET, HEAD"));
    }
    let header = |name| request.header_in(name);
    if is_foreign(header("sec-fetch-site"), header("origin"), header("host")) {
        return Err(Failure::new(403, "ForeignOrigin", "a page of another origin may not write"));
    }
    Ok(())
}

fn answer(request: &Request, method: Method, body: Option<serde_json::Value>) -> Outcome {
    let r = request.as_ptr();
    // SAFETY: a live request, whose texts live in its pool or in the client's buffer.
    let (uri, raw, args) =
        unsafe { ((*r).uri.as_bytes(), (*r).unparsed_uri.as_bytes(), (*r).args.as_bytes()) };
    let path = segments(uri, raw, prefix(request)).ok_or_else(Failure::no_path)?;
    router::versioned(Call { method, path, query: Query::new(args), body, request })
}

fn prefix(request: &Request) -> Prefix<'_> {
    let core = request.core_loc_conf();
    if core.named() != 0 || !core.regex.is_null() {
        return Prefix::Unknown;
    }
    Prefix::Text(core.name.as_bytes())
}
