//! `body ~ REGEX;`, `body !~ REGEX;`

use super::error::{self, MatchError};
use super::pattern::{BytesPattern, bytes_pattern};

/// One `body` line, tested on what was read of the body (the caller's limit, 256k in nginx).
#[derive(Debug)]
pub(super) struct BodyTest {
    pattern: BytesPattern,
    negated: bool,
}

impl BodyTest {
    pub fn new(args: &[&str]) -> Result<Self, MatchError> {
        match args {
            [operator @ ("~" | "!~"), pattern] => {
                Ok(Self { pattern: bytes_pattern("body", pattern)?, negated: *operator == "!~" })
            }
            ["~" | "!~", _, word, ..] => {
                let word = (*word).to_owned();
                Err(MatchError::Unexpected { directive: "body", word, expected: "one pattern, quoted" })
            }
            [operator, _] => Err(error::operator("body", operator, "~ or !~")),
            _ => Err(MatchError::Arguments { directive: "body", expected: "\"body ~|!~ REGEX\"" }),
        }
    }

    pub fn holds(&self, body: &[u8]) -> bool {
        self.pattern.is_match(body) != self.negated
    }

    pub fn wanted(&self) -> String {
        format!("{}~ \"{}\"", if self.negated { "!" } else { "" }, self.pattern.text())
    }
}
