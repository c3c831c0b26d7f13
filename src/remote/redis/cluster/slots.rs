//! Which server serves which key: the hash slots of Redis Cluster, and who owns them.

use ::redis::{RedisError, Value};

use super::super::Server;
use super::super::script::probe_key;

/// Number of hash slots.
pub(super) const SLOTS: u16 = 16384;

/// The owner of each slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct SlotMap {
    primaries: Vec<Server>,
    /// For each slot the place in `primaries`, plus one; 0: nobody's.
    owners: Vec<u16>,
}

/// Hash slot of a key: CRC16 of what stands between the first `{` and the next `}`, if anything does, or of the
/// whole (Redis Cluster specification, "Hash tags").
pub(in super::super) fn slot(key: &str) -> u16 {
    let bytes = key.as_bytes();
    let tag = bytes.iter().position(|&b| b == b'{').and_then(|open| {
        let rest = &bytes[open + 1..];
        let close = rest.iter().position(|&b| b == b'}')?;
        (close > 0).then(|| &rest[..close])
    });
    crc16(tag.unwrap_or(bytes)) % SLOTS
}

/// CRC-16/XMODEM: polynomial 0x1021, start 0, nothing reflected.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, &byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    })
}

impl SlotMap {
    /// Reads the reply to CLUSTER SLOTS. A server that leaves its own address out means the one it was asked at.
    ///
    /// # Errors
    /// If the reply is something else, or names no primary.
    pub(in super::super) fn read(reply: &Value, asked: &Server) -> Result<Self, &'static str> {
        let Value::Array(ranges) = reply else { return Err("no list of slots") };
        let mut map = Self { primaries: Vec::new(), owners: vec![0; usize::from(SLOTS)] };
        for range in ranges {
            let Value::Array(parts) = range else { return Err("no range of slots") };
            let [Value::Int(first), Value::Int(last), Value::Array(primary), ..] = &parts[..] else {
                return Err("a range of slots without a primary");
            };
            let (first, last) = (number(*first)?, number(*last)?);
            let server = address(primary, asked)?;
            (first..=last).for_each(|slot| map.assign(slot, &server));
        }
        if map.primaries.is_empty() { Err("the cluster has no slots") } else { Ok(map) }
    }

    /// Who serves `slot`.
    pub(super) fn owner(&self, slot: u16) -> Option<&Server> {
        let place = self.owners.get(usize::from(slot))?.checked_sub(1)?;
        self.primaries.get(usize::from(place))
    }

    /// `slot` has moved to `server`.
    pub(super) fn assign(&mut self, slot: u16, server: &Server) {
        let place = self.primaries.iter().position(|known| known == server).unwrap_or_else(|| {
            self.primaries.push(server.clone());
            self.primaries.len() - 1
        });
        if let (Some(owner), Ok(place)) = (self.owners.get_mut(usize::from(slot)), u16::try_from(place + 1)) {
            *owner = place;
        }
    }

    /// All that were named.
    pub(super) fn primaries(&self) -> &[Server] {
        &self.primaries
    }

    /// Whether any slot is left to `server`.
    pub(super) fn owns(&self, server: &Server) -> bool {
        let place = self.primaries.iter().position(|known| known == server);
        let place = place.and_then(|place| u16::try_from(place + 1).ok());
        place.is_some_and(|place| self.owners.contains(&place))
    }

    /// A key of our own that `server` serves; none if it has no slot. `turn` picks another one each time, should
    /// one slot be on the move just now.
    pub(super) fn probe_key(&self, server: &Server, prefix: &str, turn: u32) -> Option<String> {
        if !self.owns(server) {
            return None;
        }
        // Half a million tags leave hardly a slot out.
        let mut keys = (0..1 << 19).map(|tag| probe_key(prefix, Some(tag)));
        keys.by_ref().filter(|key| self.owner(slot(key)) == Some(server)).nth(turn as usize % 4)
    }
}

/// A slot's number.
fn number(value: i64) -> Result<u16, &'static str> {
    u16::try_from(value).ok().filter(|&slot| slot < SLOTS).ok_or("no such slot")
}

/// Host and port of a node in CLUSTER SLOTS.
fn address(node: &[Value], asked: &Server) -> Result<Server, &'static str> {
    let [host, Value::Int(port), ..] = node else { return Err("a primary without an address") };
    let host = match host {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).map_err(|_| "a host that is no text")?,
        Value::SimpleString(text) => text.as_str(),
        _ => "",
    };
    let port = u16::try_from(*port).ok().filter(|&port| port != 0).ok_or("a primary without a port")?;
    Ok(at(host, port, asked))
}

/// The server at `host`, which is that of `asked` if nothing is known.
fn at(host: &str, port: u16, asked: &Server) -> Server {
    let host = match asked {
        Server::Tcp { host: same, .. } if host.is_empty() || host == "?" => same,
        _ => host,
    };
    Server::Tcp { host: host.to_owned(), port: Some(port) }
}

/// Where a MOVED or ASK leads: the slot and the server.
pub(super) fn redirection(error: &RedisError, asked: &Server) -> Option<(u16, Server)> {
    let (address, slot) = error.redirect_node()?;
    let (host, port) = address.rsplit_once(':')?;
    let port = port.parse().ok().filter(|&port| port != 0)?;
    (slot < SLOTS).then(|| (slot, at(host, port, asked)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Server {
        Server::Tcp { host: host.to_owned(), port: Some(port) }
    }

    #[test]
    fn slots_are_those_of_the_specification() {
        assert_eq!(crc16(b"123456789"), 0x31c3);
        // As CLUSTER KEYSLOT says.
        assert_eq!((slot("foo"), slot("a{foo}b"), slot("{foo}{bar}")), (12182, 12182, 12182));
        assert_eq!(slot("foo{}{bar}"), crc16(b"foo{}{bar}") % SLOTS);
        assert_eq!(slot("foo{{bar}}zap"), crc16(b"{bar") % SLOTS);
    }

    fn range(first: i64, last: i64, host: Value, port: i64) -> Value {
        let node = Value::Array(vec![host, Value::Int(port), Value::SimpleString("id".to_owned())]);
        Value::Array(vec![Value::Int(first), Value::Int(last), node])
    }

    #[test]
    fn reads_cluster_slots() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let reply = Value::Array(vec![
            range(0, 99, text("10.0.0.1"), 7000),
            range(100, 16382, Value::Nil, 7001),
            range(16383, 16383, text("10.0.0.1"), 7000),
        ]);
        let mut map = SlotMap::read(&reply, &tcp("seed", 1)).unwrap();
        assert_eq!(map.primaries(), [tcp("10.0.0.1", 7000), tcp("seed", 7001)]);
        assert_eq!(map.owner(16383), Some(&tcp("10.0.0.1", 7000)));
        assert_eq!(map.owner(100), Some(&tcp("seed", 7001)));
        let key = map.probe_key(&tcp("10.0.0.1", 7000), "sluice", 1).unwrap();
        assert_eq!(map.owner(slot(&key)), Some(&tcp("10.0.0.1", 7000)));
        assert_eq!(map.probe_key(&tcp("other", 1), "sluice", 0), None);
        (0..SLOTS).for_each(|slot| map.assign(slot, &tcp("other", 1)));
        assert!(map.owns(&tcp("other", 1)) && !map.owns(&tcp("seed", 7001)));
        for bad in [
            Value::Nil,
            Value::Array(vec![]),
            Value::Array(vec![range(0, 16384, text("h"), 1)]),
            Value::Array(vec![range(0, 1, text("h"), 0)]),
            Value::Array(vec![Value::Array(vec![Value::Int(0)])]),
        ] {
            assert!(SlotMap::read(&bad, &tcp("seed", 1)).is_err(), "{bad:?}");
        }
    }
}
