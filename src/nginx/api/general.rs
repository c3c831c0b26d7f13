//! `/` and `/nginx`: what runs here.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use nginx_sys as sys;
use serde::Serialize;

use super::super::request::Request;
use super::super::sys::now;
use crate::policy::api::iso;

/// What stands at the root of a version. There is no "stream": clients then ask for nothing below it.
pub const NAMES: [&str; 10] = [
    "nginx",
    "processes",
    "connections",
    "slabs",
    "http",
    "resolvers",
    "ssl",
    "workers",
    "license",
    "events",
];

/// Clients look for `-r` and a number, which is the release of NGINX Plus whose API they take this for: that of 33 they ask
/// for a license, without a number they complain each time.
const BUILD: &str = concat!("sluice-", env!("CARGO_PKG_VERSION"), "-r33");

/// No members, by whatever name.
#[derive(Serialize)]
pub struct Nothing {}

/// `/license`: there is one, and it does not end, so that alerts on the day it does stay silent.
#[derive(Serialize)]
pub struct License {
    eval: bool,
    active_till: u64,
}

/// The last second of the year 9999.
pub const LICENSE: License = License { eval: false, active_till: 253_402_300_799 };

/// How many configurations this master has put in force, and when the last one. Workers have their master's as it was when
/// they were made, which is their own configuration's.
static GENERATION: AtomicU64 = AtomicU64::new(0);
static LOADED: AtomicU64 = AtomicU64::new(0);

/// A configuration comes into force. Called in the master, or in the single process.
pub fn note_cycle() {
    GENERATION.fetch_add(1, Relaxed);
    LOADED.store(now().wall, Relaxed);
}

#[derive(Serialize)]
pub struct Nginx {
    version: String,
    build: String,
    address: String,
    generation: u64,
    load_timestamp: String,
    timestamp: String,
    pid: i64,
    ppid: i64,
}

/// `/nginx`
pub fn nginx(request: &Request) -> Nginx {
    // SAFETY: plain integers that nginx sets when a process begins.
    let (pid, ppid) = unsafe { (sys::ngx_pid, sys::ngx_parent) };
    Nginx {
        version: sys::NGINX_VERSION.to_string_lossy().into_owned(),
        build: BUILD.to_owned(),
        address: request.local_address(),
        generation: GENERATION.load(Relaxed),
        load_timestamp: iso(LOADED.load(Relaxed)),
        timestamp: iso(now().wall),
        pid: pid.into(),
        ppid: ppid.into(),
    }
}

impl Request {
    /// The address the client has reached, without a port.
    fn local_address(&self) -> String {
        let mut space = [0_u8; 128]; // longer than any sockaddr's text
        let mut text = sys::ngx_str_t { len: space.len(), data: space.as_mut_ptr() };
        // SAFETY: a live request's connection; the core writes at most `len` bytes and sets `len` to what it wrote.
        unsafe {
            let connection = (*self.as_ptr()).connection;
            if sys::ngx_connection_local_sockaddr(connection, &raw mut text, 0) != super::super::sys::OK {
                return String::new();
            }
            crate::policy::api::text(text.as_bytes())
        }
    }
}
