//! Health: what a good answer is, and how many bad ones it takes.
//!
//! [`Match`] is a compiled `match` block and judges one [`Answer`]; [`State`] counts verdicts in a row.

mod body;
mod builder;
mod error;
mod expect;
mod finding;
mod header;
mod json;
mod pattern;
mod reason;
pub mod require;
pub mod schedule;
mod status;
mod verdict;

#[cfg(test)]
mod tests;

pub use builder::Builder;
pub use error::MatchError;
pub use expect::{Answer, Match, Verdict};
pub use finding::{CHANGES, FINDINGS, change, finding};
#[cfg(any(test, sluice_fuzz))]
pub use json::found;
pub use reason::ReasonKind;
pub use verdict::{Change, Condition, Probe, State, Thresholds, apply};
