//! One timer per worker that starts the probes which fall to it, and books what came of them.

use std::cell::{Cell, RefCell};

use nginx_sys as sys;

use super::super::events::{self, Event, Kind};
use super::super::log::{self, Level};
use super::super::sys::mono;
use super::super::timer::Timer;
use super::super::worker::{self, Worker};
use super::super::{breaker, membership, traffic};
use super::slots::{Flight, Slot, Slots, Subject};
use crate::policy::Millis;
use crate::policy::health::{Change, Condition, Probe as Said, State, apply, schedule};
use crate::remote::Job;
use crate::remote::probe::{Outcome, Report};
use crate::shared::health::{Judgement, Lease, Probe};

/// How seldom and how often a worker looks for due probes.
const TICK: core::ops::RangeInclusive<Millis> = 10..=1_000;
/// A report that is this much later than the probe's own deadline will not come.
const LOST: Millis = 2_000;

/// Probes of this worker.
pub struct Driver {
    timer: Timer,
    slots: RefCell<Slots>,
    /// The last number of a probe.
    serial: Cell<u32>,
    /// There is no I/O thread: the probes fall to the other workers.
    mute: Cell<bool>,
}

/// What a slot may do now.
enum Turn {
    /// Nothing for so many milliseconds.
    Wait(Millis),
    Go(Lease),
}

impl Turn {
    fn wait(&self, interval: Millis) -> Millis {
        match self {
            Self::Wait(time) => *time,
            Self::Go(_) => interval,
        }
    }
}

impl Driver {
    pub fn new(log: *mut sys::ngx_log_t) -> Self {
        Self {
            timer: Timer::new(tick, true, log),
            slots: RefCell::default(),
            serial: Cell::default(),
            mute: Cell::default(),
        }
    }

    /// Lists what may fall to this worker and starts the timer.
    pub fn start(&self, worker: &Worker) {
        self.slots.borrow_mut().fill(worker.conf);
        let changes = worker.conf.upstreams.groups.iter().any(membership::may_change);
        if changes || !self.slots.borrow().is_empty() {
            self.timer.arm(*TICK.start());
        }
    }

    /// Has the timer fire soon.
    pub fn hurry(&self) {
        self.timer.arm_within(*TICK.start());
    }

    /// The I/O thread has finished a probe.
    pub fn reported(&self, worker: &Worker, report: Report) {
        let (at, serial) = ((report.ticket & 0xffff_ffff) as usize, (report.ticket >> 32) as u32);
        let mut slots = self.slots.borrow_mut();
        let Some(slot) = slots.get_mut(at) else { return };
        let Some(flight) = slot.flight.take_if(|flight| flight.serial == serial) else { return };
        let subject = slot.subject.clone();
        let next = slot.next(&subject, &flight.lease, mono());
        let took = millis(report.elapsed);
        let outcome = match &subject.check.rules {
            Some(rules) => rules.judge(&subject.member.server.name, report),
            None => report.outcome,
        };
        let passed = passed(&outcome);
        let (group, server) = (subject.group, &*subject.member.server);
        let place = traffic::Place { group, number: subject.number, server, check: subject.check };
        traffic::probed(worker.conf, place, &outcome, took);
        let booked = slot.book(&subject, &flight, outcome, next);
        drop(slots);
        if let Some(passed) = passed {
            breaker::checked(worker.conf, subject.group, &tested(&subject, &flight, passed));
        }
        if let Some((change, reason)) = booked {
            match change.beside(subject.others()) {
                Some(change) => announce(&subject, change, &reason),
                None => mention(&subject, change, &reason),
            }
            traffic::changed(worker.conf, place, change);
            // Before anybody hears of it.
            subject.member.recover(change, mono());
            if let Some(store) = worker.conf.upstreams.store() {
                store.note_change();
            }
            super::changed(worker.conf, subject.group);
        }
    }

    /// Finds the servers anew of groups where some have come or left, then starts what is due; the milliseconds until
    /// there may be something to do again.
    fn turn(&self, worker: &Worker) -> Millis {
        let mut again = *TICK.end();
        for group in &worker.conf.upstreams.groups {
            if !membership::is_behind(worker.conf, group) {
                continue;
            }
            match membership::follow(worker.conf, group) {
                true => self.slots.borrow_mut().follow(worker.conf, group),
                false => again = *TICK.start(),
            }
        }
        self.round(worker).min(again)
    }

    /// Starts what is due; the milliseconds until something may be due again.
    fn round(&self, worker: &Worker) -> Millis {
        let now = mono();
        let mut sleep = *TICK.end();
        for (place, slot) in self.slots.borrow_mut().iter_mut() {
            let subject = slot.subject.clone();
            if self.mute.get() || !subject.member.is_probed() {
                continue;
            }
            let outcome = slot.turn(&subject, now);
            if let Turn::Go(lease) = outcome {
                self.serial.set(self.serial.get().wrapping_add(1));
                self.mute.set(!slot.launch(worker, (place, self.serial.get()), lease, now));
            }
            sleep = sleep.min(outcome.wait(subject.check.interval));
        }
        sleep.clamp(*TICK.start(), *TICK.end())
    }
}

/// The timer.
fn tick() {
    let Some(worker) = worker::current() else { return };
    let conf = worker.conf;
    for group in &conf.upstreams.groups {
        super::refresh(conf, group);
    }
    // A leaving worker has nothing more to start, and neither has one of an older cycle.
    let current =
        conf.upstreams.store().is_some_and(|store| store.generation() == conf.health.generation.get());
    if worker::may_probe() {
        let sleep = if current { worker.health.turn(&worker) } else { *TICK.end() };
        worker.health.timer.arm(sleep);
    }
}

impl Slot {
    /// Takes the right to probe if it is time.
    fn turn(&mut self, subject: &Subject, now: Millis) -> Turn {
        let check = subject.check;
        if let Some(flight) = &self.flight {
            if now < flight.lost_at {
                let next = flight.lease.due + check.interval;
                return Turn::Wait(if next > now { next - now } else { check.interval / 4 });
            }
            self.flight = None;
        }
        if now < self.not_before {
            return Turn::Wait(self.not_before - now);
        }
        let due = subject.shared.due(self.me, now, check.interval);
        if due > 0 {
            return Turn::Wait(due);
        }
        let claimed = subject.shared.claim(self.me, now, check.interval, check.timeout);
        // Without the right: somebody else was quicker, or nobody had asked before.
        claimed.map_or(Turn::Wait(check.interval / 4), Turn::Go)
    }

    /// Sends the probe off. False if this worker cannot probe at all.
    fn launch(&mut self, worker: &Worker, (place, serial): (usize, u32), lease: Lease, now: Millis) -> bool {
        let subject = &self.subject;
        let check = subject.check;
        let Some(((request, manner), target)) = check.probe.as_ref().zip(subject.member.target(check.port))
        else {
            subject.shared.abandon(lease, now + check.interval);
            return true;
        };
        let mut request = Box::new(request.clone());
        request.ticket = u64::from(serial) << 32 | place as u64;
        request.target = target;
        if worker.send(Job::Probe(request, manner.clone())) {
            self.flight = Some(Flight { serial, lease, began: now, lost_at: now + check.timeout + LOST });
            return true;
        }
        subject.shared.abandon(lease, now);
        false
    }

    /// When the next probe is due, a random while after its turn, and how many were due meanwhile.
    fn next(&mut self, subject: &Subject, lease: &Lease, now: Millis) -> (Millis, u64) {
        let phase = lease.due.saturating_sub(self.jitter);
        let (turn, missed) = schedule::next(phase, subject.check.interval, now);
        self.jitter = random(subject.check.jitter);
        (turn + self.jitter, missed)
    }

    /// Books the outcome; the change of the verdict it made, and why.
    fn book(
        &mut self,
        subject: &Subject,
        flight: &Flight,
        outcome: Outcome,
        (next, overdue): (Millis, u64),
    ) -> Option<(Change, String)> {
        let (said, reason) = match outcome {
            Outcome::Pass => (Said::Pass, String::new()),
            Outcome::Degraded(reason) => (Said::Degraded, reason),
            Outcome::Fail { detail, .. } => (Said::Fail, detail),
            Outcome::Unknown(reason) => {
                if !core::mem::replace(&mut self.stuck, true) {
                    let (server, group) = (&subject.member.server.name, &subject.group.name);
                    log::cycle(
                        Level::Error,
                        format_args!("cannot check server {server}: {reason}, upstream \"{group}\""),
                    );
                }
                subject.shared.abandon(flight.lease, next);
                return None;
            }
        };
        self.stuck = false;
        let mut change = None;
        let others = subject.others();
        let probe = Probe { now: mono(), passed: said != Said::Fail, next, overdue };
        subject.shared.complete(flight.lease, probe, |bits| {
            let (state, changed) = apply(State::from_bits(bits), said, subject.check.thresholds);
            change = changed;
            let of_server = changed.and_then(|change| change.beside(others));
            let fell = of_server.is_some_and(|change| change.to == Condition::Down);
            Judgement { state: state.to_bits(), changed: changed.is_some(), fell }
        })?;
        Some((change?, reason))
    }
}

/// Whether a probe passed; `None` if it could not be made.
const fn passed(outcome: &Outcome) -> Option<bool> {
    match outcome {
        Outcome::Pass | Outcome::Degraded(_) => Some(true),
        Outcome::Fail { .. } => Some(false),
        Outcome::Unknown(_) => None,
    }
}

/// What a probe says to breakers. A pass counts once all checks of the server hold; a failure speaks for the group
/// when no server of it is usable.
fn tested(subject: &Subject, flight: &Flight, passed: bool) -> breaker::Checked {
    let server_is_good = if passed { subject.member.is_usable().then_some(true) } else { Some(false) };
    let some_is = || subject.group.health.members().iter().any(|member| member.is_usable());
    let group_is_good = if passed { server_is_good } else { (!some_is()).then_some(false) };
    breaker::Checked { began: flight.began, server: subject.number, server_is_good, group_is_good }
}

/// A change of one check that changes nothing for its server, by what its other checks say.
fn mention(subject: &Subject, change: Change, reason: &str) {
    let (server, group, check) = (&subject.member.server.name, &subject.group.name, subject.check.label());
    let (is, of) = (change.to.as_str(), if reason.is_empty() { "the check passed" } else { reason });
    log::cycle(
        Level::Info,
        format_args!(
            "upstream server {server} is {is} by check \"{check}\" alone: {of}, upstream \"{group}\""
        ),
    );
}

/// One line for each change of a server.
fn announce(subject: &Subject, change: Change, reason: &str) {
    let (server, group) = (&subject.member.server.name, &subject.group.name);
    events::note(&Event {
        kind: Kind::Health,
        upstream: group,
        peer: server,
        from: change.from.as_str(),
        to: change.to.as_str(),
        text: if reason.is_empty() { "the check passed" } else { reason },
    });
    match change.to {
        Condition::Up => {
            log::cycle(
                Level::Notice,
                format_args!("upstream server {server} is healthy, upstream \"{group}\""),
            );
        }
        Condition::Degraded => {
            log::cycle(
                Level::Notice,
                format_args!("upstream server {server} is degraded: {reason}, upstream \"{group}\""),
            );
        }
        Condition::Down | Condition::Checking => {
            log::cycle(
                Level::Notice,
                format_args!("upstream server {server} is unhealthy: {reason}, upstream \"{group}\""),
            );
        }
    }
}

/// From 0 to `most`. What it decides is only when a probe is due.
fn random(most: Millis) -> Millis {
    // SAFETY: no memory of ours is involved; nginx seeds the generator in each worker.
    let value = Millis::from(unsafe { sys::random() }.unsigned_abs());
    value % (most + 1)
}

fn millis(length: core::time::Duration) -> Millis {
    Millis::try_from(length.as_millis()).unwrap_or(Millis::MAX)
}
