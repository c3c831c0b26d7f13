//! What one worker tells of itself: the connections it took, those it has open, and that it has started.

use core::cell::RefCell;
use core::sync::atomic::Ordering::Relaxed;

use nginx_sys as sys;

use super::super::conf::MainConf;
use super::super::entry::entry;
use super::super::log::{self, Level};
use super::super::sys::{mono, worker_index};
use super::super::timer::Timer;
use super::super::worker;
use super::{peers, tls};
use crate::shared::traffic::{add, count, up};

/// Milliseconds between two looks at what no event tells.
const TICK: u64 = 1_000;

/// Whether a process lives.
pub fn alive(pid: u64) -> bool {
    let Ok(pid) = libc::pid_t::try_from(pid) else { return false };
    // SAFETY: signal 0 is sent to nobody.
    let sent = unsafe { libc::kill(pid, 0) };
    pid > 0 && (sent == 0 || std::io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH))
}

/// A worker has started: takes its place in the table of processes.
pub fn started(conf: &'static MainConf) {
    let traffic = &conf.traffic;
    let (Some(store), Some(live)) = (traffic.store(), traffic.live()) else { return };
    let pid = u64::from(std::process::id());
    let index = u64::from(worker_index());
    if store.enter(index, live.generation) {
        count(&live.host.shard(usize::from(worker_index())).respawned);
    }
    traffic.presence.set(store.seat(pid, (index, live.generation), alive));
    if traffic.presence.get().is_none() {
        log::cycle(Level::Warn, format_args!("sluice: too many processes to tell what this one has open"));
    }
}

/// The timer of a worker that counts.
pub struct Watch {
    timer: Timer,
    tls: tls::Seen,
    conf: &'static MainConf,
}

impl Watch {
    pub fn start(conf: &'static MainConf, log: *mut sys::ngx_log_t) -> Self {
        started(conf);
        let watch = Self { timer: Timer::new(tick, true, log), tls: tls::Seen::default(), conf };
        if conf.traffic.live().is_some() {
            // So that only what comes from now on counts.
            let _ = watch.tls.since(0);
            watch_accepts();
            watch.timer.arm(TICK);
        }
        watch
    }

    /// Tells what this worker has open now.
    pub fn look(&self) {
        let Some(presence) = self.conf.traffic.presence.get() else { return };
        let Open { active, idle, shaking } = connections();
        if let (Some(live), Some([done, failed, reused])) =
            (self.conf.traffic.live(), self.tls.since(shaking))
        {
            let host = live.host.shard(usize::from(worker_index()));
            add(&host.handshakes, done);
            add(&host.handshakes_failed, failed);
            add(&host.session_reuses, reused);
        }
        presence.process().active.store(active, Relaxed);
        presence.process().idle.store(idle, Relaxed);
        for group in &self.conf.upstreams.groups {
            group.traffic.tell(&presence);
            if let Some(store) = self.conf.traffic.store() {
                group.traffic.zombies(store);
            }
        }
        self.observe();
    }
}

impl Watch {
    /// Looks at what changes by itself, in turn with the other workers of the present cycle.
    fn observe(&self) {
        let traffic = &self.conf.traffic;
        let (Some(store), Some(live)) = (traffic.store(), traffic.live()) else { return };
        if store.generation() != live.generation {
            return;
        }
        let first = worker_index() == 0;
        let turn = store.may_look(mono(), TICK - TICK / 10);
        for group in self.conf.upstreams.groups.iter().filter(|_| turn || first) {
            peers::observe(self.conf, group);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(presence) = self.conf.traffic.presence.take() {
            presence.leave();
        }
    }
}

fn tick() {
    let Some(worker) = worker::current() else { return };
    worker.traffic.look();
    if !super::super::sys::exiting() {
        worker.traffic.timer.arm(TICK);
    }
}

/// Clients' connections of this process.
#[derive(Default)]
struct Open {
    active: u64,
    /// Those of them that wait for a request.
    idle: u64,
    /// Those in the middle of a handshake.
    shaking: u64,
}

fn connections() -> Open {
    let mut open = Open::default();
    // SAFETY: the cycle this process serves, whose array of connections has that many; those in use have a
    // descriptor, and clients' ones the listening socket they came in by and a pool.
    unsafe {
        let cycle = sys::ngx_cycle;
        if cycle.is_null() || (*cycle).connections.is_null() {
            return open;
        }
        for at in 0..(*cycle).connection_n {
            let c = &*(*cycle).connections.add(at);
            if c.fd == -1 || c.listening.is_null() || c.pool.is_null() {
                continue;
            }
            open.active += 1;
            open.idle += u64::from(c.idle() != 0);
            open.shaking += u64::from(tls::is_shaking(c));
        }
    }
    open
}

type Take = unsafe extern "C" fn(*mut sys::ngx_connection_t);

thread_local! {
    /// Listening sockets, and who takes their connections.
    static TAKERS: RefCell<Vec<(usize, Take)>> = const { RefCell::new(Vec::new()) };
}

/// Puts `taken` before whoever takes the connections of each listening socket.
fn watch_accepts() {
    // SAFETY: the listening sockets of the cycle this process serves, before it takes the first connection.
    let takers = unsafe {
        let sockets = (*sys::ngx_cycle).listening.elts.cast::<sys::ngx_listening_t>();
        let mut takers = Vec::new();
        for at in 0..(*sys::ngx_cycle).listening.nelts {
            let socket = sockets.add(at);
            if let Some(take) = (*socket).handler.filter(|take| !core::ptr::fn_addr_eq(*take, taken as Take))
            {
                takers.push((socket as usize, take));
                (*socket).handler = Some(taken);
            }
        }
        takers
    };
    TAKERS.with(|known| {
        let mut known = known.borrow_mut();
        known.retain(|(at, _)| takers.iter().all(|(socket, _)| socket != at));
        known.extend(takers);
    });
}

unsafe extern "C" fn taken(c: *mut sys::ngx_connection_t) {
    let take = entry!("a connection", None, {
        if let Some(worker) = worker::current() {
            let traffic = &worker.conf.traffic;
            if let Some(live) = traffic.live() {
                count(&live.host.shard(usize::from(worker_index())).accepted);
            }
            if let Some(presence) = traffic.presence.get() {
                up(&presence.process().accepted);
            }
        }
        // SAFETY: nginx passes a connection that it has just taken from the listening socket it points to.
        let socket = unsafe { (*c).listening } as usize;
        TAKERS.with(|known| known.borrow().iter().find(|(at, _)| *at == socket).map(|(_, take)| *take))
    });
    match take {
        // SAFETY: the socket's own handler, as the core would call it.
        Some(take) => unsafe { take(c) },
        None => {
            log::cycle(Level::Alert, format_args!("sluice: a connection that nobody takes"));
            // SAFETY: as the core closes one that it has no handler for.
            unsafe { sys::ngx_http_close_connection(c) };
        }
    }
}
