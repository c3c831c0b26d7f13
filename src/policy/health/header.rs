//! `header NAME;`, `header ! NAME;`, `header NAME = V;`, `!=`, `~`, `!~`
//!
//! A header that comes several times: `=` and `~` hold if one of its values does, `!=` and `!~` if the header
//! is there and none of them does. So `!=` is the exact opposite of `=` on any answer that has the header.

use super::error::{self, MatchError};
use super::expect::Answer;
use super::pattern::{BytesPattern, bytes_pattern};
use super::reason::quoted;

const USAGE: &str = "\"header NAME\", \"header ! NAME\" or \"header NAME =|!=|~|!~ VALUE\"";
const OPERATORS: &str = "=, !=, ~ or !~";

/// One `header` line.
#[derive(Debug)]
pub(super) struct HeaderTest {
    name: String,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Present,
    Absent,
    Equal { value: String, negated: bool },
    Like { pattern: BytesPattern, negated: bool },
}

impl HeaderTest {
    pub fn new(args: &[&str]) -> Result<Self, MatchError> {
        let (name, test) = match args {
            ["!", name] => (*name, Test::Absent),
            [name] => (*name, Test::Present),
            [name, operator, value] => (*name, test(operator, value)?),
            [_, operator, ..] if matches!(*operator, "=" | "!=" | "~" | "!~") && args.len() > 3 => {
                let word = args[3].to_owned();
                return Err(MatchError::Unexpected {
                    directive: "header",
                    word,
                    expected: "one value, quoted",
                });
            }
            _ => return Err(MatchError::Arguments { directive: "header", expected: USAGE }),
        };
        Ok(Self { name: checked(name)?.to_owned(), test })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn holds(&self, answer: &Answer<'_>) -> bool {
        let any = |test: &dyn Fn(&[u8]) -> bool| answer.values(&self.name).any(test);
        let present = any(&|_| true);
        match &self.test {
            Test::Present => present,
            Test::Absent => !present,
            Test::Equal { value, negated } => present && any(&|got| got == value.as_bytes()) != *negated,
            Test::Like { pattern, negated } => present && any(&|got| pattern.is_match(got)) != *negated,
        }
    }

    pub fn wanted(&self) -> String {
        let not = |negated: &bool| if *negated { "!" } else { "" };
        match &self.test {
            Test::Present => "it to be present".to_owned(),
            Test::Absent => "it to be absent".to_owned(),
            Test::Equal { value, negated } => format!("{}= \"{value}\"", not(negated)),
            Test::Like { pattern, negated } => format!("{}~ \"{}\"", not(negated), pattern.text()),
        }
    }

    pub fn got(&self, answer: &Answer<'_>) -> String {
        let mut values = answer.values(&self.name);
        let Some(first) = values.next() else { return "no such header".to_owned() };
        match values.count() {
            0 => quoted(first),
            more => format!("{} and {more} more", quoted(first)),
        }
    }
}

fn test(operator: &str, value: &str) -> Result<Test, MatchError> {
    match operator {
        "=" | "!=" => Ok(Test::Equal { value: value.to_owned(), negated: operator == "!=" }),
        "~" | "!~" => Ok(Test::Like { pattern: bytes_pattern("header", value)?, negated: operator == "!~" }),
        _ => Err(error::operator("header", operator, OPERATORS)),
    }
}

fn checked(name: &str) -> Result<&str, MatchError> {
    // "!" may begin a header's name by the letter of RFC 9110; whoever writes it here means `header ! NAME`.
    if name.len() > 1 && name.starts_with('!') {
        return Err(MatchError::HeaderBang(name.to_owned()));
    }
    let token = |b: u8| b.is_ascii_alphanumeric() || b"#$%&'*+-.^_`|~".contains(&b);
    if name.is_empty() || !name.bytes().all(token) {
        return Err(MatchError::HeaderName(name.to_owned()));
    }
    Ok(name)
}
