//! A timer of the event loop that calls one plain function.

use std::cell::UnsafeCell;

use nginx_sys as sys;

use super::entry::entry;
use crate::policy::Millis;

/// A repeating-by-hand timer. It owns its event and a stand-in connection, which nginx's debug log reads
/// (`ev->data` is printed as a connection's descriptor).
pub struct Timer {
    inner: Box<UnsafeCell<Inner>>,
}

struct Inner {
    event: sys::ngx_event_t,
    connection: sys::ngx_connection_t,
    run: fn(),
}

impl Timer {
    /// A stopped timer that will call `run`. A `cancelable` one does not hold up a worker that is leaving.
    pub fn new(run: fn(), cancelable: bool, log: *mut sys::ngx_log_t) -> Self {
        // SAFETY: both structs are plain C data for which nginx itself uses all-zero as "unused".
        let (event, connection) = unsafe { (core::mem::zeroed(), core::mem::zeroed()) };
        let inner = Box::new(UnsafeCell::new(Inner { event, connection, run }));
        let raw = inner.get();
        // SAFETY: `raw` is our own fresh allocation, whose address no longer changes.
        unsafe {
            (*raw).connection.fd = -1;
            (*raw).event.data = (&raw mut (*raw).connection).cast();
            (*raw).event.handler = Some(fire);
            (*raw).event.log = log;
            (*raw).event.set_cancelable(u32::from(cancelable));
        }
        Self { inner }
    }

    /// Fires once, `after` milliseconds from now, unless it is already set.
    pub fn arm(&self, after: Millis) {
        let raw = self.inner.get();
        // SAFETY: the event is ours and only the event-loop thread touches it.
        unsafe {
            if (*raw).event.timer_set() == 0 {
                sys::ngx_add_timer(&raw mut (*raw).event, after as sys::ngx_msec_t);
            }
        }
    }

    /// Fires once, `after` milliseconds from now, unless it is going to fire before that.
    pub fn arm_within(&self, after: Millis) {
        let raw = self.inner.get();
        // SAFETY: as in `arm`; the core keeps the time a set timer fires at in its key.
        unsafe {
            let at = sys::ngx_current_msec.wrapping_add(after as sys::ngx_msec_t);
            let event = &raw mut (*raw).event;
            if (*event).timer_set() != 0 && (*event).timer.key.wrapping_sub(at).cast_signed() > 0 {
                sys::ngx_del_timer(event);
            }
        }
        self.arm(after);
    }

    /// Fires at the end of this turn of the event loop, unless it is already going to.
    pub fn post(&self) {
        // SAFETY: as in `arm`; the event leaves the queue when it runs or in `drop`.
        unsafe { super::sys::post(&raw mut (*self.inner.get()).event) }
    }

    /// Does not fire, whatever it was set to.
    pub fn stop(&self) {
        let raw = self.inner.get();
        // SAFETY: as in `arm`; both lists are left only by an event that is in them.
        unsafe {
            if (*raw).event.timer_set() != 0 {
                sys::ngx_del_timer(&raw mut (*raw).event);
            }
            if (*raw).event.posted() != 0 {
                sys::ngx_delete_posted_event(&raw mut (*raw).event);
            }
        }
    }
}

impl Drop for Timer {
    /// An event must leave nginx's lists before its memory goes.
    fn drop(&mut self) {
        self.stop();
    }
}

extern "C" fn fire(event: *mut sys::ngx_event_t) {
    entry!("a timer", (), {
        // SAFETY: nginx passes the event that was armed; it is the `event` field of an `Inner`, and the
        // first one, so that both share an address range that `container_of` can undo.
        let run = unsafe {
            let inner = event.byte_sub(core::mem::offset_of!(Inner, event)).cast::<Inner>();
            (*inner).run
        };
        run();
    });
}
