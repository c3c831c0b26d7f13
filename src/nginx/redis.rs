//! The `redis` block: which servers, how to log in, how long to wait.

use core::ffi::{c_char, c_void};
use std::path::Path;
use std::time::Duration;

use nginx_sys as sys;

use super::ban;
use super::cf::{ConfError, Directive, Param, Result, complain, parse_switch, parse_time, set_once};
use super::conf::MainConf;
use super::entry::entry;
use super::events::{self, Event, Kind};
use super::log::{self, Level};
use super::sys::{CONF_ERROR, CONF_OK, mono};
use super::zone::{Contents, Zone, min_size};
use crate::remote::redis::{LinkEvent, Mode, Secret, Server, Settings, Tls};
use crate::shared::cell::Region;
use crate::shared::outage::Outage;

/// All `redis` blocks, in the order of the file: the index is the link's number on the I/O thread.
#[derive(Default)]
pub struct Conf {
    blocks: Vec<Settings>,
    /// Beside each block: what the workers of this host tell each other of it.
    outages: Vec<Zone<Outage>>,
}

impl Contents for Outage {
    type Spec = ();

    fn create((): &(), region: Region) -> core::result::Result<Self, String> {
        Self::new(region).map_err(|e| e.to_string())
    }

    fn adopt((): &(), region: Region) -> core::result::Result<Self, String> {
        Self::new(region).map_err(|e| e.to_string())
    }
}

impl Conf {
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    /// The link's number of a block.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.blocks.iter().position(|block| block.name == name)
    }

    /// The block of a link.
    pub fn get(&self, link: usize) -> Option<&Settings> {
        self.blocks.get(link)
    }

    /// What is known on this host of a link's Redis.
    pub fn shared(&self, link: usize) -> Option<&Outage> {
        self.outages.get(link)?.get()
    }

    /// How each Redis stands, as the workers of this host have found: its name, whether it is there, primaries of a
    /// cluster that are not, and the gateways that share it.
    pub fn states(&self) -> impl Iterator<Item = (&str, bool, usize, u32)> {
        self.blocks.iter().zip(&self.outages).filter_map(|(block, outage)| {
            let outage = outage.get()?;
            Some((block.name.as_str(), !outage.is_lost(), outage.lost_parts(), outage.gateways()))
        })
    }

    /// The same of a block, or of one primary of a cluster (`NAME/HOST:PORT`).
    fn outage(&self, name: &str) -> Option<Outage> {
        let of = |block: &str| self.outages.get(self.find(block)?)?.get();
        of(name).copied().or_else(|| {
            let (block, server) = name.rsplit_once('/')?;
            of(block)?.part(server)
        })
    }

    /// What the I/O thread is to connect to.
    pub fn settings(&self, bans: &ban::Zones) -> Vec<Settings> {
        let shared =
            |(link, block): (usize, &Settings)| Settings { bans: bans.use_link(link), ..block.clone() };
        self.blocks.iter().enumerate().map(shared).collect()
    }
}

/// A block being read: each line may stand once (`server` any number of times).
#[derive(Default)]
struct Draft {
    servers: Vec<Server>,
    mode: Option<String>,
    master: Option<String>,
    database: Option<u32>,
    username: Option<String>,
    password: Option<Secret>,
    sentinel_username: Option<String>,
    sentinel_password: Option<Secret>,
    tls: Option<bool>,
    tls_ca: Option<Vec<u8>>,
    tls_certificate: Option<Vec<u8>>,
    tls_key: Option<Secret>,
    tls_name: Option<String>,
    tls_verify: Option<bool>,
    key_prefix: Option<String>,
    connect_timeout: Option<Duration>,
    timeout: Option<Duration>,
    breaker: Option<(Option<u32>, Option<Duration>)>,
}

/// `redis NAME { … }`
pub fn block(directive: &Directive, conf: *mut MainConf) -> Result {
    let mut draft = Draft::default();
    // SAFETY: `cf` is the parser state nginx passed us. It is restored as the core's own blocks do; the draft
    // outlives the parsing of the block's lines.
    let read = unsafe {
        let cf = directive.cf();
        let saved = *cf;
        (*cf).handler = Some(line);
        (*cf).handler_conf = (&raw mut draft).cast();
        let read = sys::ngx_conf_parse(cf, core::ptr::null_mut());
        (*cf).handler = saved.handler;
        (*cf).handler_conf = saved.handler_conf;
        read
    };
    if read != CONF_OK {
        return Err(ConfError::Logged);
    }
    let settings = draft.finish(directive.arg())?;
    // SAFETY: nginx passes the main configuration of the http block; no other borrow of it is alive, the
    // lines of the block have been read.
    let all = unsafe { &mut (*conf).redis };
    if all.find(&settings.name).is_some() {
        return Err(ConfError::Other(format!("has duplicate name \"{}\"", settings.name)));
    }
    let name = &settings.name;
    all.outages.push(Zone::add(directive.cf(), (&format!("redis:{name}"), name), min_size(), ())?);
    all.blocks.push(settings);
    Ok(())
}

/// One line of the block.
unsafe extern "C" fn line(
    cf: *mut sys::ngx_conf_t,
    _: *mut sys::ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char {
    entry!("a redis block", CONF_ERROR, {
        // SAFETY: ngx_conf_parse passes the `handler_conf` that `block` set, its draft.
        let draft = unsafe { &mut *conf.cast::<Draft>() };
        let read = Directive::read(cf)
            .map_err(|error| ("a line".to_owned(), error))
            .and_then(|line| draft.line(&line).map_err(|error| (format!("\"{}\"", line.name()), error)));
        match read {
            Ok(()) => CONF_OK,
            Err((_, ConfError::Logged)) => CONF_ERROR,
            Err((line, error)) => {
                complain(cf, format_args!("{line} in \"redis\" {error}"));
                CONF_ERROR
            }
        }
    })
}

impl Draft {
    fn line(&mut self, line: &Directive) -> Result {
        if line.name() == "breaker" {
            return self.breaker(line);
        }
        if line.name() == "include" {
            return include(line);
        }
        let [value] = *line.args() else {
            return Err(ConfError::Other("takes one argument".to_owned()));
        };
        let text = || value.to_owned();
        match line.name() {
            "server" => {
                self.servers.push(Server::parse(value).map_err(|e| ConfError::Other(format!(": {e}")))?);
                Ok(())
            }
            "mode" => set_once(&mut self.mode, text()),
            "master" => set_once(&mut self.master, text()),
            "database" => set_once(&mut self.database, whole(line, value)?),
            "username" => set_once(&mut self.username, text()),
            "password" => set_once(&mut self.password, Secret::new(value)),
            "password_file" => set_once(&mut self.password, secret_file(line, value)?),
            "sentinel_username" => set_once(&mut self.sentinel_username, text()),
            "sentinel_password" => set_once(&mut self.sentinel_password, Secret::new(value)),
            "sentinel_password_file" => set_once(&mut self.sentinel_password, secret_file(line, value)?),
            "key_prefix" => set_once(&mut self.key_prefix, prefix(value)?),
            "connect_timeout" => set_once(&mut self.connect_timeout, duration(line, value)?),
            "timeout" => set_once(&mut self.timeout, duration(line, value)?),
            _ => self.tls_line(line, value),
        }
    }

    fn tls_line(&mut self, line: &Directive, value: &str) -> Result {
        match line.name() {
            "tls" => set_once(&mut self.tls, parse_switch(line)?),
            "tls_verify" => set_once(&mut self.tls_verify, parse_switch(line)?),
            "tls_ca" => set_once(&mut self.tls_ca, read_file(line, value)?),
            "tls_certificate" => set_once(&mut self.tls_certificate, read_file(line, value)?),
            "tls_certificate_key" => set_once(&mut self.tls_key, secret_file(line, value)?),
            "tls_name" => set_once(&mut self.tls_name, value.to_owned()),
            _ => Err(ConfError::Other("is unknown".to_owned())),
        }
    }

    fn breaker(&mut self, line: &Directive) -> Result {
        let (mut failures, mut open) = (None, None);
        for param in line.params(0)? {
            match param.name {
                "failures" => failures = Some(positive(&param)?),
                "open" => open = Some(Duration::from_millis(param.time()?)),
                _ => return Err(param.unknown()),
            }
        }
        set_once(&mut self.breaker, (failures, open))
    }

    fn finish(self, name: &str) -> Result<Settings> {
        let mut settings = Settings::new(name);
        settings.mode = self.mode()?;
        settings.tls = self.tls()?;
        settings.servers = self.servers;
        settings.username = self.username;
        settings.password = self.password;
        settings.database = self.database.unwrap_or(settings.database);
        settings.key_prefix = self.key_prefix.unwrap_or(settings.key_prefix);
        settings.connect_timeout = self.connect_timeout.unwrap_or(settings.connect_timeout);
        settings.timeout = self.timeout.unwrap_or(settings.timeout);
        let (failures, open) = self.breaker.unwrap_or_default();
        settings.breaker.failures = failures.unwrap_or(settings.breaker.failures);
        settings.breaker.open = open.unwrap_or(settings.breaker.open);
        settings.validate().map_err(|e| ConfError::Other(format!("is incomplete or contradictory: {e}")))?;
        Ok(settings)
    }

    fn mode(&self) -> Result<Mode> {
        let sentinel =
            self.master.is_some() || self.sentinel_username.is_some() || self.sentinel_password.is_some();
        match self.mode.as_deref().unwrap_or("standalone") {
            "sentinel" => Ok(Mode::Sentinel {
                master: self.master.clone().ok_or(ConfError::Missing("master"))?,
                username: self.sentinel_username.clone(),
                password: self.sentinel_password.clone(),
            }),
            "standalone" | "cluster" if sentinel => Err(ConfError::Other(
                "has \"master\" or sentinel credentials outside of sentinel mode".to_owned(),
            )),
            "standalone" => Ok(Mode::Standalone),
            "cluster" => Ok(Mode::Cluster),
            other => Err(ConfError::invalid("mode", other, "\"standalone\", \"sentinel\" or \"cluster\"")),
        }
    }

    fn tls(&self) -> Result<Option<Tls>> {
        let parts = self.tls_ca.is_some()
            || self.tls_certificate.is_some()
            || self.tls_key.is_some()
            || self.tls_name.is_some()
            || self.tls_verify.is_some();
        if !self.tls.unwrap_or(false) {
            if parts {
                return Err(ConfError::Other("has \"tls_…\" lines without \"tls on\"".to_owned()));
            }
            return Ok(None);
        }
        Ok(Some(Tls {
            ca: self.tls_ca.clone(),
            certificate: self.tls_certificate.clone(),
            key: self.tls_key.clone(),
            name: self.tls_name.clone(),
            verify: self.tls_verify.unwrap_or(true),
        }))
    }
}

fn include(line: &Directive) -> Result {
    // SAFETY: the core's own `include`, called with the parser state of this line; it reads cf->args only.
    let rc = unsafe { sys::ngx_conf_include(line.cf(), core::ptr::null_mut(), core::ptr::null_mut()) };
    if rc == CONF_OK { Ok(()) } else { Err(ConfError::Logged) }
}

fn whole(line: &Directive, value: &str) -> Result<u32> {
    value.parse().map_err(|_| ConfError::invalid(line.name().to_owned(), value, "a whole number"))
}

fn positive(param: &Param<'_>) -> Result<u32> {
    u32::try_from(param.number()?)
        .ok()
        .filter(|n| *n > 0)
        .ok_or_else(|| param.invalid("a whole number above 0"))
}

fn duration(line: &Directive, value: &str) -> Result<Duration> {
    let expected = "a time such as 50ms or 1s";
    parse_time(value)
        .map(Duration::from_millis)
        .ok_or_else(|| ConfError::invalid(line.name().to_owned(), value, expected))
}

/// A key prefix must not hold what would make one of our keys another's, or a hash tag of its own.
fn prefix(value: &str) -> Result<String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-:/".contains(&b);
    if value.is_empty() || !value.bytes().all(plain) {
        let expected = "letters, digits, \".\", \"_\", \"-\", \":\" or \"/\"";
        return Err(ConfError::invalid("key_prefix", value, expected));
    }
    Ok(value.to_owned())
}

/// The bytes of a file named relative to nginx.conf, read now, while nginx may still be root.
fn read_file(line: &Directive, path: &str) -> Result<Vec<u8>> {
    let path = line.full_path(path)?;
    std::fs::read(Path::new(&path)).map_err(|e| ConfError::Other(format!("cannot read \"{path}\": {e}")))
}

/// A secret: the file's text without the line end that editors add.
fn secret_file(line: &Directive, path: &str) -> Result<Secret> {
    let text = String::from_utf8(read_file(line, path)?).map_err(|_| ConfError::Encoding)?;
    Ok(Secret::new(text.trim_end_matches(['\r', '\n'])))
}

/// One line on a host when a Redis is lost, one when it is back.
pub fn announce(conf: &Conf, event: &LinkEvent) {
    match event {
        LinkEvent::Lost { name, reason } => {
            if conf.outage(name).is_none_or(|outage| outage.begin(mono())) {
                log::cycle(Level::Error, format_args!("redis is lost: {reason}, redis \"{name}\""));
                note(name, ["up", "lost"], reason);
            }
        }
        LinkEvent::Back { name, after } => {
            let after = match conf.outage(name) {
                Some(outage) => outage.end(mono()),
                None => u64::try_from(after.as_millis()).ok(),
            };
            back(name, after);
        }
        // A first connection too: the worker that lost it may have been killed since.
        LinkEvent::Connected { name } => back(name, conf.outage(name).and_then(|outage| outage.end(mono()))),
        LinkEvent::Foreign { name, values } => {
            let text = "values under our keys were not ours and were taken for absent";
            log::cycle(Level::Warn, format_args!("{values} {text}, redis \"{name}\""));
        }
        LinkEvent::Deaf { name, reason } => {
            let text = "bans of other gateways are looked for once a second, and not heard of at once";
            log::cycle(Level::Warn, format_args!("{text}: {reason}, redis \"{name}\""));
        }
        LinkEvent::Bans { name, reason } => {
            log::cycle(Level::Error, format_args!("bans are not shared: {reason}, redis \"{name}\""));
        }
        LinkEvent::Fault { name, reason } => {
            log::cycle(
                Level::Alert,
                format_args!("sluice: internal error of the I/O thread: {reason}, \"{name}\""),
            );
        }
    }
}

/// `after` so many milliseconds; none if that was said already.
fn back(name: &str, after: Option<u64>) {
    if let Some(after) = after {
        let (s, tenths) = (after / 1000, after % 1000 / 100);
        log::cycle(Level::Warn, format_args!("redis is back after {s}.{tenths} s, redis \"{name}\""));
        note(name, ["lost", "up"], &format!("back after {s}.{tenths} s"));
    }
}

fn note(name: &str, [from, to]: [&str; 2], text: &str) {
    events::note(&Event { kind: Kind::Redis, upstream: name, peer: "", from, to, text });
}
