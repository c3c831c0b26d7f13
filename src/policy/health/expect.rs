//! The compiled `match` block, and how it judges an answer.
//!
//! Lines are told apart by what they need: `status` first, then `header`, then `body` and `json`, so the reason
//! given is the cheapest one. A body that cannot be judged (encoded, cut, not JSON) fails the line in every
//! group, `not` included; only another line of an `any` can make up for it.

use std::borrow::Cow;
use std::cell::OnceCell;

use super::body::BodyTest;
use super::header::HeaderTest;
use super::json::{self, JsonTest};
use super::reason::{Reason, ReasonKind, quoted};
use super::status::StatusTest;

/// What a backend answered to a probe.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    pub status: u16,
    /// Names in any case, in the order they came; values without the blanks around them.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// As far as it was read.
    pub body: &'a [u8],
    /// Whether `body` is the whole of it.
    pub body_complete: bool,
}

impl<'a> Answer<'a> {
    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let named = move |header: &&(&str, &[u8])| header.0.eq_ignore_ascii_case(name);
        self.headers.iter().filter(named).map(|(_, value)| *value)
    }
}

/// What an answer says about the server that gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    /// All lines hold, and a `degraded` block does too: usable, but last choice.
    Degraded(Reason),
    Fail(Reason),
}

/// A `match` block, compiled once when the configuration is read.
#[derive(Debug)]
pub struct Match {
    checks: Vec<Node>,
    degraded: Vec<Vec<Node>>,
    required: Vec<String>,
}

impl Default for Match {
    /// A check without a `match` block: any status from 200 to 399.
    fn default() -> Self {
        Self { checks: vec![Node::success()], degraded: Vec::new(), required: Vec::new() }
    }
}

impl Match {
    /// `checks` must all hold, each member of `degraded` is the lines of one block, and `required` are names of
    /// variables.
    pub(super) fn new(mut checks: Vec<Node>, degraded: Vec<Vec<Node>>, required: Vec<String>) -> Self {
        if checks.is_empty() && required.is_empty() {
            checks.push(Node::success());
        }
        checks.sort_by_key(Node::needs);
        Self { checks, degraded, required }
    }

    /// The variables whose values must do besides, for the caller to ask [`require::unmet`](super::require::unmet).
    #[must_use]
    pub fn required(&self) -> &[String] {
        &self.required
    }

    /// The reason to fail that status and headers alone give, if they do: then the body need not be read.
    #[must_use]
    pub fn judge_head(&self, answer: &Answer<'_>) -> Option<Reason> {
        let ends = self.checks.partition_point(|node| node.needs() < Needs::Body);
        let held = all(&self.checks[..ends], &View::new(answer));
        held.map_or_else(Some, |finding| (!finding.holds).then(|| finding.reason()))
    }

    /// Judges a complete answer (or as much of it as the caller was willing to read).
    #[must_use]
    pub fn judge(&self, answer: &Answer<'_>) -> Verdict {
        let view = View::new(answer);
        match all(&self.checks, &view) {
            Err(reason) => return Verdict::Fail(reason),
            Ok(finding) if !finding.holds => return Verdict::Fail(finding.reason()),
            Ok(_) => {}
        }
        for lines in &self.degraded {
            match all(lines, &view) {
                // What a degraded block cannot judge must not take the server out, nor let it pass for well.
                Err(reason) => return Verdict::Degraded(reason),
                Ok(finding) if finding.holds => return Verdict::Degraded(finding.reason().into_degraded()),
                Ok(_) => {}
            }
        }
        Verdict::Pass
    }
}

/// What must have come before a node can be judged, in the order in which nodes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Needs {
    Status,
    Headers,
    Body,
}

/// A line or a group of lines.
#[derive(Debug)]
pub(super) enum Node {
    Line(Line),
    All(Vec<Self>),
    Any(Vec<Self>),
    Not(Vec<Self>),
}

impl Node {
    fn success() -> Self {
        Self::Line(Line::new(Test::Status(StatusTest::success())))
    }

    pub fn needs(&self) -> Needs {
        match self {
            Self::Line(line) => line.test.needs(),
            Self::All(nodes) | Self::Any(nodes) | Self::Not(nodes) => {
                nodes.iter().map(Self::needs).max().unwrap_or(Needs::Status)
            }
        }
    }

    fn look<'m>(&'m self, view: &View<'_>) -> Result<Finding<'m>, Reason> {
        match self {
            Self::Line(line) => line.look(view),
            Self::All(nodes) => all(nodes, view),
            Self::Any(nodes) => any(nodes, view),
            Self::Not(nodes) => all(nodes, view).map(Finding::negated),
        }
    }
}

/// One line of the block, with the texts that a [`Reason`] is made of.
#[derive(Debug)]
pub(super) struct Line {
    text: String,
    wanted: String,
    test: Test,
}

/// What one line tests.
#[derive(Debug)]
pub(super) enum Test {
    Status(StatusTest),
    Header(HeaderTest),
    Body(BodyTest),
    Json(JsonTest),
}

impl Test {
    fn needs(&self) -> Needs {
        match self {
            Self::Status(_) => Needs::Status,
            Self::Header(_) => Needs::Headers,
            Self::Body(_) | Self::Json(_) => Needs::Body,
        }
    }
}

impl Line {
    pub fn new(test: Test) -> Self {
        let (text, wanted) = match &test {
            Test::Status(test) => ("status".to_owned(), test.wanted()),
            Test::Header(test) => (format!("header {}", test.name()), test.wanted()),
            Test::Body(test) => ("body".to_owned(), test.wanted()),
            Test::Json(test) => (format!("json {}", test.path()), test.wanted()),
        };
        Self { text, wanted, test }
    }

    fn look<'m>(&'m self, view: &View<'_>) -> Result<Finding<'m>, Reason> {
        let (kind, holds, got) = match &self.test {
            Test::Status(test) => {
                (ReasonKind::Status, test.holds(view.answer.status), view.answer.status.to_string())
            }
            Test::Header(test) => (ReasonKind::Header, test.holds(view.answer), test.got(view.answer)),
            Test::Body(test) => {
                let body = view.body().map_err(|stop| self.stopped(stop))?;
                (ReasonKind::Body, test.holds(body), quoted(body))
            }
            Test::Json(test) => {
                let document = view.document().map_err(|stop| self.stopped(stop))?;
                let (holds, got) = test.look(document).map_err(|stop| self.stopped(stop))?;
                (ReasonKind::Json, holds, got)
            }
        };
        Ok(Finding { holds, kind, line: &self.text, wanted: Cow::Borrowed(&self.wanted), got })
    }

    fn stopped(&self, stop: Stop) -> Reason {
        let (kind, wanted, got) = match stop {
            Stop::Encoded(coding) => (ReasonKind::EncodedBody, "a body without encoding", coding),
            Stop::TooLarge(read) => (
                ReasonKind::BodyTooLarge,
                "a whole document",
                format!("body_too_large, cut after {read} bytes"),
            ),
            Stop::Invalid(what) => (ReasonKind::JsonInvalid, "a JSON document", what),
            Stop::TooComplex(what) => {
                (ReasonKind::JsonTooComplex, "a simpler document", format!("json_too_complex, {what}"))
            }
        };
        Reason::new(kind, &self.text, wanted, got)
    }
}

/// Why a body cannot be judged at all.
#[derive(Debug, Clone)]
pub(super) enum Stop {
    Encoded(String),
    TooLarge(usize),
    Invalid(String),
    TooComplex(String),
}

/// What a node found. Kept whether it holds or not: `not` and `degraded` tell of lines that do.
struct Finding<'m> {
    holds: bool,
    kind: ReasonKind,
    line: &'m str,
    wanted: Cow<'m, str>,
    got: String,
}

impl Finding<'_> {
    /// Of a group without lines, which the builder lets nobody make.
    fn nothing() -> Self {
        Self {
            holds: true,
            kind: ReasonKind::Status,
            line: "",
            wanted: Cow::Borrowed(""),
            got: String::new(),
        }
    }

    fn negated(mut self) -> Self {
        self.holds = !self.holds;
        self.wanted = Cow::Owned(format!("not {}", self.wanted));
        self
    }

    fn reason(self) -> Reason {
        Reason::new(self.kind, self.line, self.wanted, self.got)
    }
}

/// The first line that does not hold, or the last one.
fn all<'m>(nodes: &'m [Node], view: &View<'_>) -> Result<Finding<'m>, Reason> {
    let mut last = Finding::nothing();
    for node in nodes {
        last = node.look(view)?;
        if !last.holds {
            break;
        }
    }
    Ok(last)
}

/// The first line that holds; failing that, why a body could not be judged; failing that, the first line.
fn any<'m>(nodes: &'m [Node], view: &View<'_>) -> Result<Finding<'m>, Reason> {
    let (mut first, mut stopped) = (None, None);
    for node in nodes {
        match node.look(view) {
            Ok(finding) if finding.holds => return Ok(finding),
            Ok(finding) => first = first.or(Some(finding)),
            Err(reason) => stopped = stopped.or(Some(reason)),
        }
    }
    if let Some(reason) = stopped {
        return Err(reason);
    }
    let mut finding = first.unwrap_or_else(Finding::nothing);
    if nodes.len() > 1 {
        finding.wanted = Cow::Owned(format!("{} (any of {} lines)", finding.wanted, nodes.len()));
    }
    Ok(finding)
}

/// An answer during one judgement; the document is parsed once, and only if a line asks for it.
struct View<'a> {
    answer: &'a Answer<'a>,
    document: OnceCell<Result<serde_json::Value, Stop>>,
}

impl<'a> View<'a> {
    fn new(answer: &'a Answer<'a>) -> Self {
        Self { answer, document: OnceCell::new() }
    }

    fn body(&self) -> Result<&'a [u8], Stop> {
        let coded = |value: &&[u8]| !value.is_empty() && !value.eq_ignore_ascii_case(b"identity");
        match self.answer.values("content-encoding").find(coded) {
            Some(coding) => Err(Stop::Encoded(format!("encoded_body {}", quoted(coding)))),
            None => Ok(self.answer.body),
        }
    }

    fn document(&self) -> Result<&serde_json::Value, Stop> {
        self.document.get_or_init(|| self.parse()).as_ref().map_err(Stop::clone)
    }

    fn parse(&self) -> Result<serde_json::Value, Stop> {
        let body = self.body()?;
        if !self.answer.body_complete {
            return Err(Stop::TooLarge(body.len()));
        }
        json::parse(body)
    }
}
