//! The circuit breaker's decisions: what trips it, how long it stays open, what its words mean.
//!
//! CLOSED admits all. When a trip rule fires it is OPEN and admits none until its deadline; then HALF_OPEN
//! admits `half_open` test requests. All of them good: CLOSED. One bad: OPEN again, timer reset.
//!
//! The state itself lives in `shared::breaker`; here is everything about it that needs no memory.

mod event;
mod rules;
mod settings;
pub mod words;

pub use event::{Cause, Failure, Outcome, Seconds, Told, Transition};
pub use rules::{Evidence, Kept, Tally, bucket_millis, may_eject, open_millis, trip};
pub use settings::{Settings, SettingsError, Via};
pub use words::{Forced, State};

// Under loom less of everything, or there would be no end to the interleavings.
/// Time buckets that make up one window of the rate rules.
pub const BUCKETS: u64 = if cfg!(sluice_loom) { 2 } else { 10 };
/// Failure times kept: the largest `failures=`.
pub const LOG: usize = if cfg!(sluice_loom) { 2 } else { 32 };
/// Permits kept: the largest `half_open=`.
pub const PERMITS: usize = if cfg!(sluice_loom) { 2 } else { 8 };
