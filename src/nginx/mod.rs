//! Glue: the only folder that knows nginx. Trampolines of a few lines over safe functions.

#[allow(dead_code, reason = "resources to come use the rest")]
mod api;
mod balance;
mod ban;
mod breaker;
mod cf;
mod conf;
mod content;
mod context;
mod control;
mod dashboard;
mod early;
mod entry;
mod events;
mod filter;
mod health;
mod limit;
mod log;
mod membership;
mod metrics;
mod module;
mod redis;
mod reject;
mod request;
mod rescue;
mod sys;
mod timer;
mod times;
mod traffic;
mod upstream;
mod variables;
mod wake;
mod worker;
mod zone;
