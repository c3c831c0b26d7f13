//! The limits of a location as they apply to one request: whose key, which rule, what cost, and who decides.

use super::super::log::Level;
use super::super::request::Request;
use super::super::sys::now;
use super::{Few, Limit, RateSpec, Ruling, Source, Sync, ZoneConf, Zones};
use crate::policy::Millis;
use crate::policy::limit::{Decision, KeyHash, Rate, Rule};

/// Most requests one request may count for.
const MAX_COST: u64 = 1_000_000_000;
/// Milliseconds between two log lines about one zone's bad variable rate.
const COMPLAINT_PAUSE: Millis = 60_000;

/// One limit as it applies to one request.
pub struct Applied {
    pub zone: usize,
    pub key: KeyHash,
    pub rule: Rule,
    pub cost: u64,
    pub enforced: bool,
    pub mode: Mode,
    /// Decided without Redis, though Redis's limit: taken out of this host's grant (then it is spent), or known
    /// to be refused.
    pub decided: Option<(Decision, Source)>,
    /// Its question to Redis is the one that asks for this host's next grant.
    pub asker: bool,
}

/// Who decides, and by which Redis (its link's number).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// This host's shared memory alone.
    Local,
    /// This host's shared memory, which Redis is told about afterwards.
    Async(usize),
    /// Redis, each time.
    Strict(usize),
    /// This host's shared memory as long as it has a grant of Redis's, which lives so many milliseconds.
    Lease(usize, Millis),
}

impl Mode {
    /// The Redis that is asked before the request goes on.
    pub const fn asks(self) -> Option<usize> {
        match self {
            Self::Strict(link) | Self::Lease(link, _) => Some(link),
            Self::Local | Self::Async(_) => None,
        }
    }
}

impl Applied {
    /// What was decided about it, as one ruling among the request's.
    pub const fn ruling(&self, decision: Decision, source: Source) -> Ruling {
        Ruling { zone: self.zone, rule: self.rule, decision, source }
    }
}

/// The limits that apply to this request, with their keys.
pub fn collect(request: &Request, limits: &[Limit], all_dry: bool) -> Few<Applied> {
    let zones = &request.main_conf().limits;
    limits.iter().filter_map(|limit| apply(request, zones, limit, all_dry)).collect()
}

fn apply(request: &Request, zones: &Zones, limit: &Limit, all_dry: bool) -> Option<Applied> {
    let (number, rule) = limit.settled.as_ref()?;
    let zone = zones.get(*number)?;
    zone.watch(now().mono);
    if let Some(when) = &limit.when
        && matches!(when.eval(request)?, b"" | b"0")
    {
        return None;
    }
    let key = zone.key.eval(request)?;
    if key.is_empty() {
        return None;
    }
    let rule = match rule {
        Some(rule) => *rule,
        None => variable_rule(request, zone, limit)?,
    };
    let cost = limit.cost.as_ref().map_or(Some(1), |cost| number_of(request, cost.eval(request)?))?;
    Some(Applied {
        zone: *number,
        key: KeyHash::new(key),
        rule,
        cost,
        enforced: !(all_dry || limit.dry_run),
        mode: mode(zone, &rule),
        decided: None,
        asker: false,
    })
}

/// Who decides under this rule. A rate that yields less than one request in a grant's life is decided strictly:
/// that costs less then, and is exact.
fn mode(zone: &ZoneConf, rule: &Rule) -> Mode {
    match (zone.redis, zone.sync) {
        (None, _) => Mode::Local,
        (Some(link), Sync::Async) => Mode::Async(link),
        (Some(link), Sync::Lease(life)) if rule.leases(life) => Mode::Lease(link, life),
        (Some(link), Sync::Lease(_) | Sync::Strict) => Mode::Strict(link),
    }
}

/// The cost of this request; a value that is not a whole number counts as 1, and is logged.
fn number_of(request: &Request, text: &[u8]) -> Option<u64> {
    let number = core::str::from_utf8(text).ok().and_then(|text| text.trim().parse::<u64>().ok());
    if number.is_none() {
        let text = text.escape_ascii();
        request.log(
            Level::Error,
            format_args!("rate limit cost \"{text}\" is not a whole number, 1 is charged"),
        );
    }
    Some(number.unwrap_or(1).min(MAX_COST))
}

/// The rule of a zone whose rate is a variable. A bad value: the limit is not applied, one line a minute.
fn variable_rule(request: &Request, zone: &ZoneConf, limit: &Limit) -> Option<Rule> {
    let RateSpec::Variable(value) = &zone.rate else { return None };
    let text = value.eval(request)?;
    let text = core::str::from_utf8(text).unwrap_or("\u{fffd}");
    let rule = Rate::parse(text).map_err(|e| e.to_string()).and_then(|rate| {
        let (burst, delay) = (limit.burst.or(zone.burst), limit.delay_of(zone));
        Rule::new(zone.algorithm, rate, burst, delay).map_err(|e| e.to_string())
    });
    rule.map_err(|error| {
        let now = now().mono;
        if zone.complained.get().is_none_or(|last| now.saturating_sub(last) >= COMPLAINT_PAUSE) {
            zone.complained.set(Some(now));
            let error: String = error.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            request.log(Level::Error, format_args!("limit not applied: {error}, zone \"{}\"", zone.name));
        }
    })
    .ok()
}
