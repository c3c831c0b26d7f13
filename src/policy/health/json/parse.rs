//! The body as a JSON document, or the byte at which it is none.

use serde_json::Value;

use super::super::expect::Stop;

/// UTF-8's byte order mark, which RFC 8259 lets a reader drop.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// Parses a whole body: one document and nothing after it, at most 128 levels deep, numbers within an f64.
/// Of keys that come twice the last wins.
pub(in super::super) fn parse(body: &[u8]) -> Result<Value, Stop> {
    let text = body.strip_prefix(MARK).unwrap_or(body);
    serde_json::from_slice(text).map_err(|error| {
        let byte = body.len() - text.len() + offset(text, &error);
        // That the parser calls a kind of its own only in words.
        if what(&error).starts_with("recursion limit") {
            return Stop::TooComplex(format!("deeper than 128 levels at byte {byte}"));
        }
        Stop::Invalid(format!("json_invalid at byte {byte} ({})", what(&error)))
    })
}

/// The parser counts lines, and bytes within a line.
fn offset(text: &[u8], error: &serde_json::Error) -> usize {
    let line_start: usize =
        text.split_inclusive(|b| *b == b'\n').take(error.line().saturating_sub(1)).map(<[u8]>::len).sum();
    (line_start + error.column()).min(text.len())
}

/// The parser's message without its own position, which counts differently from ours.
fn what(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(text.clone(), |(what, _)| what.to_owned())
}
