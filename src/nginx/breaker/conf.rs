//! `circuit_breaker` and its companions.

use core::cell::OnceCell;

use nginx_sys as sys;

use super::super::cf::{ConfError, Directive, Param, Place, Result, complain_at, set_once, warn_at};
use super::super::conf::{self, MainConf, SrvConf};
use super::super::limit::conf::error_status;
use super::super::module::main_module;
use super::super::sys::{module_by_name, slot};
use super::super::upstream::PROXYING;
use super::{Gate, Guard, target};
use crate::policy::breaker::{Failure, Outcome, Settings, SettingsError, Via};

/// http level: the breakers of routes, and which modules' locations may name a guarded upstream.
#[derive(Default)]
pub struct Conf {
    /// The proxying modules of this nginx; empty when nothing has a breaker.
    pub modules: Vec<*const sys::ngx_module_t>,
    pub routes: Vec<Route>,
}

impl Conf {
    /// Whether some location has a breaker of its own.
    /// The breakers of routes, by name.
    pub fn gates_of_routes(&self) -> impl Iterator<Item = (&str, &super::Gate)> {
        self.routes.iter().filter_map(|route| Some((route.name.as_str(), route.gate.get()?)))
    }

    pub fn has_routes(&self) -> bool {
        !self.routes.is_empty()
    }
}

/// A breaker that locations share by its name.
pub struct Route {
    pub name: String,
    pub settings: Settings,
    pub gate: OnceCell<Gate>,
}

/// What an `upstream` block says.
#[derive(Default)]
pub struct GroupConf {
    /// `scope=upstream`
    pub settings: Option<Settings>,
    /// `scope=peer`
    pub peers: Option<Settings>,
    pub failing: Option<Failing>,
    /// The line that says `half_open_via=probe`.
    probed: Option<Place>,
}

impl GroupConf {
    pub fn is_configured(&self) -> bool {
        self.settings.is_some() || self.peers.is_some()
    }

    /// How many breaker records a group of so many servers needs.
    pub fn breakers(&self, servers: usize) -> usize {
        usize::from(self.settings.is_some()) + self.peers.map_or(0, |_| servers)
    }

    /// Refuses tests by probes where there are none.
    ///
    /// # Errors
    /// [`ConfError::Logged`]
    pub fn refuse_without_checks(&self, cf: *mut sys::ngx_conf_t, name: &str, checks: usize) -> Result {
        let Some(place) = self.probed.as_ref().filter(|_| checks == 0) else { return Ok(()) };
        let needs = format_args!(
            "\"circuit_breaker\" directive has \"half_open_via=probe\", but upstream \"{name}\" has no \"health_check\""
        );
        complain_at(cf, place, needs);
        Err(ConfError::Logged)
    }
}

/// What counts as a failure of the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failing {
    error: bool,
    timeout: bool,
    invalid_header: bool,
    /// A bit for each status from 400 to 599.
    statuses: [u64; 4],
}

impl Failing {
    const NONE: Self = Self { error: false, timeout: false, invalid_header: false, statuses: [0; 4] };
    /// `error timeout invalid_header http_500 http_502 http_503 http_504`
    pub const DEFAULT: Self =
        Self { error: true, timeout: true, invalid_header: true, statuses: [0, 0b1_1101 << 36, 0, 0] };

    /// Whether `failure` is one of those that count.
    pub fn counts(&self, failure: Failure) -> bool {
        match failure {
            Failure::Error => self.error,
            Failure::Timeout => self.timeout,
            Failure::InvalidHeader => self.invalid_header,
            Failure::Http(status) => {
                let word = bit_of(status).and_then(|(word, bit)| Some(self.statuses.get(word)? & bit));
                word.is_some_and(|found| found != 0)
            }
        }
    }

    /// What a breaker is told of an answer or a failure.
    pub fn judge(&self, seen: Failure) -> Outcome {
        if self.counts(seen) { Outcome::Failure(seen) } else { Outcome::Success }
    }

    /// Reads the arguments of `circuit_breaker_failure`.
    fn read<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut failing = Self::NONE;
        for word in words {
            let failures = parse_failures(word).ok_or_else(|| {
                let expected = "error, timeout, invalid_header, http_CODE or http_CODE-CODE from 400 to 599";
                ConfError::invalid("circuit_breaker_failure", word, expected)
            })?;
            if failures.iter().all(|failure| failing.counts(*failure)) {
                return Err(ConfError::DuplicateParameter(word.to_owned()));
            }
            failures.into_iter().for_each(|failure| failing.add(failure));
        }
        Ok(failing)
    }

    fn add(&mut self, failure: Failure) {
        match failure {
            Failure::Error => self.error = true,
            Failure::Timeout => self.timeout = true,
            Failure::InvalidHeader => self.invalid_header = true,
            Failure::Http(status) => {
                if let Some((word, bit)) = bit_of(status)
                    && let Some(statuses) = self.statuses.get_mut(word)
                {
                    *statuses |= bit;
                }
            }
        }
    }
}

/// The place of a status in [`Failing::statuses`].
fn bit_of(status: u16) -> Option<(usize, u64)> {
    let at = usize::from(status.checked_sub(400)?);
    Some((at / 64, 1 << (at % 64)))
}

/// `error`, `timeout`, `invalid_header`, or `http_` and a status from 400 to 599, or two with `-` between.
fn parse_failures(word: &str) -> Option<Vec<Failure>> {
    let status = |digits: &str| {
        let status = (digits.len() == 3).then(|| digits.parse::<u16>().ok()).flatten();
        status.filter(|status| (400..=599).contains(status))
    };
    match word {
        "error" => Some(vec![Failure::Error]),
        "timeout" => Some(vec![Failure::Timeout]),
        "invalid_header" => Some(vec![Failure::InvalidHeader]),
        _ => {
            let range = word.strip_prefix("http_")?;
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last) = (status(first)?, status(last)?);
            (first <= last).then(|| (first..=last).map(Failure::Http).collect())
        }
    }
}

#[derive(Default)]
pub struct LocConf {
    status: Option<u32>,
    /// The number of the location's own breaker in [`Conf::routes`].
    route: Option<usize>,
    failing: Option<Failing>,
    /// What the first request here has found out.
    pub(super) place: target::Cell,
}

impl LocConf {
    pub fn merge(&mut self, prev: &Self) {
        self.status = self.status.or(prev.status);
        self.route = self.route.or(prev.route);
        self.failing = self.failing.or(prev.failing);
    }

    /// The status of refusals.
    pub fn status(&self) -> u32 {
        self.status.unwrap_or(sys::NGX_HTTP_SERVICE_UNAVAILABLE)
    }

    /// The location's own breaker.
    pub fn guard(&'static self, conf: &'static Conf) -> Option<Guard<'static>> {
        let gate = conf.routes.get(self.route?)?.gate.get()?;
        Some(Guard { gate, failing: self.failing.as_ref().unwrap_or(&Failing::DEFAULT) })
    }
}

/// `circuit_breaker`
pub fn circuit_breaker(directive: &Directive, conf: &mut SrvConf) -> Result {
    if !directive.in_upstream() {
        // SAFETY: nginx calls setters one at a time, and passed us the server's configuration, not these.
        let (main, location) = unsafe { (enclosing_main(directive), enclosing_location(directive)) };
        return route(directive, &mut main.breaker, &mut location.breaker);
    }
    let (mut settings, mut scope, mut ejects) = (Settings::default(), Scope::Upstream, false);
    for param in directive.params(0)? {
        match param.name {
            "scope" => scope = Scope::read(&param)?,
            name => {
                ejects |= name == "max_ejected";
                set(&mut settings, &param)?;
            }
        }
    }
    if ejects && scope == Scope::Upstream {
        let nothing = format_args!("\"max_ejected\" has no effect without \"scope=peer\"");
        warn_at(directive.cf(), &directive.place(), nothing);
    }
    settings.validate().map_err(refused)?;
    if settings.via == Via::Probe {
        conf.breaker.probed = Some(directive.place());
    }
    match scope {
        Scope::Upstream => set_once(&mut conf.breaker.settings, settings),
        Scope::Peer => set_once(&mut conf.breaker.peers, settings),
    }
}

/// `circuit_breaker NAME …` in a location. Locations that give the same name share the breaker.
fn route(directive: &Directive, conf: &mut Conf, location: &mut LocConf) -> Result {
    let is_name = |name: &&&str| !name.is_empty() && !name.contains('=') && **name != "dry_run";
    let Some(name) = directive.args().first().filter(is_name) else {
        return Err(ConfError::Other("has no name, which comes first in a location".to_owned()));
    };
    if name.contains('$') {
        return Err(ConfError::Other(format!("has a variable in its name \"{name}\", plain text expected")));
    }
    let mut settings = Settings::default();
    for param in directive.params(1)? {
        match param.name {
            "scope" | "max_ejected" => return Err(only_in_upstream(&param)),
            "half_open_via" if param.value()? == "probe" => return Err(only_in_upstream(&param)),
            _ => set(&mut settings, &param)?,
        }
    }
    settings.validate().map_err(refused)?;
    let number = match conf.routes.iter().position(|route| route.name == *name) {
        Some(known) if conf.routes.get(known).is_some_and(|route| route.settings == settings) => known,
        Some(_) => {
            return Err(ConfError::Other(format!("gives \"{name}\" other parameters than another location")));
        }
        None => {
            conf.routes.push(Route { name: (*name).to_owned(), settings, gate: OnceCell::new() });
            conf.routes.len() - 1
        }
    };
    set_once(&mut location.route, number)
}

fn only_in_upstream(param: &Param<'_>) -> ConfError {
    ConfError::Other(format!("has \"{}\", which is for an upstream", param.text))
}

/// `circuit_breaker_failure`
pub fn failure(directive: &Directive, conf: &mut SrvConf) -> Result {
    let failing = Failing::read(directive.args().iter().copied())?;
    if directive.in_upstream() {
        return set_once(&mut conf.breaker.failing, failing);
    }
    // SAFETY: as in `circuit_breaker`.
    let location = unsafe { enclosing_location(directive) };
    set_once(&mut location.breaker.failing, failing)
}

/// `circuit_breaker_status`
pub fn status(directive: &Directive, conf: &mut conf::LocConf) -> Result {
    set_once(&mut conf.breaker.status, error_status(directive)?)
}

/// Our configuration of the http block.
///
/// # Safety
/// Nobody else may hold a reference to it.
unsafe fn enclosing_main<'c>(directive: &Directive) -> &'c mut MainConf {
    // SAFETY: while an http block is read, `ctx` is its ngx_http_conf_ctx_t, in which each level has a slot for each
    // module, ours filled by create_main_conf; the caller vouches that this is the only reference.
    unsafe {
        let ctx = (*directive.cf()).ctx.cast::<sys::ngx_http_conf_ctx_t>();
        &mut *(*slot((*ctx).main_conf, main_module())).cast()
    }
}

/// Our configuration of the location that is being read.
///
/// # Safety
/// Nobody else may hold a reference to it.
unsafe fn enclosing_location<'c>(directive: &Directive) -> &'c mut conf::LocConf {
    // SAFETY: as in `enclosing_main`, for the location's level, which create_loc_conf filled.
    unsafe {
        let ctx = (*directive.cf()).ctx.cast::<sys::ngx_http_conf_ctx_t>();
        &mut *(*slot((*ctx).loc_conf, main_module())).cast()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    Upstream,
    Peer,
}

impl Scope {
    fn read(param: &Param<'_>) -> Result<Self> {
        match param.value()? {
            "upstream" => Ok(Self::Upstream),
            "peer" => Ok(Self::Peer),
            _ => Err(param.invalid("\"upstream\" or \"peer\"")),
        }
    }
}

fn via(param: &Param<'_>) -> Result<Via> {
    match param.value()? {
        "traffic" => Ok(Via::Traffic),
        "safe" => Ok(Via::Safe),
        "probe" => Ok(Via::Probe),
        _ => Err(param.invalid("\"traffic\", \"safe\" or \"probe\"")),
    }
}

fn set(settings: &mut Settings, param: &Param<'_>) -> Result {
    match param.name {
        "half_open_via" => settings.via = via(param)?,
        "max_ejected" => settings.max_ejected = percent(param)?,
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
        "lease" => settings.lease = Some(param.time()?),
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

fn refused(error: SettingsError) -> ConfError {
    ConfError::Other(format!("is refused: {error}"))
}

/// Everything has been read and something has a breaker: finds the modules whose locations may name it.
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
        assert_eq!(Failing::read(words.split(' ')).unwrap(), Failing::DEFAULT);
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
