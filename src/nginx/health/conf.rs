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
use crate::remote::probe::{GrpcCheck, Manner, Protocol, Request, Target, may_send};

pub use super::matching::{group, line, match_block};
use super::require::Rules;
use super::tls::{Location, Parameters, Settings};

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
    pub(super) uri: String,
    method: String,
    host: Option<String>,
    match_name: Option<String>,
    pub(super) protocol: Protocol,
    tls: Parameters,
    /// How long a connection is used.
    keep: Millis,
    /// What is sent, but for ticket and target, and by what means; once the configuration is complete.
    pub probe: Option<(Request, Manner)>,
    /// The variables that must have a value, likewise.
    pub rules: Option<Rules>,
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
    let params = directive.params(0)?;
    if let Some(param) = params.iter().find(|param| param.name == "type") {
        check.protocol = protocol(param)?;
    }
    for param in &params {
        check.fits(param)?;
        if !check.tls.take(directive, param)? {
            check.parameter(param)?;
        }
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
            protocol: Protocol::Http,
            tls: Parameters::default(),
            keep: 0,
            probe: None,
            rules: None,
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
            // Read before the others.
            "type" => {}
            "host" => self.host = Some(param.value()?.to_owned()),
            "method" => self.method = param.value()?.to_owned(),
            "keepalive_time" => self.keep = span(param, 0)?,
            "grpc_service" | "grpc_status" => self.grpc(param)?,
            _ => return Err(param.unknown()),
        }
        Ok(())
    }

    /// Refuses what would have no effect in a check of this type.
    fn fits(&self, param: &Param<'_>) -> Result {
        let misfits: &[&str] = match self.protocol {
            Protocol::Http if ["grpc_service", "grpc_status"].contains(&param.name) => {
                return Err(ConfError::Other(format!("has \"{}\" without \"type=grpc\"", param.name)));
            }
            Protocol::Http => &[],
            Protocol::Grpc(_) => &["uri", "method", "match"],
            Protocol::Tcp => {
                &["uri", "method", "match", "host", "keepalive_time", "grpc_service", "grpc_status"]
            }
        };
        if !misfits.contains(&param.name) {
            return Ok(());
        }
        let kind = if self.protocol == Protocol::Tcp { "tcp" } else { "grpc" };
        Err(ConfError::Other(format!(
            "has \"{}\", which a check of \"type={kind}\" does not use",
            param.name
        )))
    }

    fn grpc(&mut self, param: &Param<'_>) -> Result {
        let Protocol::Grpc(check) = &mut self.protocol else { return Err(param.unknown()) };
        match param.name {
            "grpc_service" => check.service = param.value()?.to_owned(),
            _ => {
                const EXPECTED: &str = "a gRPC status from 0 to 16";
                let number = param.number().map_err(|_| param.invalid(EXPECTED))?;
                let status = u32::try_from(number).ok().filter(|status| *status <= 16);
                check.status = status.ok_or_else(|| param.invalid(EXPECTED))?;
            }
        }
        Ok(())
    }

    /// What this check asks, for the key of its records: a changed question starts a new record.
    pub fn identity(&self) -> String {
        let Self { method, uri, port, host, match_name, protocol, .. } = self;
        let secure = self.probe.as_ref().is_some_and(|(_, manner)| manner.is_secure());
        let tls = self.tls.identity();
        format!("{method}\0{uri}\0{port:?}\0{host:?}\0{match_name:?}\0{protocol:?}\0{secure}\0{tls}")
    }

    /// The headers of this check, and of those that its location sends the ones that it says nothing of.
    fn with(&self, own: Vec<early::Header>, sent: Vec<early::Header>) -> Vec<early::Header> {
        let said = |name: &str| own.iter().any(|(own, _)| own.eq_ignore_ascii_case(name));
        let free = |(name, value): &early::Header| {
            let host = name.eq_ignore_ascii_case("host") && (self.host.is_some() || value.is_empty());
            !host && !said(name) && may_send(name, value)
        };
        let sent: Vec<_> = sent.into_iter().filter(|_| self.protocol != Protocol::Tcp).filter(free).collect();
        own.into_iter().chain(sent).collect()
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
            tells_head: false,
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

/// `type`
fn protocol(param: &Param<'_>) -> Result<Protocol> {
    match param.value()? {
        "http" => Ok(Protocol::Http),
        "tcp" => Ok(Protocol::Tcp),
        "grpc" => Ok(Protocol::Grpc(GrpcCheck::default())),
        _ => Err(param.invalid("\"http\", \"tcp\" or \"grpc\"")),
    }
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
        let sends = |check: &Check| check.block == header.block && check.protocol != Protocol::Tcp;
        if !health.checks.iter().any(sends) {
            let text = format_args!(
                "\"health_check_header\" directive has no \"health_check\" in its block that sends headers"
            );
            complain_at(cf, &header.place, text);
            return Err(ConfError::Logged);
        }
    }
    for at in 0..health.checks.len() {
        let settled = settle(cf, &health.checks[at], health);
        let check = &mut health.checks[at];
        match settled {
            Ok((group, probe, rules)) => {
                (check.group, check.probe, check.rules) = (group, Some(probe), rules);
            }
            Err(reason) => {
                complain_at(cf, &check.place, format_args!("\"health_check\" directive {reason}"));
                return Err(ConfError::Logged);
            }
        }
    }
    Ok(())
}

/// Or what is wrong, in words that follow the directive's name.
pub(super) type Outcome<T> = core::result::Result<T, String>;
type Group = *mut sys::ngx_http_upstream_srv_conf_t;
type Settled = (Group, (Request, Manner), Option<Rules>);

fn settle(cf: *mut sys::ngx_conf_t, check: &Check, health: &super::Conf) -> Outcome<Settled> {
    let (group, location, sent) = match check.block.upstream {
        true => (own_group(check.block), None, Vec::new()),
        false => passed_to(cf, check.block).map(|(group, location, sent)| (group, Some(location), sent))?,
    };
    let named = check
        .match_name
        .as_ref()
        .map(|name| health.find_match(name).ok_or_else(|| format!("has unknown match \"{name}\"")));
    let named = named.transpose()?;
    let expect = named.map_or_else(|| Arc::new(any_success()), |named| named.matched.clone());
    let rules = named.map(|named| rules(cf, check.block, named)).transpose()?.flatten();
    let headers = health.headers.iter().filter(|header| header.block == check.block);
    let headers = headers.map(|header| (header.name.clone(), header.value.clone())).collect();
    let headers = check.with(headers, sent);
    // SAFETY: both ways to a group give one of the configuration being finished.
    let name = unsafe { (*group).host.to_string() };
    let tls = check.tls.settle(cf, &name, location.as_ref())?;
    let tls = tls.as_ref().map(Settings::as_tls);
    let manner = Manner::new(check.protocol.clone(), tls.as_ref(), Duration::from_millis(check.keep));
    let manner = manner.map_err(|error| format!("cannot be set up: {error}"))?;
    let request = Request { tells_head: rules.is_some(), ..check.request(&name, headers, expect) };
    request.validate_for(&manner).map_err(|error| format!("has {error}"))?;
    Ok((group, (request, manner), rules))
}

/// The variables of a check are those of its location, or, in an upstream, of the first server: an upstream's own
/// context is never merged.
fn rules(cf: *mut sys::ngx_conf_t, block: Block, named: &super::Named) -> Outcome<Option<Rules>> {
    if named.required.is_empty() {
        return Ok(None);
    }
    // SAFETY: `cf` is the http block's parser state; the core's main configuration has an array of pointers to servers,
    // each of which points to its context. Contexts live as long as the configuration.
    unsafe {
        let http = (*cf).ctx.cast::<sys::ngx_http_conf_ctx_t>();
        let core = (*slot((*http).main_conf, &raw const sys::ngx_http_core_module))
            .cast::<sys::ngx_http_core_main_conf_t>();
        let servers = (*core).servers.as_slice::<*mut sys::ngx_http_core_srv_conf_t>();
        let ctx = match servers.first() {
            _ if !block.upstream => block.ctx,
            Some(server) => (**server).ctx,
            None => return Err("has a match with \"require\", which needs a \"server\" block".to_owned()),
        };
        Ok(Rules::new(named.required.clone(), ctx))
    }
}

/// The group whose block the check stands in.
fn own_group(block: Block) -> Group {
    // SAFETY: the context of an upstream block has that block's group in the upstream module's place.
    unsafe { (*slot((*block.ctx).srv_conf, upstream_module())).cast() }
}

/// The group that the location's `proxy_pass` or the like names, and what else the location says.
fn passed_to(cf: *mut sys::ngx_conf_t, block: Block) -> Outcome<(Group, Location, Vec<early::Header>)> {
    for name in PROXYING {
        // SAFETY: all modules of the cycle are known by now; the location's context has a slot for each; the
        // configuration of these modules begins with ngx_http_upstream_conf_t in every nginx version.
        let (group, location, sent, explicit, host) = unsafe {
            let Some(module) = module_by_name((*cf).cycle, name) else { continue };
            let conf = (*slot((*block.ctx).loc_conf, module)).cast::<sys::ngx_http_upstream_conf_t>();
            if conf.is_null() || (*conf).upstream.is_null() {
                continue;
            }
            let group = (*conf).upstream;
            let said = early::of(block.ctx);
            let secure = said.is_some_and(|early| early.secure == Some(true));
            let sent = said.into_iter().flat_map(|early| early.headers_of(name)).cloned().collect();
            let location = Location::new(module, conf.cast(), secure);
            (group, location, sent, !(*group).srv_conf.is_null(), (*group).host.to_string())
        };
        if !explicit {
            return Err(format!("needs an \"upstream\" block, and \"{host}\" is none"));
        }
        return Ok((group, location, sent));
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
