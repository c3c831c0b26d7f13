//! From the lines of a `match` block to a [`Match`].

use super::body::BodyTest;
use super::error::MatchError;
use super::expect::{Line, Match, Node, Test};
use super::header::HeaderTest;
use super::json::JsonTest;
use super::require;
use super::status::StatusTest;

/// Groups inside groups.
const MAX_DEPTH: usize = 16;

/// Takes a block line by line, in the order nginx reads it.
///
/// Arguments come as nginx's tokeniser leaves them: split at blanks, one level of quotes taken off.
#[derive(Debug)]
pub struct Builder {
    name: String,
    checks: Vec<Node>,
    degraded: Vec<Vec<Node>>,
    open: Vec<(Group, Vec<Node>)>,
    required: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Group {
    All,
    Any,
    Not,
    Degraded,
}

impl Group {
    fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Any => "any",
            Self::Not => "not",
            Self::Degraded => "degraded",
        }
    }
}

impl Builder {
    /// A block without lines. `name` is used in messages.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let (checks, degraded, open, required) = Default::default();
        Self { name: name.to_owned(), checks, degraded, open, required }
    }

    /// Adds `status`, `header`, `body` or `json` with its arguments to the innermost open group, or `require`, which
    /// stands in none.
    ///
    /// # Errors
    /// Anything that is not in the grammar, with the offending value and what was expected.
    pub fn line(&mut self, directive: &str, args: &[&str]) -> Result<(), MatchError> {
        let test = match directive {
            "status" => Test::Status(StatusTest::new(args)?),
            "header" => Test::Header(HeaderTest::new(args)?),
            "body" => Test::Body(BodyTest::new(args)?),
            "json" => Test::Json(JsonTest::new(args)?),
            // A variable is looked at where there are variables, after the lines: it cannot be one of a group.
            "require" if !self.open.is_empty() => {
                return Err(MatchError::NestedRequire { name: self.name.clone() });
            }
            "require" => {
                self.required.extend(require::names(args)?);
                return Ok(());
            }
            _ => {
                let directive = directive.to_owned();
                return Err(MatchError::UnknownDirective { name: self.name.clone(), directive });
            }
        };
        self.add(Node::Line(Line::new(test)));
        Ok(())
    }

    /// Begins `any`, `all`, `not` or `degraded`; the lines up to [`Self::close`] are the group's.
    ///
    /// # Errors
    /// Another name, `degraded` inside a group, or more than 16 groups inside each other.
    pub fn open(&mut self, group: &str) -> Result<(), MatchError> {
        let name = || self.name.clone();
        let group = match group {
            "all" => Group::All,
            "any" => Group::Any,
            "not" => Group::Not,
            "degraded" => Group::Degraded,
            _ => return Err(MatchError::UnknownGroup { name: name(), group: group.to_owned() }),
        };
        if group == Group::Degraded && !self.open.is_empty() {
            return Err(MatchError::NestedDegraded { name: name() });
        }
        if self.open.len() == MAX_DEPTH {
            return Err(MatchError::TooDeep { name: name(), limit: MAX_DEPTH });
        }
        self.open.push((group, Vec::new()));
        Ok(())
    }

    /// Ends the innermost group.
    ///
    /// # Errors
    /// No group is open, or it has no lines.
    pub fn close(&mut self) -> Result<(), MatchError> {
        let Some((group, mut nodes)) = self.open.pop() else {
            return Err(MatchError::NotOpen { name: self.name.clone() });
        };
        if nodes.is_empty() {
            return Err(MatchError::EmptyGroup { name: self.name.clone(), group: group.as_str() });
        }
        nodes.sort_by_key(Node::needs);
        match group {
            Group::All => self.add(Node::All(nodes)),
            Group::Any => self.add(Node::Any(nodes)),
            Group::Not => self.add(Node::Not(nodes)),
            Group::Degraded => self.degraded.push(nodes),
        }
        Ok(())
    }

    /// The block, compiled. As with NGINX Plus, without a `status` line any status will do; with nothing but
    /// `degraded` groups it must be 200 to 399.
    ///
    /// # Errors
    /// A group is still open, or there are no tests.
    pub fn finish(self) -> Result<Match, MatchError> {
        if let Some((group, _)) = self.open.last() {
            return Err(MatchError::NotClosed { name: self.name, group: group.as_str() });
        }
        if self.checks.is_empty() && self.degraded.is_empty() && self.required.is_empty() {
            return Err(MatchError::Empty { name: self.name });
        }
        Ok(Match::new(self.checks, self.degraded, self.required))
    }

    fn add(&mut self, node: Node) {
        self.open.last_mut().map_or(&mut self.checks, |(_, nodes)| nodes).push(node);
    }
}
