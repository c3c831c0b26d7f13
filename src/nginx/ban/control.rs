//! What operators see of bans, and do to them: for the API.

use std::net::IpAddr;

use super::super::log::Level;
use super::super::sys::mono;
use super::super::worker;
use super::{Shown, ZoneConf, dry_run, words};
use crate::policy::Millis;
use crate::policy::ban::{Cause, MAX_TIME, Name};
use crate::policy::limit::KeyHash;
use crate::shared::ban::{Counters, Entry, New, Origin};

/// A ban in force.
pub struct Ban {
    /// The key's hash.
    pub id: KeyHash,
    /// The key itself, if it is an address.
    pub address: Option<IpAddr>,
    /// When it began and ends, on the monotonic clock.
    pub since: Millis,
    pub until: Millis,
    /// How many bans in a row; 1: the first.
    pub level: u32,
    pub cause: Cause,
    /// An operator's words.
    pub reason: String,
    /// It was made by another gateway, or of what several of them counted.
    pub remote: bool,
    pub dry_run: bool,
}

impl From<Entry> for Ban {
    fn from(of: Entry) -> Self {
        Self {
            id: of.key,
            address: of.address,
            since: of.since,
            until: of.until,
            level: of.level,
            cause: of.cause,
            reason: of.reason,
            remote: of.origin == Origin::Other,
            dry_run: of.dry,
        }
    }
}

/// The numbers of one zone.
#[derive(Default)]
pub struct Standing {
    /// Bans that there is room for.
    pub capacity: usize,
    pub counters: Counters,
}

pub fn standing(zone: &ZoneConf) -> Standing {
    zone.shared().map_or_else(Standing::default, |shared| Standing {
        capacity: shared.capacity(),
        counters: shared.counters(),
    })
}

/// All bans in force, those that end soonest first. Reads the whole zone.
pub fn list(zone: &ZoneConf) -> Vec<Ban> {
    let now = mono();
    let mut bans: Vec<Ban> =
        zone.shared().into_iter().flat_map(|shared| shared.in_force(now)).map(Ban::from).collect();
    bans.sort_by_key(|ban| ban.until);
    bans
}

/// The key that an operator means: a hash as it is listed, with `#` before or not, or the key itself.
fn key(zone: &ZoneConf, text: &[u8]) -> Option<Name> {
    let digits = core::str::from_utf8(text).ok();
    let hash = digits.and_then(|digits| KeyHash::parse(digits.strip_prefix('#').unwrap_or(digits)));
    // A key that looks like a hash is one only if it is banned.
    let listed = |hash: &KeyHash| zone.shared().is_some_and(|shared| shared.get(hash).is_some());
    match hash.filter(listed) {
        Some(hash) => Some(Name { hash, address: None }),
        None => Name::typed(text, zone.binary),
    }
}

/// The ban in force that is meant by a key: the one that holds, else the one of a dry run.
pub fn meant(zone: &ZoneConf, text: &[u8]) -> Option<Name> {
    let name = key(zone, text)?;
    let dry = Name { hash: name.hash.with(&dry_run()), ..name };
    let in_force = |name: &Name| get(zone, name).is_some();
    Some(if !in_force(&name) && in_force(&dry) { dry } else { name })
}

/// The ban of one key, if one is in force.
pub fn get(zone: &ZoneConf, name: &Name) -> Option<Ban> {
    let entry = zone.shared()?.get(&name.hash).filter(|entry| entry.in_force(mono()))?;
    Some(Ban { address: entry.address.or(name.address), ..entry.into() })
}

/// Bans a key for so many milliseconds from now, whatever was in force. `None` if no room could be had.
pub fn add(zone: &ZoneConf, name: &Name, duration: Millis, reason: &str) -> Option<Ban> {
    let (shared, now) = (zone.shared()?, mono());
    let until = now + duration.clamp(1, MAX_TIME);
    let new = New {
        until,
        since: now,
        level: 1,
        cause: Cause::Manual,
        origin: Origin::Own,
        dry: false,
        told: zone.redis.is_none(),
        force: true,
        address: name.address,
        reason,
    };
    shared.ban(&name.hash, &new, now)?;
    words::banned_by_hand(&zone.name, &Shown(&name.hash, name.address), duration, reason);
    tell(zone, name);
    get(zone, name)
}

/// Ends the ban of a key; false if there was none.
pub fn remove(zone: &ZoneConf, name: &Name) -> bool {
    let (Some(shared), now) = (zone.shared(), mono()) else { return false };
    let address = shared.get(&name.hash).and_then(|entry| entry.address);
    if !shared.lift(&name.hash, now, zone.redis.is_none(), now) {
        return false;
    }
    words::lifted(Level::Warn, &zone.name, &Shown(&name.hash, address), "an operator");
    tell(zone, name);
    true
}

/// The other gateways hear of it at once.
fn tell(zone: &ZoneConf, name: &Name) {
    if let (Some(worker), Some(entry)) =
        (worker::current(), zone.shared().and_then(|shared| shared.get(&name.hash)))
    {
        worker.bans.told_by_hand(&worker, zone, &entry);
    }
}
