//! What may fall to this worker to probe: a place for each record, kept in step with the groups' servers.

use std::collections::HashMap;
use std::rc::Rc;

use super::super::conf::MainConf;
use super::super::sys::{Process, mono, process, worker_index, worker_processes};
use super::super::upstream::Group;
use super::conf::Check;
use super::member::Member;
use crate::policy::Millis;
use crate::policy::health::{Condition, schedule};
use crate::shared::health::{Check as SharedCheck, Lease, Prober};

/// One record, as this worker sees it.
pub struct Slot {
    pub subject: Rc<Subject>,
    pub me: Prober,
    /// The first round's spread.
    pub not_before: Millis,
    /// How much later than its phase the last probe was due.
    pub jitter: Millis,
    pub flight: Option<Flight>,
    /// The last probe could not be made, and that has been logged.
    pub stuck: bool,
}

/// All that a slot is about.
pub struct Subject {
    pub group: &'static Group,
    pub member: Rc<Member>,
    /// The server's number in its group.
    pub number: usize,
    /// The number of the record in the zone.
    index: usize,
    pub shared: &'static SharedCheck,
    pub check: &'static Check,
}

impl Subject {
    /// What the server's other checks make of it: the worst of them.
    pub fn others(&self) -> Condition {
        let others = self.member.records.iter().filter(|record| !core::ptr::eq(record.shared, self.shared));
        others.map(|record| super::condition(record.shared)).fold(Condition::Up, Condition::and)
    }
}

/// A probe under way.
pub struct Flight {
    /// Numbers of probes, so that a late report finds nobody.
    pub serial: u32,
    pub lease: Lease,
    pub began: Millis,
    pub lost_at: Millis,
}

/// The slots of a worker. One keeps its place as long as its server stays.
#[derive(Default)]
pub struct Slots(Vec<Option<Slot>>);

impl Slots {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn get_mut(&mut self, place: usize) -> Option<&mut Slot> {
        self.0.get_mut(place)?.as_mut()
    }

    /// All, with their places.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (usize, &mut Slot)> {
        self.0.iter_mut().enumerate().filter_map(|(place, slot)| Some((place, slot.as_mut()?)))
    }

    /// The servers of all groups, the first round spread out.
    pub fn fill(&mut self, conf: &'static MainConf) {
        let subjects = conf.upstreams.groups.iter().flat_map(|group| subjects(conf, group)).collect();
        self.add(conf, subjects);
    }

    /// The servers of a group have been found anew: lets go of those that have left, and adds those that have come.
    pub fn follow(&mut self, conf: &'static MainConf, group: &'static Group) {
        let mut found: HashMap<usize, Subject> =
            subjects(conf, group).into_iter().map(|subject| (subject.index, subject)).collect();
        for place in &mut self.0 {
            let Some(slot) = place.as_mut().filter(|slot| core::ptr::eq(slot.subject.group, group)) else {
                continue;
            };
            if let Some(subject) = found.remove(&slot.subject.index) {
                slot.subject = Rc::new(subject);
            } else {
                slot.leave();
                *place = None;
            }
        }
        let mut new: Vec<_> = found.into_values().collect();
        new.sort_by_key(|subject| subject.number);
        self.add(conf, new);
    }

    fn add(&mut self, conf: &MainConf, subjects: Vec<Subject>) {
        let (generation, now) = (conf.health.generation.get(), mono());
        let workers = if process() == Process::Single { 1 } else { worker_processes().max(1) };
        let count = subjects.len();
        let mut places = 0;
        for (number, subject) in subjects.into_iter().enumerate() {
            let preferred = subject.index % workers == usize::from(worker_index());
            let slot = Slot {
                me: Prober { worker: worker_index(), generation, preferred },
                not_before: now + schedule::first(number, count, subject.check.interval),
                subject: Rc::new(subject),
                jitter: 0,
                flight: None,
                stuck: false,
            };
            while self.0.get(places).is_some_and(Option::is_some) {
                places += 1;
            }
            match self.0.get_mut(places) {
                Some(place) => *place = Some(slot),
                None => self.0.push(Some(slot)),
            }
        }
    }
}

impl Slot {
    /// Its server has left.
    fn leave(&mut self) {
        if let Some(flight) = self.flight.take() {
            self.subject.shared.abandon(flight.lease, mono());
        }
    }
}

/// All that is to be probed in a group.
fn subjects(conf: &'static MainConf, group: &'static Group) -> Vec<Subject> {
    let mut subjects = Vec::new();
    for (number, member) in group.health.members().iter().enumerate() {
        for record in &member.records {
            if let Some(check) = conf.health.checks.get(record.check) {
                let (member, index, shared) = (member.clone(), record.index, record.shared);
                subjects.push(Subject { group, member, number, index, shared, check });
            }
        }
    }
    subjects
}
