//! What Redis replies, as a function of plain bytes: see `policy::fuzz`.

use std::time::Instant;

use super::batch::{Batch, Terms};
use super::cluster::slots::{SlotMap, slot};
use super::{Act, Call, Limit, Server};
use crate::policy::limit::{Algorithm, Delay, Rate, Rule};

/// A reply to the script, or to CLUSTER SLOTS, as it comes over the wire.
pub fn redis_reply(data: &[u8]) {
    let Ok(reply) = ::redis::parse_redis_value(data) else { return };
    let asked = Server::Tcp { host: "redis".to_owned(), port: Some(6379) };
    if let Ok(map) = SlotMap::read(&reply, &asked) {
        assert!(format!("{map:?}").len() > 1);
    }
    let rate = Rate { count: 10, period: 1_000 };
    let algorithms = [Algorithm::Gcra, Algorithm::SlidingWindow, Algorithm::FixedWindow];
    let mut batch = Batch::new(Terms { gateways: 2, learning: false });
    for (ticket, algorithm) in algorithms.into_iter().enumerate() {
        let Ok(rule) = Rule::new(algorithm, rate, Some(5), Delay::None) else { return };
        let act = Act::Take { cost: 1, more: 4, unused: None };
        let limits = vec![Limit { key: format!("key{ticket}"), rule, act, known: 0 }];
        batch.push(Instant::now(), Call { ticket: ticket as u64, link: 0, limits });
    }
    if let Ok(decoded) = batch.decode(reply) {
        assert_eq!(decoded.rulings.len(), 3);
    }
}

/// The address of a server, and a key.
pub fn redis_server(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(server) = Server::parse(text) {
        assert_eq!(Server::parse(&server.to_string()), Ok(server), "{text:?}");
    }
    assert!(slot(text) < 16_384);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::fuzz::smoke;

    #[test]
    fn no_reply_is_too_strange() {
        smoke("redis_reply", redis_reply);
        smoke("redis_server", redis_server);
    }
}
