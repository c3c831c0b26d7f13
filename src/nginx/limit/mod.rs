//! Rate limiting: the zones, what applies to a request, and the way of a request through it.

mod applied;
mod ask;
pub mod conf;
mod decide;
mod desk;
mod handler;
pub mod headers;
pub mod inspect;
mod ledger;
pub mod variables;

use std::cell::{Cell, OnceCell, RefCell};

use super::cf::{ComplexValue, Place};
use super::log::Level;
use super::zone::{Contents, Named, Zone};
use crate::policy::Millis;
use crate::policy::limit::{Algorithm, Decision, Delay, Rate, Rule};
use crate::shared::cell::Region;
use crate::shared::limit::{LimitZone, Pressure, Shape};
use crate::shared::traffic::cells::RateLimit;
use crate::shared::traffic::{Series, count};

pub use conf::LocConf;
pub use handler::{answered, expired, handler};
pub use ledger::Ledger;

use ask::Wait;

/// As many as most locations have limits need no memory of their own.
pub type Few<T> = smallvec::SmallVec<[T; 1]>;

pub type Zones = super::zone::Zones<ZoneConf>;

impl Named for ZoneConf {
    fn zone_name(&self) -> &str {
        &self.name
    }
}

/// `rate_limit_zone`
pub struct ZoneConf {
    pub name: String,
    pub key: ComplexValue,
    /// The key is `$binary_remote_addr`.
    pub binary: bool,
    pub rate: RateSpec,
    /// As written.
    pub rate_text: String,
    pub burst: Option<u64>,
    pub algorithm: Algorithm,
    pub place: Place,
    /// The Redis that decides; `None`: this host's shared memory does.
    pub redis_name: Option<String>,
    /// Its number, known once all blocks have been read.
    pub redis: Option<usize>,
    pub sync: Sync,
    pub on_error: OnError,
    pub shm: Zone<LimitShm>,
    /// Burst and delay of each `rate_limit` that uses it.
    pub uses: RefCell<Vec<(Option<u64>, Delay)>>,
    /// When the last line about a bad variable rate was logged.
    pub complained: Cell<Option<Millis>>,
    /// What requests came to, where that is counted.
    pub series: OnceCell<Series<RateLimit>>,
    /// When this worker looks next whether the zone is full.
    pub next_look: Cell<Millis>,
}

impl ZoneConf {
    /// The delay of a `rate_limit` that says nothing of it.
    fn usual_delay(&self) -> Delay {
        match self.algorithm {
            Algorithm::Gcra => Delay::After(0),
            Algorithm::SlidingWindow | Algorithm::FixedWindow => Delay::None,
        }
    }

    /// Counts what a request came to here, and who decided.
    pub fn count(&self, status: Status, source: Option<Source>) {
        let Some(series) = self.series.get() else { return };
        let cells = series.shard(usize::from(super::sys::worker_index()));
        cells.outcomes.get(status as usize).into_iter().for_each(count);
        let source = source.and_then(|source| cells.sources.get(source as usize));
        source.into_iter().for_each(count);
    }

    /// Says that the zone is full, if it was since somebody last said so: once a minute and worker at most.
    fn watch(&self, now: Millis) {
        if now < self.next_look.get() {
            return;
        }
        let pressure = self.shm.get().and_then(|shm| shm.0.report());
        self.next_look.set(now + if pressure.is_some() { FULL_PAUSE } else { LOOK_PAUSE });
        if let Some(Pressure { evicted, exhausted }) = pressure {
            let text = "keys were dropped before their quota was back";
            super::log::cycle(
                Level::Warn,
                format_args!(
                    "zone \"{}\" is full: {evicted} {text}, {exhausted} requests were refused",
                    self.name
                ),
            );
        }
    }
}

/// Milliseconds between two looks at whether a zone is full, and between two lines about it.
const LOOK_PAUSE: Millis = 1_000;
const FULL_PAUSE: Millis = 60_000;

/// A fixed rate, or a variable that holds one.
pub enum RateSpec {
    Fixed(Rate),
    Variable(ComplexValue),
}

/// `sync=` of a zone with a Redis (`off` leaves it without one).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sync {
    #[default]
    Strict,
    /// How long a grant lives.
    Lease(Millis),
    Async,
}

/// What happens to a request that Redis gave no answer for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnError {
    #[default]
    Local,
    Allow,
    Deny,
}

/// What a zone's memory depends on.
pub struct LimitSpec {
    /// The key as written: another key's counts mean nothing.
    pub key: String,
    pub shape: Shape,
}

/// The memory of a zone.
pub struct LimitShm(pub LimitZone);

impl Contents for LimitShm {
    type Spec = LimitSpec;

    fn create(spec: &LimitSpec, region: Region) -> Result<Self, String> {
        LimitZone::create(region, spec.shape).map(Self).map_err(|e| e.to_string())
    }

    fn adopt(spec: &LimitSpec, region: Region) -> Result<Self, String> {
        LimitZone::adopt(region, spec.shape).map(Self).map_err(|e| e.to_string())
    }

    fn compatible(spec: &LimitSpec, old: &LimitSpec) -> Result<(), String> {
        if spec.key == old.key {
            return Ok(());
        }
        Err(format!("uses the \"{}\" key while previously it used the \"{}\" key", spec.key, old.key))
    }
}

/// `rate_limit`, settled once all zones are known.
#[derive(Clone)]
pub struct Limit {
    pub zone_name: String,
    pub place: Place,
    pub burst: Option<u64>,
    pub delay: Option<Delay>,
    pub cost: Option<ComplexValue>,
    pub when: Option<ComplexValue>,
    pub dry_run: bool,
    /// Zone number and rule; the rule is `None` where the rate is a variable.
    pub settled: Option<(usize, Option<Rule>)>,
}

impl Limit {
    /// The delay that holds: as written, or the algorithm's own.
    pub fn delay_of(&self, zone: &ZoneConf) -> Delay {
        self.delay.unwrap_or_else(|| zone.usual_delay())
    }
}

/// `$rate_limit_status`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Passed,
    Delayed,
    Rejected,
    DelayedDryRun,
    RejectedDryRun,
    Bypassed,
    ErrorAllowed,
    ErrorDenied,
}

impl Status {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "PASSED",
            Self::Delayed => "DELAYED",
            Self::Rejected => "REJECTED",
            Self::DelayedDryRun => "DELAYED_DRY_RUN",
            Self::RejectedDryRun => "REJECTED_DRY_RUN",
            Self::Bypassed => "BYPASSED",
            Self::ErrorAllowed => "ERROR_ALLOWED",
            Self::ErrorDenied => "ERROR_DENIED",
        }
    }
}

/// `$rate_limit_source`: who decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    Local,
    /// A grant that this host has taken from Redis.
    Lease,
    /// Shared memory knows from Redis's last answers that it would refuse.
    Cache,
    Redis,
    Fallback,
}

impl Source {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Lease => "lease",
            Self::Cache => "cache",
            Self::Redis => "redis",
            Self::Fallback => "fallback",
        }
    }
}

/// One limit's decision about a request.
#[derive(Debug, Clone, Copy)]
pub struct Ruling {
    pub zone: usize,
    pub rule: Rule,
    pub decision: Decision,
    pub source: Source,
}

/// The outcome of all limits together.
pub struct Verdict {
    pub status: Status,
    /// The enforced limits' decisions, for headers; empty when nothing was decided.
    pub rulings: Few<Ruling>,
    /// Which ruling speaks for the request: the one that refused, or the one with least left.
    pub speaker: Option<usize>,
    /// As the limited location wants it told, wherever an internal redirect takes the request.
    pub form: conf::Form,
}

impl Verdict {
    pub fn new(status: Status, rulings: Few<Ruling>) -> Self {
        let speaker = speaker(&rulings);
        Self { status, rulings, speaker, form: conf::Form::default() }
    }

    /// The ruling that headers and variables tell of.
    pub fn speaker(&self) -> Option<&Ruling> {
        self.rulings.get(self.speaker?)
    }
}

/// The ruling that refused for longest; without a refusal, the one that refuses next: with least left. (A share of
/// the rate would favour rates with a small burst, which a client never comes to feel.)
fn speaker(rulings: &[Ruling]) -> Option<usize> {
    let positions = rulings.iter().enumerate();
    let refused =
        positions.clone().filter(|(_, r)| !r.decision.admitted).max_by_key(|(_, r)| r.decision.retry_after);
    refused.or_else(|| positions.min_by_key(|(_, r)| r.decision.remaining)).map(|(position, _)| position)
}

/// Where a request stands.
#[derive(Default)]
pub enum Stage {
    #[default]
    New,
    /// Some limits wait for Redis.
    Waiting(Box<Wait>),
    Done,
}

/// The rate-limit part of a request's context.
#[derive(Default)]
pub struct Limited {
    pub stage: Stage,
    pub verdict: Option<Verdict>,
}

/// Levels a location logs refusals at.
pub const DEFAULT_LOG_LEVEL: Level = Level::Error;
