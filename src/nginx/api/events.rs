//! `/events`: what has happened, now or as soon as something does.

use serde::Serialize;

use super::super::events;
use super::super::worker;
use super::{Answer, Call, Outcome};
use crate::policy::api::{Failure, iso};
use crate::policy::events::Recorded;
use crate::shared::events::Page;

/// Longest wait, in seconds.
const MAX_WAIT: u64 = 60;

#[derive(Serialize)]
struct Events<'a> {
    /// What to ask for next.
    last: u64,
    events: Vec<Event<'a>>,
}

#[derive(Serialize)]
struct Event<'a> {
    id: u64,
    time: String,
    kind: &'static str,
    upstream: &'a str,
    peer: &'a str,
    from: &'a str,
    to: &'a str,
    text: &'a str,
}

impl<'a> From<&'a Recorded> for Event<'a> {
    fn from(of: &'a Recorded) -> Self {
        Self {
            id: of.id,
            time: iso(of.time),
            kind: of.kind.name(),
            upstream: &of.upstream,
            peer: &of.peer,
            from: &of.from,
            to: &of.to,
            text: &of.text,
        }
    }
}

fn document(page: &Page) -> Outcome {
    let events = page.events.iter().map(Event::from).collect();
    Answer::document(200, &Events { last: page.last, events })
}

/// `?since=ID&wait=SECONDS`
pub fn route(call: &Call) -> Outcome {
    call.get(|| {
        let since = argument(call, "since")?.unwrap_or(0);
        let wait = argument(call, "wait")?.unwrap_or(0);
        if wait > MAX_WAIT {
            return Err(Failure::format("EventsFormatError", "\"wait\" is 60 seconds at most"));
        }
        let page = events::page(since);
        match worker::current().filter(|_| wait > 0 && page.events.is_empty()) {
            Some(worker) => {
                let ticket = call.ticket()?;
                worker.waiters.add(ticket, page.last, wait * 1000, document);
                Ok(Answer::Later)
            }
            None => document(&page),
        }
    })
}

fn argument(call: &Call, name: &str) -> Result<Option<u64>, Failure> {
    let wrong = || Failure::format("EventsFormatError", format!("\"{name}\" must be a whole number"));
    // More than a JSON number can say exactly is nobody's id.
    call.query
        .number(name)
        .ok()
        .filter(|number| number.is_none_or(|number| number < 1 << 53))
        .ok_or_else(wrong)
}
