//! Paths: part of JSONPath (RFC 9535: names, indexes, wildcards, descendants) and JSON Pointer (RFC 6901).

mod syntax;

use serde_json::Value;

use super::super::error::MatchError;
use super::super::expect::Stop;
use super::super::reason::quoted;

/// Nodes that one path may visit in one document.
const MAX_NODES: usize = 1024;
/// Steps that a path may have.
const MAX_STEPS: usize = 32;

/// A compiled path.
#[derive(Debug)]
pub(super) struct Path {
    text: String,
    steps: Vec<Step>,
}

/// From each node to its children, or (`descend`) from each node and all below it to theirs.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    descend: bool,
    selector: Selector,
}

#[derive(Debug, PartialEq, Eq)]
enum Selector {
    Name(String),
    /// From the end if negative.
    Index(i64),
    Wildcard,
    /// A reference token of a pointer: a name for objects, an index for arrays.
    Token(String),
}

impl Path {
    pub fn parse(text: &str) -> Result<Self, MatchError> {
        let steps = syntax::steps(text)?;
        Ok(Self { text: text.to_owned(), steps })
    }

    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it can lead to one node at most.
    pub fn is_singular(&self) -> bool {
        self.steps.iter().all(|step| !step.descend && step.selector != Selector::Wildcard)
    }

    /// The nodes that the path leads to, in the order of RFC 9535.
    pub fn find<'v>(&self, document: &'v Value) -> Result<Found<'v>, Stop> {
        let mut walk = Walk { spots: vec![Spot { value: document, parent: 0, key: Key::Root }] };
        let mut here = vec![0];
        for step in &self.steps {
            let mut next = Vec::new();
            for at in here {
                if step.descend {
                    walk.descend(at, &step.selector, &mut next)?;
                } else {
                    walk.select(at, &step.selector, &mut next)?;
                }
            }
            here = next;
        }
        Ok(Found { walk, hits: here })
    }
}

/// A node that was visited, and how it was reached.
#[derive(Debug)]
struct Spot<'v> {
    value: &'v Value,
    parent: usize,
    key: Key<'v>,
}

#[derive(Debug, Clone, Copy)]
enum Key<'v> {
    Root,
    Name(&'v str),
    Index(usize),
}

#[derive(Debug)]
struct Walk<'v> {
    spots: Vec<Spot<'v>>,
}

impl<'v> Walk<'v> {
    fn visit(&mut self, value: &'v Value, parent: usize, key: Key<'v>) -> Result<usize, Stop> {
        if self.spots.len() == MAX_NODES {
            return Err(Stop::TooComplex(format!("more than {MAX_NODES} nodes")));
        }
        self.spots.push(Spot { value, parent, key });
        Ok(self.spots.len() - 1)
    }

    /// Adds the children of `at` that `selector` names to `out`.
    fn select(&mut self, at: usize, selector: &Selector, out: &mut Vec<usize>) -> Result<(), Stop> {
        let one = match (self.spots[at].value, selector) {
            (_, Selector::Wildcard) => return self.children(at, out),
            (Value::Object(members), Selector::Name(name) | Selector::Token(name)) => {
                members.get_key_value(name).map(|(name, value)| (value, Key::Name(name)))
            }
            (Value::Array(elements), Selector::Index(index)) => {
                element(elements, resolve(*index, elements.len()))
            }
            (Value::Array(elements), Selector::Token(token)) => element(elements, pointer_index(token)),
            _ => None,
        };
        if let Some((value, key)) = one {
            out.push(self.visit(value, at, key)?);
        }
        Ok(())
    }

    fn children(&mut self, at: usize, out: &mut Vec<usize>) -> Result<(), Stop> {
        match self.spots[at].value {
            Value::Array(elements) => {
                for (i, value) in elements.iter().enumerate() {
                    out.push(self.visit(value, at, Key::Index(i))?);
                }
            }
            Value::Object(members) => {
                for (name, value) in members {
                    out.push(self.visit(value, at, Key::Name(name))?);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Selects from `at` and from every node below it, parents first, and visits none twice.
    fn descend(&mut self, at: usize, selector: &Selector, out: &mut Vec<usize>) -> Result<(), Stop> {
        let mut pending = vec![at];
        while let Some(at) = pending.pop() {
            let first = pending.len();
            self.children(at, &mut pending)?;
            let length = pending.len() - first;
            out.extend(pending[first..].iter().filter(|kid| self.spots[**kid].key.is(selector, length)));
            pending[first..].reverse();
        }
        Ok(())
    }
}

impl Key<'_> {
    /// Whether `selector` names this child among `length` siblings.
    fn is(self, selector: &Selector, length: usize) -> bool {
        match (self, selector) {
            (_, Selector::Wildcard) => true,
            (Self::Name(name), Selector::Name(wanted)) => name == wanted,
            (Self::Index(index), Selector::Index(wanted)) => resolve(*wanted, length) == Some(index),
            _ => false,
        }
    }
}

fn element(elements: &[Value], index: Option<usize>) -> Option<(&Value, Key<'_>)> {
    let index = index?;
    elements.get(index).map(|value| (value, Key::Index(index)))
}

fn resolve(index: i64, length: usize) -> Option<usize> {
    let from_end = i64::try_from(length).ok()?;
    usize::try_from(if index < 0 { from_end + index } else { index }).ok()
}

/// RFC 6901 section 4: digits without a leading zero. `-` names the element after the last: none.
fn pointer_index(token: &str) -> Option<usize> {
    let digits = token.bytes().all(|b| b.is_ascii_digit());
    let canonical = token == "0" || !token.starts_with('0');
    (digits && canonical).then(|| token.parse().ok()).flatten()
}

/// The nodes a path led to.
#[derive(Debug)]
pub(super) struct Found<'v> {
    walk: Walk<'v>,
    hits: Vec<usize>,
}

impl<'v> Found<'v> {
    pub fn is_empty(&self) -> bool {
        self.hits.is_empty()
    }

    pub fn len(&self) -> usize {
        self.hits.len()
    }

    pub fn value(&self, index: usize) -> Option<&'v Value> {
        self.hits.get(index).map(|hit| self.walk.spots[*hit].value)
    }

    /// The first node that passes `test`.
    pub fn position(&self, test: impl Fn(&Value) -> bool) -> Option<usize> {
        self.hits.iter().position(|hit| test(self.walk.spots[*hit].value))
    }

    /// Where a node stands, as a path that leads to it alone. The names are the backend's: cut and escaped.
    pub fn location(&self, index: usize) -> String {
        let mut keys = Vec::new();
        let mut at = self.hits.get(index).copied().unwrap_or(0);
        while at != 0 {
            keys.push(self.walk.spots[at].key);
            at = self.walk.spots[at].parent;
        }
        let mut out = String::from("$");
        for key in keys.into_iter().rev() {
            match key {
                Key::Root => {}
                Key::Index(index) => out.push_str(&format!("[{index}]")),
                Key::Name(name) if syntax::is_shorthand(name) && name.len() <= 64 => {
                    out.push('.');
                    out.push_str(name);
                }
                Key::Name(name) => out.push_str(&format!("[{}]", quoted(name.as_bytes()))),
            }
            if out.len() > 256 {
                return out + "...";
            }
        }
        out
    }
}
