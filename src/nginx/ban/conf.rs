//! The directives of bans.

use std::cell::Cell;

use nginx_sys as sys;

use super::super::cf::{ConfError, Directive, Param, Result, complain_at, set_once};
use super::super::conf::{self, MainConf};
use super::super::limit::conf::{error_status, zone_size};
use super::super::zone::Zone;
use super::{Ban, BanSpec, Counting, ZoneConf};
use crate::policy::Millis;
use crate::policy::ban::{Cause, MAX_COUNT, MAX_TIME, Statuses, Terms};
use crate::policy::limit::KeyHash;
use crate::shared::ban::Rule;

/// The location level of bans.
#[derive(Default)]
pub struct LocConf {
    pub bans: Vec<Ban>,
    status: Option<u32>,
}

impl LocConf {
    pub fn status(&self) -> u32 {
        self.status.unwrap_or(sys::NGX_HTTP_FORBIDDEN)
    }

    /// Inherits as limits do: bans only as a whole, and settles them, as all zones are known now.
    pub fn merge(&mut self, prev: &Self, main: &MainConf, cf: *mut sys::ngx_conf_t) -> Result {
        if self.bans.is_empty() {
            self.bans.clone_from(&prev.bans);
        }
        self.status = self.status.or(prev.status);
        for ban in &mut self.bans {
            ban.zone = main.bans.find(&ban.zone_name);
            if ban.zone.is_none() {
                complain_at(
                    cf,
                    &ban.place,
                    format_args!("\"ban\" directive names unknown zone \"{}\"", ban.zone_name),
                );
                return Err(ConfError::Logged);
            }
        }
        Ok(())
    }
}

/// `ban_zone KEY zone=NAME:SIZE [redis=NAME]`
pub fn zone(directive: &Directive, conf: &mut MainConf) -> Result {
    let key = directive.complex(directive.arg())?;
    let client = directive.complex("$binary_remote_addr")?;
    let (mut zone, mut redis) = (None, None);
    for param in directive.params(1)? {
        match param.name {
            "zone" => zone = Some(zone_size(&param)?),
            "redis" => redis = Some(param.value()?),
            _ => return Err(param.unknown()),
        }
    }
    let (name, size) = zone.ok_or(ConfError::Missing("zone"))?;
    if conf.bans.find(name).is_some() {
        return Err(ConfError::Other(format!("has duplicate zone \"{name}\"")));
    }
    let spec = BanSpec(directive.arg().to_owned());
    let shm = Zone::add(directive.cf(), (&format!("ban:{name}"), name), size, spec)?;
    conf.bans.0.push(ZoneConf {
        name: name.to_owned(),
        key,
        binary: directive.is_keyed_by_address(),
        client,
        place: directive.place(),
        redis_name: redis.map(str::to_owned),
        redis: None,
        shm,
        next_look: Cell::default(),
        next_line: Cell::default(),
    });
    Ok(())
}

/// All blocks have been read: finds the Redis of each zone.
pub fn resolve(cf: *mut sys::ngx_conf_t, main: &mut MainConf) -> Result {
    for zone in &mut main.bans.0 {
        let Some(name) = &zone.redis_name else { continue };
        zone.redis = main.redis.find(name);
        if zone.redis.is_none() {
            let text = format_args!("\"ban_zone\" directive names unknown redis \"{name}\"");
            complain_at(cf, &zone.place, text);
            return Err(ConfError::Logged);
        }
    }
    Ok(())
}

/// What `ban` was given.
#[derive(Default)]
struct Draft<'a> {
    zone: Option<&'a str>,
    statuses: Option<(&'a str, Statuses)>,
    rate_limited: bool,
    count: Option<u32>,
    window: Option<Millis>,
    duration: Option<Millis>,
    max_duration: Option<Millis>,
    dry_run: bool,
}

/// `ban zone=NAME …`
pub fn ban(directive: &Directive, conf: &mut conf::LocConf) -> Result {
    let mut draft = Draft::default();
    for param in directive.params(0)? {
        draft.param(&param)?;
    }
    let zone = draft.zone.ok_or(ConfError::Missing("zone"))?;
    if conf.ban.bans.iter().any(|other| other.zone_name == zone) {
        return Err(ConfError::Other(format!("has duplicate zone \"{zone}\"")));
    }
    let mask = draft.dry_run.then(super::dry_run);
    conf.ban.bans.push(Ban {
        zone_name: zone.to_owned(),
        place: directive.place(),
        counting: draft.counting()?,
        mask,
        zone: None,
    });
    Ok(())
}

impl<'a> Draft<'a> {
    fn param(&mut self, param: &Param<'a>) -> Result {
        match param.name {
            "zone" => self.zone = Some(param.value()?),
            "status" => {
                let expected = "codes and ranges from 200 to 599, such as 401,403,500-599";
                let text = param.value()?;
                let statuses = Statuses::parse(text).ok_or_else(|| param.invalid(expected))?;
                self.statuses = Some((text, statuses));
            }
            "on" => {
                if param.value()? != "rate_limited" {
                    return Err(param.invalid("\"rate_limited\""));
                }
                self.rate_limited = true;
            }
            "count" => self.count = Some(count(param)?),
            "window" => self.window = Some(time(param)?),
            "duration" => self.duration = Some(time(param)?),
            "max_duration" => self.max_duration = Some(time(param)?),
            "dry_run" => self.dry_run = param.flag()?,
            _ => return Err(param.unknown()),
        }
        Ok(())
    }

    /// What is counted. Nothing, if none of this was given: then bans that were made elsewhere hold here.
    fn counting(self) -> Result<Option<Counting>> {
        let terms = [self.window, self.duration, self.max_duration];
        if self.statuses.is_none() && !self.rate_limited {
            if self.count.is_some() || terms.iter().any(Option::is_some) {
                return Err(ConfError::Other("must have \"status\" or \"on\" parameter".to_owned()));
            }
            return Ok(None);
        }
        let count = self.count.ok_or(ConfError::Missing("count"))?;
        let window = self.window.ok_or(ConfError::Missing("window"))?;
        let duration = self.duration.ok_or(ConfError::Missing("duration"))?;
        let max_duration = self.max_duration.unwrap_or(duration);
        if max_duration < duration {
            return Err(ConfError::Other("has \"max_duration\" shorter than \"duration\"".to_owned()));
        }
        let (text, statuses) = self.statuses.unwrap_or_default();
        let on = if self.rate_limited { "on=rate_limited" } else { "" };
        let what =
            if text.is_empty() { on.to_owned() } else { format!("status={text} {on}").trim().to_owned() };
        let id = KeyHash::new(format!("{what} {count} {window}").as_bytes());
        let cause = if text.is_empty() { Cause::RateLimited } else { Cause::Status };
        let terms = Terms { count, window, duration, max_duration };
        Ok(Some(Counting {
            statuses,
            rate_limited: self.rate_limited,
            text: format!("{what} within {} s", window.div_ceil(1000)),
            rule: Rule { terms, id, cause, dry: self.dry_run },
        }))
    }
}

fn count(param: &Param<'_>) -> Result<u32> {
    let count = u32::try_from(param.number()?).ok().filter(|count| (1..=MAX_COUNT).contains(count));
    count.ok_or_else(|| param.invalid("a number from 1 to 1000000"))
}

fn time(param: &Param<'_>) -> Result<Millis> {
    let time = Some(param.time()?).filter(|time| (1..=MAX_TIME).contains(time));
    time.ok_or_else(|| param.invalid("a time from 1ms to 366d"))
}

/// `ban_status`
pub fn status(directive: &Directive, conf: &mut conf::LocConf) -> Result {
    set_once(&mut conf.ban.status, error_status(directive)?)
}
