//! Patterns as nginx users write them (PCRE), compiled by an engine that takes linear time on any body.
//!
//! Where both engines read a text differently, PCRE's reading is kept: a `{` that begins no repetition is
//! itself (`"database":{"status":"ok"}` is a pattern people have), `$` also stands before one last line feed,
//! `[` `&` `~` inside a class and `\<` `\>` are themselves. Look-around and back-references are refused.

use super::error::MatchError;

/// Bytes a compiled pattern may take. Far above any sane pattern, and a bound on `a{1000}{1000}`.
const SIZE_LIMIT: usize = 1 << 20;

/// What `$` means to PCRE outside multi-line mode; `$` itself stays for `(?m)`.
const END: &str = r"(?:$|\n\z)";

/// A pattern over the bytes of a header or a body, where `.` is any byte, as with nginx's PCRE.
#[derive(Debug)]
pub(super) struct BytesPattern {
    text: String,
    regex: regex::bytes::Regex,
}

impl BytesPattern {
    pub fn is_match(&self, bytes: &[u8]) -> bool {
        self.regex.is_match(bytes)
    }

    pub fn text(&self) -> &str {
        &self.text
    }
}

/// Compiles a pattern for the bytes of a header or body.
pub(super) fn bytes_pattern(directive: &'static str, text: &str) -> Result<BytesPattern, MatchError> {
    let translated = Translated::new(text);
    let regex = regex::bytes::RegexBuilder::new(&translated.pattern)
        .unicode(false)
        .size_limit(SIZE_LIMIT)
        .dfa_size_limit(SIZE_LIMIT)
        .build()
        .map_err(|error| translated.refuse(directive, text, &error))?;
    Ok(BytesPattern { text: text.to_owned(), regex })
}

/// Compiles a pattern for JSON strings, where `.` is any character.
pub(super) fn text_pattern(
    directive: &'static str,
    text: &str,
    caseless: bool,
) -> Result<regex::Regex, MatchError> {
    let translated = Translated::new(text);
    regex::RegexBuilder::new(&translated.pattern)
        .case_insensitive(caseless)
        .size_limit(SIZE_LIMIT)
        .dfa_size_limit(SIZE_LIMIT)
        .build()
        .map_err(|error| translated.refuse(directive, text, &error))
}

/// A pattern in the engine's dialect, and where each of its characters came from.
struct Translated {
    pattern: String,
    /// For each character of the user's text, how many characters stood before its translation.
    starts: Vec<usize>,
}

impl Translated {
    fn new(text: &str) -> Self {
        let chars: Vec<char> = text.chars().collect();
        let mut out = Self { pattern: String::with_capacity(text.len() + 8), starts: Vec::new() };
        let (mut at, mut written) = (0, 0);
        let mut class = Class::Outside;
        while at < chars.len() {
            let (piece, taken) = piece(&chars[at..], class);
            class = class.after(&chars[at..at + taken]);
            out.starts.extend(std::iter::repeat_n(written, taken));
            written += piece.chars().count();
            out.pattern.push_str(&piece);
            at += taken;
        }
        out
    }

    fn refuse(&self, directive: &'static str, text: &str, error: &regex::Error) -> MatchError {
        let (what, column) = match error {
            regex::Error::CompiledTooBig(limit) => (format!("compiles to more than {limit} bytes"), None),
            error => explained(&error.to_string()),
        };
        let column = column.map(|column| self.starts.iter().filter(|start| **start <= column).count().max(1));
        MatchError::Pattern { directive, pattern: text.to_owned(), what, column }
    }
}

/// The message and the zero-based column in the engine's own report, which draws a caret under the pattern.
fn explained(report: &str) -> (String, Option<usize>) {
    let last = report.lines().last().unwrap_or(report);
    let what = last.trim().strip_prefix("error: ").unwrap_or(last.trim()).to_owned();
    let caret = report.lines().find(|line| line.contains('^') && line.trim().chars().all(|c| c == '^'));
    (what, caret.and_then(|line| line.find('^')).and_then(|column| column.checked_sub(4)))
}

/// Where in a bracketed class the reader is. A `]` that comes first is a member.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Outside,
    First,
    Inside,
}

impl Class {
    fn after(self, taken: &[char]) -> Self {
        match (self, taken) {
            (Self::Outside, ['[', ..]) => Self::First,
            (Self::Outside, _) => Self::Outside,
            (Self::First, ['^']) => Self::First,
            (Self::Inside, [']']) => Self::Outside,
            _ => Self::Inside,
        }
    }
}

/// The translation of the next construct, and how many characters it takes.
fn piece(rest: &[char], class: Class) -> (String, usize) {
    match (rest, class) {
        (['\\', c @ ('<' | '>'), ..], _) => (c.to_string(), 2),
        (['\\', 'Z', ..], Class::Outside) => (r"\n?\z".to_owned(), 2),
        (['\\', c, ..], _) => (format!("\\{c}"), 2),
        (['[', ':', ..], Class::First | Class::Inside) => posix(rest),
        ([c @ ('[' | '&' | '~'), ..], Class::First | Class::Inside) => (format!("\\{c}"), 1),
        ([']', ..], Class::First) => ("\\]".to_owned(), 1),
        (['$', ..], Class::Outside) => (END.to_owned(), 1),
        (['{', ..], Class::Outside) if !is_repetition(rest) => ("\\{".to_owned(), 1),
        ([c, ..], _) => (c.to_string(), 1),
        ([], _) => (String::new(), 1),
    }
}

/// `[:alpha:]` inside a class, or an escaped bracket.
fn posix(rest: &[char]) -> (String, usize) {
    let end = rest.windows(2).skip(2).position(|pair| pair == [':', ']']);
    match end {
        Some(end) if rest[2..2 + end].iter().all(|c| c.is_ascii_lowercase() || *c == '^') => {
            (rest[..end + 4].iter().collect(), end + 4)
        }
        _ => ("\\[".to_owned(), 1),
    }
}

/// `{3}`, `{3,}`, `{3,5}`: all that PCRE takes for a repetition.
fn is_repetition(rest: &[char]) -> bool {
    let Some(end) = rest.iter().position(|c| *c == '}') else { return false };
    let inner: String = rest[1..end].iter().collect();
    let (low, high) = inner.split_once(',').unwrap_or((&inner, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    !low.is_empty() && digits(low) && digits(high)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, body: &[u8]) -> bool {
        bytes_pattern("body", pattern).unwrap().is_match(body)
    }

    #[test]
    fn braces_as_pcre_reads_them() {
        assert!(matches(r#""database":{"status":"ok"}"#, br#"{"database":{"status":"ok"}}"#));
        assert!(matches("a{2,3}$", b"xaaa"));
        assert!(!matches("^a{2}$", b"aaa"));
        assert!(matches("^a{,3}$", b"a{,3}"));
        assert!(matches("^[{}]{2}$", b"{}"));
    }

    #[test]
    fn ends_and_classes_as_pcre_reads_them() {
        assert!(matches("^OK$", b"OK\n"));
        assert!(!matches("^OK$", b"OK\n\n"));
        assert!(matches("(?m)^OK$", b"a\nOK\nb"));
        assert!(matches("^[[]$", b"["));
        assert!(matches("^[]a]+$", b"a]"));
        assert!(matches("^[^]a]+$", b"bc"));
        assert!(matches("^[[:digit:]a&&b]+$", b"4a&b"));
        assert!(matches(r"^\<a\>\/\Z", b"<a>/"));
        assert!(matches("^a.b$", b"a\xffb"));
        assert!(matches("é", "café".as_bytes()));
        assert!(matches("[$]", b"$"));
    }

    #[test]
    fn refusals_name_the_column() {
        let message = |pattern: &str| bytes_pattern("body", pattern).unwrap_err().to_string();
        assert_eq!(message("a(b"), r#"invalid pattern "a(b" in "body": unclosed group at column 2"#);
        assert_eq!(message("$$ (b"), r#"invalid pattern "$$ (b" in "body": unclosed group at column 4"#);
        assert!(
            message("(?=a)").contains("look-around, including look-ahead and look-behind, is not supported")
        );
        assert!(message(r"(a)\1").contains("backreferences are not supported"));
        assert!(message("(a{1000}){1000}").contains("compiles to more than 1048576 bytes"));
    }
}
