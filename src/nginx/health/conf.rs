//! `health_check` and `health_check_header`: reading them, and finding each check's group and match.

use std::sync::Arc;
use std::time::Duration;

use nginx_sys as sys;

use super::super::cf::{ConfError, Directive, Param, Place, Result, complain_at};
use super::super::conf::MainConf;
use super::super::early;
use super::super::sys::{module_by_name, slot, upstream_module};
use super::super::upstream::PROXYING;
use crate::policy::Millis;
use crate::policy::health::{Builder, Match, Thresholds};
use crate::remote::probe::{Request, Target};

pub use super::matching::{group, line, match_block};

/// Longest interval, jitter or timeout: a day.
const MAX_TIME: Millis = 24 * 60 * 60 * 1000;
/// Bytes of an answer's body that are looked at, as NGINX Plus does.
const BODY_LIMIT: usize = 256 * 1024;

/// One `health_check` line.
pub struct Check {
    block: Block,
    place: Place,
    /// The group, once the configuration is complete.
    pub(super) group: *mut sys::ngx_http_upstream_srv_conf_t,
    pub interval: Millis,
    pub jitter: Millis,
    pub timeout: Millis,
    pub thresholds: Thresholds,
    /// No traffic before the first pass.
    pub mandatory: bool,
    /// …and that pass is remembered over reloads.
    pub persistent: bool,
    pub port: Option<u16>,
    uri: String,
    method: String,
    host: Option<String>,
    match_name: Option<String>,
    plain: bool,
    /// What is sent, but for ticket and target; once the configuration is complete.
    pub probe: Option<Request>,
}

/// One `health_check_header` line; it belongs to the checks of the same block.
pub struct Header {
    block: Block,
    place: Place,
    name: String,
    value: String,
}

/// The `upstream` or `location` block a line stands in.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Block {
    ctx: *mut sys::ngx_http_conf_ctx_t,
    upstream: bool,
}

impl Block {
    fn of(directive: &Directive) -> Self {
        // SAFETY: `cf` is the parser state nginx passed to the setter; in an upstream or location its `ctx` is
        // that block's, which lives as long as the configuration.
        let ctx = unsafe { (*directive.cf()).ctx.cast() };
        Self { ctx, upstream: directive.in_upstream() }
    }
}

/// `health_check …`
pub fn health_check(directive: &Directive, conf: &mut MainConf) -> Result {
    let mut check = Check::new(Block::of(directive), directive.place());
    for param in directive.params(0)? {
        check.parameter(&param)?;
    }
    if check.persistent && !check.mandatory {
        return Err(ConfError::Other("has \"persistent\" without \"mandatory\"".to_owned()));
    }
    conf.health.checks.push(check);
    Ok(())
}

/// `health_check_header NAME VALUE`
pub fn header(directive: &Directive, conf: &mut MainConf) -> Result {
    let [name, value] = directive.args() else { return Ok(()) };
    let (name, value) = ((*name).to_owned(), (*value).to_owned());
    let mut sample = sample();
    sample.headers.push((name.clone(), value.clone()));
    sample.validate().map_err(|error| ConfError::Other(format!("has {error}")))?;
    conf.health.headers.push(Header { block: Block::of(directive), place: directive.place(), name, value });
    Ok(())
}

impl Check {
    fn new(block: Block, place: Place) -> Self {
        Self {
            block,
            place,
            group: core::ptr::null_mut(),
            interval: 5_000,
            jitter: 0,
            timeout: 3_000,
            thresholds: Thresholds { fails: 1, passes: 1 },
            mandatory: false,
            persistent: false,
            port: None,
            uri: "/".to_owned(),
            method: "GET".to_owned(),
            host: None,
            match_name: None,
            plain: false,
            probe: None,
        }
    }

    fn parameter(&mut self, param: &Param<'_>) -> Result {
        match param.name {
            "interval" => self.interval = span(param, 10)?,
            "jitter" => self.jitter = span(param, 0)?,
            "timeout" => self.timeout = span(param, 1)?,
            "fails" => self.thresholds.fails = count(param)?,
            "passes" => self.thresholds.passes = count(param)?,
            "uri" => self.uri = uri(param)?,
            "mandatory" => self.mandatory = param.flag()?,
            "persistent" => self.persistent = param.flag()?,
            "match" => self.match_name = Some(param.value()?.to_owned()),
            "port" => self.port = Some(port(param)?),
            "type" => only(param, "http", &["tcp", "grpc"], "\"http\"")?,
            "host" => self.host = Some(param.value()?.to_owned()),
            "method" => self.method = param.value()?.to_owned(),
            "scheme" => {
                only(param, "http", &["https"], "\"http\"")?;
                self.plain = true;
            }
            // Every probe is a connection of its own so far; the time is only looked at.
            "keepalive_time" => drop(param.time()?),
            "sni" | "verify" | "ca" | "grpc_service" | "grpc_status" => return Err(not_yet(param)),
            _ => return Err(param.unknown()),
        }
        Ok(())
    }

    /// What this check asks, for the key of its records: a changed question starts a new record.
    pub fn identity(&self) -> String {
        let port = self.port.map(|port| port.to_string()).unwrap_or_default();
        let (host, matched) = (self.host.as_deref(), self.match_name.as_deref());
        [&*self.method, &*self.uri, &*port, host.unwrap_or_default(), matched.unwrap_or_default()].join("\0")
    }

    /// The request of this check's probes.
    fn request(&self, host: &str, headers: Vec<(String, String)>, expect: Arc<Match>) -> Request {
        Request {
            ticket: 0,
            target: Target::Unix(std::path::PathBuf::new()),
            host: self.host.clone().unwrap_or_else(|| host.to_owned()),
            method: self.method.clone(),
            uri: self.uri.clone(),
            headers,
            timeout: Duration::from_millis(self.timeout),
            expect,
            body_limit: BODY_LIMIT,
        }
    }
}

fn span(param: &Param<'_>, least: Millis) -> Result<Millis> {
    let time = param.time()?;
    if (least..=MAX_TIME).contains(&time) {
        return Ok(time);
    }
    let expected = match least {
        0 => "a time of at most 1d",
        1 => "a time from 1ms to 1d",
        _ => "a time from 10ms to 1d",
    };
    Err(param.invalid(expected))
}

fn count(param: &Param<'_>) -> Result<u32> {
    const EXPECTED: &str = "a whole number from 1 to 1000000";
    let number = param.number().map_err(|_| param.invalid(EXPECTED))?;
    u32::try_from(number).ok().filter(|n| (1..=1_000_000).contains(n)).ok_or_else(|| param.invalid(EXPECTED))
}

fn port(param: &Param<'_>) -> Result<u16> {
    const EXPECTED: &str = "a port from 1 to 65535";
    let number = param.number().map_err(|_| param.invalid(EXPECTED))?;
    u16::try_from(number).ok().filter(|port| *port > 0).ok_or_else(|| param.invalid(EXPECTED))
}

fn uri(param: &Param<'_>) -> Result<String> {
    let value = param.value()?;
    if value.starts_with('/') {
        Ok(value.to_owned())
    } else {
        Err(param.invalid("a path beginning with \"/\""))
    }
}

/// A parameter of which we know one value, and that others are to come.
fn only(param: &Param<'_>, known: &str, later: &[&str], expected: &'static str) -> Result {
    let value = param.value()?;
    if value == known {
        return Ok(());
    }
    Err(if later.contains(&value) { not_yet(param) } else { param.invalid(expected) })
}

fn not_yet(param: &Param<'_>) -> ConfError {
    ConfError::Other(format!("has parameter \"{}\", which is not supported yet", param.text))
}

/// A request that is fine.
fn sample() -> Request {
    let block = Block { ctx: core::ptr::null_mut(), upstream: true };
    Check::new(block, Place::default()).request("localhost", Vec::new(), Arc::new(any_success()))
}

/// What is expected without `match`.
fn any_success() -> Match {
    let mut builder = Builder::new("default");
    let read = builder.line("status", &["200-399"]);
    let built = read.and_then(|()| builder.finish());
    // A constant text, which a test holds to compile.
    built.unwrap_or_else(|error| unreachable!("{error}"))
}

/// Everything has been read: finds each check's group and match.
pub fn resolve(cf: *mut sys::ngx_conf_t, main: &mut MainConf) -> Result {
    let health = &mut main.health;
    for header in &health.headers {
        if !health.checks.iter().any(|check| check.block == header.block) {
            let text = format_args!("\"health_check_header\" directive has no \"health_check\" in its block");
            complain_at(cf, &header.place, text);
            return Err(ConfError::Logged);
        }
    }
    for at in 0..health.checks.len() {
        let settled = settle(cf, &health.checks[at], health);
        let check = &mut health.checks[at];
        match settled {
            Ok((group, request)) => (check.group, check.probe) = (group, Some(request)),
            Err(reason) => {
                complain_at(cf, &check.place, format_args!("\"health_check\" directive {reason}"));
                return Err(ConfError::Logged);
            }
        }
    }
    Ok(())
}

type Outcome<T> = core::result::Result<T, String>;
type Settled = (*mut sys::ngx_http_upstream_srv_conf_t, Request);

fn settle(cf: *mut sys::ngx_conf_t, check: &Check, health: &super::Conf) -> Outcome<Settled> {
    let group = if check.block.upstream { own_group(check.block) } else { passed_to(cf, check)? };
    let expect = match &check.match_name {
        Some(name) => health.find_match(name).ok_or_else(|| format!("has unknown match \"{name}\""))?,
        None => Arc::new(any_success()),
    };
    let headers = health.headers.iter().filter(|header| header.block == check.block);
    let headers = headers.map(|header| (header.name.clone(), header.value.clone())).collect();
    // SAFETY: both ways to a group give one of the configuration being finished.
    let name = unsafe { (*group).host.to_string() };
    let request = check.request(&name, headers, expect);
    request.validate().map_err(|error| format!("has {error}"))?;
    Ok((group, request))
}

/// The group whose block the check stands in.
fn own_group(block: Block) -> *mut sys::ngx_http_upstream_srv_conf_t {
    // SAFETY: the context of an upstream block has that block's group in the upstream module's place.
    unsafe { (*slot((*block.ctx).srv_conf, upstream_module())).cast() }
}

/// The group that the location's `proxy_pass` or the like names.
fn passed_to(cf: *mut sys::ngx_conf_t, check: &Check) -> Outcome<*mut sys::ngx_http_upstream_srv_conf_t> {
    for name in PROXYING {
        // SAFETY: all modules of the cycle are known by now; the location's context has a slot for each; the
        // configuration of these modules begins with ngx_http_upstream_conf_t in every nginx version.
        let (group, secure, explicit, host) = unsafe {
            let Some(module) = module_by_name((*cf).cycle, name) else { continue };
            let conf = (*slot((*check.block.ctx).loc_conf, module)).cast::<sys::ngx_http_upstream_conf_t>();
            if conf.is_null() || (*conf).upstream.is_null() {
                continue;
            }
            let group = (*conf).upstream;
            let secure = early::of(check.block.ctx).is_some_and(|early| early.secure == Some(true));
            (group, secure, !(*group).srv_conf.is_null(), (*group).host.to_string())
        };
        if !explicit {
            return Err(format!("needs an \"upstream\" block, and \"{host}\" is none"));
        }
        if secure && !check.plain {
            return Err("checks over https are not supported yet, \"scheme=http\" checks without".to_owned());
        }
        return Ok(group);
    }
    let advice = "with variables, put \"health_check\" into the \"upstream\" block";
    Err(format!("found no \"proxy_pass\" or the like to a named upstream in its location; {advice}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_expected_by_default_compiles() {
        assert!(sample().validate().is_ok());
        let _ = any_success();
    }
}
