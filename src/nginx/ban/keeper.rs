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
use crate::policy::ban::MAX_TIME;
use crate::policy::limit::KeyHash;
use crate::remote::Job;
use crate::remote::redis::LinkEvent;
use crate::remote::redis::ban::{Ask, Banned, Heard, News, What};
use crate::shared::ban::{BanZone, Entry, Hit, New, Origin, Rule};

/// From one look at Redis's list to the next, of all workers together: bounds how late a gateway learns of a ban whose
/// message it has missed.
const TURN: Millis = 800;
/// From one look of this worker at whether it is somebody's turn to the next.
const TICK: Millis = 200;
/// A connection that is new is followed by a look at the list, unless there was one so shortly before.
const FRESH: Millis = 50;

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
    pub fn hit(&self, worker: &Worker, zone: &ZoneConf, (key, rule): (&KeyHash, &Rule), hit: Hit) {
        let Some(link) = link(worker, zone) else { return };
        let (terms, cause) = (rule.terms, rule.cause);
        let what = match hit {
            Hit::Ignored => return,
            Hit::Counted => What::Hit { key: *key, counter: key.with(&rule.id), terms, cause },
            Hit::Banned(sentence) => {
                let ban = Banned { key: *key, left: sentence.length, ago: 0, level: sentence.level, cause };
                What::Ban { ban, force: false, memory: terms.max_duration }
            }
        };
        send(worker, zone, link, what);
    }

    /// A connection to a Redis is new: messages may have been missed.
    pub fn connected(&self, worker: &Worker, event: &LinkEvent) {
        let (LinkEvent::Connected { name } | LinkEvent::Back { name, .. }) = event else { return };
        for zone in worker.conf.bans.0.iter().filter(|zone| zone.redis_name.as_deref() == Some(name)) {
            let Some(shared) = zone.shared() else { continue };
            shared.untold();
            turn(worker, zone, shared, FRESH);
        }
    }

    /// An operator's ban or its end is told at once.
    pub fn told_by_hand(&self, worker: &Worker, zone: &ZoneConf, entry: &Entry) {
        if let Some(link) = link(worker, zone) {
            send(worker, zone, link, telling(entry, mono(), true));
        }
    }

    /// Something has come from Redis.
    pub fn heard(&self, worker: &Worker, news: News) {
        let zones = &worker.conf.bans.0;
        let named = |zone: &&ZoneConf| zone.redis == Some(news.link) && zone.name == news.zone;
        let Some(zone) = zones.iter().find(named) else { return };
        let Some(shared) = zone.shared() else { return };
        let passed = Millis::try_from(news.at.elapsed().as_millis()).unwrap_or(Millis::MAX);
        let then = mono().saturating_sub(passed);
        match news.what {
            Heard::Banned(ban) => enter(zone, shared, &ban, then),
            Heard::Lifted { key, ago } => lifted(zone, shared, &key, then.saturating_sub(ago)),
            Heard::Listed { version, bans, whole } => {
                bans.iter().for_each(|ban| enter(zone, shared, ban, then));
                shared.set_version(version);
                if whole {
                    tell_missing(worker, zone, shared, &bans);
                }
            }
            Heard::Failed => shared.untold(),
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

fn send(worker: &Worker, zone: &ZoneConf, link: usize, what: What) {
    worker.send(Job::Ban(Ask { link, zone: zone.name.clone(), at: Instant::now(), what }));
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
            send(worker, zone, link, telling(&entry, now, false));
        }
    }
    send(worker, zone, link, What::List { known: shared.version() });
}

/// Whether it still matters to others.
fn is_news(entry: &Entry, now: Millis) -> bool {
    if entry.lifted.is_some() { entry.sentence > now } else { entry.in_force(now) }
}

fn telling(entry: &Entry, now: Millis, force: bool) -> What {
    match entry.lifted {
        Some(at) => {
            let left = entry.sentence.saturating_sub(now);
            What::Lift { key: entry.key, ago: now.saturating_sub(at), left }
        }
        None => {
            let ban = Banned {
                key: entry.key,
                left: entry.until.saturating_sub(now),
                ago: now.saturating_sub(entry.since),
                level: entry.level,
                cause: entry.cause,
            };
            What::Ban { ban, force, memory: entry.until.saturating_sub(entry.since) }
        }
    }
}

/// What this host has in force and Redis has not: either it lost it, or somebody lifted it, which it will say.
fn tell_missing(worker: &Worker, zone: &ZoneConf, shared: &BanZone, bans: &[Banned]) {
    let Some(link) = link(worker, zone) else { return };
    let (listed, now): (HashSet<_>, _) = (bans.iter().map(|ban| ban.key).collect(), mono());
    for entry in shared.entries().filter(|entry| entry.in_force(now) && !entry.dry && entry.told) {
        if !listed.contains(&entry.key) {
            send(worker, zone, link, telling(&entry, now, false));
        }
    }
}

/// A ban that Redis has.
fn enter(zone: &ZoneConf, shared: &BanZone, ban: &Banned, then: Millis) {
    let new = New {
        // However long Redis, or whoever writes to it, wants it.
        until: then.saturating_add(ban.left.min(MAX_TIME)),
        since: then.saturating_sub(ban.ago).max(1),
        level: ban.level,
        cause: ban.cause,
        origin: Origin::Other,
        dry: false,
        told: true,
        force: false,
        address: None,
        reason: "",
    };
    let placed = shared.ban(&ban.key, &new, mono());
    if placed.is_some_and(|placed| placed.fresh) {
        words::banned_elsewhere(&zone.name, &Shown(&ban.key, None), ban.left, ban.cause.name());
    }
}

/// Redis says that a ban was lifted: by this host, or by another.
fn lifted(zone: &ZoneConf, shared: &BanZone, key: &KeyHash, at: Millis) {
    let address = shared.get(key).and_then(|entry| entry.address);
    if shared.lift(key, at, true, mono()) {
        words::lifted(Level::Notice, &zone.name, &Shown(key, address), "another gateway");
    } else if shared.get(key).is_some_and(|entry| entry.lifted.is_some()) {
        shared.told(key);
    }
}
