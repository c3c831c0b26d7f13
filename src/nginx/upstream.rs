//! Upstream groups that health checks or breakers look after: found when the configuration is complete,
//! wrapped, and tied to their records in the zone of upstream state.

use core::cell::Cell;
use core::ffi::CStr;

use nginx_sys as sys;

use super::cf::{ConfError, Result};
use super::conf::{MainConf, SrvConf};
use super::entry::entry;
use super::log::{self, Level};
use super::module::main_module;
use super::request::Request;
use super::sys::{ERROR, OK, mono, slot, zone_of};
use super::zone::{Contents, Zone, min_size};
use super::{breaker, control, health, membership, traffic};
use crate::shared::cell::Region;
use crate::shared::upstream::{Claims, Store};

/// The groups, and the zone that holds their state.
#[derive(Default)]
pub struct Conf {
    pub groups: Vec<Group>,
    zone: Option<Zone<Records>>,
}

impl Conf {
    /// Whether anything is looked after.
    pub fn is_announced(&self) -> bool {
        self.zone.is_some()
    }

    /// The records, once nginx has mapped the zone.
    pub fn store(&self) -> Option<&Store> {
        Some(&self.zone.as_ref()?.get()?.0)
    }

    /// Calls `f` with the right to claim records. `None`: another process of the host has it.
    pub fn claim_now<T>(&self, f: impl FnOnce(&mut Claims<'_>) -> T) -> Option<T> {
        self.zone.as_ref()?.locked_now(|records| f(&mut Claims::new(&records.0, mono() / 1000)))
    }

    /// The explicit group of this name.
    pub fn named(&self, name: &str) -> Option<&Group> {
        // SAFETY: groups are of this process's cycle.
        self.groups
            .iter()
            .find(|group| group.name == name && unsafe { !(*group.upstream).srv_conf.is_null() })
    }

    /// The group of an upstream, by its number in the upstream's own configuration.
    pub fn group(&self, number: usize) -> Option<&Group> {
        self.groups.get(number)
    }
}

/// One upstream group we look after.
pub struct Group {
    pub name: String,
    pub upstream: *mut sys::ngx_http_upstream_srv_conf_t,
    /// The balancer's own `peer.init`, which ours calls.
    init: sys::ngx_http_upstream_init_peer_pt,
    /// Numbers of the checks of this group in `health::Conf`.
    pub checks: Vec<usize>,
    pub membership: membership::State,
    pub health: health::GroupState,
    pub breaker: breaker::GroupState,
    pub traffic: traffic::peers::GroupState,
    pub control: control::GroupState,
}

/// The memory of upstream state.
struct Records(Store);

impl Contents for Records {
    type Spec = ();

    fn create((): &(), region: Region) -> core::result::Result<Self, String> {
        Store::create(region).map(Self).map_err(|e| e.to_string())
    }

    fn adopt((): &(), region: Region) -> core::result::Result<Self, String> {
        Store::adopt(region).map(Self).map_err(|e| e.to_string())
    }

    fn carry(&self, old: &Self) {
        self.0.copy_from(&old.0);
    }
}

/// All explicit `upstream` blocks of the configuration.
pub fn all(cf: *mut sys::ngx_conf_t) -> Vec<*mut sys::ngx_http_upstream_srv_conf_t> {
    // SAFETY: `every` gives groups of the configuration being finished.
    every(cf).into_iter().filter(|us| unsafe { !(**us).srv_conf.is_null() }).collect()
}

/// The groups that `proxy_pass` and the like make of plain addresses.
fn implicit(cf: *mut sys::ngx_conf_t) -> Vec<*mut sys::ngx_http_upstream_srv_conf_t> {
    // SAFETY: as in `all`.
    every(cf).into_iter().filter(|us| unsafe { (**us).srv_conf.is_null() }).collect()
}

fn every(cf: *mut sys::ngx_conf_t) -> Vec<*mut sys::ngx_http_upstream_srv_conf_t> {
    // SAFETY: `cf` is the http block's parser state after everything was read; the upstream module's main
    // configuration holds an array of pointers to groups.
    unsafe {
        let ctx = (*cf).ctx.cast::<sys::ngx_http_conf_ctx_t>();
        let umcf = (*slot((*ctx).main_conf, super::sys::upstream_module()))
            .cast::<sys::ngx_http_upstream_main_conf_t>();
        (*umcf).upstreams.as_slice::<*mut sys::ngx_http_upstream_srv_conf_t>().to_vec()
    }
}

/// Our part of a group's configuration.
///
/// # Safety
/// `us` must be an explicit group (`all` gives no others) of a live cycle.
pub unsafe fn conf_of<'c>(us: *const sys::ngx_http_upstream_srv_conf_t) -> Option<&'c SrvConf> {
    // SAFETY: the caller vouches for `us`; its arrays have a slot for our module, filled by create_srv_conf.
    unsafe {
        if (*us).srv_conf.is_null() {
            return None;
        }
        (*slot((*us).srv_conf, main_module())).cast::<SrvConf>().as_ref()
    }
}

/// Settles what needs the whole configuration: which groups are looked after, their wraps, the zone's size.
pub fn finish(cf: *mut sys::ngx_conf_t, main: &mut MainConf) -> Result {
    health::conf::resolve(cf, main)?;
    let mut records = Need::default();
    let (mut looked_after, counted) = (false, main.traffic.wanted.get());
    for us in all(cf) {
        // SAFETY: an explicit group of the configuration being finished.
        let Some(conf) = (unsafe { conf_of(us) }) else { continue };
        let checks = main.health.checks_of(us);
        // SAFETY: as above.
        if main.api.is_there() && unsafe { !zone_of(us).is_null() } {
            conf.balance.control();
        }
        let balanced = conf.balance.is_configured();
        let routed = main.breaker.has_routes();
        let ours = !checks.is_empty() || conf.breaker.is_configured() || balanced || routed;
        looked_after |= ours;
        if !ours && !counted {
            continue;
        }
        conf.balance.check(cf, us)?;
        // SAFETY: as above; `host` is the group's name.
        let name = unsafe { (*us).host.to_string() };
        records.checks += checks.len() * servers(us);
        records.servers += if balanced { servers(us) } else { 0 };
        records.breakers += conf.breaker.breakers(servers(us));
        conf.breaker.refuse_without_checks(cf, &name, checks.len())?;
        conf.group.set(Some(main.upstreams.groups.len()));
        main.upstreams.groups.push(wrap(us, name, checks)?);
    }
    if main.breaker.has_routes() {
        // A route is judged wherever it leads.
        for us in implicit(cf) {
            // SAFETY: as above.
            let name = unsafe { (*us).host.to_string() };
            main.upstreams.groups.push(wrap(us, name, Vec::new())?);
        }
        records.breakers += main.breaker.routes.len();
    }
    if !looked_after && records.breakers == 0 {
        return Ok(());
    }
    if records.breakers > 0 {
        breaker::conf::resolve(cf, main);
    }
    main.upstreams.zone = Some(announce(cf, main.zone_size, &records)?);
    Ok(())
}

/// How many peers a group may come to have: what the file names, and room for what DNS adds.
pub fn servers(us: *const sys::ngx_http_upstream_srv_conf_t) -> usize {
    // SAFETY: an explicit group of the configuration being finished; `servers` is an array the core built.
    unsafe {
        if (*us).servers.is_null() {
            return 0;
        }
        let servers = (*(*us).servers).as_slice::<sys::ngx_http_upstream_server_t>();
        servers.iter().map(|server| server.naddrs.max(1)).sum()
    }
}

fn wrap(us: *mut sys::ngx_http_upstream_srv_conf_t, name: String, checks: Vec<usize>) -> Result<Group> {
    // SAFETY: as in `servers`; at postconfiguration every group has been initialised, so `init` is final.
    let init = unsafe { (*us).peer.init };
    if init.is_none() {
        return Err(ConfError::Other(format!("upstream \"{name}\" has no balancer")));
    }
    // SAFETY: as above.
    unsafe { (*us).peer.init = Some(init_peer) };
    let (membership, health, breaker, traffic, control) = Default::default();
    Ok(Group { name, upstream: us, init, checks, membership, health, breaker, traffic, control })
}

/// Bytes of a zone with so many records: what the slab pool keeps for itself (its head, and 32 bytes for each page)
/// comes on top, with something to spare.
fn zone_size(checks: usize, breakers: usize) -> usize {
    let records = Store::size_for(checks, breakers);
    min_size().max(records + records / 64 + min_size() / 2)
}

/// How many records the configuration needs.
#[derive(Default)]
struct Need {
    checks: usize,
    servers: usize,
    breakers: usize,
}

impl core::fmt::Display for Need {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self { checks, servers, breakers } = self;
        match servers {
            0 => write!(f, "{checks} checks and {breakers} breakers"),
            _ => write!(f, "{checks} checks, {servers} balanced servers and {breakers} breakers"),
        }
    }
}

/// Announces the zone. Its default size leaves room to grow, so that most reloads keep its memory.
fn announce(cf: *mut sys::ngx_conf_t, size: Option<usize>, need: &Need) -> Result<Zone<Records>> {
    let (checks, breakers) = (need.checks + need.servers, need.breakers);
    let needed = zone_size(checks, breakers);
    if let Some(size) = size.filter(|size| *size < needed) {
        let kib = needed.div_ceil(1024);
        return Err(ConfError::Other(format!(
            "\"sluice_zone\" of {}k is too small: {need} need {kib}k",
            size / 1024
        )));
    }
    let roomy = zone_size(checks * 2 + 64, breakers * 2 + 16);
    Zone::add(cf, ("sluice", "sluice"), size.unwrap_or(roomy.next_multiple_of(256 * 1024)), ())
}

/// Every zone is mapped, no worker of this cycle runs yet: ties groups to their records and puts verdicts of
/// the former cycle into force before the first request.
pub fn adopt(main: &'static MainConf) {
    let Some(zone) = &main.upstreams.zone else { return };
    // A worker of the former cycle may be claiming records for servers that have just come.
    zone.locked(|Records(store)| {
        let generation = store.begin_cycle();
        main.health.generation.set(generation);
        let mut claims = Claims::new(store, mono() / 1000);
        breaker::adopt_routes(main, &mut claims);
        for group in &main.upstreams.groups {
            membership::adopt(main, group, &mut claims);
        }
    });
}

/// `peer.init` of a wrapped group: fresh verdicts first, then the balancer, then the breaker around it.
unsafe extern "C" fn init_peer(
    r: *mut sys::ngx_http_request_t,
    us: *mut sys::ngx_http_upstream_srv_conf_t,
) -> sys::ngx_int_t {
    entry!("an upstream's start", ERROR, {
        // SAFETY: nginx passes a live request and the group it chose, whose `init` we replaced.
        let (request, conf) = unsafe { (Request::from_ptr(r), conf_of(us)) };
        let groups = &request.main_conf().upstreams;
        let group = match conf {
            Some(conf) => conf.group.get().and_then(|number| groups.group(number)),
            None => groups.groups.iter().find(|group| core::ptr::eq(group.upstream, us)),
        };
        let Some((group, init)) = group.and_then(|group| Some((group, group.init?))) else {
            log::cycle(Level::Alert, format_args!("sluice: an upstream without its balancer"));
            return ERROR;
        };
        health::refresh(request.main_conf(), group);
        breaker::servers::refresh(request.main_conf(), group);
        // SAFETY: the balancer's own init, called as the core would call it.
        let rc = unsafe { init(r, us) };
        if rc == OK {
            breaker::peer::wrap(request, group);
            traffic::wrap(request, group);
        }
        rc
    })
}

/// A NUL-terminated name of a module that proxies: its location configuration begins with the upstream's.
pub const PROXYING: [&CStr; 6] = [
    c"ngx_http_proxy_module",
    c"ngx_http_grpc_module",
    c"ngx_http_fastcgi_module",
    c"ngx_http_uwsgi_module",
    c"ngx_http_scgi_module",
    c"ngx_http_memcached_module",
];

/// The number of a group, kept in the group's own configuration.
pub type GroupNumber = Cell<Option<usize>>;
