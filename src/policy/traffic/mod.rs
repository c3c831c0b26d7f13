//! What traffic is counted by: status codes, each with a cell of its own, and lengths of time in fixed buckets.

mod codes;
mod histogram;
mod moving;

pub use codes::{CLASSES, KNOWN, class_of, code_at, index_of};
pub use histogram::{DURATION, RESPONSE, bucket};
pub use moving::{moved, shown};
