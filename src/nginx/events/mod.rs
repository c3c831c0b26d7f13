//! The event log: whoever writes a line about a change of state into the error log notes it here too.

mod wait;

use core::cell::Cell;

use super::cf::Result;
use super::sys::now;
use super::zone::{Contents, Zone, min_size};
use crate::shared::cell::Region;
use crate::shared::events::{Page, Ring};

pub use crate::policy::events::{Event, Kind};
pub use wait::{Waiters, release};

thread_local! {
    /// The ring of the cycle this process serves.
    static RING: Cell<Option<Ring>> = const { Cell::new(None) };
}

/// The zone of the ring, in a configuration that has something to tell.
#[derive(Default)]
pub struct Conf(Option<Zone<Ring>>);

impl Contents for Ring {
    type Spec = ();

    fn create((): &(), region: Region) -> core::result::Result<Self, String> {
        Self::create(region).map_err(|e| e.to_string())
    }

    fn adopt((): &(), region: Region) -> core::result::Result<Self, String> {
        Self::adopt(region).map_err(|e| e.to_string())
    }
}

impl Conf {
    /// Announces the zone: always of the same size, so that a reload finds it again.
    pub fn announce(&mut self, cf: *mut nginx_sys::ngx_conf_t) -> Result {
        let size = min_size() + Ring::BYTES + Ring::BYTES / 8;
        self.0 = Some(Zone::add(cf, ("sluice_events", "sluice_events"), size, ())?);
        Ok(())
    }

    /// From now on this process writes to and reads from the ring of this configuration.
    pub fn adopt(&self) {
        set(self.0.as_ref().and_then(|zone| zone.get().copied()));
    }
}

/// The configuration has no http block.
pub fn forget() {
    set(None);
}

fn set(ring: Option<Ring>) {
    RING.with(|its| its.set(ring));
}

/// The ring, if this configuration has one.
pub fn ring() -> Option<Ring> {
    RING.with(Cell::get)
}

/// Notes an event.
pub fn note(event: &Event<'_>) {
    let now = now();
    if let Some(ring) = ring() {
        ring.write(event, now.wall, now.mono);
    }
}

/// What came after the event `since`.
pub fn page(since: u64) -> Page {
    ring().map(|ring| ring.read(since, now().mono)).unwrap_or_default()
}
