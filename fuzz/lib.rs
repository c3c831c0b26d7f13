//! The module's sources that know nothing of nginx.
#![allow(dead_code, unused_imports, reason = "what only nginx's side uses")]

#[path = "../src/policy/mod.rs"]
pub mod policy;
#[path = "../src/remote/mod.rs"]
pub mod remote;
