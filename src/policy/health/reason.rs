//! Why an answer was judged as it was: the line, what it wanted, what came.

use std::fmt;

/// Bytes of a value that a [`Reason`] shows.
const SHOWN: usize = 64;

/// The closed set of reasons, for counters and the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReasonKind {
    Status,
    Header,
    Body,
    Json,
    JsonInvalid,
    JsonTooComplex,
    BodyTooLarge,
    EncodedBody,
    Require,
}

impl ReasonKind {
    /// The name used in metrics and in the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Header => "header",
            Self::Body => "body",
            Self::Json => "json",
            Self::JsonInvalid => "json_invalid",
            Self::JsonTooComplex => "json_too_complex",
            Self::BodyTooLarge => "body_too_large",
            Self::EncodedBody => "encoded_body",
            Self::Require => "require",
        }
    }
}

/// The line that decided, with what it wanted and what it got.
///
/// Shown as `json $.checks.database.status: wanted = "ok", got "fail"`. What came from the backend is cut to
/// 64 bytes, and its control bytes are escaped, so it can be logged as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    kind: ReasonKind,
    line: String,
    wanted: String,
    got: String,
    degraded: bool,
}

impl Reason {
    pub(super) fn new(kind: ReasonKind, line: &str, wanted: impl Into<String>, got: String) -> Self {
        Self { kind, line: line.to_owned(), wanted: wanted.into(), got, degraded: false }
    }

    /// The same finding, told of a line of a `degraded` block that holds.
    pub(super) fn into_degraded(mut self) -> Self {
        self.degraded = true;
        self
    }

    /// What kind of line decided, or why the body could not be judged.
    #[must_use]
    pub fn kind(&self) -> ReasonKind {
        self.kind
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.degraded { "degraded when" } else { "wanted" };
        write!(f, "{}: {verb} {}, got {}", self.line, self.wanted, self.got)
    }
}

/// `bytes` in quotes, cut to 64 bytes, control and non-UTF-8 bytes escaped.
pub(super) fn quoted(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(SHOWN)];
    let mut out = String::with_capacity(cut.len() + 5);
    out.push('"');
    for chunk in cut.utf8_chunks() {
        chunk.valid().chars().for_each(|c| push_escaped(&mut out, c));
        // A character that only the cut has broken is dropped, not shown as a wrong byte.
        let broken_by_cut =
            bytes.len() > SHOWN && chunk.invalid().as_ptr_range().end == cut.as_ptr_range().end;
        if !broken_by_cut {
            chunk.invalid().iter().for_each(|byte| out.push_str(&format!("\\x{byte:02x}")));
        }
    }
    out.push('"');
    if bytes.len() > SHOWN {
        out.push_str("...");
    }
    out
}

fn push_escaped(out: &mut String, c: char) {
    match c {
        '"' | '\\' => out.extend(['\\', c]),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        c if c.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
        c => out.push(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shown_text_is_cut_and_escaped() {
        assert_eq!(quoted(b"ok"), "\"ok\"");
        assert_eq!(quoted(b"a\"b\\\r\n\x00\x1b\xff"), r#""a\"b\\\r\n\x00\x1b\xff""#);
        assert_eq!(quoted(&[b'a'; 64]), format!("\"{}\"", "a".repeat(64)));
        assert_eq!(quoted(&[b'a'; 65]), format!("\"{}\"...", "a".repeat(64)));
        let wide = format!("{}{}", "a".repeat(63), "é");
        assert_eq!(quoted(wide.as_bytes()), format!("\"{}\"...", "a".repeat(63)));
        assert_eq!(quoted("\u{9b}".as_bytes()), "\"\\x9b\"");
    }
}
