//! Pure decisions. No nginx, no I/O, no clock, no randomness: `now` and random numbers are arguments.
#![forbid(unsafe_code)]

pub mod api;
pub mod balance;
pub mod ban;
pub mod breaker;
pub mod control;
pub mod events;
#[cfg(any(test, sluice_fuzz))]
pub mod fuzz;
pub mod health;
pub mod limit;
pub mod metrics;
pub mod traffic;

/// Milliseconds: a length of time, or a point in time on a clock the caller chose (nginx's monotonic
/// clock for shared memory, Redis's wall clock for Redis). The two are never mixed.
pub type Millis = u64;
