//! `json PATH [all|any|none] OP VALUE [optional];` and its shorter forms.
//!
//! Strict throughout: `"12"` is not 12, `<` and its like hold for numbers only, patterns for strings only
//! (so `!~` does not hold for a number either), and a path that leads nowhere fails, `!=` and `none` included.

mod line;
mod parse;
mod path;
mod value;

use serde_json::Value;

use self::path::{Found, Path};
use self::value::{Comparison, Type, equal, length, shown};
use super::error::MatchError;
use super::expect::Stop;

pub(super) use self::parse::parse;

/// One `json` line.
#[derive(Debug)]
pub(super) struct JsonTest {
    path: Path,
    over: Over,
    test: Test,
    optional: bool,
}

/// How many of the nodes that a path finds must pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    All,
    Any,
    None,
}

#[derive(Debug)]
enum Test {
    Exists,
    Absent,
    Is(Type),
    Length(Comparison, u64),
    Compare(Comparison, Value),
    Like { regex: regex::Regex, pattern: String, operator: &'static str },
    In { members: Vec<Value>, negated: bool },
    Contains(Value),
}

impl JsonTest {
    pub fn new(args: &[&str]) -> Result<Self, MatchError> {
        line::compile(args)
    }

    pub fn path(&self) -> &str {
        self.path.text()
    }

    pub fn wanted(&self) -> String {
        let over = match self.over {
            Over::All => "",
            Over::Any => "any ",
            Over::None => "none ",
        };
        format!("{over}{}", self.test)
    }

    /// Whether the document passes, and the value that shows it.
    pub fn look(&self, document: &Value) -> Result<(bool, String), Stop> {
        let found = self.path.find(document)?;
        if found.is_empty() {
            let holds = matches!(self.test, Test::Absent) || self.optional;
            return Ok((holds, "no node".to_owned()));
        }
        // `all` and `none` are refuted by one node, `any` is proved by one.
        let telling = match self.over {
            Over::All => found.position(|value| !self.test.holds(value)),
            Over::Any | Over::None => found.position(|value| self.test.holds(value)),
        };
        let holds = telling.is_some() == (self.over == Over::Any);
        Ok((holds, self.got(&found, telling)))
    }

    fn got(&self, found: &Found<'_>, telling: Option<usize>) -> String {
        let index = telling.unwrap_or(0);
        let value = found.value(index).map(shown).unwrap_or_default();
        if found.len() == 1 && self.path.is_singular() {
            return value;
        }
        match telling {
            Some(_) => format!("{value} at {}", found.location(index)),
            None => format!("{value} at {} (of {} nodes)", found.location(index), found.len()),
        }
    }
}

impl Test {
    fn holds(&self, got: &Value) -> bool {
        match self {
            Self::Exists => true,
            Self::Absent => false,
            Self::Is(kind) => kind.holds(got),
            Self::Length(comparison, wanted) => {
                length(got).is_some_and(|length| comparison.accepts(length.cmp(wanted)))
            }
            Self::Compare(comparison, wanted) => comparison.holds(got, wanted),
            Self::Like { regex, operator, .. } => {
                got.as_str().is_some_and(|text| regex.is_match(text) != (*operator == "!~"))
            }
            Self::In { members, negated } => members.iter().any(|member| equal(got, member)) != *negated,
            Self::Contains(wanted) => match (got, wanted) {
                (Value::Array(members), _) => members.iter().any(|member| equal(member, wanted)),
                (Value::String(text), Value::String(part)) => text.contains(part.as_str()),
                _ => false,
            },
        }
    }
}

impl std::fmt::Display for Test {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exists => write!(f, "it to exist"),
            Self::Absent => write!(f, "it to be absent"),
            Self::Is(kind) => write!(f, "is {}", kind.as_str()),
            Self::Length(comparison, wanted) => write!(f, "length {} {wanted}", comparison.as_str()),
            Self::Compare(comparison, wanted) => write!(f, "{} {wanted}", comparison.as_str()),
            Self::Like { pattern, operator, .. } => write!(f, "{operator} \"{pattern}\""),
            Self::In { members, negated } => {
                let members: Vec<String> = members.iter().map(Value::to_string).collect();
                write!(f, "{} ({})", if *negated { "not-in" } else { "in" }, members.join(", "))
            }
            Self::Contains(wanted) => write!(f, "contains {wanted}"),
        }
    }
}

/// The nodes a path leads to, for tests against other implementations.
#[cfg(any(test, sluice_fuzz))]
pub fn found<'v>(path: &str, document: &'v Value) -> Option<Vec<&'v Value>> {
    let found = Path::parse(path).ok()?.find(document).ok()?;
    Some((0..found.len()).filter_map(|index| found.value(index)).collect())
}
