//! Clients that wait for the next event: one timer for all of a worker looks ten times a second whether there is one.

use std::cell::RefCell;

use nginx_sys as sys;

use super::super::api::{self, Outcome};
use super::super::later;
use super::super::sys::{exiting, mono};
use super::super::timer::Timer;
use super::super::worker;
use crate::policy::Millis;
use crate::shared::events::Page;

/// From one look to the next.
const TICK: Millis = 100;

/// What a page is sent as.
pub type Document = fn(&Page) -> Outcome;

/// The clients of one worker.
pub struct Waiters {
    waiting: RefCell<Vec<Waiter>>,
    timer: Timer,
}

struct Waiter {
    ticket: u64,
    since: u64,
    until: Millis,
    document: Document,
}

impl Waiters {
    pub fn new(log: *mut sys::ngx_log_t) -> Self {
        // Not cancelable: a worker that leaves answers them first.
        Self { waiting: RefCell::default(), timer: Timer::new(tick, false, log) }
    }

    /// Answers the request of a ticket when there is an event after `since`, or when `wait` milliseconds have passed.
    pub fn add(&self, ticket: u64, since: u64, wait: Millis, document: Document) {
        let until = mono().saturating_add(wait);
        self.waiting.borrow_mut().push(Waiter { ticket, since, until, document });
        self.timer.arm(TICK);
    }

    /// Those that can be answered now; all of them when the worker is `leaving`.
    fn due(&self, leaving: bool) -> Vec<Waiter> {
        let (now, last) = (mono(), super::ring().map_or(0, |ring| ring.last()));
        let mut waiting = self.waiting.borrow_mut();
        waiting.retain(|waiter| later::waits(waiter.ticket));
        let is_due = |waiter: &mut Waiter| leaving || waiter.until <= now || last > waiter.since;
        waiting.extract_if(.., is_due).collect()
    }

    /// Answers those that can be answered.
    fn look(&self, leaving: bool) {
        for waiter in self.due(leaving) {
            let page = super::page(waiter.since);
            // The event is still being written down.
            if page.events.is_empty() && !leaving && waiter.until > mono() {
                self.waiting.borrow_mut().push(waiter);
                continue;
            }
            api::resume(waiter.ticket, (waiter.document)(&page));
        }
        if !self.waiting.borrow().is_empty() {
            self.timer.arm(TICK);
        }
    }
}

fn tick() {
    if let Some(worker) = worker::current() {
        worker.waiters.look(exiting());
    }
}

/// The process is about to serve another configuration.
pub fn release() {
    if let Some(worker) = worker::current() {
        worker.waiters.look(true);
    }
}
