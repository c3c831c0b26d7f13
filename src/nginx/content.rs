//! Locations that this module answers itself: who handles them, and how an answer leaves.

use core::ffi::c_void;
use core::ptr::null_mut;

use nginx_sys as sys;

use super::cf::{ConfError, Result};
use super::entry::entry;
use super::request::Request;
use super::sys::{ERROR, OK, slot};

/// A content handler.
pub type Handler = unsafe extern "C" fn(*mut sys::ngx_http_request_t) -> sys::ngx_int_t;

/// The core's configuration of the location that is being read or merged.
fn core_loc_conf<'c>(cf: *mut sys::ngx_conf_t) -> &'c mut sys::ngx_http_core_loc_conf_t {
    // SAFETY: nginx passes the parser state of a location to setters and merges; its arrays have a slot for the
    // core. Callers hold one borrow at a time.
    unsafe {
        let ctx = (*cf).ctx.cast::<sys::ngx_http_conf_ctx_t>();
        &mut *(*slot((*ctx).loc_conf, &raw const sys::ngx_http_core_module)).cast()
    }
}

/// Lets `handler` answer the requests of the location that is being read.
pub fn serve(cf: *mut sys::ngx_conf_t, handler: Handler) -> Result {
    let core = core_loc_conf(cf);
    if core.handler.is_some() {
        return Err(ConfError::Other("stands beside another handler of the location".to_owned()));
    }
    core.handler = Some(handler);
    Ok(())
}

/// Lets `handler` answer in an `if` or a `limit_except` too, which are being merged with their location. Whether that
/// is what is being merged.
pub fn inherit(cf: *mut sys::ngx_conf_t, handler: Handler) -> bool {
    let core = core_loc_conf(cf);
    let inside = (core.noname() != 0 || core.lmt_excpt() != 0) && core.handler.is_none();
    if inside {
        core.handler = Some(handler);
    }
    inside
}

/// Refuses a method that reads nothing, and drops a body. `Err` is what the content handler must return.
pub fn reads(request: &Request) -> core::result::Result<(), sys::ngx_int_t> {
    const READS: u32 = sys::NGX_HTTP_GET | sys::NGX_HTTP_HEAD;
    let r = request.as_ptr();
    // SAFETY: a live request in its content handler.
    unsafe {
        if (*r).method as u32 & READS == 0 {
            // Short of memory, the status alone must do.
            let _ = request.set_header("Allow", "GET, HEAD");
            return Err(sys::NGX_HTTP_NOT_ALLOWED as _);
        }
        match sys::ngx_http_discard_request_body(r) {
            OK => Ok(()),
            rc => Err(rc),
        }
    }
}

/// Sends a 200 of this type, whose media type has `media` bytes, with this body. Returns what the
/// content handler must return.
pub fn send(
    request: &Request,
    (content_type, media): (&'static str, usize),
    body: Vec<u8>,
) -> sys::ngx_int_t {
    let r = request.as_ptr();
    // SAFETY: a live request whose header has not been sent.
    unsafe {
        let out = &mut (*r).headers_out;
        out.status = sys::NGX_HTTP_OK as _;
        out.content_type = sys::ngx_str_t { len: content_type.len(), data: content_type.as_ptr().cast_mut() };
        out.content_type_len = media;
        out.content_type_lowcase = null_mut();
        out.content_length_n = body.len() as sys::off_t;
        let rc = sys::ngx_http_send_header(r);
        if rc == ERROR || rc > OK || (*r).header_only() != 0 {
            return rc;
        }
        let Some(mut link) = kept(request, body) else { return ERROR };
        sys::ngx_http_output_filter(r, &raw mut link)
    }
}

/// The bytes as a buffer of the core's, freed when the request ends. The core sends as much at a time as the client takes.
pub fn kept(request: &Request, body: Vec<u8>) -> Option<sys::ngx_chain_t> {
    let r = request.as_ptr();
    // SAFETY: a live request's pool: memory for a buffer, zeroed as ngx_calloc_buf gives it, and a cleanup whose data holds the
    // vector, which is written once and dropped once.
    unsafe {
        let buf = sys::ngx_pcalloc((*r).pool, size_of::<sys::ngx_buf_t>()).cast::<sys::ngx_buf_t>();
        let cleanup = sys::ngx_pool_cleanup_add((*r).pool, size_of::<Vec<u8>>());
        if buf.is_null() || cleanup.is_null() {
            return None;
        }
        let range = body.as_ptr_range();
        (*buf).pos = range.start.cast_mut();
        (*buf).last = range.end.cast_mut();
        (*buf).set_memory(u32::from(!body.is_empty()));
        (*buf).set_last_buf(u32::from(request.is_main()));
        (*buf).set_last_in_chain(1);
        (*cleanup).data.cast::<Vec<u8>>().write(body);
        (*cleanup).handler = Some(drop_body);
        Some(sys::ngx_chain_t { buf, next: null_mut() })
    }
}

unsafe extern "C" fn drop_body(data: *mut c_void) {
    entry!("an answer's end", (), {
        // SAFETY: nginx runs a pool's cleanups once, with the data `kept` filled.
        unsafe { core::ptr::drop_in_place(data.cast::<Vec<u8>>()) }
    });
}
