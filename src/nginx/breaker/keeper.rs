//! What a worker does for the breakers beside requests: frees the permits of a dead predecessor, and, once a
//! second, lets time do its work.

use core::cell::RefCell;

use nginx_sys as sys;

use super::super::conf::MainConf;
use super::super::sys::{exiting, mono, worker_index};
use super::super::timer::Timer;
use super::super::worker;
use super::peer::Peer;
use super::{each_gate, has_gates};
use crate::policy::Millis;

const PERIOD: Millis = 1_000;
/// So long the answer to a test may go on after its header: then the header decides. A stream of events, or a client that reads
/// slowly, is not to keep all others out.
const STREAM: Millis = 5_000;
/// Before its permit may be given to another.
const MARGIN: Millis = 50;

/// The housekeeping of one worker.
pub struct Keeper {
    timer: Timer,
    /// For those below.
    streaming: Timer,
    /// Tests whose answers come in, and until when they may.
    tests: RefCell<Vec<(Millis, *const Peer)>>,
}

impl Keeper {
    /// A worker starts. One that replaces a dead worker takes back what that one held; the first of the workers
    /// keeps house for all.
    pub fn start(conf: &'static MainConf, log: *mut sys::ngx_log_t) -> Self {
        let (timer, streaming) = (Timer::new(tick, true, log), Timer::new(look, true, log));
        let keeper = Self { timer, streaming, tests: RefCell::default() };
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

    /// The answer to a test begins.
    /// `left`: of the lease of its permit, which its verdict must not be too late for.
    pub fn streams(&self, peer: &Peer, left: Millis) {
        let wait = STREAM.min(left.saturating_sub(MARGIN)).max(1);
        self.tests.borrow_mut().push((mono() + wait, peer));
        self.streaming.arm_within(wait);
    }

    /// It is over.
    pub fn streamed(&self, peer: &Peer) {
        self.tests.borrow_mut().retain(|(_, its)| !core::ptr::eq(*its, peer));
    }

    /// A test whose time is over by now.
    fn overdue(&self) -> Option<*const Peer> {
        let (mut tests, now) = (self.tests.borrow_mut(), mono());
        if let Some(at) = tests.iter().position(|(due, _)| *due <= now) {
            return Some(tests.swap_remove(at).1);
        }
        let next = tests.iter().map(|(due, _)| *due).min()?;
        self.streaming.arm_within(next - now);
        None
    }
}

fn look() {
    let Some(worker) = worker::current() else { return };
    while let Some(peer) = worker.breakers.overdue() {
        // SAFETY: it lies in the pool of its request, and is taken out of the list when the core is done with the upstream,
        // which is before that.
        unsafe { (*peer).judge_by_header() };
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
