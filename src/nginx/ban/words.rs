//! What is said of bans: a line in the log, and an event, for each that begins or is ended.

use super::super::events::{self, Event, Kind};
use super::super::log::{self, Level};
use super::super::request::Request;
use super::{Ban, Counting, Shown};
use crate::policy::Millis;

/// A change, who made it and why.
struct Said<'a> {
    key: &'a Shown<'a>,
    zone: &'a str,
    from: &'a str,
    to: &'a str,
}

/// A client has misbehaved once too often.
pub fn misbehaved(request: &Request, ban: &Ban, counting: &Counting, key: &Shown, length: Millis) {
    let dry = if ban.dry_run() { ", dry run" } else { "" };
    let (length, count) = (length.div_ceil(1000), counting.rule.terms.count);
    let why = format!("banned for {length} s{dry}: {count} responses, {}", counting.text);
    request.log(Level::Warn, format_args!("{why}, key {key}, zone \"{}\"", ban.zone_name));
    let to = if ban.dry_run() { "banned_dry_run" } else { "banned" };
    note(&Said { key, zone: &ban.zone_name, from: "free", to }, &why);
}

/// A client has misbehaved once too often over all gateways; the last time here.
pub fn banned_together(zone: &str, key: &Shown, left: Millis, cause: &str) {
    let why = format!("banned for {} s: too many over all gateways ({cause})", left.div_ceil(1000));
    say(Level::Warn, &Said { key, zone, from: "free", to: "banned" }, &why, "");
}

/// So many at once: as a gateway that starts hears of all that are in force.
pub fn learnt(zone: &str, count: usize) {
    let why = format!("{count} bans of other gateways learnt");
    log::cycle(Level::Notice, format_args!("{why}, zone \"{zone}\""));
    let event = Event { kind: Kind::Ban, upstream: zone, peer: "", from: "free", to: "banned", text: &why };
    events::note(&event);
}

/// Another gateway has banned a key, or Redis for what several counted.
pub fn banned_elsewhere(zone: &str, key: &Shown, left: Millis, cause: &str) {
    let why = format!("banned for {} s by another gateway ({cause})", left.div_ceil(1000));
    say(Level::Notice, &Said { key, zone, from: "free", to: "banned" }, &why, "");
}

/// An operator has.
pub fn banned_by_hand(zone: &str, key: &Shown, length: Millis, reason: &str) {
    let why = format!("banned for {} s by an operator", length.div_ceil(1000));
    say(Level::Warn, &Said { key, zone, from: "free", to: "banned" }, &why, reason);
}

/// A ban was ended: `by` whom.
pub fn lifted(level: Level, zone: &str, key: &Shown, by: &str) {
    say(level, &Said { key, zone, from: "banned", to: "free" }, &format!("ban lifted by {by}"), "");
}

fn say(level: Level, said: &Said, why: &str, reason: &str) {
    let reason = if reason.is_empty() { String::new() } else { format!(", \"{reason}\"") };
    log::cycle(level, format_args!("{why}{reason}, key {}, zone \"{}\"", said.key, said.zone));
    note(said, &format!("{why}{reason}"));
}

fn note(said: &Said, text: &str) {
    let peer = said.key.to_string();
    let event =
        Event { kind: Kind::Ban, upstream: said.zone, peer: &peer, from: said.from, to: said.to, text };
    events::note(&event);
}
