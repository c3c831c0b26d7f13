//! What operators change by hand: servers of groups, and why breakers were overruled.
//!
//! What was said is kept in a zone of its own and put into force from there: at once, when nginx reloads before the first
//! request, and by whoever finds servers anew ([`said`]). What the configuration says itself counts once it changes.

mod lists;
pub mod notes;
mod restore;
pub mod servers;

use core::cell::{Cell, OnceCell};
use std::collections::HashMap;

use nginx_sys as sys;

use super::cf::Result;
use super::conf::MainConf;
use super::log::{self, Level};
use super::upstream;
use super::zone::{Contents, Zone, min_size};
use crate::policy::control::{Params, Patch};
use crate::policy::limit::KeyHash;
use crate::shared::cell::Region;
use crate::shared::control::{Key, Kind, Table};

pub use restore::{restore, settle};

/// How often a writer tries to be alone before it gives up: nobody writes for longer than a few microseconds.
const TRIES: usize = 10_000;

/// The zone, in a configuration with an `api`.
#[derive(Default)]
pub struct Conf {
    zone: Option<Zone<Table>>,
    /// The number of this configuration there.
    cycle: Cell<u64>,
}

/// What a process knows of a group beside what is said of it.
#[derive(Default)]
pub struct GroupState {
    /// What the configuration says of each server, by its key.
    configured: OnceCell<HashMap<Key, Params>>,
}

impl Contents for Table {
    type Spec = ();

    fn create((): &(), region: Region) -> core::result::Result<Self, String> {
        Self::create(region).map_err(|e| e.to_string())
    }

    fn adopt((): &(), region: Region) -> core::result::Result<Self, String> {
        Self::adopt(region).map_err(|e| e.to_string())
    }

    fn carry(&self, old: &Self) {
        let lost = self.copy_from(old);
        if lost > 0 {
            log::cycle(Level::Warn, format_args!("{lost} changes made through the API are lost"));
        }
    }
}

impl Conf {
    fn table(&self) -> Option<&Table> {
        self.zone.as_ref()?.get()
    }

    /// Calls `f` while no other process says anything. `None`: somebody has held the zone for too long.
    fn alone<T>(&self, mut f: impl FnMut(&Table) -> T) -> Option<T> {
        let zone = self.zone.as_ref()?;
        for _ in 0..TRIES {
            if let Some(done) = zone.locked_now(&mut f) {
                return Some(done);
            }
            std::thread::yield_now();
        }
        None
    }

    /// Whether a newer configuration is in force than the one this process serves.
    fn is_old(&self) -> bool {
        self.table().is_some_and(|table| table.cycle() != self.cycle.get())
    }
}

/// Announces the zone if the configuration has an `api`.
pub fn finish(cf: *mut sys::ngx_conf_t, main: &mut MainConf) -> Result {
    if !main.api.is_there() {
        return Ok(());
    }
    let servers: usize = upstream::all(cf).into_iter().map(|us| upstream::servers(us)).sum();
    // Two for each server, as a reload may rename them all, and as many as people will ever add.
    let size = Table::size_for(servers * 2 + 256);
    let size = (size + size / 64 + min_size()).next_multiple_of(256 * 1024);
    main.control.zone = Some(Zone::add(cf, ("sluice_control", "sluice_control"), size, ())?);
    Ok(())
}

fn hash(about: &str) -> Key {
    let (high, low) = KeyHash::new(about.as_bytes()).as_u64s();
    [high, low]
}

/// Whose records those of a group's servers are.
fn owner(group: &str) -> Key {
    hash(&format!("group\0{group}"))
}

/// The key of the `ordinal`th server of this identity in a group.
fn key(group: &str, identity: &str, ordinal: usize) -> Key {
    hash(&format!("server\0{group}\0{identity}\0{ordinal}"))
}

/// What was said of a server.
pub fn said(main: &MainConf, group: &str, identity: &str, ordinal: usize) -> Option<Patch> {
    let record = main.control.table()?.find(Kind::Server, key(group, identity, ordinal))?;
    Some(record.seat()?.patch)
}
