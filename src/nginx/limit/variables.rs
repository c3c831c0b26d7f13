//! `$rate_limit_status` and its family.

use super::super::request::Request;
use super::super::sys::now;
use super::super::variables::Variable;
use super::headers::reset;
use super::{Ruling, Verdict};

/// All of them. Empty for requests that no limit was asked about.
pub static VARIABLES: [Variable; 6] = [
    Variable {
        name: "rate_limit_status",
        text: |r| of(r, |verdict| Some(verdict.status.as_str().to_owned())),
    },
    Variable { name: "rate_limit_zone", text: |r| spoken(r, |one| zone(r, one)) },
    Variable { name: "rate_limit_limit", text: |r| spoken(r, |one| one.rule.rate().count.to_string()) },
    Variable { name: "rate_limit_remaining", text: |r| spoken(r, |one| one.decision.remaining.to_string()) },
    Variable { name: "rate_limit_reset", text: |r| of(r, reset_of) },
    Variable { name: "rate_limit_source", text: |r| spoken(r, |one| one.source.as_str().to_owned()) },
];

/// What a verdict says; limits belong to the client's request, its subrequests see the same.
fn of(request: &Request, say: impl FnOnce(&Verdict) -> Option<String>) -> Option<String> {
    let limited = request.main().ctx()?.limit.try_borrow().ok()?;
    say(limited.verdict.as_ref()?)
}

/// What the ruling that speaks for the request says.
fn spoken(request: &Request, say: impl FnOnce(&Ruling) -> String) -> Option<String> {
    of(request, |verdict| verdict.speaker().map(say))
}

fn zone(request: &Request, ruling: &Ruling) -> String {
    request.main_conf().limits.get(ruling.zone).map_or_else(String::new, |zone| zone.name.clone())
}

fn reset_of(verdict: &Verdict) -> Option<String> {
    Some(reset(verdict.speaker()?, verdict.form.reset, now().wall).to_string())
}
