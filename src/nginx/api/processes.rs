//! How often a worker had to be replaced: `/processes`.
//!
//! nginx does not say why a worker starts. One that starts in a place where another has started before, of the same
//! configuration, replaces it. The places stand in a page of memory that all workers of a master share; it belongs to the
//! master, not to a configuration, and goes with it.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::OnceLock;

/// Words of the page: the count, then for each worker the configuration it last started with.
const WORDS: usize = 512;

static PAGE: OnceLock<Option<&'static [AtomicU64; WORDS]>> = OnceLock::new();

fn page() -> Option<&'static [AtomicU64; WORDS]> {
    // SAFETY: fresh memory of the system, zeroed, shared with the processes forked later, and never given back; atomics may be
    // all zero.
    *PAGE.get_or_init(|| unsafe {
        let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        let memory = libc::mmap(core::ptr::null_mut(), WORDS * 8, access, kind, -1, 0);
        (memory != libc::MAP_FAILED).then(|| &*memory.cast())
    })
}

/// Makes the page, before there are workers to share it with.
pub fn prepare() {
    page();
}

/// A worker starts, at this place and with this configuration. Workers beyond the page's places are not counted.
pub fn note_start(worker: u16, generation: u64) {
    let Some(place) = page().and_then(|page| page.get(1 + usize::from(worker))) else { return };
    if place.swap(generation, Relaxed) == generation
        && let Some(page) = page()
    {
        page[0].fetch_add(1, Relaxed);
    }
}

/// Workers replaced since the master began, or since the count was reset.
pub fn respawned() -> u64 {
    page().map_or(0, |page| page[0].load(Relaxed))
}

/// Starts counting anew.
pub fn reset() {
    if let Some(page) = page() {
        page[0].store(0, Relaxed);
    }
}
