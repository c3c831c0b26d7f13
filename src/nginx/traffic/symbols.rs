//! Counters of nginx's own that are there only in some builds: found by name while it runs, never linked to.

use core::ffi::CStr;
use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::OnceLock;

use nginx_sys as sys;

/// The counters of `stub_status`.
#[derive(Clone, Copy)]
pub struct Stat {
    pub accepted: u64,
    pub handled: u64,
    pub requests: u64,
    pub reading: u64,
    pub writing: u64,
}

/// `None`: this nginx was built without `stub_status`.
pub fn stat() -> Option<Stat> {
    static PLACES: OnceLock<Option<[usize; 5]>> = OnceLock::new();
    const NAMES: [&CStr; 5] = [
        c"ngx_stat_accepted",
        c"ngx_stat_handled",
        c"ngx_stat_requests",
        c"ngx_stat_reading",
        c"ngx_stat_writing",
    ];
    let places = *PLACES.get_or_init(|| {
        let mut places = [0; 5];
        for (place, name) in places.iter_mut().zip(NAMES) {
            *place = symbol(name)? as usize;
        }
        Some(places)
    });
    let [accepted, handled, requests, reading, writing] = places?.map(|place| {
        // SAFETY: each symbol is a variable of type `ngx_atomic_t *`, set when nginx starts and never changed after;
        // the word it points to is in memory that all processes share, and is read as a whole.
        unsafe {
            let word = *(place as *const *const sys::ngx_atomic_t);
            word.cast::<AtomicUsize>().as_ref().map_or(0, |word| word.load(Relaxed) as u64)
        }
    });
    Some(Stat { accepted, handled, requests, reading, writing })
}

/// A symbol of the program or of a library it has loaded.
pub fn symbol(name: &CStr) -> Option<*mut core::ffi::c_void> {
    // SAFETY: dlsym only reads the name.
    let found = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!found.is_null()).then_some(found)
}
