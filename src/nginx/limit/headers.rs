//! What clients are told of their limits: `X-RateLimit-*`, and the fields of
//! draft-ietf-httpapi-ratelimit-headers-11.

use super::super::request::Request;
use super::super::sys::now;
use super::conf::{Form, Headers, Reset};
use super::{Ruling, Verdict};
use crate::policy::Millis;
use crate::policy::limit::Rule;

/// Adds the fields to the response, once, whatever answers in the end.
pub fn add(request: &Request, verdict: &Verdict) {
    let Some(speaker) = verdict.speaker() else { return };
    let Form { headers, reset: form } = verdict.form;
    if matches!(headers, Headers::On | Headers::All) {
        request.set_number("X-RateLimit-Limit", speaker.rule.rate().count);
        request.set_number("X-RateLimit-Remaining", speaker.decision.remaining);
        request.set_number("X-RateLimit-Reset", reset(speaker, form, now().wall));
    }
    if matches!(headers, Headers::Ietf | Headers::All) {
        let zones = &request.main_conf().limits;
        let name = |ruling: &Ruling| zones.get(ruling.zone).map_or("", |zone| zone.name.as_str());
        let policies: Vec<_> = verdict.rulings.iter().map(|r| policy(name(r), &r.rule)).collect();
        request.set_header("RateLimit-Policy", &policies.join(", "));
        request.set_header("RateLimit", &current(name(speaker), speaker));
    }
}

/// `X-RateLimit-Reset`: when all quota is back, as Unix seconds or seconds from now, never too early.
pub fn reset(ruling: &Ruling, form: Reset, wall: Millis) -> u64 {
    match form {
        Reset::Epoch => (wall + ruling.decision.reset_after).div_ceil(1000),
        Reset::Delta => ruling.decision.reset_after.div_ceil(1000),
    }
}

/// One item of `RateLimit-Policy`. Zone names are made of characters that need no escaping.
fn policy(name: &str, rule: &Rule) -> String {
    let rate = rule.rate();
    let seconds = rate.period.div_ceil(1000).max(1);
    match rule.burst() {
        Some(burst) => format!("\"{name}\";q={};w={seconds};ngx-burst={burst}", rate.count),
        None => format!("\"{name}\";q={};w={seconds}", rate.count),
    }
}

/// `RateLimit`: `r` requests can be used within `t` seconds; `r/t` never promises more than the rate.
fn current(name: &str, ruling: &Ruling) -> String {
    let (rate, decision) = (ruling.rule.rate(), &ruling.decision);
    let window: Millis = match ruling.rule {
        _ if decision.remaining == 0 => decision.retry_after,
        Rule::Gcra(_) => {
            let ms = u128::from(decision.remaining) * u128::from(rate.period) / u128::from(rate.count.max(1));
            Millis::try_from(ms).unwrap_or(Millis::MAX)
        }
        Rule::Sliding { .. } | Rule::Fixed(_) => decision.reset_after,
    };
    format!("\"{name}\";r={};t={}", decision.remaining, window.div_ceil(1000).max(1))
}

#[cfg(test)]
mod tests {
    use super::super::Source;
    use super::*;
    use crate::policy::limit::{Algorithm, Decision, Delay, Rate};

    fn ruling(remaining: u64, retry_after: Millis) -> Ruling {
        let rate = Rate::parse("100r/m").unwrap();
        let rule = Rule::new(Algorithm::Gcra, rate, Some(20), Delay::None).unwrap();
        let decision = Decision { admitted: true, wait: 0, remaining, retry_after, reset_after: 12_001 };
        Ruling { zone: 0, rule, decision, source: Source::Local }
    }

    #[test]
    fn fields_of_the_draft() {
        assert_eq!(policy("api", &ruling(5, 0).rule), "\"api\";q=100;w=60;ngx-burst=20");
        assert_eq!(current("api", &ruling(5, 0)), "\"api\";r=5;t=3");
        assert_eq!(current("api", &ruling(0, 599)), "\"api\";r=0;t=1");
    }

    #[test]
    fn reset_is_never_too_early() {
        assert_eq!(reset(&ruling(5, 0), Reset::Delta, 1_000), 13);
        assert_eq!(reset(&ruling(5, 0), Reset::Epoch, 1_000), 14);
    }
}
