//! Bans, zone by zone.

use super::{Shot, each};
use crate::policy::metrics::{Family, Out, Writer, counter, gauge};

const ACTIVE: Family = gauge("nginx_bans_active", "Bans in force, dry runs included.");
const MAX: Family = gauge("nginx_bans_max", "Bans that a ban_zone has room for.");
const MADE: Family = counter("nginx_bans_total", "Bans that began, by what made them.");
const LIFTED: Family = counter("nginx_bans_lifted_total", "Bans that an operator ended.");
const EVICTED: Family = counter("nginx_bans_evicted_total", "Bans that ended early for want of room.");
const REQUESTS: Family =
    counter("nginx_ban_requests_total", "Requests of banned clients, by what became of them.");

pub fn zones<O: Out>(writer: &mut Writer<'_, O>, shot: &Shot) {
    let things = ("zone", shot.bans.as_slice());
    each(writer, &ACTIVE, things, |zone| zone.active);
    each(writer, &MAX, things, |zone| zone.capacity);
    writer.family(&MADE, |f| {
        for (name, zone) in &shot.bans {
            let of = &zone.counters;
            let causes = [
                ("status", of.by_status),
                ("rate_limited", of.by_rate_limit),
                ("manual", of.by_hand),
                ("redis", of.by_others),
                ("dry_run", of.dry),
            ];
            causes.iter().for_each(|(cause, count)| f.put(&[("zone", name), ("cause", cause)], *count));
        }
    });
    each(writer, &LIFTED, things, |zone| zone.counters.lifted);
    each(writer, &EVICTED, things, |zone| zone.counters.evicted);
    writer.family(&REQUESTS, |f| {
        for (name, zone) in &shot.bans {
            let outcomes =
                [("refused", zone.counters.refused), ("refused_dry_run", zone.counters.refused_dry)];
            outcomes
                .iter()
                .for_each(|(outcome, count)| f.put(&[("zone", name), ("outcome", outcome)], *count));
        }
    });
}
