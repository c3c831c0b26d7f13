//! `/http/bans`: who is banned, in each zone of `ban_zone`.

use serde::Serialize;
use serde_json::Value;

use super::super::ban::control::{self, Ban, Standing};
use super::super::ban::{ZoneConf, Zones};
use super::super::cf::parse_time;
use super::super::sys::now;
use super::documents::Map;
use super::{Answer, Call, Outcome};
use crate::policy::Millis;
use crate::policy::api::{Failure, Method, iso, text};
use crate::policy::ban::{MAX_TIME, Name};

/// Most bans in one document: those that began last.
const MOST: usize = 1_000;

#[derive(Serialize)]
struct Zone<'a> {
    /// As configured.
    key: &'a str,
    redis: Option<&'a str>,
    /// Bans in force.
    count: usize,
    /// Bans that there is room for.
    capacity: usize,
    /// Bans that began, by what made them.
    made: Made,
    lifted: u64,
    /// Requests.
    refused: u64,
    refused_dry_run: u64,
    /// Bans that ended early, because the zone was full.
    evicted: u64,
    bans: Vec<One>,
}

#[derive(Serialize)]
struct Made {
    status: u64,
    rate_limited: u64,
    manual: u64,
    redis: u64,
    dry_run: u64,
}

#[derive(Serialize)]
struct One {
    /// The address, or else the id.
    key: String,
    /// The key's hash.
    id: String,
    since: String,
    until: String,
    /// Seconds left.
    left: u64,
    /// Bans in a row.
    times: u32,
    cause: &'static str,
    reason: String,
    /// `local`, or `redis`: by another gateway, or by what several of them counted.
    source: &'static str,
    dry_run: bool,
}

impl From<Ban> for One {
    fn from(of: Ban) -> Self {
        let (now, id) = (now(), of.id.to_string());
        let at = |mono: Millis| iso((now.wall + mono).saturating_sub(now.mono));
        let words = match of.cause.name() {
            _ if !of.reason.is_empty() => of.reason,
            "status" => "responses of a status that counts".to_owned(),
            "rate_limited" => "refusals by rate limits".to_owned(),
            _ => "by an operator".to_owned(),
        };
        Self {
            key: of.address.map_or_else(|| id.clone(), |address| address.to_string()),
            id,
            since: at(of.since),
            until: at(of.until),
            left: of.until.saturating_sub(now.mono).div_ceil(1000),
            times: of.level,
            cause: of.cause.name(),
            reason: words,
            source: if of.remote { "redis" } else { "local" },
            dry_run: of.dry_run,
        }
    }
}

impl<'a> Zone<'a> {
    fn new(zone: &'a ZoneConf) -> Self {
        let Standing { capacity, counters, .. } = control::standing(zone);
        let mut bans = control::list(zone);
        bans.sort_by_key(|ban| core::cmp::Reverse(ban.since));
        let count = bans.len();
        bans.truncate(MOST);
        Self {
            key: &zone.shm.spec().0,
            redis: zone.redis_name.as_deref(),
            count,
            capacity,
            made: Made {
                status: counters.by_status,
                rate_limited: counters.by_rate_limit,
                manual: counters.by_hand,
                redis: counters.by_others,
                dry_run: counters.dry,
            },
            lifted: counters.lifted,
            refused: counters.refused,
            refused_dry_run: counters.refused_dry,
            evicted: counters.evicted,
            bans: bans.into_iter().map(One::from).collect(),
        }
    }
}

/// Answers a call by the segments behind `bans`.
pub fn route(call: &Call, path: &[&[u8]]) -> Outcome {
    let zones = &call.request.main_conf().bans;
    match path {
        [] => call.get(|| {
            let all = zones.0.iter().map(|zone| (zone.name.as_str(), Zone::new(zone)));
            call.collection(&Map(all.collect()))
        }),
        [name] => {
            let zone = find(zones, name)?;
            match call.method {
                Method::Get => call.object(&Zone::new(zone)),
                Method::Post => add(call, zone),
                _ => Err(Failure::method("GET, HEAD, POST")),
            }
        }
        [name, key] => one(call, find(zones, name)?, key),
        _ => Err(Failure::no_path()),
    }
}

fn find<'z>(zones: &'z Zones, name: &[u8]) -> Result<&'z ZoneConf, Failure> {
    let zone = zones.find(&text(name)).and_then(|number| zones.get(number));
    zone.ok_or_else(|| Failure::not_found("BanZoneNotFound", "ban zone"))
}

fn one(call: &Call, zone: &ZoneConf, key: &[u8]) -> Outcome {
    let missing = || Failure::not_found("BanNotFound", "ban");
    let name = control::meant(zone, key).ok_or_else(missing);
    match call.method {
        Method::Get => call.object(&One::from(control::get(zone, &name?).ok_or_else(missing)?)),
        Method::Delete if control::remove(zone, &name?) => Ok(Answer::Nothing),
        Method::Delete => Err(missing()),
        _ => Err(Failure::method("GET, HEAD, DELETE")),
    }
}

/// `{"key": "203.0.113.9", "duration": "10m", "reason": "scanning"}`
fn add(call: &Call, zone: &ZoneConf) -> Outcome {
    let wrong = |text: &'static str| Failure::format("BanFormatError", text);
    let Some(Value::Object(body)) = &call.body else { return Err(wrong("an object is expected")) };
    if body.keys().any(|name| !matches!(name.as_str(), "key" | "duration" | "reason")) {
        return Err(wrong("only \"key\", \"duration\" and \"reason\" are known"));
    }
    let name = named(zone, body.get("key")).ok_or_else(|| {
        wrong(if zone.binary {
            "\"key\" must be an address"
        } else {
            "\"key\" must be a text that is not empty"
        })
    })?;
    let duration = body.get("duration").and_then(length);
    let duration =
        duration.ok_or_else(|| wrong("\"duration\" must be a time such as \"10m\", up to 366d"))?;
    let reason = match body.get("reason") {
        None | Some(Value::Null) => "",
        Some(Value::String(reason)) if reason.chars().count() <= 250 => reason,
        Some(_) => return Err(wrong("\"reason\" must be a text of at most 250 characters")),
    };
    // One line in the log and in lists, whatever was typed.
    let reason: String = reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let full = || Failure::new(503, "BanZoneFull", "the zone has no room");
    let ban = control::add(zone, &name, duration, &reason).ok_or_else(full)?;
    Answer::document(201, &One::from(ban))
}

fn named(zone: &ZoneConf, key: Option<&Value>) -> Option<Name> {
    let key = key?.as_str().filter(|key| !key.is_empty())?;
    Name::typed(key.as_bytes(), zone.binary)
}

/// A time as in the configuration, or a number of seconds.
fn length(value: &Value) -> Option<Millis> {
    let millis = match value {
        Value::String(text) => parse_time(text)?,
        _ => value.as_u64()?.checked_mul(1000)?,
    };
    (1..=MAX_TIME).contains(&millis).then_some(millis)
}
