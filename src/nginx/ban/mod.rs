//! Bans: the zones, who is refused, and what is counted.

mod check;
pub mod conf;
pub mod control;
mod count;
mod keeper;
pub mod variables;
mod words;

use std::cell::Cell;
use std::net::IpAddr;

use super::cf::{ComplexValue, Place};
use super::log::{self, Level};
use super::request::Request;
use super::sys::mono;
use super::zone::{Contents, Named, Zone};
use crate::policy::Millis;
use crate::policy::ban::{Name, Statuses};
use crate::policy::limit::KeyHash;
use crate::shared::ban::{BanZone, Rule};
use crate::shared::cell::Region;

pub use check::{Screened, handler};
pub use conf::LocConf;
pub use count::{answered, logged};
pub use keeper::Keeper;

/// Milliseconds between two looks at whether a zone is full, and between two lines about it.
const LOOK_PAUSE: Millis = 1_000;
const FULL_PAUSE: Millis = 60_000;

pub type Zones = super::zone::Zones<ZoneConf>;

impl Named for ZoneConf {
    fn zone_name(&self) -> &str {
        &self.name
    }
}

impl Zones {
    /// Whether bans are shared through the Redis of this link.
    pub fn use_link(&self, link: usize) -> bool {
        self.0.iter().any(|zone| zone.redis == Some(link))
    }
}

/// `ban_zone`
pub struct ZoneConf {
    pub name: String,
    pub key: ComplexValue,
    /// The key is `$binary_remote_addr`.
    pub binary: bool,
    /// That variable.
    pub client: ComplexValue,
    pub place: Place,
    /// The Redis through which gateways share the bans.
    pub redis_name: Option<String>,
    /// Its number, known once all blocks have been read.
    pub redis: Option<usize>,
    pub shm: Zone<BanShm>,
    /// When this worker looks next whether the zone is full.
    pub next_look: Cell<Millis>,
    /// When it says next that there is no room for others' bans.
    pub next_line: Cell<Millis>,
}

impl ZoneConf {
    /// The zone's memory, once nginx has mapped it.
    pub fn shared(&self) -> Option<&BanZone> {
        self.shm.get().map(|shm| &shm.0)
    }

    /// What a key of this request is called; `None` if it is empty: that is never banned.
    pub fn name(&self, request: &Request, key: &[u8]) -> Option<Name> {
        // A `map` may give addresses to some, and nothing to others.
        let is_client = || self.client.eval(request).is_some_and(|client| client == key);
        let binary = self.binary || matches!(key.len(), 4 | 16) && is_client();
        (!key.is_empty()).then(|| Name::new(key, binary))
    }

    /// So many bans of other gateways do not hold here: said once a minute and worker at most.
    fn no_room(&self, count: usize, now: Millis) {
        if now < self.next_line.get() {
            return;
        }
        self.next_line.set(now + FULL_PAUSE);
        let text = "bans of other gateways do not hold here";
        log::cycle(Level::Warn, format_args!("ban zone \"{}\" is full: {count} {text}", self.name));
    }

    /// Says that the zone is full, if it was since somebody last said so: once a minute and worker at most.
    fn watch(&self, now: Millis) {
        if now < self.next_look.get() {
            return;
        }
        let lost = self.shared().and_then(BanZone::report);
        self.next_look.set(now + if lost.is_some() { FULL_PAUSE } else { LOOK_PAUSE });
        if let Some(lost) = lost {
            let text = "bans have ended before their time";
            log::cycle(Level::Warn, format_args!("ban zone \"{}\" is full: {lost} {text}", self.name));
        }
    }
}

/// The key as written: bans of another key mean nothing.
pub struct BanSpec(pub String);

/// The memory of a zone.
pub struct BanShm(pub BanZone);

impl Contents for BanShm {
    type Spec = BanSpec;

    fn create(_: &BanSpec, region: Region) -> Result<Self, String> {
        BanZone::create(region).map(Self).map_err(|e| e.to_string())
    }

    fn adopt(_: &BanSpec, region: Region) -> Result<Self, String> {
        BanZone::adopt(region).map(Self).map_err(|e| e.to_string())
    }

    fn compatible(spec: &BanSpec, old: &BanSpec) -> Result<(), String> {
        if spec.0 == old.0 {
            return Ok(());
        }
        Err(format!("uses the \"{}\" key while previously it used the \"{}\" key", spec.0, old.0))
    }

    fn carry(&self, old: &Self) {
        self.0.copy_from(&old.0, mono());
    }
}

/// What puts a key away.
#[derive(Clone)]
pub struct Counting {
    pub statuses: Statuses,
    pub rate_limited: bool,
    /// `status=401,403 within 60 s`, for the log.
    pub text: String,
    pub rule: Rule,
}

/// What parts the bans of a dry run from those that hold.
fn dry_run() -> KeyHash {
    KeyHash::new(b"dry_run")
}

/// `ban`, settled once all zones are known.
#[derive(Clone)]
pub struct Ban {
    pub zone_name: String,
    pub place: Place,
    /// `None`: only refuses.
    pub counting: Option<Counting>,
    /// What parts the bans of a dry run from those that hold.
    pub mask: Option<KeyHash>,
    /// The zone's number.
    pub zone: Option<usize>,
}

impl Ban {
    /// The hash that stands for a key here.
    pub fn hash(&self, name: &Name) -> KeyHash {
        self.mask.map_or(name.hash, |mask| name.hash.with(&mask))
    }

    pub const fn dry_run(&self) -> bool {
        self.mask.is_some()
    }
}

/// `$ban_status`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Passed,
    Banned,
    BannedDryRun,
}

impl Status {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "PASSED",
            Self::Banned => "BANNED",
            Self::BannedDryRun => "BANNED_DRY_RUN",
        }
    }
}

/// A key as operators see it: an address, or the first digits of its hash.
pub struct Shown<'a>(pub &'a KeyHash, pub Option<IpAddr>);

impl core::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self.1 {
            Some(address) => write!(f, "{address}"),
            None => write!(f, "#{}", &self.0.to_string()[..8]),
        }
    }
}
