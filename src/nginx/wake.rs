//! The way from the I/O thread back to the event loop: an eventfd that nginx polls like a connection.

use nginx_sys as sys;

use super::entry::entry;

/// The receiving end. Dropping it closes the descriptor.
pub struct Wake {
    connection: *mut sys::ngx_connection_t,
    fd: i32,
}

/// The sending end: may be rung from any thread.
#[derive(Clone, Copy)]
pub struct Bell(i32);

impl Bell {
    /// Wakes the event loop. Never blocks: the descriptor's counter cannot fill up before it is read.
    pub fn ring(self) {
        let one = 1u64;
        // SAFETY: writes eight bytes from a live integer; the worker joins the thread before it closes the
        // descriptor.
        unsafe { libc::write(self.0, (&raw const one).cast(), size_of::<u64>()) };
    }
}

impl Wake {
    /// An eventfd watched by the event loop, which calls `worker::drain` when it rings.
    pub fn new(log: *mut sys::ngx_log_t) -> std::io::Result<Self> {
        // SAFETY: plain system call.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(std::io::Error::last_os_error());
        }
        // SAFETY: init_process runs in the event loop's thread with events set up; the connection is ours
        // until ngx_close_connection. Marking the events as a channel's keeps an exiting worker from
        // reporting the connection as open.
        unsafe {
            let connection = sys::ngx_get_connection(fd, log);
            if connection.is_null() {
                libc::close(fd);
                return Err(std::io::Error::other("worker_connections are not enough"));
            }
            let (read, write) = ((*connection).read, (*connection).write);
            (*read).log = log;
            (*write).log = log;
            (*read).set_channel(1);
            (*write).set_channel(1);
            (*read).handler = Some(rung);
            let wake = Self { connection, fd };
            if sys::ngx_handle_read_event(read, 0) != super::sys::OK {
                return Err(std::io::Error::other("the event loop refused the descriptor"));
            }
            Ok(wake)
        }
    }

    /// The end for the thread.
    pub fn bell(&self) -> Bell {
        Bell(self.fd)
    }
}

impl Drop for Wake {
    fn drop(&mut self) {
        // SAFETY: the connection is ours and open; closing it closes the descriptor too.
        unsafe { sys::ngx_close_connection(self.connection) };
    }
}

extern "C" fn rung(event: *mut sys::ngx_event_t) {
    entry!("a wake-up", (), {
        // Level-triggered event methods would ring on until the counter is read; epoll rings once per write
        // either way.
        let mut count = 0u64;
        // SAFETY: nginx passes the event of our connection; eight bytes are read into a live integer.
        unsafe {
            let connection = (*event).data.cast::<sys::ngx_connection_t>();
            libc::read((*connection).fd, (&raw mut count).cast(), size_of::<u64>());
        }
        super::worker::drain();
    });
}
