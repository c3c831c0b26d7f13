//! A response's body that grows: a chain of buffers in the request's pool.

use core::ptr::null_mut;

use nginx_sys as sys;

use crate::nginx::request::Request;
use crate::policy::metrics::Out;

/// Bytes of one buffer.
const SIZE: usize = 32 * 1024;

/// A body being written.
pub struct Body<'r> {
    request: &'r Request,
    first: *mut sys::ngx_chain_t,
    last: *mut sys::ngx_chain_t,
    length: usize,
    /// Memory is short: what was written is of no use.
    failed: bool,
}

impl<'r> Body<'r> {
    pub fn new(request: &'r Request) -> Self {
        Self { request, first: null_mut(), last: null_mut(), length: 0, failed: false }
    }

    /// The chain and its length in bytes; `None` when memory was short. An empty body is one empty buffer.
    pub fn finish(mut self) -> Option<(*mut sys::ngx_chain_t, usize)> {
        if self.first.is_null() {
            self.grow();
        }
        if self.failed {
            return None;
        }
        // SAFETY: `grow` made `last` and its buffer, in the pool of the request that is being answered.
        unsafe {
            let buffer = (*self.last).buf;
            (*buffer).set_last_buf(u32::from(self.request.is_main()));
            (*buffer).set_last_in_chain(1);
            if self.length == 0 {
                // Not a buffer of memory, which must hold something.
                (*buffer).set_temporary(0);
            }
        }
        Some((self.first, self.length))
    }

    /// One more buffer.
    fn grow(&mut self) {
        // SAFETY: the pool of a live request; what is linked lives as long as that.
        unsafe {
            let pool = (*self.request.as_ptr()).pool;
            let buffer = sys::ngx_create_temp_buf(pool, SIZE);
            let link = sys::ngx_alloc_chain_link(pool);
            if buffer.is_null() || link.is_null() {
                self.failed = true;
                return;
            }
            (*link).buf = buffer;
            (*link).next = null_mut();
            if self.last.is_null() {
                self.first = link;
            } else {
                (*self.last).next = link;
            }
            self.last = link;
        }
    }

    /// Copies what fits into the last buffer; returns how much that is.
    fn fill(&mut self, text: &[u8]) -> usize {
        if self.last.is_null() {
            return 0;
        }
        // SAFETY: `grow` made `last` and its buffer; `last` of the buffer lies between `pos` and `end`, and the
        // memory up to `end` is ours alone.
        unsafe {
            let buffer = &mut *(*self.last).buf;
            let room = buffer.end.offset_from_unsigned(buffer.last).min(text.len());
            core::ptr::copy_nonoverlapping(text.as_ptr(), buffer.last, room);
            buffer.last = buffer.last.add(room);
            room
        }
    }
}

impl Out for Body<'_> {
    fn put(&mut self, mut text: &[u8]) {
        while !self.failed && !text.is_empty() {
            let copied = self.fill(text);
            self.length += copied;
            text = &text[copied..];
            if !text.is_empty() {
                self.grow();
            }
        }
    }
}
