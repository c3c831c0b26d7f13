//! What Redis is still to hear of: requests that `sync=async` admitted, and keys that were limited here alone while
//! Redis was lost.
//!
//! Amounts are added up and posted ten times a second. Of a time without Redis it is told where each gcra key stands:
//! that takes the greater of both and so may be told by every host, and twice. Of windows it is told amounts.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use nginx_sys as sys;

use super::super::sys::now;
use super::super::timer::Timer;
use super::super::worker::{self, LEDGER, Worker};
use super::applied::Applied;
use super::desk::Desk;
use crate::policy::Millis;
use crate::policy::limit::{KeyHash, Now, Rule};
use crate::remote::Job;
use crate::remote::redis::{Act, Call, Failure, MAX_COST, Reply};

/// From one posting to the next.
const INTERVAL: Millis = 100;
/// Most keys that wait to be posted; of further ones Redis does not hear.
const MOST: usize = 65_536;
/// Most keys posted in one turn of the event loop.
const TURN: usize = 2_048;

/// This worker's.
pub struct Ledger {
    owed: RefCell<HashMap<(usize, KeyHash), Debt>>,
    /// On its way, by ticket.
    posted: RefCell<HashMap<u64, Posted>>,
    tickets: Cell<u64>,
    timer: Timer,
}

#[derive(Clone, Copy)]
struct Debt {
    link: usize,
    rule: Rule,
    /// Requests to post; 0: to tell where the key stands.
    cost: u64,
}

#[derive(Clone, Copy)]
struct Posted {
    zone: usize,
    key: KeyHash,
    debt: Debt,
    at: Millis,
}

impl Ledger {
    pub fn new(log: *mut sys::ngx_log_t) -> Self {
        Self {
            owed: RefCell::default(),
            posted: RefCell::default(),
            tickets: Cell::new(0),
            // Cancelable: a worker that leaves posts all that is left.
            timer: Timer::new(post, true, log),
        }
    }

    /// Has `cost` requests posted, or with 0 the state of the key.
    pub fn owe(&self, link: usize, one: &Applied, cost: u64) {
        self.add(one.zone, one.key, Debt { link, rule: one.rule, cost });
    }

    fn add(&self, zone: usize, key: KeyHash, debt: Debt) {
        let mut owed = self.owed.borrow_mut();
        if owed.len() >= MOST && !owed.contains_key(&(zone, key)) {
            return;
        }
        let entry = owed.entry((zone, key)).or_insert(Debt { cost: 0, ..debt });
        entry.cost = entry.cost.saturating_add(debt.cost).min(MAX_COST);
        entry.rule = debt.rule;
        drop(owed);
        self.timer.arm(INTERVAL);
    }

    /// Sends what is owed to every Redis that answers, at most so many keys.
    fn post(&self, worker: &Worker, most: usize) {
        let desk = Desk::new(Some(worker), &worker.conf.limits);
        let due: Vec<_> = {
            let mut owed = self.owed.borrow_mut();
            owed.extract_if(|_, debt| desk.answers(debt.link)).take(most).collect()
        };
        for ((zone, key), debt) in due {
            let Some(redis) = worker.conf.redis.get(debt.link) else { continue };
            let (act, tell) = match debt.cost {
                0 => (Act::Take { cost: 0, more: 0, unused: None }, true),
                cost => (Act::Post { cost }, false),
            };
            let limit = desk.remote(&redis.key_prefix, (zone, &key, &debt.rule), act, tell);
            self.tickets.set(self.tickets.get().wrapping_add(1) & !LEDGER);
            let ticket = LEDGER | self.tickets.get();
            self.posted.borrow_mut().insert(ticket, Posted { zone, key, debt, at: desk.now.mono });
            worker.send(Job::Limit(Call { ticket, link: debt.link, limits: vec![limit] }));
        }
        if !self.owed.borrow().is_empty() {
            self.timer.arm(INTERVAL);
        }
    }

    /// Before the I/O thread is told to end: all that can still be said.
    pub fn close(&self, worker: &Worker) {
        self.timer.stop();
        self.post(worker, usize::MAX);
        self.timer.stop();
    }

    /// An answer from the I/O thread; false if it is not one to a posting.
    pub fn answered(&self, worker: &Worker, reply: &Reply) -> bool {
        if reply.ticket & LEDGER == 0 {
            return false;
        }
        // Nobody knows the ticket of a refund, which has this mark too.
        let Some(Posted { zone, key, debt, at }) = self.posted.borrow_mut().remove(&reply.ticket) else {
            return true;
        };
        match reply.result.as_ref().map(Vec::as_slice) {
            Ok([ruled, ..]) => {
                let then = Now { mono: at.saturating_sub(1), ..now() };
                if let Some(zone) = Desk::new(Some(worker), &worker.conf.limits).memory(zone) {
                    zone.observe(&key, &debt.rule, &then, &ruled.after, debt.cost);
                }
            }
            // Whether that was charged nobody knows; it must not be charged twice. A state may be told again.
            Err(Failure::Lost(_) | Failure::Unexpected(_)) if debt.cost > 0 => {}
            Ok([]) | Err(_) => self.add(zone, key, debt),
        }
        true
    }
}

/// The timer.
fn post() {
    if let Some(worker) = worker::current() {
        worker.ledger.post(&worker, TURN);
    }
}
