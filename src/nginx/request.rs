//! A request as the rest of the glue sees it: pool, context, headers, sleeping and waking.

use core::cell::UnsafeCell;
use core::ptr::null_mut;

use nginx_sys as sys;

use super::conf::{LocConf, MainConf};
use super::module::main_module;
use super::sys::{ERROR, header_ready, slot};

/// A live request. Borrowed from nginx for one call; never kept. A cell, because nginx writes to it all the time,
/// and so do we, through its pointer.
#[repr(transparent)]
pub struct Request(UnsafeCell<sys::ngx_http_request_t>);

impl Request {
    /// # Safety
    /// `r` must be the request nginx passed to the running callback.
    pub unsafe fn from_ptr<'r>(r: *mut sys::ngx_http_request_t) -> &'r Self {
        // SAFETY: transparent wrapper; the caller vouches for `r`.
        unsafe { &*r.cast() }
    }

    /// The C request.
    pub fn as_ptr(&self) -> *mut sys::ngx_http_request_t {
        self.0.get()
    }

    /// Whether this is the client's request and not a subrequest of it.
    pub fn is_main(&self) -> bool {
        // SAFETY: a live request; see `from_ptr`.
        unsafe { core::ptr::eq((*self.as_ptr()).main, self.as_ptr()) }
    }

    /// Whether its method promises to change nothing: GET, HEAD or OPTIONS.
    pub fn is_safe(&self) -> bool {
        const SAFE: u32 = sys::NGX_HTTP_GET | sys::NGX_HTTP_HEAD | sys::NGX_HTTP_OPTIONS;
        // SAFETY: a live request; see `from_ptr`.
        unsafe { (*self.as_ptr()).method as u32 & SAFE != 0 }
    }

    /// Whether the client has announced a body.
    pub fn has_body(&self) -> bool {
        // SAFETY: a live request; see `from_ptr`.
        unsafe {
            let headers = &(*self.as_ptr()).headers_in;
            headers.content_length_n > 0 || headers.chunked() != 0
        }
    }

    /// The client's request that this one serves; itself, if it is no subrequest.
    pub fn main(&self) -> &Self {
        // SAFETY: a request's main request outlives it.
        unsafe { Self::from_ptr((*self.as_ptr()).main) }
    }

    /// The connection's log, which adds client, server and request to each line.
    pub fn log(&self, level: super::log::Level, message: core::fmt::Arguments<'_>) {
        // SAFETY: a live request has a connection with a log.
        unsafe { super::log::write(level, (*(*self.as_ptr()).connection).log, message) }
    }

    /// Our http-level configuration.
    pub fn main_conf(&self) -> &'static MainConf {
        // SAFETY: nginx gives each request the arrays of its cycle; our slot holds what create_main_conf
        // made, alive as long as the cycle, which outlives its requests.
        unsafe { &*(*slot((*self.as_ptr()).main_conf, main_module())).cast() }
    }

    /// Our location-level configuration.
    pub fn loc_conf(&self) -> &'static LocConf {
        // SAFETY: as in `main_conf`.
        unsafe { &*(*slot((*self.as_ptr()).loc_conf, main_module())).cast() }
    }

    /// The core's location configuration.
    pub fn core_loc_conf(&self) -> &sys::ngx_http_core_loc_conf_t {
        // SAFETY: as in `main_conf`, for the core module.
        unsafe { &*(*slot((*self.as_ptr()).loc_conf, &raw const sys::ngx_http_core_module)).cast() }
    }

    /// Copies bytes into the request's pool.
    pub fn copy(&self, bytes: &[u8]) -> Option<sys::ngx_str_t> {
        // SAFETY: the pool of a live request.
        unsafe { sys::ngx_str_t::from_bytes((*self.as_ptr()).pool, bytes) }
    }

    /// The context of this very request, if it has one. It survives internal redirects, which clear
    /// nginx's own table of contexts: then it is found again among the pool's cleanups.
    pub fn ctx(&self) -> Option<&super::context::Context> {
        // SAFETY: our slot holds either NULL or the context `ctx_or_new` put there, which lives in the
        // request's pool; contexts are only handed out as shared references (their fields are cells).
        unsafe {
            let direct = (*slot((*self.as_ptr()).ctx, main_module())).cast::<super::context::Context>();
            if !direct.is_null() {
                return Some(&*direct);
            }
            if (*self.as_ptr()).internal() == 0 && (*self.as_ptr()).filter_finalize() == 0 {
                return None;
            }
            let found = super::context::find(self)?;
            *slot((*self.as_ptr()).ctx, main_module()) = core::ptr::from_ref(found).cast_mut().cast();
            Some(found)
        }
    }

    /// The context, made on first use. `None` when memory is short.
    pub fn ctx_or_new(&self) -> Option<&super::context::Context> {
        if let Some(ctx) = self.ctx() {
            return Some(ctx);
        }
        let made = super::context::create(self)?;
        // SAFETY: as in `ctx`.
        unsafe { *slot((*self.as_ptr()).ctx, main_module()) = core::ptr::from_ref(made).cast_mut().cast() };
        Some(made)
    }

    /// Sets a response header, in place of what an upstream said of the same name: the client is told of one limit,
    /// ours, not of two. The value is copied. False when memory is short.
    pub fn set_header(&self, name: &'static str, value: &str) -> bool {
        self.drop_headers(name);
        self.add_header(name, value)
    }

    /// Adds a response header. The value is copied. False when memory is short.
    pub fn add_header(&self, name: &'static str, value: &str) -> bool {
        let Some(value) = self.copy(value.as_bytes()) else { return false };
        // SAFETY: headers_out of a live request; the pushed element is ours to fill.
        unsafe {
            let header = sys::ngx_list_push(&raw mut (*self.as_ptr()).headers_out.headers)
                .cast::<sys::ngx_table_elt_t>();
            if header.is_null() {
                return false;
            }
            (*header).key = sys::ngx_str_t { len: name.len(), data: name.as_ptr().cast_mut() };
            (*header).value = value;
            header_ready(header);
        }
        true
    }

    /// As [`Request::set_header`], without a detour over the heap.
    pub fn set_number(&self, name: &'static str, value: u64) -> bool {
        let mut digits = [0; 20];
        let mut at = digits.len();
        let mut rest = value;
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        core::str::from_utf8(&digits[at..]).is_ok_and(|text| self.set_header(name, text))
    }

    /// The client's headers, in the order they came.
    pub fn headers_in(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        // SAFETY: headers_in of a live request: a list of ngx_table_elt_t in parts linked by `next`, which does not
        // change any more once the request is being served.
        let mut part: *const sys::ngx_list_part_t =
            unsafe { &raw const (*self.as_ptr()).headers_in.headers.part };
        let parts = core::iter::from_fn(move || {
            // SAFETY: as above.
            let this = unsafe { part.as_ref() }?;
            part = this.next;
            Some(this)
        });
        parts.flat_map(|part| {
            (0..part.nelts).map(|at| {
                // SAFETY: as above; `elts` has `nelts` of them.
                let header = unsafe { &*part.elts.cast::<sys::ngx_table_elt_t>().add(at) };
                (header.key.as_bytes(), header.value.as_bytes())
            })
        })
    }

    /// Takes all response headers of a name out, as the core does it: their hash is zero.
    fn drop_headers(&self, name: &str) {
        // SAFETY: headers_out of a live request: a list of ngx_table_elt_t in parts linked by `next`.
        unsafe {
            let mut part = &raw mut (*self.as_ptr()).headers_out.headers.part;
            while !part.is_null() {
                for i in 0..(*part).nelts {
                    let header = (*part).elts.cast::<sys::ngx_table_elt_t>().add(i);
                    if (*header).key.as_bytes().eq_ignore_ascii_case(name.as_bytes()) {
                        (*header).hash = 0;
                    }
                }
                part = (*part).next;
            }
        }
    }

    /// Whether the core would answer `status` with a page of `error_page`: the same test as its own
    /// special-response handler makes.
    pub fn has_error_page(&self, status: u32) -> bool {
        let clcf = self.core_loc_conf();
        // SAFETY: a live request.
        let redirected = unsafe { (*self.as_ptr()).error_page() != 0 || (*self.as_ptr()).uri_changes() == 0 };
        if redirected || clcf.error_pages.is_null() {
            return false;
        }
        // SAFETY: error_pages is an array of ngx_http_err_page_t that the core built.
        let pages = unsafe { (*clcf.error_pages).as_slice::<sys::ngx_http_err_page_t>() };
        pages.iter().any(|page| page.status == status as sys::ngx_int_t)
    }

    /// Sends a complete response and ends the request. The caller returns NGX_DONE and touches the request
    /// no more.
    pub fn respond(&self, status: u32, content_type: &'static str, body: &[u8]) {
        let r = self.as_ptr();
        // SAFETY: a live request in a phase handler; the complex value is a constant text (no lengths), so
        // the core takes `value` as it is; its bytes live in the request's pool.
        unsafe {
            let rc = match self.copy(body) {
                Some(text) => {
                    let mut value: sys::ngx_http_complex_value_t = core::mem::zeroed();
                    value.value = text;
                    let mut ct =
                        sys::ngx_str_t { len: content_type.len(), data: content_type.as_ptr().cast_mut() };
                    (*r).err_status = status as usize;
                    // No "100 Continue" for a body that nobody is going to read.
                    (*r).set_expect_tested(1);
                    sys::ngx_http_send_response(r, status as usize, &raw mut ct, &raw mut value)
                }
                None => ERROR,
            };
            sys::ngx_http_finalize_request(r, rc);
        }
    }

    /// Puts the request to sleep in its phase: it notices a client that leaves, and nothing else. The
    /// caller returns NGX_AGAIN.
    pub fn sleep(&self) {
        let r = self.as_ptr();
        // SAFETY: a live request in a phase handler; these are the handlers the core itself uses for
        // requests that wait (see limit_req and auth_request).
        unsafe {
            let read = (*(*r).connection).read;
            if (*read).ready() != 0 {
                sys::ngx_post_event(read, &raw mut sys::ngx_posted_events);
            } else if sys::ngx_handle_read_event(read, 0) != super::sys::OK {
                super::log::cycle(super::log::Level::Alert, format_args!("sluice: cannot watch a client"));
            }
            (*r).read_event_handler = Some(sys::ngx_http_test_reading);
            (*r).write_event_handler = Some(sys::ngx_http_request_empty_handler);
        }
    }

    /// Lets a sleeping request go on: its phase handler runs again. Called from the event loop, outside
    /// any handler of this request; the request may be gone afterwards.
    pub fn wake(&self) {
        let r = self.as_ptr();
        // SAFETY: the request is alive (its context, dropped with its pool, would have cancelled the wait);
        // the connection is kept aside because the request may end in run_phases.
        unsafe {
            let connection = (*r).connection;
            (*r).read_event_handler = Some(sys::ngx_http_block_reading);
            (*r).write_event_handler = Some(sys::ngx_http_core_run_phases);
            sys::ngx_http_core_run_phases(r);
            sys::ngx_http_run_posted_requests(connection);
        }
    }

    /// Delays the request as `limit_req` does: it goes on after `after` milliseconds. The caller returns
    /// NGX_AGAIN.
    pub fn delay(&self, after: crate::policy::Millis) {
        self.sleep();
        let r = self.as_ptr();
        // SAFETY: a live request in a phase handler; `delayed` and the write timer are how the core's own
        // limit_req holds a request.
        unsafe {
            (*r).write_event_handler = Some(delayed);
            let write = (*(*r).connection).write;
            (*write).set_delayed(1);
            sys::ngx_add_timer(write, after as sys::ngx_msec_t);
        }
    }
}

/// The write event of a delayed request: early wake-ups change nothing, the timer lets it go on.
extern "C" fn delayed(r: *mut sys::ngx_http_request_t) {
    super::entry::entry!("a delayed request", (), {
        // SAFETY: nginx passes the live request whose write handler this is.
        unsafe {
            let write = (*(*r).connection).write;
            if (*write).delayed() != 0 {
                if sys::ngx_handle_write_event(write, 0) != super::sys::OK {
                    sys::ngx_http_finalize_request(r, sys::NGX_HTTP_INTERNAL_SERVER_ERROR as _);
                }
                return;
            }
            if sys::ngx_handle_read_event((*(*r).connection).read, 0) != super::sys::OK {
                sys::ngx_http_finalize_request(r, sys::NGX_HTTP_INTERNAL_SERVER_ERROR as _);
                return;
            }
            (*r).read_event_handler = Some(sys::ngx_http_block_reading);
            (*r).write_event_handler = Some(sys::ngx_http_core_run_phases);
            sys::ngx_http_core_run_phases(r);
        }
    });
}

/// A text in C's hands, as a variable's value.
pub fn set_variable(value: &mut sys::ngx_http_variable_value_t, text: Option<sys::ngx_str_t>) {
    match text {
        Some(text) => {
            value.set_valid(1);
            value.set_no_cacheable(1);
            value.set_not_found(0);
            value.set_len(text.len as u32);
            value.data = text.data;
        }
        None => {
            value.set_not_found(1);
            value.data = null_mut();
        }
    }
}
