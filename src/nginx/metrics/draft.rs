//! An answer while it is being written: at once, or, where there are many servers, in turns of the event loop, so that
//! other requests do not wait for all of it.

use std::cell::RefCell;
use std::collections::VecDeque;

use nginx_sys as sys;

use super::super::request::Request;
use super::super::sys::{ERROR, exiting};
use super::super::timer::Timer;
use super::super::{content, later, worker};
use super::families::{STEPS, Shot};
use crate::policy::metrics::{Format, Writer};

/// Answers that a worker writes in turns; each keeps a snapshot. One more is written at once.
const MOST: usize = 8;
/// Milliseconds to the next turn: a timer of 0 would run again in this one.
const PAUSE: u64 = 1;

/// An answer, and how much of it is written.
pub struct Draft {
    shot: Shot,
    format: Format,
    writer: Writer,
    /// Steps done.
    done: usize,
}

impl Draft {
    pub fn new(shot: Shot, format: Format, max_series: usize) -> Box<Self> {
        Box::new(Self { shot, format, writer: Writer::new(format, max_series), done: 0 })
    }

    /// Leaves it to the worker to write it in turns and then to answer the request, which has to wait. `Err`: it is short,
    /// or others are being written, or a subrequest's, for whose place in the page all that follows would wait.
    pub fn in_turns(self: Box<Self>, request: &Request) -> Result<(), Box<Self>> {
        if !self.shot.is_large() || !request.is_main() {
            return Err(self);
        }
        match worker::current() {
            Some(worker) => worker.scribe.take(request, self),
            None => Err(self),
        }
    }

    /// Does the next step; false if all are done.
    fn step(&mut self) -> bool {
        let Some(step) = STEPS.get(self.done) else { return false };
        step(&mut self.writer, &self.shot);
        self.done += 1;
        true
    }

    /// Does what is left, and sends it. Returns what the content handler must return.
    pub fn finish(mut self, request: &Request) -> sys::ngx_int_t {
        while self.step() {}
        // Another format for another client, and of this moment alone.
        if !request.set_header("Vary", "Accept") || !request.set_header("Cache-Control", "no-store") {
            return ERROR;
        }
        content::send(request, self.format.content_type(), self.writer.finish())
    }
}

/// The drafts of a worker that are written in turns, and the tickets of their requests.
pub struct Scribe {
    drafts: RefCell<VecDeque<(u64, Box<Draft>)>>,
    timer: Timer,
}

impl Scribe {
    pub fn new(log: *mut sys::ngx_log_t) -> Self {
        // Not cancelable: a worker that leaves answers first.
        Self { drafts: RefCell::default(), timer: Timer::new(turn, false, log) }
    }

    fn take(&self, request: &Request, draft: Box<Draft>) -> Result<(), Box<Draft>> {
        let mut drafts = self.drafts.borrow_mut();
        if drafts.len() >= MOST {
            return Err(draft);
        }
        let Some(ticket) = later::ticket(request) else { return Err(draft) };
        drafts.push_back((ticket, draft));
        self.timer.arm(PAUSE);
        Ok(())
    }

    /// One step of one draft, or all of all when the worker is `leaving`.
    fn turn(&self, leaving: bool) {
        while let Some((ticket, mut draft)) = self.next() {
            if !leaving && draft.step() {
                self.drafts.borrow_mut().push_front((ticket, draft));
                break;
            }
            later::resume(ticket, |request| draft.finish(request));
            if !leaving {
                break;
            }
        }
        if !self.drafts.borrow().is_empty() {
            self.timer.arm(PAUSE);
        }
    }

    /// The first whose client is still there.
    fn next(&self) -> Option<(u64, Box<Draft>)> {
        let mut drafts = self.drafts.borrow_mut();
        while drafts.front().is_some_and(|(ticket, _)| !later::waits(*ticket)) {
            drafts.pop_front();
        }
        drafts.pop_front()
    }
}

fn turn() {
    if let Some(worker) = worker::current() {
        worker.scribe.turn(exiting());
    }
}

/// The process is about to serve another configuration.
pub fn release() {
    if let Some(worker) = worker::current() {
        worker.scribe.turn(true);
    }
}
