//! This worker's part in sharing bans: tells Redis, looks at its list, and enters what is heard.
//!
//! Nothing here is on a request's way. Any worker of the host may have its turn of looking at the list; who dies on it
//! holds up nobody for longer than one turn.

use std::collections::HashSet;
use std::time::Instant;

use nginx_sys as sys;

use super::super::conf::MainConf;
use super::super::log::Level;
use super::super::sys::mono;
use super::super::timer::Timer;
use super::super::worker::{self, Worker};
use super::{Shown, ZoneConf, words};
use crate::policy::Millis;
use crate::policy::ban::{Cause, MAX_TIME, Name};
use crate::policy::limit::KeyHash;
use crate::remote::Job;
use crate::remote::redis::LinkEvent;
use crate::remote::redis::ban::{Ask, Banned, Heard, How, News, Said, What, Word as RemoteWord};
use crate::shared::ban::{BanZone, Entry, Heeded, Hit, Origin, Rule, Told, Word};

/// From one look at Redis's list to the next, of all workers together: bounds how late a gateway learns of a ban whose
/// message it has missed.
const TURN: Millis = 800;
/// From one look of this worker at whether it is somebody's turn to the next.
const TICK: Millis = 200;
/// A connection that is new is followed by a look at the list, unless there was one so shortly before.
const FRESH: Millis = 50;
/// Most bans learnt at once that are told of one by one.
const FEW: usize = 8;

/// This worker's.
pub struct Keeper {
    timer: Timer,
}

impl Keeper {
    pub fn start(conf: &MainConf, log: *mut sys::ngx_log_t) -> Self {
        let keeper = Self { timer: Timer::new(tick, true, log) };
        if conf.bans.0.iter().any(|zone| zone.redis.is_some()) {
            keeper.timer.arm(TICK);
        }
        keeper
    }

    /// A hit, or a ban made of it, was entered here: Redis is told, if it answers.
    pub fn hit(&self, worker: &Worker, zone: &ZoneConf, (name, rule): (&Name, &Rule), hit: Hit) {
        let (Some(link), Some(shared)) = (link(worker, zone), zone.shared()) else { return };
        let (key, address, terms, cause) = (name.hash, name.address, rule.terms, rule.cause);
        let what = match hit {
            Hit::Ignored => return,
            Hit::Counted => What::Hit { key, counter: key.with(&rule.id), terms, cause, address },
            Hit::Banned(sentence) => {
                // Lifted, or taken away, in this very moment.
                let Some(entry) = shared.get(&key).filter(|entry| entry.lifted.is_none()) else { return };
                let seq = entry.seq;
                let ban = Banned { key, left: sentence.length, ago: 0, level: sentence.level, cause };
                let memory = terms.max_duration.saturating_mul(sentence.level.into());
                What::Ban { ban, force: false, memory, seq }
            }
        };
        send(worker, zone, shared, link, what);
    }

    /// A connection to a Redis is new: messages may have been missed.
    pub fn connected(&self, worker: &Worker, event: &LinkEvent) {
        let (LinkEvent::Connected { name } | LinkEvent::Back { name, .. }) = event else { return };
        for zone in worker.conf.bans.0.iter().filter(|zone| zone.redis_name.as_deref() == Some(name)) {
            let Some(shared) = zone.shared() else { continue };
            shared.untold();
            // It may be another server, with an older copy of a list of this very version.
            shared.set_version(0);
            turn(worker, zone, shared, FRESH);
        }
    }

    /// An operator's ban or its end is told at once.
    pub fn told_by_hand(&self, worker: &Worker, zone: &ZoneConf, entry: &Entry) {
        if let (Some(link), Some(shared)) = (link(worker, zone), zone.shared()) {
            send(worker, zone, shared, link, telling(entry, mono()));
        }
    }

    /// Something has come from Redis.
    pub fn heard(&self, worker: &Worker, news: News) {
        let zones = &worker.conf.bans.0;
        let named = |zone: &&ZoneConf| zone.redis == Some(news.link) && zone.name == news.zone;
        let Some(zone) = zones.iter().find(named) else { return };
        let Some(shared) = zone.shared() else { return };
        let passed = Millis::try_from(news.at.elapsed().as_millis()).unwrap_or(Millis::MAX);
        let here = Here { worker, zone, shared, then: mono().saturating_sub(passed) };
        match news.what {
            Heard::Banned { word, how: How::Told, .. } | Heard::Lifted { word, how: How::Told, .. }
                if here.is_absurd(word) => {}
            Heard::Banned { ban, ends, word, how } => here.banned(&ban, ends, word, how),
            Heard::Lifted { key, ago, word, how } => here.lifted(&key, ago, word, how),
            Heard::Over { key, seq, stamp } => {
                let told = Told { stamp, answers: Some(seq), listed: false, what: Word::Over };
                shared.hear(&key, &told, mono());
            }
            Heard::Listed { version, bans, whole } => here.listed(version, &bans, whole),
            Heard::Failed => shared.untold(),
        }
    }
}

/// Where something is heard.
struct Here<'a> {
    worker: &'a Worker,
    zone: &'a ZoneConf,
    shared: &'a BanZone,
    /// What lengths of time are counted from.
    then: Millis,
}

impl Here<'_> {
    /// A word as the zone is to heed it.
    fn told(&self, word: Word, of: RemoteWord, how: How) -> Told {
        let own = (of.origin == self.shared.origin() && of.seq > 0).then_some(of.seq);
        let answers = if let How::Answer(seq) = how { Some(seq) } else { own };
        Told { stamp: of.stamp, answers, listed: false, what: word }
    }

    /// Stamps are of Redis's clock, as the versions of its list are, and no more than a little ahead: whoever may publish is not to
    /// silence all others.
    fn is_absurd(&self, word: RemoteWord) -> bool {
        const DAY: u64 = 86_400_000_000;
        let version = self.shared.version();
        version > 1 && word.stamp > version.saturating_add(DAY)
    }

    fn is_own(&self, word: RemoteWord) -> bool {
        word.origin == self.shared.origin()
    }

    /// A ban as the zone keeps it.
    fn ban(&self, ban: &Banned, ends: u64, word: RemoteWord) -> Word {
        Word::Banned {
            since: self.then.saturating_sub(ban.ago).max(1),
            // However long Redis, or whoever writes to it, wants it.
            until: self.then.saturating_add(ban.left.min(MAX_TIME)),
            ends,
            level: ban.level,
            cause: ban.cause,
            origin: if self.is_own(word) { Origin::Own } else { Origin::Other },
        }
    }

    /// Redis has a ban. Of one that came of what several gateways counted, the one whose hit was the last has seen the client.
    fn banned(&self, ban: &Banned, ends: u64, word: RemoteWord, how: How) {
        let told = self.told(self.ban(ban, ends, word), word, how);
        let heeded = self.shared.hear(&ban.key, &told, mono());
        let cause = ban.cause.name();
        if let How::Decided(address) = how {
            if let Some(address) = address {
                self.shared.seen(&ban.key, address);
            }
            words::banned_together(&self.zone.name, &Shown(&ban.key, address), ban.left, cause);
        } else if heeded == Some(Heeded::Turned) && !self.is_own(word) {
            words::banned_elsewhere(&self.zone.name, &Shown(&ban.key, None), ban.left, cause);
        }
        if heeded.is_none() {
            self.zone.no_room(1, mono());
        }
    }

    /// Redis says that a ban was lifted: by this host, or by another.
    fn lifted(&self, key: &KeyHash, ago: Millis, word: RemoteWord, how: How) {
        let address = self.shared.get(key).and_then(|entry| entry.address);
        let told = self.told(Word::Lifted { at: self.then.saturating_sub(ago) }, word, how);
        if self.shared.hear(key, &told, mono()) == Some(Heeded::Turned) && !self.is_own(word) {
            words::lifted(Level::Notice, &self.zone.name, &Shown(key, address), "another gateway");
        }
    }

    /// All that Redis has. What this host has heard of later, and what Redis has lost, Redis is told again: or it is over, which
    /// Redis then says.
    fn listed(&self, version: u64, bans: &[(Banned, u64, RemoteWord)], whole: bool) {
        let (mut fresh, mut lost) = (Vec::new(), 0);
        let mut again = HashSet::new();
        for (ban, ends, word) in bans {
            let told = Told { listed: true, ..self.told(self.ban(ban, *ends, *word), *word, How::Told) };
            match self.shared.hear(&ban.key, &told, mono()) {
                Some(Heeded::Turned) => fresh.push(ban),
                Some(Heeded::Old) => {
                    again.insert(ban.key);
                }
                None => lost += 1,
                Some(_) => {}
            }
        }
        self.shared.set_version(version);
        if fresh.len() > FEW {
            words::learnt(&self.zone.name, fresh.len());
        } else {
            let each = |ban: &&Banned| {
                words::banned_elsewhere(&self.zone.name, &Shown(&ban.key, None), ban.left, ban.cause.name());
            };
            fresh.iter().for_each(each);
        }
        if lost > 0 {
            self.zone.no_room(lost, mono());
        }
        if whole {
            self.tell_again(bans, &again);
        }
    }

    fn tell_again(&self, bans: &[(Banned, u64, RemoteWord)], again: &HashSet<KeyHash>) {
        let Some(link) = link(self.worker, self.zone) else { return };
        let (listed, now): (HashSet<_>, _) = (bans.iter().map(|(ban, ..)| ban.key).collect(), mono());
        let lost = |entry: &Entry| entry.in_force(now) && !listed.contains(&entry.key);
        let known = |entry: &Entry| !entry.dry && entry.told && (lost(entry) || again.contains(&entry.key));
        for entry in self.shared.entries().filter(known) {
            send(self.worker, self.zone, self.shared, link, telling(&entry, now));
        }
    }
}

/// The timer.
fn tick() {
    let Some(worker) = worker::current() else { return };
    for zone in &worker.conf.bans.0 {
        if let Some(shared) = zone.shared() {
            turn(&worker, zone, shared, TURN);
        }
    }
    worker.bans.timer.arm(TICK);
}

/// The link of a zone whose Redis answers.
fn link(worker: &Worker, zone: &ZoneConf) -> Option<usize> {
    zone.redis.filter(|link| worker.gate(*link).is_some_and(crate::remote::redis::Gate::admits))
}

fn send(worker: &Worker, zone: &ZoneConf, shared: &BanZone, link: usize, what: What) {
    let key = match &what {
        What::Hit { key, .. } | What::Lift { key, .. } => Some(key),
        What::Ban { ban, .. } | What::Again { ban, .. } => Some(&ban.key),
        What::List { .. } => None,
    };
    let known = key.and_then(|key| shared.get(key)).map_or(0, |entry| entry.stamp);
    let (zone, origin, at) = (zone.name.clone(), shared.origin(), Instant::now());
    worker.send(Job::Ban(Ask { link, zone, origin, known, at, what }));
}

/// Looks at Redis's list and tells it what it is still to hear, if nobody did for `pause`.
fn turn(worker: &Worker, zone: &ZoneConf, shared: &BanZone, pause: Millis) {
    let Some(link) = link(worker, zone) else { return };
    let now = mono();
    if !shared.take_turn(now, pause) {
        return;
    }
    if shared.take_untold() {
        let untold = |entry: &Entry| !entry.told && !entry.dry && is_news(entry, now);
        for entry in shared.entries().filter(untold) {
            send(worker, zone, shared, link, telling(&entry, now));
        }
    }
    send(worker, zone, shared, link, What::List { known: shared.version() });
}

/// Whether it still matters to others: what is over may have set aside, or ended, what is not.
fn is_news(entry: &Entry, now: Millis) -> bool {
    entry.lifted.is_some() || entry.in_force(now) || entry.cause == Cause::Manual
}

/// What Redis is to hear of an entry: something new, or what it has said itself.
fn telling(entry: &Entry, now: Millis) -> What {
    let stamp = if entry.told { entry.stamp } else { 0 };
    // By hand for a time that is over: whatever there was before it is over too.
    let over = (!entry.in_force(now)).then_some(entry.since);
    if let Some(at) = entry.lifted.or(over) {
        let left = entry.sentence.saturating_sub(now);
        return What::Lift { key: entry.key, ago: now.saturating_sub(at), left, seq: entry.seq, stamp };
    }
    let ban = Banned {
        key: entry.key,
        left: entry.until.saturating_sub(now),
        ago: now.saturating_sub(entry.since),
        level: entry.level,
        cause: entry.cause,
    };
    let memory = entry.until.saturating_sub(entry.since).saturating_mul(entry.level.max(1).into());
    if stamp > 0 {
        return What::Again { ban, memory, said: Said { ends: entry.ends, stamp } };
    }
    What::Ban { ban, force: entry.cause == Cause::Manual, memory, seq: entry.seq }
}
