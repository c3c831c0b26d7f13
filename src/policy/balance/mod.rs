//! Balancing beside the balancer: how much of its share a server gets that has just come back, when a group is in
//! panic, which server a session is bound to, and what state all that leaves a server in.

mod because;
mod cookie;
mod outlook;
mod ramp;
mod state;

pub use because::{Barred, Reasons, because};
pub use cookie::{Attributes, Expires, cookie, is_name, is_value};
pub use outlook::{Mode, Outlook, Panic, Standing};
pub use ramp::{FULL, PICK, deposit, earned, share};
pub use state::{Facts, State};

#[cfg(test)]
mod tests;
