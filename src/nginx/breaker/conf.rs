//! `circuit_breaker` and its companions.

use nginx_sys as sys;

use super::super::cf::{ConfError, Directive, Param, Result, set_once};
use super::super::conf::{self, MainConf, SrvConf};
use super::super::limit::conf::error_status;
use super::super::sys::module_by_name;
use super::super::upstream::PROXYING;
use crate::policy::breaker::{Failure, Settings, SettingsError};

/// http level: which modules' locations may name a guarded upstream.
#[derive(Default)]
pub struct Conf {
    /// The proxying modules of this nginx; empty when no upstream has a breaker.
    pub modules: Vec<*const sys::ngx_module_t>,
}

/// What an `upstream` block says.
#[derive(Default)]
pub struct GroupConf {
    pub settings: Option<Settings>,
    pub failing: Option<Failing>,
}

impl GroupConf {
    pub fn is_configured(&self) -> bool {
        self.settings.is_some()
    }

    /// How many breaker records the group needs.
    pub fn breakers(&self) -> usize {
        usize::from(self.is_configured())
    }
}

/// What counts as a failure of the upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failing {
    error: bool,
    timeout: bool,
    invalid_header: bool,
    statuses: Vec<u16>,
}

impl Default for Failing {
    fn default() -> Self {
        Self { error: true, timeout: true, invalid_header: true, statuses: vec![500, 502, 503, 504] }
    }
}

impl Failing {
    /// Whether `failure` is one of those that count.
    pub fn counts(&self, failure: Failure) -> bool {
        match failure {
            Failure::Error => self.error,
            Failure::Timeout => self.timeout,
            Failure::InvalidHeader => self.invalid_header,
            Failure::Http(status) => self.statuses.contains(&status),
        }
    }

    /// Reads the arguments of `circuit_breaker_failure`.
    fn read<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut failing = Self { error: false, timeout: false, invalid_header: false, statuses: Vec::new() };
        for word in words {
            let failure = parse_failure(word).ok_or_else(|| ConfError::UnknownParameter(word.to_owned()))?;
            if failing.counts(failure) {
                return Err(ConfError::DuplicateParameter(word.to_owned()));
            }
            match failure {
                Failure::Error => failing.error = true,
                Failure::Timeout => failing.timeout = true,
                Failure::InvalidHeader => failing.invalid_header = true,
                Failure::Http(status) => failing.statuses.push(status),
            }
        }
        Ok(failing)
    }
}

/// `error`, `timeout`, `invalid_header`, or `http_` and a status from 400 to 599.
fn parse_failure(word: &str) -> Option<Failure> {
    match word {
        "error" => Some(Failure::Error),
        "timeout" => Some(Failure::Timeout),
        "invalid_header" => Some(Failure::InvalidHeader),
        _ => {
            let digits = word.strip_prefix("http_").filter(|d| d.len() == 3)?;
            let status = digits.parse().ok().filter(|status| (400..=599).contains(status))?;
            Some(Failure::Http(status))
        }
    }
}

#[derive(Default)]
pub struct LocConf {
    status: Option<u32>,
}

impl LocConf {
    pub fn merge(&mut self, prev: &Self) {
        self.status = self.status.or(prev.status);
    }

    /// The status of refusals.
    pub fn status(&self) -> u32 {
        self.status.unwrap_or(sys::NGX_HTTP_SERVICE_UNAVAILABLE)
    }
}

/// `circuit_breaker`
pub fn circuit_breaker(directive: &Directive, conf: &mut SrvConf) -> Result {
    in_upstream(directive)?;
    let mut settings = Settings::default();
    for param in directive.params(0)? {
        set(&mut settings, &param)?;
    }
    settings.validate().map_err(refused)?;
    set_once(&mut conf.breaker.settings, settings)
}

/// `circuit_breaker_failure`
pub fn failure(directive: &Directive, conf: &mut SrvConf) -> Result {
    in_upstream(directive)?;
    let failing = Failing::read(directive.args().iter().copied())?;
    set_once(&mut conf.breaker.failing, failing)
}

/// `circuit_breaker_status`
pub fn status(directive: &Directive, conf: &mut conf::LocConf) -> Result {
    set_once(&mut conf.breaker.status, error_status(directive)?)
}

fn in_upstream(directive: &Directive) -> Result {
    if directive.in_upstream() { Ok(()) } else { Err(later("in a location")) }
}

fn set(settings: &mut Settings, param: &Param<'_>) -> Result {
    match param.name {
        "scope" => return choice(param, "upstream", &["peer"], "\"upstream\""),
        "half_open_via" => return choice(param, "traffic", &["safe", "probe"], "\"traffic\""),
        "max_ejected" => return Err(later(&format!("with \"{}\"", param.text))),
        "failures" => settings.failures = count(param)?,
        "window" => settings.window = param.time()?,
        "consecutive" => settings.consecutive = count(param)?,
        "failure_rate" => settings.failure_rate = percent(param)?,
        "min_calls" => settings.min_calls = count(param)?,
        "slow_call" => settings.slow_call = param.time()?,
        "slow_rate" => settings.slow_rate = percent(param)?,
        "open" => settings.open = param.time()?,
        "backoff" => settings.backoff = Settings::parse_backoff(param.value()?).map_err(refused)?,
        "max_open" => settings.max_open = param.time()?,
        "jitter" => settings.jitter = percent(param)?,
        "half_open" => settings.half_open = count(param)?,
        "lease" => settings.lease = param.time()?,
        "dry_run" => settings.dry_run = param.flag()?,
        _ => return Err(param.unknown()),
    }
    Ok(())
}

fn count(param: &Param<'_>) -> Result<u32> {
    u32::try_from(param.number()?).map_err(|_| param.invalid("a smaller number"))
}

fn percent(param: &Param<'_>) -> Result<u32> {
    // At most 100, says `Param::percent`.
    Ok(param.percent()? as u32)
}

/// A parameter of which only one value is understood so far.
fn choice(param: &Param<'_>, now: &str, to_come: &[&str], expected: &'static str) -> Result {
    let value = param.value()?;
    if value == now {
        return Ok(());
    }
    if to_come.contains(&value) {
        return Err(later(&format!("with \"{}\"", param.text)));
    }
    Err(param.invalid(expected))
}

fn later(what: &str) -> ConfError {
    ConfError::Other(format!("{what} is not supported yet"))
}

fn refused(error: SettingsError) -> ConfError {
    ConfError::Other(format!("is refused: {error}"))
}

/// Everything has been read and some upstream has a breaker: finds the modules whose locations may name it.
pub fn resolve(cf: *mut sys::ngx_conf_t, main: &mut MainConf) {
    // SAFETY: postconfiguration passes the parser state; modules are loaded before the http block is read, so
    // the list of its cycle is complete.
    let named = |name| unsafe { module_by_name((*cf).cycle, name) };
    // Nested locations inherit memcached_pass whatever they do themselves, so there it does not say who answers;
    // such requests have no body and lose nothing by being refused when the balancer is asked.
    let telling = PROXYING.iter().filter(|name| **name != c"ngx_http_memcached_module");
    main.breaker.modules = telling.filter_map(|name| named(name)).collect();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_the_documented_list() {
        let words = "error timeout invalid_header http_500 http_502 http_503 http_504";
        assert_eq!(Failing::read(words.split(' ')).unwrap(), Failing::default());
    }

    #[test]
    fn only_what_is_listed_counts() {
        let failing = Failing::read(["timeout", "http_429"]).unwrap();
        assert!(failing.counts(Failure::Timeout) && failing.counts(Failure::Http(429)));
        assert!(!failing.counts(Failure::Error) && !failing.counts(Failure::Http(502)));
    }

    #[test]
    fn unknown_and_duplicate_words_are_refused() {
        for word in ["http_200", "http_600", "http_5xx", "http_+50", "http_50", "off", "non_idempotent", ""] {
            assert!(Failing::read([word]).is_err(), "{word}");
        }
        assert!(Failing::read(["error", "error"]).is_err());
        assert!(Failing::read(["http_500", "http_500"]).is_err());
    }
}
