//! What one worker tells of itself: the connections it took, those it has open, and that it has started.

use core::sync::atomic::Ordering::Relaxed;

use nginx_sys as sys;

use super::super::conf::MainConf;
use super::super::log::{self, Level};
use super::super::sys::worker_index;
use super::super::timer::Timer;
use super::super::worker;
use crate::shared::traffic::count;

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
    let entered = store.enter(pid, (u64::from(worker_index()), live.generation), alive);
    if entered.respawned {
        count(&live.host.shard(usize::from(worker_index())).respawned);
    }
    if entered.presence.is_none() {
        log::cycle(Level::Warn, format_args!("sluice: too many processes to tell what this one has open"));
    }
    traffic.presence.set(entered.presence);
}

/// The timer of a worker that counts.
pub struct Watch {
    timer: Timer,
    conf: &'static MainConf,
}

impl Watch {
    pub fn start(conf: &'static MainConf, log: *mut sys::ngx_log_t) -> Self {
        started(conf);
        let watch = Self { timer: Timer::new(tick, true, log), conf };
        if conf.traffic.live().is_some() {
            watch.timer.arm(TICK);
        }
        watch
    }

    fn look(&self) {
        let Some(presence) = self.conf.traffic.presence.get() else { return };
        let (active, idle) = connections();
        presence.process().active.store(active, Relaxed);
        presence.process().idle.store(idle, Relaxed);
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

/// Clients' connections that are open in this process, and those of them that wait for a request.
fn connections() -> (u64, u64) {
    let (mut active, mut idle) = (0, 0);
    // SAFETY: the cycle this process serves, whose array of connections has that many; those in use have a
    // descriptor, and clients' ones the listening socket they came in by.
    unsafe {
        let cycle = sys::ngx_cycle;
        if cycle.is_null() || (*cycle).connections.is_null() {
            return (0, 0);
        }
        for at in 0..(*cycle).connection_n {
            let c = &*(*cycle).connections.add(at);
            if c.fd == -1 || c.listening.is_null() || c.pool.is_null() {
                continue;
            }
            active += 1;
            idle += u64::from(c.idle() != 0);
        }
    }
    (active, idle)
}
