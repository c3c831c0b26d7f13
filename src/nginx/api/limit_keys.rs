//! `/http/rate_limits/ZONE/keys/KEY`: where one key stands, and resetting it. The key itself goes no further than the hash.

use serde::Serialize;

use super::super::events::{self, Event, Kind};
use super::super::limit::inspect::{self, Report, Standing, Subject};
use super::super::limit::{Source, ZoneConf};
use super::super::worker::{self, Worker};
use super::{Answer, Call, Outcome};
use crate::policy::api::{Failure, Method};
use crate::policy::limit::{KeyHash, why};

/// Times are whole seconds, rounded up.
#[derive(Serialize)]
struct Key {
    /// Requests that the rate allows in its time.
    limit: u64,
    burst: Option<u64>,
    /// Requests that would be admitted at once.
    remaining: u64,
    /// Until all quota is back.
    reset: u64,
    /// Until a request passes; 0: one would now.
    retry_after: u64,
    limited: bool,
    source: &'static str,
    why: String,
    /// The same for each `burst` that the zone is used with, where there are several; the strictest is told above.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    uses: Vec<Self>,
}

impl Key {
    fn new(standing: &Standing, source: Source) -> Self {
        let Standing { rule, at, next } = standing;
        let cause =
            if source == Source::Fallback { "redis gave no answer, and this host knows: " } else { "" };
        Self {
            limit: rule.rate().count,
            burst: rule.burst(),
            remaining: at.remaining,
            reset: at.reset_after.div_ceil(1000),
            retry_after: if next.admitted { 0 } else { next.retry_after.div_ceil(1000) },
            limited: !next.admitted,
            source: source.as_str(),
            why: format!("{cause}{}", why(rule, at, next)),
            uses: Vec::new(),
        }
    }
}

fn document(report: Option<Report>) -> Outcome {
    let unknown = || Failure::new(503, "RedisUnavailable", "redis gave no answer");
    let Report { standings, source } = report.ok_or_else(unknown)?;
    let mut uses: Vec<Key> = standings.iter().map(|standing| Key::new(standing, source)).collect();
    let strictest =
        standings.iter().enumerate().min_by_key(|(_, one)| (one.next.admitted, one.next.remaining));
    let (at, standing) = strictest.ok_or_else(|| Failure::internal("the zone has no memory"))?;
    let mut key = Key::new(standing, source);
    if uses.len() > 1 {
        uses.swap(0, at);
        key.uses = uses;
    }
    Answer::document(200, &key)
}

fn forgotten(report: Option<Report>) -> Outcome {
    let unknown = || Failure::new(503, "RedisUnavailable", "reset on this host; redis gave no answer");
    report.map(|_| Answer::Nothing).ok_or_else(unknown)
}

/// Answers a call about one key of a zone.
pub fn route(call: &Call, zone: &str, key: &[u8]) -> Outcome {
    let conf = call.request.main_conf();
    let missing = || Failure::not_found("RateLimitNotFound", "rate limit");
    let number = conf.limits.find(zone).ok_or_else(missing)?;
    let its: &ZoneConf = conf.limits.get(number).ok_or_else(missing)?;
    let worker = worker::current().ok_or_else(|| Failure::internal("the worker is leaving"))?;
    let ticket = || call.ticket();
    let told = match call.method {
        Method::Get => {
            let rules = inspect::rules(its, call.query.get("rate").as_deref());
            let rules = rules.map_err(|text| Failure::format("RateLimitFormatError", text))?;
            let subject = Subject { zone: number, key: KeyHash::typed(key, its.binary), rules };
            inspect::look(&worker, subject, &ticket, Box::new(document))
        }
        Method::Delete => reset(call, &worker, (number, its), key, &ticket)?,
        _ => return Err(Failure::method("GET, HEAD, DELETE")),
    };
    told.unwrap_or(Ok(Answer::Later))
}

fn reset(
    call: &Call,
    worker: &Worker,
    (number, zone): (usize, &ZoneConf),
    key: &[u8],
    ticket: inspect::Ticket<'_>,
) -> Result<Option<Outcome>, Failure> {
    // Any rate will do to forget what was used.
    let rules = inspect::rules(zone, call.query.get("rate").as_deref().or(Some("1r/s")));
    let rules = rules.map_err(|text| Failure::format("RateLimitFormatError", text))?;
    let subject = Subject { zone: number, key: KeyHash::typed(key, zone.binary), rules };
    let text = format!("a key was reset, by {}", call.who());
    events::note(&Event {
        kind: Kind::Control,
        upstream: &zone.name,
        peer: "",
        from: "",
        to: "",
        text: &text,
    });
    Ok(inspect::forget(worker, subject, ticket, Box::new(forgotten)))
}
