//! `status_zone`, and what the zone of counters has to have room for.

use nginx_sys as sys;

use super::super::cf::{ConfError, Directive, Result};
use super::super::conf::MainConf;
use super::super::sys::{configured_workers, server_resolves};
use super::super::upstream;
use super::super::zone::{Zone, min_size};
use crate::shared::traffic::Plan;
use crate::shared::traffic::cells::{
    Cache, Cells, CoreLimit, Group, Host, Http, Peer, Probes, RateLimit, Zone as ZoneCells,
};

/// A `status_zone`: those of servers and those of locations are told apart, whatever their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub name: String,
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Server,
    Location,
}

impl Named {
    /// What its series is about.
    pub fn about(&self) -> String {
        let kind = if self.kind == Kind::Server { "server zone" } else { "location zone" };
        format!("{kind}\0{}", self.name)
    }
}

/// `status_zone` at one level.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Said {
    #[default]
    Nothing,
    Off,
    Zone(String),
}

/// The location level.
#[derive(Default)]
pub struct LocConf {
    server: Said,
    location: Said,
    /// Numbers of the zones, known once the levels are merged.
    pub server_zone: Option<usize>,
    pub location_zone: Option<usize>,
}

impl LocConf {
    /// Inherits: a location has its server's zone, and that of the location around it.
    pub fn merge(&mut self, prev: &Self, main: &super::Conf) {
        for (own, outer) in [(&mut self.server, &prev.server), (&mut self.location, &prev.location)] {
            if *own == Said::Nothing {
                own.clone_from(outer);
            }
        }
        self.server_zone = main.number(&self.server, Kind::Server);
        self.location_zone = main.number(&self.location, Kind::Location);
    }
}

impl super::Conf {
    fn number(&self, said: &Said, kind: Kind) -> Option<usize> {
        let Said::Zone(name) = said else { return None };
        let zone = Named { name: name.clone(), kind };
        let mut zones = self.zones.borrow_mut();
        let found = zones.iter().position(|known| *known == zone);
        Some(found.unwrap_or_else(|| {
            zones.push(zone);
            zones.len() - 1
        }))
    }
}

/// `status_zone NAME | off`
pub fn status_zone(directive: &Directive, conf: &mut super::super::conf::LocConf) -> Result {
    let conf = &mut conf.traffic;
    let said = if directive.in_server() { &mut conf.server } else { &mut conf.location };
    if *said != Said::Nothing {
        return Err(ConfError::Duplicate);
    }
    *said = match directive.arg() {
        "" => return Err(ConfError::invalid("status_zone", "", "a name or \"off\"")),
        "off" => Said::Off,
        name => {
            want(directive);
            Said::Zone(name.to_owned())
        }
    };
    Ok(())
}

/// A directive that draws from the counters stands in the configuration: from now on they count.
pub fn want(directive: &Directive) {
    directive.main_conf().traffic.wanted.set(true);
}

/// How many series of each kind there have to be.
#[derive(Default)]
struct Need {
    records: usize,
    words: usize,
}

impl Need {
    /// As many again, because a reload may rename them all, and some to spare.
    fn of<T: Cells>(&mut self, count: usize, spare: usize) {
        let count = count * 2 + spare;
        self.records += count;
        self.words += count * T::WORDS;
    }
}

/// Most memory that shards of their own for all workers may take; with more series, workers share shards.
const AMPLE: usize = 64 * 1024 * 1024;

/// How many servers a group has, and may come to have where a name is resolved while nginx runs.
///
/// # Safety
/// `us` must be an explicit group of the configuration being finished.
unsafe fn servers(us: *const sys::ngx_http_upstream_srv_conf_t) -> usize {
    /// Addresses that a name may have at once.
    const RESOLVED: usize = 16;
    // SAFETY: the caller vouches for the group; `servers` is NULL or an array the core built.
    let resolving = unsafe {
        let servers =
            (*us).servers.as_ref().map(|servers| servers.as_slice::<sys::ngx_http_upstream_server_t>());
        servers.unwrap_or_default().iter().filter(|server| server_resolves(server)).count()
    };
    upstream::servers(us) + resolving * RESOLVED
}

/// Announces the zone if something is counted.
pub fn finish(cf: *mut sys::ngx_conf_t, main: &mut MainConf) -> Result {
    if !main.traffic.wanted.get() {
        return Ok(());
    }
    let groups = upstream::all(cf);
    // SAFETY: explicit groups of the configuration being finished.
    let servers = groups.iter().map(|us| unsafe { servers(*us) }).sum();
    let mut need = Need::default();
    need.of::<Host>(1, 0);
    need.of::<Http>(1, 0);
    need.of::<ZoneCells>(main.traffic.zones.borrow().len(), 4);
    need.of::<Group>(groups.len(), 4);
    // With an API servers may be added, and DNS may find some in any case.
    need.of::<Peer>(servers, if main.api.is_there() { 64 } else { 32 });
    // SAFETY: all of the http block has been read.
    let (caches, limits) = unsafe { super::native::zones((*cf).cycle) };
    main.traffic.core_limits.set(limits > 0);
    need.of::<Cache>(caches, 1);
    need.of::<CoreLimit>(limits, 2);
    need.of::<RateLimit>(main.limits.0.len(), 2);
    let probed = groups.iter().map(|us| upstream::servers(*us) * main.health.checks_of(*us).len());
    need.of::<Probes>(probed.sum(), 16);
    let workers = configured_workers(cf).clamp(1, 128);
    let mut plan =
        Plan { shards: workers, processes: workers * 3 + 8, records: need.records, words: need.words };
    while plan.size() > AMPLE && plan.shards > 1 {
        plan.shards /= 2;
    }
    // The slab pool keeps its head and 32 bytes for each page.
    let size = plan.size();
    let size = (size + size / 64 + min_size()).next_multiple_of(256 * 1024);
    main.traffic.shm = Some(Zone::add(cf, ("sluice_traffic", "sluice_traffic"), size, plan)?);
    Ok(())
}
