//! The directives of rate limiting.

use std::cell::{Cell, OnceCell, RefCell};

use nginx_sys as sys;

use super::super::cf::{
    ConfError, Directive, Param, Result, complain_at, parse_size, parse_switch, set_once,
};
use super::super::conf::{self, MainConf};
use super::super::log::Level;
use super::super::zone::{Zone, min_size};
use super::{DEFAULT_LOG_LEVEL, Limit, LimitSpec, OnError, RateSpec, Sync, ZoneConf};
use crate::policy::Millis;
use crate::policy::limit::{Algorithm, Delay, Rate, Rule};
use crate::remote::redis::MAX_LIMITS;
use crate::shared::limit::Shape;

/// `rate_limit_headers`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Headers {
    #[default]
    On,
    Ietf,
    All,
    Off,
}

/// `rate_limit_reset`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reset {
    #[default]
    Epoch,
    Delta,
}

/// How clients are told of their limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Form {
    pub headers: Headers,
    pub reset: Reset,
}

/// The location level of rate limiting.
#[derive(Default)]
pub struct LocConf {
    pub limits: Vec<Limit>,
    status: Option<u32>,
    headers: Option<Headers>,
    reset: Option<Reset>,
    log_level: Option<Level>,
    dry_run: Option<bool>,
}

impl LocConf {
    pub fn status(&self) -> u32 {
        self.status.unwrap_or(429)
    }

    pub fn form(&self) -> Form {
        Form { headers: self.headers.unwrap_or_default(), reset: self.reset.unwrap_or_default() }
    }

    pub fn log_level(&self) -> Level {
        self.log_level.unwrap_or(DEFAULT_LOG_LEVEL)
    }

    pub fn dry_run(&self) -> bool {
        self.dry_run.unwrap_or(false)
    }

    /// Inherits as `limit_req` does: limits only as a whole, and settles them, as all zones are known now.
    pub fn merge(&mut self, prev: &Self, main: &MainConf, cf: *mut sys::ngx_conf_t) -> Result {
        if self.limits.is_empty() {
            self.limits.clone_from(&prev.limits);
        }
        self.status = self.status.or(prev.status);
        self.headers = self.headers.or(prev.headers);
        self.reset = self.reset.or(prev.reset);
        self.log_level = self.log_level.or(prev.log_level);
        self.dry_run = self.dry_run.or(prev.dry_run);
        for limit in &mut self.limits {
            if let Err(error) = settle(limit, main) {
                complain_at(cf, &limit.place, format_args!("\"rate_limit\" directive {error}"));
                return Err(ConfError::Logged);
            }
        }
        Ok(())
    }
}

/// Finds a limit's zone and makes its rule.
fn settle(limit: &mut Limit, main: &MainConf) -> Result {
    if limit.settled.is_some() {
        return Ok(());
    }
    let unknown = || ConfError::Other(format!("names unknown zone \"{}\"", limit.zone_name));
    let number = main.limits.find(&limit.zone_name).ok_or_else(unknown)?;
    let zone = main.limits.get(number).ok_or_else(unknown)?;
    let (burst, delay) = (limit.burst.or(zone.burst), limit.delay_of(zone));
    let mut uses = zone.uses.borrow_mut();
    if !uses.contains(&(burst, delay)) {
        uses.push((burst, delay));
    }
    let rule = match &zone.rate {
        RateSpec::Fixed(rate) => Some(
            Rule::new(zone.algorithm, *rate, burst, delay)
                .map_err(|e| ConfError::Other(format!("with zone \"{}\": {e}", zone.name)))?,
        ),
        RateSpec::Variable(_) => None,
    };
    limit.settled = Some((number, rule));
    Ok(())
}

/// `lease_time=` without a value of its own.
const LEASE_TIME: Millis = 50;
/// Longest `lease_time=`: grants are for the traffic of the next moment.
const MAX_LEASE_TIME: Millis = 60_000;

/// `sync=`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Strict,
    Lease,
    Async,
    Off,
}

/// What `rate_limit_zone` was given.
#[derive(Default)]
struct Draft<'a> {
    zone: Option<(&'a str, usize)>,
    rate: Option<RateSpec>,
    rate_text: Option<&'a str>,
    burst: Option<u64>,
    algorithm: Option<Algorithm>,
    redis: Option<&'a str>,
    sync: Option<Mode>,
    lease_time: Option<Millis>,
    on_error: Option<OnError>,
}

/// `rate_limit_zone KEY zone=NAME:SIZE rate=RATE …`
pub fn zone(directive: &Directive, conf: &mut MainConf) -> Result {
    let key = directive.complex(directive.arg())?;
    let mut draft = Draft::default();
    for param in directive.params(1)? {
        draft.param(directive, &param)?;
    }
    let (name, size) = draft.zone.ok_or(ConfError::Missing("zone"))?;
    let rate = draft.rate.take().ok_or(ConfError::Missing("rate"))?;
    if conf.limits.find(name).is_some() {
        return Err(ConfError::Other(format!("has duplicate zone \"{name}\"")));
    }
    let algorithm = draft.algorithm.unwrap_or_default();
    if let RateSpec::Fixed(rate) = rate {
        // Refused here, with the numbers at hand, rather than where the zone is used.
        let delay = if algorithm == Algorithm::Gcra { Delay::After(0) } else { Delay::None };
        Rule::new(algorithm, rate, draft.burst, delay)
            .map_err(|e| ConfError::Other(format!("is impossible: {e}")))?;
    }
    let (redis_name, sync) = draft.redis()?;
    let shape = Shape { algorithm, lease: matches!(sync, Sync::Lease(_)) };
    let spec = LimitSpec { key: directive.arg().to_owned(), shape };
    let layout = if shape.lease { ":lease" } else { "" };
    let shm_name = format!("rate_limit:{name}:{}{layout}", algorithm.name());
    let shm = Zone::add(directive.cf(), (&shm_name, name), size, spec)?;
    conf.limits.0.push(ZoneConf {
        name: name.to_owned(),
        key,
        binary: directive.is_keyed_by_address(),
        rate,
        rate_text: draft.rate_text.unwrap_or_default().to_owned(),
        burst: draft.burst,
        algorithm,
        place: directive.place(),
        redis_name: redis_name.map(str::to_owned),
        redis: None,
        sync,
        on_error: draft.on_error.unwrap_or_default(),
        shm,
        uses: RefCell::default(),
        complained: Cell::default(),
        series: OnceCell::new(),
        next_look: Cell::default(),
    });
    Ok(())
}

impl<'a> Draft<'a> {
    fn param(&mut self, directive: &Directive, param: &Param<'a>) -> Result {
        match param.name {
            "zone" => self.zone = Some(zone_size(param)?),
            "rate" => {
                self.rate = Some(rate(directive, param)?);
                self.rate_text = Some(param.value()?);
            }
            "burst" => self.burst = Some(param.number()?),
            "algorithm" => {
                let expected = "\"gcra\", \"sliding_window\" or \"fixed_window\"";
                self.algorithm =
                    Some(Algorithm::parse(param.value()?).ok_or_else(|| param.invalid(expected))?);
            }
            "redis" => self.redis = Some(param.value()?),
            "sync" => self.sync = Some(sync(param)?),
            "lease_time" => self.lease_time = Some(lease_time(param)?),
            "on_error" => self.on_error = Some(on_error(param)?),
            _ => return Err(param.unknown()),
        }
        Ok(())
    }

    /// The Redis that decides, if one does, and how.
    fn redis(&self) -> Result<(Option<&'a str>, Sync)> {
        let needs = |what: &str, other: &str| {
            Err(ConfError::Other(format!("has \"{what}\", which needs \"{other}\"")))
        };
        if self.lease_time.is_some() && self.sync != Some(Mode::Lease) {
            return needs("lease_time", "sync=lease");
        }
        let sync = match self.sync {
            Some(Mode::Lease) => Sync::Lease(self.lease_time.unwrap_or(LEASE_TIME)),
            Some(Mode::Async) => Sync::Async,
            Some(Mode::Strict | Mode::Off) | None => Sync::Strict,
        };
        match (self.redis, self.sync) {
            (Some(_), Some(Mode::Off)) => Ok((None, sync)),
            (Some(name), _) => Ok((Some(name), sync)),
            (None, None | Some(Mode::Off)) if self.on_error.is_none() => Ok((None, sync)),
            (None, None | Some(Mode::Off)) => needs("on_error", "redis"),
            (None, Some(_)) => Err(ConfError::Missing("redis")),
        }
    }
}

/// All blocks have been read: finds the Redis of each zone.
pub fn resolve(cf: *mut sys::ngx_conf_t, main: &mut MainConf) -> Result {
    for zone in &mut main.limits.0 {
        let Some(name) = &zone.redis_name else { continue };
        zone.redis = main.redis.find(name);
        if zone.redis.is_none() {
            complain_at(
                cf,
                &zone.place,
                format_args!("\"rate_limit_zone\" directive names unknown redis \"{name}\""),
            );
            return Err(ConfError::Logged);
        }
    }
    Ok(())
}

/// `zone=NAME:SIZE`
pub fn zone_size<'a>(param: &Param<'a>) -> Result<(&'a str, usize)> {
    let expected = || param.invalid("NAME:SIZE, such as api:10m");
    let (name, size) = param.value()?.split_once(':').ok_or_else(expected)?;
    let size = parse_size(size).ok_or_else(expected)?;
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b)) {
        return Err(param.invalid("a name of letters, digits, \"_\", \"-\" or \".\""));
    }
    if size < min_size() {
        return Err(ConfError::Other(format!(
            "has zone \"{name}\" that is too small, at least {}k expected",
            min_size() / 1024
        )));
    }
    Ok((name, size))
}

fn rate(directive: &Directive, param: &Param<'_>) -> Result<RateSpec> {
    let text = param.value()?;
    if text.starts_with('$') {
        return Ok(RateSpec::Variable(directive.complex(text)?));
    }
    Rate::parse(text).map(RateSpec::Fixed).map_err(|e| ConfError::Other(format!("has {e}")))
}

fn sync(param: &Param<'_>) -> Result<Mode> {
    match param.value()? {
        "strict" => Ok(Mode::Strict),
        "lease" => Ok(Mode::Lease),
        "async" => Ok(Mode::Async),
        "off" => Ok(Mode::Off),
        _ => Err(param.invalid("\"strict\", \"lease\", \"async\" or \"off\"")),
    }
}

fn lease_time(param: &Param<'_>) -> Result<Millis> {
    let life = Some(param.time()?).filter(|life| (1..=MAX_LEASE_TIME).contains(life));
    life.ok_or_else(|| param.invalid("a time from 1ms to 60s"))
}

fn on_error(param: &Param<'_>) -> Result<OnError> {
    match param.value()? {
        "local" => Ok(OnError::Local),
        "allow" => Ok(OnError::Allow),
        "deny" => Ok(OnError::Deny),
        _ => Err(param.invalid("\"local\", \"allow\" or \"deny\"")),
    }
}

/// `rate_limit zone=NAME …`
pub fn limit(directive: &Directive, conf: &mut conf::LocConf) -> Result {
    let mut limit = Limit {
        zone_name: String::new(),
        place: directive.place(),
        burst: None,
        delay: None,
        cost: None,
        when: None,
        dry_run: false,
        settled: None,
    };
    for param in directive.params(0)? {
        match param.name {
            "zone" => limit.zone_name = param.value()?.to_owned(),
            "burst" => limit.burst = Some(param.number()?),
            "nodelay" if param.flag()? => set_delay(&mut limit, Delay::None)?,
            "delay" => set_delay(&mut limit, Delay::After(param.number()?))?,
            "cost" => limit.cost = Some(cost(directive, &param)?),
            "when" => limit.when = Some(directive.complex(param.value()?)?),
            "dry_run" => limit.dry_run = param.flag()?,
            _ => return Err(param.unknown()),
        }
    }
    if limit.zone_name.is_empty() {
        return Err(ConfError::Missing("zone"));
    }
    if conf.limit.limits.iter().any(|other| other.zone_name == limit.zone_name) {
        return Err(ConfError::Other(format!("has duplicate zone \"{}\"", limit.zone_name)));
    }
    if conf.limit.limits.len() == MAX_LIMITS {
        return Err(ConfError::Other(format!("stands more than {MAX_LIMITS} times in one block")));
    }
    conf.limit.limits.push(limit);
    Ok(())
}

fn set_delay(limit: &mut Limit, delay: Delay) -> Result {
    if limit.delay.is_some() {
        return Err(ConfError::Other("has both \"delay\" and \"nodelay\"".to_owned()));
    }
    limit.delay = Some(delay);
    Ok(())
}

fn cost(directive: &Directive, param: &Param<'_>) -> Result<super::super::cf::ComplexValue> {
    let text = param.value()?;
    if !text.contains('$') {
        param.number()?;
    }
    directive.complex(text)
}

/// `rate_limit_status`
pub fn status(directive: &Directive, conf: &mut conf::LocConf) -> Result {
    set_once(&mut conf.limit.status, error_status(directive)?)
}

/// A status that refuses: 400 to 599.
pub fn error_status(directive: &Directive) -> Result<u32> {
    let status = directive.arg().parse().ok().filter(|code| (400..=599).contains(code));
    status.ok_or_else(|| {
        ConfError::invalid(directive.name().to_owned(), directive.arg(), "a status from 400 to 599")
    })
}

/// `rate_limit_headers`
pub fn headers(directive: &Directive, conf: &mut conf::LocConf) -> Result {
    let headers = match directive.arg() {
        "on" => Headers::On,
        "ietf" => Headers::Ietf,
        "all" => Headers::All,
        "off" => Headers::Off,
        other => {
            return Err(ConfError::invalid(
                "rate_limit_headers",
                other,
                "\"on\", \"ietf\", \"all\" or \"off\"",
            ));
        }
    };
    set_once(&mut conf.limit.headers, headers)
}

/// `rate_limit_reset`
pub fn reset(directive: &Directive, conf: &mut conf::LocConf) -> Result {
    let reset = match directive.arg() {
        "epoch" => Reset::Epoch,
        "delta" => Reset::Delta,
        other => return Err(ConfError::invalid("rate_limit_reset", other, "\"epoch\" or \"delta\"")),
    };
    set_once(&mut conf.limit.reset, reset)
}

/// `rate_limit_log_level`
pub fn log_level(directive: &Directive, conf: &mut conf::LocConf) -> Result {
    let level = match directive.arg() {
        "info" => Level::Info,
        "notice" => Level::Notice,
        "warn" => Level::Warn,
        "error" => Level::Error,
        other => {
            let expected = "\"info\", \"notice\", \"warn\" or \"error\"";
            return Err(ConfError::invalid("rate_limit_log_level", other, expected));
        }
    };
    set_once(&mut conf.limit.log_level, level)
}

/// `rate_limit_dry_run`
pub fn dry_run(directive: &Directive, conf: &mut conf::LocConf) -> Result {
    set_once(&mut conf.limit.dry_run, parse_switch(directive)?)
}
