//! Sluice.
#![cfg_attr(test, allow(dead_code))]

mod policy;
mod shared;
mod remote;
mod nginx;
