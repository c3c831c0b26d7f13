//! What one worker process owns: its I/O thread, the way to it and back, and the requests that wait for it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::sync::OnceLock;

use nginx_sys as sys;

use super::conf::MainConf;
use super::log::Level;
use super::request::Request;
use super::sys::{exiting, mono};
use super::timer::Timer;
use super::wake::Wake;
use super::{ban, breaker, events, health, limit, metrics, traffic};
use crate::policy::Millis;
use crate::remote::{Done, Engine, Job};

thread_local! {
    static WORKER: RefCell<Option<Rc<Worker>>> = const { RefCell::new(None) };
}

/// This worker's belongings. Lives from init_process to exit_process.
pub struct Worker {
    pub conf: &'static MainConf,
    pub health: health::Driver,
    pub breakers: breaker::Keeper,
    pub ledger: limit::Ledger,
    pub bans: ban::Keeper,
    pub waiters: events::Waiters,
    pub scribe: metrics::Scribe,
    pub traffic: traffic::Watch,
    engine: Option<Engine>,
    /// Jobs of this turn of the event loop; they leave together at its end.
    outbox: RefCell<Vec<Job>>,
    flush: Timer,
    tickets: RefCell<Tickets>,
    /// Waiting requests in the order of their deadlines, one queue per length of wait.
    deadlines: RefCell<Vec<Queue>>,
    deadline: Timer,
    // Last, so that the descriptor is closed after the thread that rings it has ended.
    _wake: Option<Wake>,
}

struct Queue {
    length: Millis,
    waiting: VecDeque<(u64, Millis)>,
}

/// The worker of this process, if it is one and has started.
pub fn current() -> Option<Rc<Worker>> {
    WORKER.with(|worker| worker.try_borrow().ok()?.clone())
}

/// Starts what the configuration needs. Errors are logged; a worker without an I/O thread still serves, and
/// limits that wanted Redis follow their `on_error`. `log` is
/// the log of the cycle that is being served.
pub fn start(conf: &'static MainConf, log: *mut sys::ngx_log_t) {
    let (wake, engine) = if conf.needs_engine() { launch(conf, log) } else { (None, None) };
    let worker = Rc::new(Worker {
        conf,
        health: health::Driver::new(log),
        breakers: breaker::Keeper::start(conf, log),
        ledger: limit::Ledger::new(log),
        bans: ban::Keeper::start(conf, log),
        waiters: events::Waiters::new(log),
        scribe: metrics::Scribe::new(log),
        traffic: traffic::Watch::start(conf, log),
        engine,
        outbox: RefCell::default(),
        flush: Timer::new(flush, false, log),
        tickets: RefCell::default(),
        deadlines: RefCell::default(),
        deadline: Timer::new(expire, false, log),
        _wake: wake,
    });
    WORKER.with(|slot| *slot.borrow_mut() = Some(worker.clone()));
    worker.health.start(&worker);
}

/// Ends the thread and forgets everything. Also before a single process takes up a new configuration.
pub fn stop() {
    let worker = WORKER.with(|slot| slot.borrow_mut().take());
    if let Some(worker) = &worker {
        worker.ledger.close(worker);
        worker.submit();
    }
    if let Some(mut worker) = worker
        && let Some(worker) = Rc::get_mut(&mut worker)
        && let Some(engine) = worker.engine.take()
    {
        engine.shutdown();
    }
}

fn launch(conf: &MainConf, log: *mut sys::ngx_log_t) -> (Option<Wake>, Option<Engine>) {
    let wake = match Wake::new(log) {
        Ok(wake) => wake,
        Err(error) => {
            super::log::cycle(Level::Alert, format_args!("sluice: no wake-up for the I/O thread: {error}"));
            return (None, None);
        }
    };
    let bell = wake.bell();
    let start = || Engine::start(conf.redis.settings(&conf.bans), gateway(), move || bell.ring());
    let engine = without_signals(start);
    match engine {
        Ok(engine) => (Some(wake), Some(engine)),
        Err(error) => {
            super::log::cycle(Level::Alert, format_args!("sluice: the I/O thread did not start: {error}"));
            (None, None)
        }
    }
}

/// This host's number among those that share a Redis: random, the same in all workers of a master.
pub fn gateway() -> u64 {
    static NUMBER: OnceLock<u64> = OnceLock::new();
    // The hasher's keys come from the system's random numbers; nothing here is a secret.
    *NUMBER.get_or_init(|| RandomState::new().hash_one(std::process::id()))
}

/// Runs `f` with all signals blocked, so that a thread it starts never takes one meant for nginx.
fn without_signals<T>(f: impl FnOnce() -> T) -> T {
    // SAFETY: sigset_t is plain data filled by sigfillset; pthread_sigmask only changes this thread's mask.
    unsafe {
        let mut all: libc::sigset_t = core::mem::zeroed();
        let mut before: libc::sigset_t = core::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        let value = f();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, core::ptr::null_mut());
        value
    }
}

impl Worker {
    /// The I/O thread's gate for a Redis: whether a request may wait for it now. `None` without a thread.
    pub fn gate(&self, link: usize) -> Option<&crate::remote::redis::Gate> {
        self.engine.as_ref().map(|engine| engine.link(link))
    }

    /// Queues a job for the end of this turn. False without a thread.
    pub fn send(&self, job: Job) -> bool {
        if self.engine.is_none() {
            return false;
        }
        self.outbox.borrow_mut().push(job);
        self.flush.post();
        true
    }

    /// Hands over what is queued.
    fn submit(&self) {
        let jobs = self.outbox.take();
        if let Some(engine) = self.engine.as_ref().filter(|_| !jobs.is_empty()) {
            engine.submit(jobs);
        }
    }

    /// A ticket for a request that is going to wait; [`Worker::cancel`] or an answer ends it.
    pub fn ticket(&self, request: &Request) -> u64 {
        self.tickets.borrow_mut().issue(request.as_ptr())
    }

    /// Forgets a ticket: answers for it are dropped from now on. With nobody left to wait, nor does the timer,
    /// which would hold up a worker that is leaving.
    pub fn cancel(&self, ticket: u64) {
        if self.tickets.borrow_mut().cancel(ticket) {
            self.deadlines.borrow_mut().iter_mut().for_each(|queue| queue.waiting.clear());
            self.deadline.stop();
        }
    }

    /// The waiting request of a ticket.
    pub fn waiting(&self, ticket: u64) -> Option<*mut sys::ngx_http_request_t> {
        self.tickets.borrow().get(ticket)
    }

    /// Has [`limit::expired`] called for `ticket` in `after` milliseconds, unless it is cancelled before.
    pub fn deadline(&self, ticket: u64, after: Millis) {
        let mut queues = self.deadlines.borrow_mut();
        let entry = (ticket, mono() + after);
        match queues.iter_mut().find(|q| q.length == after) {
            Some(queue) => queue.waiting.push_back(entry),
            None => queues.push(Queue { length: after, waiting: VecDeque::from([entry]) }),
        }
        drop(queues);
        self.deadline.arm_within(after);
    }

    /// Tickets past their deadline, and arms the timer for the next one.
    fn overdue(&self) -> Vec<u64> {
        let now = mono();
        let mut due = Vec::new();
        let mut next: Option<Millis> = None;
        for queue in self.deadlines.borrow_mut().iter_mut() {
            while let Some(&(ticket, at)) = queue.waiting.front() {
                let alive = self.tickets.borrow().get(ticket).is_some();
                if alive && at > now {
                    next = Some(next.map_or(at, |n| n.min(at)));
                    break;
                }
                queue.waiting.pop_front();
                if alive {
                    due.push(ticket);
                }
            }
        }
        if let Some(at) = next {
            self.deadline.arm(at - now);
        }
        due
    }
}

/// The end of a turn: all jobs of the turn leave in one go.
fn flush() {
    if let Some(worker) = current() {
        worker.submit();
    }
}

/// The deadline timer.
fn expire() {
    let Some(worker) = current() else { return };
    for ticket in worker.overdue() {
        limit::expired(&worker, ticket);
    }
}

/// The I/O thread has rung: take what it has done.
pub fn drain() {
    let Some(worker) = current() else { return };
    let mut done = Vec::new();
    if let Some(engine) = &worker.engine {
        engine.drain(|item| done.push(item));
    }
    for item in done {
        match item {
            Done::Limit(reply) => limit::answered(&worker, reply),
            Done::Probe(report) => worker.health.reported(&worker, report),
            Done::Ban(news) => worker.bans.heard(&worker, news),
            Done::Link(event) => {
                super::redis::announce(&worker.conf.redis, &event);
                worker.bans.connected(&worker, &event);
            }
        }
    }
}

/// Has the servers of groups that have changed found anew soon.
pub fn hurry() {
    if let Some(worker) = current() {
        worker.health.hurry();
    }
}

/// Whether this worker still starts probes: a leaving one leaves them to its successor.
pub fn may_probe() -> bool {
    !exiting()
}

/// The ticket of calls nobody waits for.
pub const NOBODY: u64 = u64::MAX;
/// Marks tickets that are no request's: the ledger's, and [`NOBODY`].
pub const LEDGER: u64 = 1 << 63;

/// Requests by ticket. A ticket is not used twice: bits 40..63 count the uses of its place.
#[derive(Default)]
struct Tickets {
    places: Vec<Place>,
    free: Vec<u32>,
}

#[derive(Default)]
struct Place {
    uses: u32,
    request: Cell<Option<*mut sys::ngx_http_request_t>>,
}

/// The low byte of a ticket is the holder's own: which part of the request an answer belongs to.
pub const PART_MASK: u64 = 0xff;

impl Tickets {
    fn issue(&mut self, request: *mut sys::ngx_http_request_t) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            (self.places.len() - 1) as u32
        });
        let place = &mut self.places[index as usize];
        place.uses = (place.uses + 1) & 0x7f_ffff;
        place.request.set(Some(request));
        u64::from(place.uses) << 40 | u64::from(index) << 8
    }

    fn place(&self, ticket: u64) -> Option<(u32, &Place)> {
        let index = (ticket >> 8) as u32;
        let place = self.places.get(index as usize)?;
        (u64::from(place.uses) == ticket >> 40).then_some((index, place))
    }

    fn get(&self, ticket: u64) -> Option<*mut sys::ngx_http_request_t> {
        self.place(ticket)?.1.request.get()
    }

    /// Whether that was the last one.
    fn cancel(&mut self, ticket: u64) -> bool {
        let Some((index, place)) = self.place(ticket) else { return false };
        if place.request.take().is_none() {
            return false;
        }
        self.free.push(index);
        self.free.len() == self.places.len()
    }
}
