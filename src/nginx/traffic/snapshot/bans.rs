//! Bans: how many hold, and what became of them.

use super::Bans;
use crate::nginx::conf::MainConf;
use crate::nginx::sys::mono;

/// All zones, in the order of the file.
pub fn bans(conf: &MainConf) -> Vec<(String, Bans)> {
    let zones = conf.bans.0.iter().filter_map(|zone| Some((zone.name.clone(), zone.shared()?)));
    let now = mono();
    let of = |shared: &crate::shared::ban::BanZone| Bans {
        active: shared.active(now),
        capacity: shared.capacity(),
        counters: shared.counters(),
    };
    zones.map(|(name, shared)| (name, of(shared))).collect()
}
