//! What an operator may change of a server, as NGINX Plus's API has it: reading a request's body, and writing the object.

mod address;
mod body;
mod change;
mod fault;
mod overrule;

pub use address::Address;
pub use body::{Draft, read};
pub use change::{Params, Patch, changes, seconds};
pub use fault::Fault;
pub use overrule::Overrule;

/// Longest route, as in the core.
pub const MAX_ROUTE: usize = 32;
/// Largest weight: a consistent hash keeps 160 points for each unit.
pub const MAX_WEIGHT: u32 = 65_535;
/// Longest time, in milliseconds: 30 days.
pub const MAX_TIME: super::Millis = 30 * 24 * 60 * 60 * 1000;

#[cfg(test)]
mod tests;
