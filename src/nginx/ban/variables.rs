//! `$ban_status` and `$ban_zone`.

use super::super::request::Request;
use super::super::variables::Variable;
use super::Status;

/// Both. Empty for requests that no ban was asked about.
pub static VARIABLES: [Variable; 2] = [
    Variable { name: "ban_status", text: |r| of(r, |(status, _)| Some(status.as_str().to_owned())) },
    Variable { name: "ban_zone", text: |r| of(r, |found| zone(r, found)) },
];

/// Bans belong to the client's request, its subrequests see the same.
fn of(request: &Request, say: impl FnOnce((Status, usize)) -> Option<String>) -> Option<String> {
    say(request.main().ctx()?.ban.found.get()?)
}

/// The zone that the client is banned in.
fn zone(request: &Request, (status, zone): (Status, usize)) -> Option<String> {
    let zone = request.main_conf().bans.get(zone).filter(|_| status != Status::Passed)?;
    Some(zone.name.clone())
}
