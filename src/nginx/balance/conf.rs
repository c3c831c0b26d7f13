//! What `server` lines say beyond what the core knows, and `panic_threshold`.

use core::cell::Cell;
use core::ffi::c_char;
use std::rc::Rc;

use nginx_sys as sys;

use super::super::cf::{ConfError, Directive, Param, Place, Result, complain, complain_at, set_once};
use super::super::conf::SrvConf;
use super::super::health::{Role, Server};
use super::super::module::main_module;
use super::super::sys::{CONF_ERROR, CONF_OK, CORE_STICKY, server_resolves, slot, upstream_module};
use super::super::wrap::Table;
use super::sticky::Sticky;
use crate::policy::Millis;
use crate::policy::balance::{Mode, Panic};
use crate::policy::control::Params;

/// Longest slow start: 30 days.
const MAX_TIME: Millis = 30 * 24 * 60 * 60 * 1000;
/// Longest route, as in the core.
const MAX_ROUTE: usize = 32;

type Upstream = *mut sys::ngx_http_upstream_srv_conf_t;

/// An `upstream` block's part in balancing.
#[derive(Default)]
pub struct GroupConf {
    lines: Vec<Line>,
    pub sticky: Option<Sticky>,
    pub panic: Option<Panic>,
    /// The method is `random`, which lets weights grow though it takes no backup servers.
    random: bool,
    /// The method is `hash … consistent`.
    consistent: bool,
    /// There is an API, which may change the group's servers.
    controlled: Cell<bool>,
    pub(super) hooks: Hooks,
}

/// The balancer's own functions, which ours call.
#[derive(Default)]
pub(super) struct Hooks {
    pub init_upstream: Cell<sys::ngx_http_upstream_init_pt>,
    pub init_peer: Cell<sys::ngx_http_upstream_init_peer_pt>,
    /// What `keepalive` put around ours.
    pub outer: Cell<sys::ngx_http_upstream_init_pt>,
    /// What the method sets for its requests.
    pub methods: Table,
}

/// What one `server` line says to us.
#[derive(Default)]
pub struct Line {
    /// Its number among the group's servers.
    at: usize,
    pub slow_start: Millis,
    pub drain: bool,
    pub route: Option<String>,
    /// `slow_start=…` as typed.
    text: String,
    place: Place,
}

impl GroupConf {
    /// Whether the group's servers need records and its balancer our wrap.
    pub fn is_configured(&self) -> bool {
        !self.lines.is_empty() || self.sticky.is_some() || self.panic.is_some() || self.controlled.get()
    }

    /// There is an API: the group's servers need records.
    pub fn control(&self) {
        self.controlled.set(true);
    }

    /// Whether an API may change the group's servers.
    pub fn is_controlled(&self) -> bool {
        self.controlled.get()
    }

    /// Whether the method works out from weights what it keeps.
    pub fn caches_weights(&self) -> bool {
        self.random || self.consistent
    }

    /// Whether servers can warm up under the method.
    pub fn may_ramp(&self, us: Upstream) -> bool {
        // SAFETY: an explicit group of a live cycle, or of the one being finished.
        self.random || unsafe { (*us).flags } as u32 & sys::NGX_HTTP_UPSTREAM_BACKUP != 0
    }

    /// What a `server` line says: what the core knows, and what it does not.
    pub fn with_line(core: Params, line: Option<&Line>) -> Params {
        Params {
            slow_start: line.map_or(0, |line| line.slow_start),
            drain: core.drain || line.is_some_and(|line| line.drain),
            route: line.and_then(|line| line.route.clone()).unwrap_or_default(),
            ..core
        }
    }

    /// Which line each of `servers` comes from. The core makes its peers in the order of the lines, one for each
    /// address; those that DNS found stand at the end and are known by the text of their line.
    pub fn lines_of(&self, us: Upstream, servers: &[Rc<Server>]) -> Vec<Option<&Line>> {
        // SAFETY: an explicit group of the cycle being set up; `servers` is an array the core built.
        let written = unsafe {
            if (*us).servers.is_null() {
                return servers.iter().map(|_| None).collect();
            }
            (*(*us).servers).as_slice::<sys::ngx_http_upstream_server_t>()
        };
        let role = |at: usize| if written[at].backup() != 0 { Role::Backup } else { Role::Primary };
        let numbers = |wanted| (0..written.len()).filter(move |at| role(*at) == wanted);
        let in_order = |wanted| {
            let fixed = numbers(wanted).filter(|at| !server_resolves(&written[*at]));
            fixed.flat_map(|at| core::iter::repeat_n(at, written[at].naddrs))
        };
        let mut expected = [in_order(Role::Primary), in_order(Role::Backup)];
        let find = |server: &Rc<Server>| {
            let is = |at: &usize| written[*at].name.to_string() == server.line();
            let next = expected[usize::from(server.role == Role::Backup)].next().filter(is);
            let at = next.or_else(|| numbers(server.role).find(is))?;
            self.lines.iter().find(|line| line.at == at)
        };
        servers.iter().map(find).collect()
    }

    /// The block has been read: can the method do what its servers ask for?
    pub fn check(&self, cf: *mut sys::ngx_conf_t, us: Upstream) -> Result {
        let weighs = self.may_ramp(us);
        match self.lines.iter().find(|line| line.slow_start > 0) {
            Some(line) if !weighs => {
                let text = &line.text;
                let said = format_args!("balancing method does not support parameter \"{text}\"");
                complain_at(cf, &line.place, said);
                Err(ConfError::Logged)
            }
            _ => Ok(()),
        }
    }
}

impl Line {
    /// Takes a parameter that is ours. `false`: it is the core's.
    fn parameter(&mut self, param: &Param<'_>) -> Result<bool> {
        match param.name {
            "slow_start" => {
                let time = param.time()?;
                if time > MAX_TIME {
                    return Err(param.invalid("a time of at most 30d"));
                }
                (self.slow_start, self.text) = (time, param.text.to_owned());
            }
            "drain" if !CORE_STICKY => self.drain = param.flag()?,
            "route" if !CORE_STICKY => {
                let route = param.value()?;
                if route.len() > MAX_ROUTE || !crate::policy::balance::is_value(route) {
                    return Err(param.invalid("at most 32 characters, none of them a semicolon"));
                }
                self.route = Some(route.to_owned());
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// Our configuration of the block being read, and the core's.
///
/// # Safety
/// `cf` must be the parser state inside an `upstream` block, and no other borrow of the configuration alive.
pub unsafe fn block<'c>(cf: *mut sys::ngx_conf_t) -> (&'c mut GroupConf, Upstream) {
    // SAFETY: the caller vouches for `cf`; its context has a slot for each module, filled before the block is read.
    unsafe {
        let ctx = (*cf).ctx.cast::<sys::ngx_http_conf_ctx_t>();
        let conf = (*slot((*ctx).srv_conf, main_module())).cast::<SrvConf>();
        (&mut (*conf).balance, (*slot((*ctx).srv_conf, upstream_module())).cast())
    }
}

/// `server`: takes our parameters out, has the core read the rest, and keeps what was taken.
///
/// # Safety
/// `cf` must be the parser state at a `server` line of an `upstream` block; `core` has the core read it.
pub unsafe fn server(cf: *mut sys::ngx_conf_t, core: impl FnOnce() -> *mut c_char) -> *mut c_char {
    let taken = Directive::read(cf).and_then(|directive| take(&directive));
    let (line, kept) = match taken {
        Ok(taken) => taken,
        Err(error) => {
            complain(cf, format_args!("\"server\" directive {error}"));
            return CONF_ERROR;
        }
    };
    // SAFETY: the caller vouches for `cf`; the core only reads the words of `args`, and has them back whole.
    unsafe {
        let all = (*cf).args;
        let words = (*all).as_slice::<sys::ngx_str_t>();
        if kept.len() == words.len() {
            return core();
        }
        let (conf, us) = block(cf);
        let at = if (*us).servers.is_null() { 0 } else { (*(*us).servers).nelts };
        let fewer = sys::ngx_array_create((*cf).pool, kept.len(), size_of::<sys::ngx_str_t>());
        if fewer.is_null() {
            return CONF_ERROR;
        }
        for (place, at) in kept.into_iter().enumerate() {
            (*fewer).elts.cast::<sys::ngx_str_t>().add(place).write(words[at]);
            (*fewer).nelts = place + 1;
        }
        (*cf).args = fewer;
        let read = core();
        (*cf).args = all;
        if read == CONF_OK {
            conf.lines.push(Line { at, ..line });
        }
        read
    }
}

/// The parameters that are ours, and the numbers of the words that are not.
fn take(directive: &Directive) -> Result<(Line, Vec<usize>)> {
    let mut line = Line { place: directive.place(), ..Line::default() };
    // The directive's name and the address.
    let mut kept = vec![0, 1];
    for (number, text) in directive.args().iter().enumerate().skip(1) {
        if !line.parameter(&Param::parse(text))? {
            kept.push(number + 1);
        }
    }
    kept.truncate(directive.args().len() + 1);
    Ok((line, kept))
}

/// `random`: the method takes no backup servers, and yet its weights may grow.
///
/// # Safety
/// `cf` must be the parser state at a line of an `upstream` block.
pub unsafe fn random(cf: *mut sys::ngx_conf_t) {
    // SAFETY: the caller vouches for `cf`.
    unsafe { block(cf).0.random = true };
}

/// `hash KEY [consistent]`
///
/// # Safety
/// `cf` must be the parser state at a line of an `upstream` block.
pub unsafe fn hash(cf: *mut sys::ngx_conf_t) {
    let consistent =
        Directive::read(cf).is_ok_and(|directive| directive.args().get(1) == Some(&"consistent"));
    // SAFETY: the caller vouches for `cf`.
    unsafe { block(cf).0.consistent = consistent };
}

/// `panic_threshold PERCENT [mode=all|none]`
pub fn panic_threshold(directive: &Directive, conf: &mut SrvConf) -> Result {
    let text = directive.arg();
    let threshold = text.strip_suffix('%').unwrap_or(text).parse().ok().filter(|percent| *percent <= 100);
    let Some(threshold) = threshold else {
        return Err(ConfError::invalid("panic_threshold", text, "a percentage from 0% to 100%"));
    };
    // Fewer than none there never are: alone it says what the default says.
    let mut mode = if threshold == 0 { Mode::None } else { Mode::All };
    for param in directive.params(1)? {
        mode = match (param.name, param.value()) {
            ("mode", Ok("all")) => Mode::All,
            ("mode", Ok("none")) => Mode::None,
            ("mode", _) => return Err(param.invalid("\"all\" or \"none\"")),
            _ => return Err(param.unknown()),
        };
    }
    set_once(&mut conf.balance.panic, Panic { threshold, mode })
}
