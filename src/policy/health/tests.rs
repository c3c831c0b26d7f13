//! Tests of whole `match` blocks.

mod hostile;
mod lines;
mod oracle;
mod refused;
mod tally;

use super::{Answer, Builder, Match, MatchError, Verdict};

pub const DOCUMENT: &str = r#"{"status":"healthy","checks":{"database":{"status":"ok","latency":12},"redis":{"status":"ok","latency":3},"memory":{"status":"ok","usagePercentage":45}}}"#;

/// A line as nginx's tokeniser would hand it over: split at blanks, quotes around a whole word taken off.
pub fn words(line: &str) -> Vec<String> {
    let (mut words, mut rest) = (Vec::new(), line.trim_start());
    while let Some(first) = rest.chars().next() {
        let quoted = matches!(first, '"' | '\'');
        let (mut word, mut chars) = (String::new(), rest.char_indices());
        if quoted {
            chars.next();
        }
        let mut end = rest.len();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' if matches!(rest[at + 1..].chars().next(), Some('"' | '\'' | '\\')) => {
                    word.extend(chars.next().map(|(_, c)| c));
                }
                c if if quoted { c == first } else { c.is_whitespace() } => {
                    end = at + 1;
                    break;
                }
                c => word.push(c),
            }
        }
        words.push(word);
        rest = rest[end..].trim_start();
    }
    words
}

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
