//! `/http`: what the http block holds.

use super::{Answer, Call, Outcome};
use crate::policy::api::Failure;

/// What stands below, ours at the end.
const NAMES: [&str; 0] = [];

/// Answers a call by the segments behind `http`.
pub fn route(call: &Call, path: &[&[u8]]) -> Outcome {
    match path {
        [] => call.get(|| Answer::document(200, &NAMES)),
        _ => Err(Failure::no_path()),
    }
}
