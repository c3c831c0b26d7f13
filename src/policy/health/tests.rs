//! Tests of whole `match` blocks.

mod hostile;
mod lines;
mod oracle;
mod refused;
mod tally;

use super::super::fuzz::words;
use super::{Answer, Builder, Match, MatchError, Verdict};

pub const DOCUMENT: &str = r#"{"status":"healthy","checks":{"database":{"status":"ok","latency":12},"redis":{"status":"ok","latency":3},"memory":{"status":"ok","usagePercentage":45}}}"#;

fn add(builder: &mut Builder, line: &str) -> Result<(), MatchError> {
    let words = words(line);
    let args: Vec<&str> = words.iter().skip(1).map(String::as_str).collect();
    match (words[0].as_str(), args.as_slice()) {
        ("}", _) => builder.close(),
        (group, ["{"]) => builder.open(group),
        (directive, args) => builder.line(directive, args),
    }
}

/// Compiles a block written one line or bracket per text line.
pub fn block(text: &str) -> Result<Match, MatchError> {
    let mut builder = Builder::new("t");
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        add(&mut builder, line)?;
    }
    builder.finish()
}

pub fn answer(body: &[u8]) -> Answer<'_> {
    Answer { status: 200, headers: &[("content-type", b"application/json")], body, body_complete: true }
}

/// Judges a body by a block.
pub fn judge(text: &str, body: &[u8]) -> Verdict {
    block(text).unwrap().judge(&answer(body))
}

/// The reason why a body fails, or "pass".
pub fn told(text: &str, body: &[u8]) -> String {
    match judge(text, body) {
        Verdict::Pass => "pass".to_owned(),
        Verdict::Degraded(reason) | Verdict::Fail(reason) => reason.to_string(),
    }
}
