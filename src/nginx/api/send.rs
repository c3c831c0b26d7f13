//! Sending an answer.

use core::ptr::null_mut;

use nginx_sys as sys;

use super::super::content;
use super::super::request::Request;
use super::super::sys::{ERROR, OK};
use super::{Answer, Outcome};
use crate::policy::api::{Failure, text};

const JSON: &str = "application/json";

/// Sends what became of a call; what this returns is for the core. Not for [`Answer::Later`].
pub fn outcome(request: &Request, outcome: Outcome) -> sys::ngx_int_t {
    match outcome {
        Ok(Answer::Document(status, bytes)) => document(request, status, bytes),
        Ok(Answer::Nothing) => document(request, 204, Vec::new()),
        Ok(Answer::Later) => ERROR,
        Err(failure) => refuse(request, &failure),
    }
}

fn refuse(request: &Request, failure: &Failure) -> sys::ngx_int_t {
    if let Some(allow) = failure.allow
        && !request.add_header("Allow", allow)
    {
        return ERROR;
    }
    let body = failure.document(&request_id(request)).to_string();
    document(request, failure.status, body.into_bytes())
}

/// `$request_id`
fn request_id(request: &Request) -> String {
    const NAME: &str = "request_id";
    let mut name = sys::ngx_str_t { len: NAME.len(), data: NAME.as_ptr().cast_mut() };
    // SAFETY: a live request; the name is hashed as the core hashes names that are in lower case, and only read. A variable
    // that is found has its text in the request's pool.
    unsafe {
        let key =
            NAME.bytes().fold(0_usize, |key, byte| key.wrapping_mul(31).wrapping_add(usize::from(byte)));
        match sys::ngx_http_get_variable(request.as_ptr(), &raw mut name, key).as_ref() {
            Some(value) if value.not_found() == 0 && !value.data.is_null() => {
                text(core::slice::from_raw_parts(value.data, value.len() as usize))
            }
            _ => String::new(),
        }
    }
}

fn document(request: &Request, status: u16, body: Vec<u8>) -> sys::ngx_int_t {
    let r = request.as_ptr();
    // What changes all the time, and names what runs here, is nobody's to keep or to guess the kind of.
    if !request.add_header("Cache-Control", "no-store")
        || !request.add_header("X-Content-Type-Options", "nosniff")
    {
        return ERROR;
    }
    // SAFETY: a live request whose header has not been sent.
    unsafe {
        let headers = &mut (*r).headers_out;
        headers.status = usize::from(status);
        headers.content_type = sys::ngx_str_t { len: JSON.len(), data: JSON.as_ptr().cast_mut() };
        headers.content_type_len = JSON.len();
        headers.content_type_lowcase = null_mut();
        headers.content_length_n = body.len() as sys::off_t;
        let rc = sys::ngx_http_send_header(r);
        if rc == ERROR || rc > OK || (*r).header_only() != 0 {
            return rc;
        }
        let Some(mut link) = content::kept(request, body) else { return ERROR };
        sys::ngx_http_output_filter(r, &raw mut link)
    }
}
