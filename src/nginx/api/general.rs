//! `/`, `/nginx` and `/processes`: what runs here.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use nginx_sys as sys;
use serde::Serialize;

use super::super::request::Request;
use super::super::sys::{now, worker_index};
use super::processes;
use crate::policy::api::iso;

/// What stands at the root of a version. There is no "stream": clients then ask for nothing below it.
pub const NAMES: [&str; 8] =
    ["nginx", "processes", "connections", "slabs", "http", "resolvers", "ssl", "workers"];

/// How many configurations this master has put in force, and when the last one. Workers have their master's as it was when
/// they were made, which is their own configuration's.
static GENERATION: AtomicU64 = AtomicU64::new(0);
static LOADED: AtomicU64 = AtomicU64::new(0);

/// A configuration comes into force. Called in the master, or in the single process.
pub fn note_cycle() {
    GENERATION.fetch_add(1, Relaxed);
    LOADED.store(now().wall, Relaxed);
    processes::prepare();
}

/// A worker begins to serve.
pub fn note_worker() {
    processes::note_start(worker_index(), GENERATION.load(Relaxed));
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
        build: concat!("sluice-", env!("CARGO_PKG_VERSION")).to_owned(),
        address: request.local_address(),
        generation: GENERATION.load(Relaxed),
        load_timestamp: iso(LOADED.load(Relaxed)),
        timestamp: iso(now().wall),
        pid: pid.into(),
        ppid: ppid.into(),
    }
}

#[derive(Serialize)]
pub struct Processes {
    respawned: u64,
}

/// `/processes`
pub fn processes() -> Processes {
    Processes { respawned: processes::respawned() }
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
