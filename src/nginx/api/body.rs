//! Reading a body: JSON only, and only as much as `client_body_buffer_size` holds, as in NGINX Plus.

use nginx_sys as sys;
use serde_json::Value;

use super::super::request::Request;
use crate::policy::api::{Failure, is_json};

impl Request {
    /// The first header of the client by this name.
    pub(super) fn header_in(&self, name: &str) -> Option<&[u8]> {
        self.headers_in().find(|(key, _)| key.eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value)
    }
}

fn too_large() -> Failure {
    Failure::new(413, "RequestEntityTooLarge", "request body is larger than client_body_buffer_size")
}

/// What is known of a body before it is read. `Ok` says whether there is one.
pub fn expected(request: &Request) -> Result<bool, Failure> {
    // SAFETY: a live request, its header read.
    let (length, chunked) = unsafe {
        let headers = &(*request.as_ptr()).headers_in;
        (headers.content_length_n, headers.chunked() != 0)
    };
    let there = length > 0 || chunked;
    match request.header_in("content-type") {
        Some(kind) if !is_json(kind) => return Err(not_json()),
        None if there => return Err(not_json()),
        _ => {}
    }
    if usize::try_from(length).is_ok_and(|length| length > request.core_loc_conf().client_body_buffer_size) {
        return Err(too_large());
    }
    Ok(there)
}

fn not_json() -> Failure {
    Failure::new(415, "UnsupportedMediaType", "request body must be application/json")
}

/// The document in a body that has been read; `None` if the body is empty.
pub fn document(request: &Request) -> Result<Option<Value>, Failure> {
    let bytes = bytes(request)?;
    if bytes.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        // Where it stopped, and nothing of what stood there.
        let at = format!("line {} column {}", error.line(), error.column());
        Failure::new(415, "JsonError", format!("request body is not JSON, {at}"))
    })
}

fn bytes(request: &Request) -> Result<Vec<u8>, Failure> {
    let mut out = Vec::new();
    // SAFETY: a live request; request_body is NULL or what the core read: a chain of buffers, each in memory or in a file.
    unsafe {
        let Some(body) = (*request.as_ptr()).request_body.as_ref() else { return Ok(out) };
        let mut link = body.bufs;
        while let Some(one) = link.as_ref() {
            let buf = &*one.buf;
            if buf.in_file() != 0 {
                return Err(too_large());
            }
            if !buf.pos.is_null() && buf.last > buf.pos {
                let length = buf.last.offset_from(buf.pos).cast_unsigned();
                out.extend_from_slice(core::slice::from_raw_parts(buf.pos, length));
            }
            link = one.next;
        }
    }
    Ok(out)
}

/// Does without the body: no "100 Continue" is sent, and a connection whose client waits for one is not used again, because
/// what comes next on it might be the body or not. `Err` is what the content handler must return.
pub fn discard(request: &Request) -> Result<(), sys::ngx_int_t> {
    let r = request.as_ptr();
    // SAFETY: a live request.
    unsafe {
        if !(*r).headers_in.expect.is_null() && (*r).expect_tested() == 0 {
            (*r).set_expect_tested(1);
            (*r).set_keepalive(0);
        }
        match sys::ngx_http_discard_request_body(r) {
            super::super::sys::OK => Ok(()),
            rc => Err(rc),
        }
    }
}
