//! All families, in the order of their worth: what `max_series` leaves no room for is the end of it.
//!
//! They are drawn from snapshots alone, so that they say what the API says.

mod breakers;
mod health;
mod host;
mod limits;
mod shot;
#[cfg(test)]
mod tests;
mod upstreams;
mod web;

pub use shot::Shot;

use crate::nginx::traffic::snapshot::{Histogram, Responses};
use crate::policy::Millis;
use crate::policy::metrics::{Buckets, Family, Labels, Series, Value, Writer, gauge};
use crate::policy::traffic::{DURATION, RESPONSE};

/// Fewer series would not hold what there is without any server and limit.
pub const LEAST: usize = 100;

const SERIES: Family = gauge("nginx_metrics_series", "Series in this answer.");
const DROPPED: Family =
    gauge("nginx_metrics_series_dropped", "Series left out of this answer: more than max_series.");

/// How many series those two have.
const OWN: usize = 2;

/// Writes a part of the answer; what it takes to write all of them grows with the servers.
pub type Step = fn(&mut Writer, &Shot);

/// All parts, one after the other.
pub const STEPS: [Step; 21] = [
    |writer, _| writer.reserve(OWN),
    host::facts,
    web::requests,
    host::connections,
    limits::redis,
    limits::zones,
    limits::bans,
    upstreams::groups,
    upstreams::states,
    breakers::write,
    health::states,
    health::results,
    health::changes,
    web::zones,
    upstreams::counts,
    web::caches,
    limits::core,
    host::memory,
    upstreams::times_of_peers,
    |writer, _| writer.release(OWN),
    own,
];

fn own(writer: &mut Writer, _: &Shot) {
    let (written, dropped) = (writer.written() + OWN as u64, writer.dropped());
    writer.family(&SERIES, |f| f.put(&[], written));
    writer.family(&DROPPED, |f| f.put(&[], dropped));
}

/// One series for each of some things: all that most families are.
fn each<T, V: Into<Value>>(
    writer: &mut Writer,
    family: &Family,
    (label, things): (&'static str, &[(String, T)]),
    value: impl Fn(&T) -> V,
) {
    writer.family(family, |f| things.iter().for_each(|(name, thing)| f.put(&[(label, name)], value(thing))));
}

/// A series without labels, or none.
fn one(writer: &mut Writer, family: &Family, value: Option<impl Into<Value>>) {
    writer.family(family, |f| value.into_iter().for_each(|value| f.put(&[], value)));
}

/// The labels, and one more.
fn with<'a>(
    labels: Labels<'a>,
    more: (&'static str, &'a str),
) -> smallvec::SmallVec<[(&'static str, &'a str); 8]> {
    labels.iter().copied().chain([more]).collect()
}

/// Responses by class, of which all are always there.
fn classes(f: &mut Series<'_>, labels: Labels<'_>, responses: &Responses) {
    for (class, count) in ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().zip(responses.classes) {
        f.put(&with(labels, ("code_class", class)), count);
    }
}

/// Of all states the one that holds is 1, the others 0.
fn one_hot(f: &mut Series<'_>, labels: Labels<'_>, states: &[&str], state: &str) {
    for its in states {
        f.put(&with(labels, ("state", its)), *its == state);
    }
}

/// The bounds of a request's duration.
static DURATIONS: [Millis; DURATION.len()] = {
    let mut bounds = [0; DURATION.len()];
    let mut at = 0;
    while at < bounds.len() {
        bounds[at] = DURATION[at].0;
        at += 1;
    }
    bounds
};

/// Those of a server's response time.
static RESPONSES: [Millis; RESPONSE.len()] = RESPONSE;

fn buckets<'a>(bounds: &'static [Millis], histogram: &'a Histogram) -> Buckets<'a> {
    Buckets { bounds, counts: &histogram.buckets, sum: histogram.sum }
}
