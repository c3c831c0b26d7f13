//! Health checks.

use super::shot::{Member, Upstream};
use super::{RESPONSES, Shot, buckets, with};
use crate::nginx::traffic::snapshot::{Histogram, Probes};
use crate::policy::metrics::{Family, Labels, Series, Value, Writer, counter, gauge, histogram};

const OVERDUE: Family = gauge(
    "nginx_health_check_overdue",
    "Servers of an upstream whose last probe is longer ago than two intervals and a timeout.",
);
const SKIPPED: Family = counter(
    "nginx_health_check_skipped_total",
    "Probes left out because the one before them took too long, or nobody was there to make them.",
);
const LAST: Family =
    gauge("nginx_health_check_last_result_timestamp_seconds", "When a check of a server last had a result.");
const PASSED: Family =
    gauge("nginx_health_check_last_passed", "Whether a check's last probe of a server passed.");
const RESULTS: Family = counter("nginx_health_check_results_total", "Probes by what they found.");
const TRANSITIONS: Family =
    counter("nginx_health_transitions_total", "Changes of a check's verdict on a server.");
const DURATION: Family = histogram("nginx_health_check_duration_seconds", "Probes by the time they took.");
const IN_FLIGHT: Family = gauge("nginx_health_probes_in_flight", "Probes under way.");

/// What is there from the start, so that the first of it is seen as an increase: of the many reasons and changes, those
/// that most servers meet one day.
const EXPECTED: [(&str, &str); 6] = [
    ("pass", ""),
    ("fail", "connect"),
    ("fail", "timeout"),
    ("fail", "status"),
    ("up", "unhealthy"),
    ("unhealthy", "up"),
];

/// When each check was made last.
pub fn states(writer: &mut Writer, shot: &Shot) {
    writer.family(&OVERDUE, |f| {
        for group in
            shot.groups.iter().filter(|group| group.peers.iter().any(|peer| !peer.its.probes.is_empty()))
        {
            let late = |peer: &&Member| peer.its.probes.iter().any(|probes| probes.overdue);
            f.put(&[("upstream", &group.name)], group.peers.iter().filter(late).count());
        }
    });
    each(writer, shot, &LAST, |f, labels, probes| {
        probes.last.into_iter().for_each(|last| f.put(labels, Value::Millis(last)));
    });
    each(writer, shot, &PASSED, |f, labels, probes| {
        probes.last_passed.into_iter().for_each(|passed| f.put(labels, passed));
    });
}

/// What probes found.
pub fn results(writer: &mut Writer, shot: &Shot) {
    each(writer, shot, &RESULTS, |f, labels, probes| {
        for (result, reason, count) in
            probes.results.iter().filter(|it| it.2 > 0 || EXPECTED.contains(&(it.0, it.1)))
        {
            f.put(&with(&with(labels, ("result", result)), ("reason", reason)), *count);
        }
    });
}

/// What that changed, and how long they took.
pub fn changes(writer: &mut Writer, shot: &Shot) {
    each(writer, shot, &TRANSITIONS, |f, labels, probes| {
        for (from, to, count) in
            probes.changes.iter().filter(|it| it.2 > 0 || EXPECTED.contains(&(it.0, it.1)))
        {
            f.put(&with(&with(labels, ("from", from)), ("to", to)), *count);
        }
    });
    each(writer, shot, &SKIPPED, |f, labels, probes| f.put(labels, probes.skipped));
    writer.family(&DURATION, |f| shot.groups.iter().for_each(|group| durations(f, group)));
    writer.family(&IN_FLIGHT, |f| {
        for (worker, flying) in &shot.in_flight {
            f.put(&[("worker", &worker.to_string())], *flying);
        }
    });
}

fn each(
    writer: &mut Writer,
    shot: &Shot,
    family: &Family,
    put: impl Fn(&mut Series<'_>, Labels<'_>, &Probes),
) {
    writer.family(family, |f| {
        for group in &shot.groups {
            for peer in &group.peers {
                for probes in &peer.its.probes {
                    let labels =
                        [("upstream", group.name.as_str()), ("peer", &peer.name), ("check", &probes.check)];
                    put(f, &labels, probes);
                }
            }
        }
    });
}

/// One histogram for each check of a group, all servers together.
fn durations(f: &mut Series<'_>, group: &Upstream) {
    let Some(first) = group.peers.first() else { return };
    for (at, check) in first.its.probes.iter().enumerate() {
        let of_all = group.peers.iter().filter_map(|peer| Some(&peer.its.probes.get(at)?.durations));
        let sum = of_all.fold(Histogram::default(), |mut sum, its| {
            for (to, from) in sum.buckets.iter_mut().zip(its.buckets) {
                *to += from;
            }
            Histogram { sum: sum.sum + its.sum, ..sum }
        });
        let labels = [("upstream", group.name.as_str()), ("check", check.check.as_str())];
        f.put_histogram(&labels, &buckets(&RESPONSES, &sum));
    }
}
