//! Everything that talks to the network, on one I/O thread per worker.
//!
//! The nginx layer hands over [`Job`]s and takes back [`Done`]s; neither carries a pointer, only tickets.
//! No nginx type is known here, and nothing in here is ever called from two threads at once but [`redis::Gate`].
#![forbid(unsafe_code)]

mod engine;
pub mod probe;
pub mod redis;

pub use engine::{Done, Engine, Job};
