//! What the configuration holds at each level, and the table of all directives.

use nginx_sys as sys;

use super::cf::{Directive, Result, Setter, complain, directive, parse_size, set_once};
use super::sys::CORE_STICKY;
use super::{
    api, balance, ban, breaker, control, dashboard, events, health, limit, metrics, redis, reject, traffic,
};

/// http level: one per cycle.
#[derive(Default)]
pub struct MainConf {
    pub redis: redis::Conf,
    pub limits: limit::Zones,
    pub bans: ban::Zones,
    pub health: health::Conf,
    pub breaker: breaker::Conf,
    pub api: api::Conf,
    /// The zone of upstream state, announced when all upstreams are known.
    pub upstreams: super::upstream::Conf,
    pub traffic: traffic::Conf,
    pub events: events::Conf,
    pub control: control::Conf,
    /// `sluice_zone`, in bytes.
    pub zone_size: Option<usize>,
}

impl MainConf {
    /// Whether anything can change its state.
    fn has_events(&self) -> bool {
        !self.redis.is_empty() || self.upstreams.is_announced() || self.traffic.wanted.get()
    }

    /// Whether a worker needs its I/O thread.
    pub fn needs_engine(&self) -> bool {
        !self.redis.is_empty() || !self.health.is_empty()
    }
}

/// server level; for an `upstream` block, the group's own.
#[derive(Default)]
pub struct SrvConf {
    /// The number of this upstream among those we look after.
    pub group: super::upstream::GroupNumber,
    pub breaker: breaker::GroupConf,
    pub balance: balance::GroupConf,
}

/// location level.
#[derive(Default)]
pub struct LocConf {
    pub limit: limit::LocConf,
    pub ban: ban::LocConf,
    pub reject: reject::LocConf,
    pub breaker: breaker::LocConf,
    pub api: api::LocConf,
    pub metrics: metrics::LocConf,
    pub traffic: traffic::LocConf,
    pub dashboard: dashboard::LocConf,
}

impl LocConf {
    /// Inherits what this level leaves open.
    pub fn merge(&mut self, prev: &Self, main: &MainConf, cf: *mut sys::ngx_conf_t) -> Result {
        self.reject.merge(&prev.reject);
        self.breaker.merge(&prev.breaker);
        self.api.merge(&prev.api, cf);
        self.dashboard.merge(&prev.dashboard, cf);
        self.metrics.merge(&prev.metrics, cf);
        self.traffic.merge(&prev.traffic, &main.traffic);
        self.ban.merge(&prev.ban, main, cf)?;
        self.limit.merge(&prev.limit, main, cf)
    }
}

const H: u32 = sys::NGX_HTTP_MAIN_CONF;
const S: u32 = sys::NGX_HTTP_SRV_CONF;
const L: u32 = sys::NGX_HTTP_LOC_CONF;
/// `if` in a location.
const LIF: u32 = sys::NGX_HTTP_LIF_CONF;
const U: u32 = sys::NGX_HTTP_UPS_CONF;
/// Inside `match` and its groups. HTTP modules leave this bit to core modules, whose directives are not
/// looked at while an http block is read; `include` works here as everywhere.
pub const M: u32 = sys::NGX_MAIN_CONF;
const ONE: u32 = sys::NGX_CONF_TAKE1;
const TWO: u32 = sys::NGX_CONF_TAKE2;
const SOME: u32 = sys::NGX_CONF_1MORE;
const ANY: u32 = sys::NGX_CONF_ANY;
const BLOCK: u32 = sys::NGX_CONF_BLOCK;
const NONE: u32 = sys::NGX_CONF_NOARGS;

/// Every directive of the module.
pub static mut COMMANDS: [sys::ngx_command_t; 35] = [
    directive(c"sluice_zone", H | ONE, &Setter::Main(sluice_zone)),
    // Redis
    directive(c"redis", H | BLOCK | ONE, &Setter::Block(redis::block)),
    // Rate limiting
    directive(c"rate_limit_zone", H | SOME, &Setter::Main(limit::conf::zone)),
    directive(c"rate_limit", H | S | L | SOME, &Setter::Location(limit::conf::limit)),
    directive(c"rate_limit_status", H | S | L | ONE, &Setter::Location(limit::conf::status)),
    directive(c"rate_limit_headers", H | S | L | ONE, &Setter::Location(limit::conf::headers)),
    directive(c"rate_limit_reset", H | S | L | ONE, &Setter::Location(limit::conf::reset)),
    directive(c"rate_limit_log_level", H | S | L | ONE, &Setter::Location(limit::conf::log_level)),
    directive(c"rate_limit_dry_run", H | S | L | ONE, &Setter::Location(limit::conf::dry_run)),
    directive(c"reject_format", H | S | L | ONE, &Setter::Location(reject::format)),
    // Bans
    directive(c"ban_zone", H | SOME, &Setter::Main(ban::conf::zone)),
    directive(c"ban", H | S | L | SOME, &Setter::Location(ban::conf::ban)),
    directive(c"ban_status", H | S | L | ONE, &Setter::Location(ban::conf::status)),
    // Health
    directive(c"health_check", U | L | ANY, &Setter::Main(health::conf::health_check)),
    directive(c"health_check_header", U | L | TWO, &Setter::Main(health::conf::header)),
    directive(c"match", H | BLOCK | ONE, &Setter::Block(health::conf::match_block)),
    directive(c"status", M | SOME, &Setter::Line(health::conf::line)),
    directive(c"header", M | SOME, &Setter::Line(health::conf::line)),
    directive(c"body", M | SOME, &Setter::Line(health::conf::line)),
    directive(c"json", M | SOME, &Setter::Line(health::conf::line)),
    directive(c"require", M | SOME, &Setter::Line(health::conf::line)),
    directive(c"any", M | BLOCK | NONE, &Setter::Line(health::conf::group)),
    directive(c"all", M | BLOCK | NONE, &Setter::Line(health::conf::group)),
    directive(c"not", M | BLOCK | NONE, &Setter::Line(health::conf::group)),
    directive(c"degraded", M | BLOCK | NONE, &Setter::Line(health::conf::group)),
    // Circuit breaker
    directive(c"circuit_breaker", U | L | ANY, &Setter::Server(breaker::conf::circuit_breaker)),
    directive(c"circuit_breaker_failure", U | L | SOME, &Setter::Server(breaker::conf::failure)),
    directive(c"circuit_breaker_status", H | S | L | ONE, &Setter::Location(breaker::conf::status)),
    // Balancing
    directive(c"panic_threshold", U | SOME, &Setter::Server(balance::conf::panic_threshold)),
    // Control and observation
    directive(c"status_zone", S | L | LIF | ONE, &Setter::Location(traffic::conf::status_zone)),
    directive(c"api", L | NONE | ONE, &Setter::Main(api::api)),
    directive(c"dashboard", L | NONE | ONE, &Setter::Location(dashboard::dashboard)),
    directive(c"metrics", L | NONE | ONE, &Setter::Location(metrics::metrics)),
    // The core's own, where it has one: then the table ends here.
    if CORE_STICKY {
        sys::ngx_command_t::empty()
    } else {
        directive(c"sticky", U | SOME, &Setter::Server(balance::sticky::sticky))
    },
    sys::ngx_command_t::empty(),
];

fn sluice_zone(directive: &Directive, conf: &mut MainConf) -> Result {
    let size =
        parse_size(directive.arg()).filter(|size| *size >= super::zone::min_size()).ok_or_else(|| {
            let expected = format!("a size of at least {}k", super::zone::min_size() / 1024);
            super::cf::ConfError::invalid("sluice_zone", directive.arg(), expected)
        })?;
    set_once(&mut conf.zone_size, size)
}

/// Everything that can only be settled when the whole configuration has been read.
pub fn finish(cf: *mut sys::ngx_conf_t, main: &mut MainConf) -> Result {
    if let Err(error) = super::upstream::finish(cf, main).and_then(|()| traffic::conf::finish(cf, main)) {
        if !matches!(error, super::cf::ConfError::Logged) {
            complain(cf, format_args!("{error}"));
        }
        return Err(super::cf::ConfError::Logged);
    }
    if main.has_events() {
        main.events.announce(cf).map_err(|_| super::cf::ConfError::Logged)?;
    }
    control::finish(cf, main).map_err(|_| super::cf::ConfError::Logged)?;
    api::finish(cf, main)
}
