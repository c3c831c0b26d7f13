//! What a worker does for the breakers beside requests: frees the permits of a dead predecessor, and, once a
//! second, lets time do its work.

use nginx_sys as sys;

use super::super::conf::MainConf;
use super::super::sys::{exiting, mono, worker_index};
use super::super::timer::Timer;
use super::super::worker;
use super::{each_gate, has_gates};
use crate::policy::Millis;

const PERIOD: Millis = 1_000;

/// The housekeeping of one worker.
pub struct Keeper {
    timer: Timer,
}

impl Keeper {
    /// A worker starts. One that replaces a dead worker takes back what that one held; the first of the workers
    /// keeps house for all.
    pub fn start(conf: &'static MainConf, log: *mut sys::ngx_log_t) -> Self {
        let keeper = Self { timer: Timer::new(tick, true, log) };
        let Some(store) = conf.upstreams.store() else { return keeper };
        let index = worker_index();
        if store.enter(usize::from(index), conf.health.generation.get()) {
            each_gate(conf, |gate| gate.breaker.reclaim(index));
            // Servers whose permits these were may be picked again.
            store.note_change();
        }
        if index == 0 && has_gates(conf) {
            keeper.timer.arm(PERIOD);
        }
        keeper
    }
}

fn tick() {
    let Some(worker) = worker::current() else { return };
    let mut changed = false;
    each_gate(worker.conf, |gate| {
        let made = gate.breaker.housekeep(&gate.settings, mono());
        let over = gate.breaker.lapse(mono());
        changed |= made.is_some() || over.is_some();
        gate.say(None, made);
        if over.is_some() {
            gate.tell(None, 0);
            gate.note(["forced", ""], "the operator's override has ended");
        }
    });
    if let Some(store) = worker.conf.upstreams.store().filter(|_| changed) {
        store.note_change();
    }
    if !exiting() {
        worker.breakers.timer.arm(PERIOD);
    }
}
