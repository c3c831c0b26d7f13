//! Counters that the API, the metrics and the dashboard are drawn from: `status_zone`, requests, servers of upstreams.
//!
//! Nothing is counted unless something wants it: without `api`, `metrics`, `dashboard` and `status_zone` no handler is
//! installed, and a request costs what it costs without this file.

mod attempts;
pub mod conf;
mod native;
pub mod peers;
mod probes;
mod process;
mod requests;
pub mod reset;
mod shm;
pub mod snapshot;
mod symbols;
mod tls;

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::cell::{Cell, OnceCell, RefCell};

use super::conf::MainConf;
use super::log::{self, Level};
use super::sys::mono;
use super::zone::{Contents, Zone};
use crate::policy::limit::KeyHash;
use crate::shared::cell::Region;
use crate::shared::traffic::cells::{self, Cells};
use crate::shared::traffic::{Key, Plan, Presence, Series, Store};

pub use attempts::wrap;
pub use conf::{LocConf, want};
pub use peers::observe;
pub use probes::{Place, changed, probed};
pub use process::Watch;
pub use requests::{begun, logged, noted};

/// All of it, for one cycle.
#[derive(Default)]
pub struct Conf {
    /// Something draws from the counters.
    pub wanted: Cell<bool>,
    /// All `status_zone`s: their numbers are their positions.
    zones: RefCell<Vec<conf::Named>>,
    /// There are zones of `limit_req` or `limit_conn`.
    pub core_limits: Cell<bool>,
    shm: Option<Zone<Shm>>,
    live: OnceCell<Live>,
    /// This process's own cells.
    presence: Cell<Option<Presence>>,
    shelf: peers::Shelf,
}

impl Conf {
    /// The counters, once nginx has mapped the zone.
    pub fn live(&self) -> Option<&Live> {
        self.live.get()
    }

    /// The zone itself.
    pub fn store(&self) -> Option<&Store> {
        Some(&self.shm.as_ref()?.get()?.0)
    }

    /// Another server is going to be added.
    pub fn make_room(&self) {
        self.locked_now(|store| store.make_room::<cells::Peer>(mono(), process::alive));
    }

    /// Holds the zone's mutex while `f` claims series: outside `init_module`, nobody else may do so at the time.
    /// `None`: somebody does.
    pub fn locked_now<T>(&self, f: impl FnOnce(&Store) -> T) -> Option<T> {
        self.shm.as_ref()?.locked_now(|shm| f(&shm.0))
    }
}

/// Every series of the configuration that is not of one server.
pub struct Live {
    pub host: Series<cells::Host>,
    pub http: Series<cells::Http>,
    zones: Vec<Series<cells::Zone>>,
    pub native: native::Native,
    /// The cycle.
    pub generation: u64,
}

/// The memory of counters.
struct Shm(Store);

impl Contents for Shm {
    type Spec = Plan;

    fn create(plan: &Plan, region: Region) -> Result<Self, String> {
        Store::create(region, *plan).map(Self).map_err(|e| e.to_string())
    }

    fn adopt(_: &Plan, region: Region) -> Result<Self, String> {
        Store::adopt(region).map(Self).map_err(|e| e.to_string())
    }

    fn carry(&self, old: &Self) {
        let lost = self.0.copy_from(&old.0);
        if lost > 0 {
            log::cycle(Level::Warn, format_args!("{lost} series of counters start again from 0"));
        }
    }
}

/// The key of a series: what it is about, in words.
fn key(about: &str) -> Key {
    let (high, low) = KeyHash::new(about.as_bytes()).as_u64s();
    [high, low]
}

/// A series that the plan has room for; without it, whatever it is about is not counted.
fn claim<T: Cells>(store: &Store, about: &str) -> Option<Series<T>> {
    match store.claim(key(about), mono()) {
        Ok(series) => Some(series),
        Err(full) => {
            // Once per process and cycle: there is always a next one.
            static SAID: AtomicU64 = AtomicU64::new(0);
            let generation = store.generation();
            if SAID.swap(generation, Relaxed) != generation {
                let subject = about.replace('\0', " ");
                log::cycle(Level::Alert, format_args!("{subject} is not counted, nor may others be: {full}"));
            }
            None
        }
    }
}

/// Every zone is mapped, no worker of this cycle runs yet: finds or claims the series of the configuration.
///
/// # Safety
/// `cycle` must be the one being set up, of which `main` is.
pub unsafe fn adopt(main: &'static MainConf, cycle: *const nginx_sys::ngx_cycle_t) {
    let traffic = &main.traffic;
    let Some(store) = traffic.store() else { return };
    let generation = store.begin_cycle();
    let named = traffic.zones.borrow();
    let zones = named.iter().map(|zone| claim(store, &zone.about()));
    let (Some(host), Some(http)) = (claim(store, "host"), claim(store, "http")) else { return };
    let Some(zones) = zones.collect::<Option<Vec<_>>>() else { return };
    // SAFETY: nginx passes the new cycle to init_module, from where we are called.
    let native = unsafe { native::Native::adopt(cycle, store) };
    // Once per cycle: the cell is empty.
    let _ = traffic.live.set(Live { host, http, zones, native, generation });
    for zone in &main.limits.0 {
        // Likewise.
        let _ = claim(store, &format!("rate limit\0{}", zone.name)).map(|series| zone.series.set(series));
    }
    for group in &main.upstreams.groups {
        group.traffic.adopt(main, group, peers::By::Claiming(store));
        peers::observe(main, group);
    }
}
