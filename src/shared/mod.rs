//! What all workers see: plain `#[repr(C)]` structs of atomics in a zone of shared memory.
//!
//! Nothing here locks, allocates or holds a pointer into the zone's memory from the zone: a worker killed at
//! any instruction, a reload or a replaced binary leave a state that the next reader understands. All bytes
//! zero is empty, and each zone starts with a [`seal`] that says how it is laid out.
#![deny(unsafe_code)]

pub mod balance;
pub mod ban;
pub mod breaker;
pub mod cell;
pub mod control;
pub mod events;
pub mod health;
pub mod limit;
pub mod outage;
mod seal;
pub mod sessions;
mod table;
pub mod traffic;
pub mod upstream;
