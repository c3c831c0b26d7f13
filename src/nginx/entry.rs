//! The one door from C into Rust: a panic stops here, is logged, and becomes the entry's safe answer.
//!
//! Unwinding out of an `extern "C"` function aborts the process, which for nginx means a lost worker or,
//! while a configuration is read, a dead master. Every function nginx calls therefore wraps its body in
//! [`entry!`], naming what the caller is to be told when the body panics.

use std::any::Any;

/// Runs `$body`; if it panics, logs an alert naming `$what` and evaluates to `$safe`.
macro_rules! entry {
    ($what:literal, $safe:expr, $body:block) => {
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| $body)) {
            Ok(value) => value,
            Err(panic) => {
                $crate::nginx::entry::report($what, panic.as_ref());
                $safe
            }
        }
    };
}
pub(super) use entry;

/// Logs a caught panic to the cycle's log at level alert.
pub(super) fn report(entry: &str, panic: &(dyn Any + Send)) {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("unknown panic");
    super::log::cycle(super::log::Level::Alert, format_args!("sluice: internal error in {entry}: {text}"));
}
