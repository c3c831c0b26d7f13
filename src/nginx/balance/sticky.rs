//! Sticky sessions: which server a request is bound to, and how the client or we remember it.

use core::cell::RefCell;
use std::rc::Rc;

use nginx_sys as sys;

use super::super::cf::{ComplexValue, ConfError, Directive, Param, Result, parse_size, set_once};
use super::super::conf::SrvConf;
use super::super::health::Member;
use super::super::request::Request;
use super::super::sys::{mono, now};
use super::super::zone::{Contents, Zone, min_size};
use super::{Tuning, hash};
use crate::policy::Millis;
use crate::policy::balance::{Attributes, Expires, cookie, is_name, is_value};
use crate::policy::limit::KeyHash;
use crate::shared::cell::Region;
use crate::shared::sessions::Sessions;

/// `sticky …`
pub enum Sticky {
    Cookie(Box<CookieConf>),
    /// The variables that may hold a server's route.
    Route(Vec<ComplexValue>),
    Learn(Box<LearnConf>),
}

/// `sticky cookie`
#[derive(Default)]
pub struct CookieConf {
    name: String,
    expires: Option<Expires>,
    domain: Option<ComplexValue>,
    path: String,
    httponly: bool,
    secure: bool,
    samesite: Option<ComplexValue>,
}

/// `sticky learn`
pub struct LearnConf {
    create: Vec<ComplexValue>,
    lookup: Vec<ComplexValue>,
    timeout: Millis,
    /// As soon as the response header is there, not only at the end.
    header: bool,
    zone: Zone<Table>,
}

/// A zone's memory as a table of sessions.
pub struct Table(Sessions);

impl Contents for Table {
    type Spec = ();

    fn create((): &(), region: Region) -> core::result::Result<Self, String> {
        Sessions::create(region).map(Self).map_err(|e| e.to_string())
    }

    fn adopt((): &(), region: Region) -> core::result::Result<Self, String> {
        Sessions::adopt(region).map(Self).map_err(|e| e.to_string())
    }

    fn carry(&self, old: &Self) {
        self.0.copy_from(&old.0);
    }
}

/// The server that serves a request of a sticky group, in the request's context.
#[derive(Clone)]
pub struct Chosen {
    sticky: &'static Sticky,
    member: Rc<Member>,
}

/// What a request remembers of its session.
pub type Session = RefCell<Option<Chosen>>;

/// `sticky cookie …`, `sticky route …`, `sticky learn …`
pub fn sticky(directive: &Directive, conf: &mut SrvConf) -> Result {
    if conf.balance.sticky.is_some() {
        return Err(ConfError::Duplicate);
    }
    let sticky = match directive.arg() {
        "cookie" => Sticky::Cookie(Box::new(cookie_conf(directive)?)),
        "route" => Sticky::Route(variables(directive)?),
        "learn" => Sticky::Learn(Box::new(learn_conf(directive)?)),
        other => {
            return Err(ConfError::invalid("sticky", other, "\"cookie\", \"route\" or \"learn\""));
        }
    };
    set_once(&mut conf.balance.sticky, sticky)
}

fn cookie_conf(directive: &Directive) -> Result<CookieConf> {
    let name = directive.args().get(1).copied().unwrap_or_default();
    if !is_name(name) {
        return Err(ConfError::invalid("cookie", name, "a name of a cookie"));
    }
    let mut conf = CookieConf { name: name.to_owned(), ..CookieConf::default() };
    for param in directive.params(2)? {
        match param.name {
            "expires" => conf.expires = Some(expires(&param)?),
            "domain" => conf.domain = Some(directive.complex(attribute(&param)?)?),
            "path" => attribute(&param)?.clone_into(&mut conf.path),
            "httponly" => conf.httponly = param.flag()?,
            "secure" => conf.secure = param.flag()?,
            "samesite" => conf.samesite = Some(directive.complex(samesite(&param)?)?),
            _ => return Err(param.unknown()),
        }
    }
    Ok(conf)
}

fn expires(param: &Param<'_>) -> Result<Expires> {
    if param.value()? == "max" {
        return Ok(Expires::Max);
    }
    let seconds = param.time().map_err(|_| param.invalid("a time such as 1h, or \"max\""))? / 1000;
    if seconds == 0 { Err(param.invalid("at least 1s")) } else { Ok(Expires::After(seconds)) }
}

fn attribute<'a>(param: &Param<'a>) -> Result<&'a str> {
    let value = param.value()?;
    if is_value(value) { Ok(value) } else { Err(param.invalid("printable text without semicolons")) }
}

fn samesite<'a>(param: &Param<'a>) -> Result<&'a str> {
    let value = param.value()?;
    if ["strict", "lax", "none"].contains(&value) || value.starts_with('$') {
        return Ok(value);
    }
    Err(param.invalid("\"strict\", \"lax\", \"none\" or a variable"))
}

/// The variables of `sticky route`.
fn variables(directive: &Directive) -> Result<Vec<ComplexValue>> {
    let names = directive.args().get(1..).unwrap_or_default();
    if names.is_empty() {
        return Err(ConfError::Other("needs a variable after \"route\"".to_owned()));
    }
    names.iter().map(|name| variable(directive, "route", name)).collect()
}

fn variable(directive: &Directive, what: &'static str, name: &str) -> Result<ComplexValue> {
    if name.len() > 1 && name.starts_with('$') {
        directive.complex(name)
    } else {
        Err(ConfError::invalid(what, name, "a variable"))
    }
}

fn learn_conf(directive: &Directive) -> Result<LearnConf> {
    let (mut create, mut lookup, mut zone) = (Vec::new(), Vec::new(), None);
    let (mut timeout, mut header) = (None, false);
    for text in directive.args().get(1..).unwrap_or_default() {
        let param = Param::parse(text);
        match param.name {
            "create" => create.push(variable(directive, "create", param.value()?)?),
            "lookup" => lookup.push(variable(directive, "lookup", param.value()?)?),
            "zone" if zone.is_none() => zone = Some(zone_of(&param)?),
            "timeout" if timeout.is_none() => timeout = Some(timeout_of(&param)?),
            "header" => header = param.flag()?,
            "sync" => {
                let reason = "has parameter \"sync\", which is not supported: sessions are this host's";
                return Err(ConfError::Other(reason.to_owned()));
            }
            "zone" | "timeout" => return Err(ConfError::DuplicateParameter(param.name.to_owned())),
            _ => return Err(param.unknown()),
        }
    }
    if create.is_empty() {
        return Err(ConfError::Missing("create"));
    }
    if lookup.is_empty() {
        return Err(ConfError::Missing("lookup"));
    }
    let (name, size) = zone.ok_or(ConfError::Missing("zone"))?;
    let zone =
        Zone::add(directive.cf(), (&format!("sticky:{name}"), name), size, ()).map_err(
            |error| match error {
                ConfError::Duplicate => {
                    ConfError::Other(format!("has zone \"{name}\", which another upstream has already"))
                }
                error => error,
            },
        )?;
    Ok(LearnConf { create, lookup, timeout: timeout.unwrap_or(10 * 60 * 1000), header, zone })
}

fn timeout_of(param: &Param<'_>) -> Result<Millis> {
    let timeout = param.time()?;
    if timeout == 0 { Err(param.invalid("a time of at least 1ms")) } else { Ok(timeout) }
}

fn zone_of<'a>(param: &Param<'a>) -> Result<(&'a str, usize)> {
    let value = param.value()?;
    let (name, size) = value.rsplit_once(':').filter(|(name, _)| !name.is_empty()).unwrap_or_default();
    match parse_size(size).filter(|size| *size >= min_size()) {
        Some(size) => Ok((name, size)),
        None => Err(ConfError::invalid(
            "zone",
            value,
            format!("NAME:SIZE with a size of at least {}k", min_size() / 1024),
        )),
    }
}

/// The server that a request is bound to, as [`Tuning::hash`]; 0: none.
pub fn bound(request: &Request, sticky: &Sticky) -> u64 {
    match sticky {
        Sticky::Cookie(conf) => sent(request, conf.name.as_bytes()).map_or(0, hash),
        Sticky::Route(variables) => first(request, variables).map_or(0, hash),
        Sticky::Learn(learn) => {
            let session = first(request, &learn.lookup);
            let found = session.zip(learn.zone.get());
            found.and_then(|(session, table)| table.0.find(key(session), mono(), learn.timeout)).unwrap_or(0)
        }
    }
}

/// The first of the variables that is not empty.
fn first<'r>(request: &'r Request, variables: &[ComplexValue]) -> Option<&'r [u8]> {
    variables.iter().filter_map(|variable| variable.eval(request)).find(|text| !text.is_empty())
}

/// The value of a cookie that the client sent.
fn sent<'r>(request: &'r Request, name: &[u8]) -> Option<&'r [u8]> {
    request.headers_in().filter(|(key, _)| key.eq_ignore_ascii_case(b"cookie")).find_map(|(_, value)| {
        let value = cookie(value, name)?;
        Some(value).filter(|value| !value.is_empty())
    })
}

fn key(session: &[u8]) -> [u64; 2] {
    let (high, low) = KeyHash::new(session).as_u64s();
    [high, low]
}

/// A server of a sticky group has been chosen for a request.
pub fn chosen(request: &Request, sticky: &'static Sticky, member: Rc<Member>) {
    if let Some(ctx) = request.ctx_or_new() {
        ctx.session.replace(Some(Chosen { sticky, member }));
    }
}

/// The attempt is over. Without success nothing is to be remembered of it.
pub fn done(request: &Request, sticky: &Sticky, succeeded: bool) {
    let Some(ctx) = request.ctx() else { return };
    if !succeeded {
        ctx.session.take();
    } else if let (Sticky::Learn(learn), Some(chosen)) = (sticky, &*ctx.session.borrow()) {
        learn.create(request, &chosen.member.tuning);
    }
}

/// The response header is about to be sent.
pub fn header_sent(request: &Request, chosen: &Chosen) {
    let tuning = &chosen.member.tuning;
    match chosen.sticky {
        Sticky::Cookie(conf) => conf.set(request, &tuning.id),
        Sticky::Learn(learn) if learn.header => learn.create(request, tuning),
        Sticky::Learn(_) | Sticky::Route(_) => {}
    }
}

impl LearnConf {
    fn create(&self, request: &Request, tuning: &Tuning) {
        if let Some(session) = first(request, &self.create)
            && let Some(table) = self.zone.get()
        {
            table.0.put(key(session), tuning.hash, mono());
        }
    }
}

impl CookieConf {
    fn set(&self, request: &Request, id: &str) {
        let text = |value: &Option<ComplexValue>| {
            let bytes = value.as_ref().and_then(|value| value.eval(request)).unwrap_or_default();
            String::from_utf8_lossy(bytes).into_owned()
        };
        let (domain, samesite) = (text(&self.domain), text(&self.samesite));
        let until = self.expires.map(|expires| match expires {
            Expires::After(seconds) => (cookie_time(now().wall / 1000 + seconds), seconds),
            // As far as the core's own `expires max` goes.
            Expires::Max => ("Thu, 31-Dec-37 23:55:55 GMT".to_owned(), 315_360_000),
        });
        let attributes = Attributes {
            expires: until.as_ref().map(|(time, seconds)| (time.as_str(), *seconds)),
            domain: &domain,
            httponly: self.httponly,
            secure: self.secure,
            samesite: &samesite,
            path: &self.path,
        };
        request.add_header("Set-Cookie", &attributes.set(&self.name, id));
    }
}

/// A point in time as cookies write it.
fn cookie_time(seconds: u64) -> String {
    let mut buffer = [0u8; 64];
    // SAFETY: the core writes at most 29 bytes, "Thu, 18-Nov-2010 11:27:35 GMT", and returns the end of them.
    let written = unsafe {
        let end = sys::ngx_http_cookie_time(buffer.as_mut_ptr(), seconds as sys::time_t);
        end.offset_from(buffer.as_ptr())
    };
    let text = usize::try_from(written).ok().and_then(|length| buffer.get(..length));
    String::from_utf8_lossy(text.unwrap_or_default()).into_owned()
}
