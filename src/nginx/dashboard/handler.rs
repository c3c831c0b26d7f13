//! Serving the page.

use nginx_sys as sys;

use super::super::entry::entry;
use super::super::request::Request;
use super::super::sys::{ERROR, header_ready};
use super::page::{Page, content_security_policy};

/// The content handler of a location with `dashboard`.
pub unsafe extern "C" fn content(r: *mut sys::ngx_http_request_t) -> sys::ngx_int_t {
    entry!("the dashboard", sys::NGX_HTTP_INTERNAL_SERVER_ERROR as _, {
        // SAFETY: nginx passes a live request.
        let request = unsafe { Request::from_ptr(r) };
        // SAFETY: as above.
        let method = unsafe { (*r).method } as u32;
        if method & (sys::NGX_HTTP_GET | sys::NGX_HTTP_HEAD) == 0 {
            request.add_header("Allow", "GET, HEAD");
            return sys::NGX_HTTP_NOT_ALLOWED as _;
        }
        match request.loc_conf().dashboard.page() {
            Some(page) => serve(request, page),
            None => sys::NGX_HTTP_NOT_FOUND as _,
        }
    })
}

fn serve(request: &Request, page: &'static Page) -> sys::ngx_int_t {
    // It is asked for again each time and is mostly not sent again: a page of the version before last would read the API of
    // this one. `X-Frame-Options` is for browsers that do not know frame-ancestors.
    let headers = [
        ("Content-Security-Policy", content_security_policy()),
        ("X-Content-Type-Options", "nosniff"),
        ("X-Frame-Options", "DENY"),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Cache-Control", "no-cache"),
    ];
    if !headers.into_iter().all(|(name, value)| request.add_header(name, value)) || !etag(request, &page.etag)
    {
        return ERROR;
    }
    send(request, &page.body)
}

/// `ETag`: the core answers 304 where the client has it already.
fn etag(request: &Request, value: &'static str) -> bool {
    // SAFETY: headers_out of a live request; the pushed element is ours to fill, with texts that outlive the request.
    unsafe {
        let headers = &raw mut (*request.as_ptr()).headers_out;
        let header = sys::ngx_list_push(&raw mut (*headers).headers).cast::<sys::ngx_table_elt_t>();
        if header.is_null() {
            return false;
        }
        (*header).key = borrowed("ETag");
        (*header).value = borrowed(value);
        header_ready(header);
        (*headers).etag = header;
    }
    true
}

fn send(request: &Request, body: &'static str) -> sys::ngx_int_t {
    let r = request.as_ptr();
    let mut content_type = borrowed("text/html");
    // SAFETY: a live request in its content handler; a complex value without lengths is a constant, which the core takes as it
    // is, and its bytes live as long as the configuration, which outlives its requests.
    unsafe {
        (*r).headers_out.charset = borrowed("utf-8");
        let mut value: sys::ngx_http_complex_value_t = core::mem::zeroed();
        value.value = borrowed(body);
        sys::ngx_http_send_response(r, sys::NGX_HTTP_OK as usize, &raw mut content_type, &raw mut value)
    }
}

/// A text in C's hands, as it stands.
fn borrowed(text: &'static str) -> sys::ngx_str_t {
    sys::ngx_str_t { len: text.len(), data: text.as_ptr().cast_mut() }
}
