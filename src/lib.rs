//! Sluice: rate limits shared through Redis, health checks that read the health document, and circuit
//! breakers, as one nginx dynamic module.
//!
//! # What lives where
//!
//! - [`policy`]: pure decisions. Rates, windows and GCRA, breaker rules, what a good health answer is. No nginx,
//!   no I/O, no clock: `now` and randomness are arguments.
//! - [`shared`]: what all workers see. Plain structs of atomics in zones of shared memory; all-zero is empty,
//!   a layout version stands at the head.
//! - [`remote`]: everything that talks to the network, on one I/O thread per worker: Redis and health probes.
//! - [`nginx`]: glue, the only folder that knows nginx. Directives, phase handlers, upstream wraps, zones.
//!
//! A feature has the same stem in each: `limit`, `ban`, `health`, `breaker`.
//!
//! # Which way the arrows go
//!
//! `policy` ← `shared` ← `nginx`, and `policy` ← `remote` ← `nginx`. `shared` and `remote` do not know each
//! other. `scripts/check` refuses any other arrow.
//!
//! # What never happens
//!
//! - The event loop never blocks, and the request path never locks: shared state is atomics, the network is the
//!   I/O thread's, answers come back through an eventfd.
//! - No pointer to a request leaves its worker's event loop: the thread gets tickets.
//! - No panic crosses into C: each entry catches it and gives its safe answer.
//! - No raw key, password or token reaches Redis, a log or a response.
//! - Nothing a worker holds (a permit, a probe, a lease) outlives it for longer than one lease.
#![cfg_attr(test, allow(dead_code))]

mod nginx;
mod policy;
mod remote;
mod shared;
