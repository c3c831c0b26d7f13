//! What stands for a client's key outside this process: a hash, because the key may be a bearer token.

use std::fmt;
use std::net::IpAddr;

use super::Algorithm;

/// BLAKE3 of the raw key, the first 128 bits. Two different keys that share one would take 2^64 tries to
/// find, and would only share their own limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyHash([u8; 16]);

impl KeyHash {
    /// Hashes the raw key: any bytes, any length.
    pub fn new(raw: &[u8]) -> Self {
        let mut half = [0; 16];
        half.copy_from_slice(&blake3::hash(raw).as_bytes()[..16]);
        Self(half)
    }

    /// Hashes a key as an operator types it: with `binary` the key is `$binary_remote_addr`, and its address is meant, in text.
    pub fn typed(text: &[u8], binary: bool) -> Self {
        let address = core::str::from_utf8(text).ok().and_then(|text| text.parse::<IpAddr>().ok());
        match address.filter(|_| binary) {
            Some(IpAddr::V4(address)) => Self::new(&address.octets()),
            Some(IpAddr::V6(address)) => Self::new(&address.octets()),
            None => Self::new(text),
        }
    }

    /// The hash that [`Display`](fmt::Display) wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let plain = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        plain.then(|| u128::from_str_radix(text, 16).ok()).flatten().map(|bits| Self(bits.to_be_bytes()))
    }

    /// The hash whose two halves these are.
    pub fn from_u64s((high, low): (u64, u64)) -> Self {
        Self((u128::from(high) << 64 | u128::from(low)).to_be_bytes())
    }

    /// Another key's hash, made of this one's and one of something else: as hard to meet as either.
    pub fn with(&self, other: &Self) -> Self {
        Self((u128::from_be_bytes(self.0) ^ u128::from_be_bytes(other.0)).to_be_bytes())
    }

    /// The two halves, as independent 64-bit numbers.
    pub fn as_u64s(&self) -> (u64, u64) {
        let value = u128::from_be_bytes(self.0);
        ((value >> 64) as u64, value as u64)
    }
}

/// 32 lower-case hexadecimal digits.
impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// The Redis key of one limit of one client: `PREFIX:{HASH}:ZONE:g1`.
///
/// The braces are Redis Cluster's hash tag, so all limits of one client key share a slot and one script can
/// decide them. The last part names algorithm and format version: a state is never read as another's.
pub fn redis_key(prefix: &str, zone: &str, key: &KeyHash, algorithm: Algorithm) -> String {
    let format = match algorithm {
        Algorithm::Gcra => "g1",
        Algorithm::SlidingWindow => "w1",
        Algorithm::FixedWindow => "f1",
    };
    format!("{prefix}:{{{key}}}:{zone}:{format}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_blake3_truncated() {
        // First half of BLAKE3's published hash of the empty input.
        let key = KeyHash::new(b"");
        assert_eq!(key.to_string(), "af1349b9f5f9a1a6a0404dea36dcc949");
        assert_eq!(key.as_u64s(), (0xaf13_49b9_f5f9_a1a6, 0xa040_4dea_36dc_c949));
        assert_eq!(KeyHash::from_u64s(key.as_u64s()), key);
        assert_eq!(KeyHash::parse(&key.to_string()), Some(key));
        for text in [
            "",
            "af1349b9f5f9a1a6a0404dea36dcc94",
            "+f1349b9f5f9a1a6a0404dea36dcc949",
            "AF1349B9F5F9A1A6A0404DEA36DCC949",
        ] {
            assert_eq!(KeyHash::parse(text), None, "{text}");
        }
        assert_eq!(key.with(&KeyHash::new(b"x")).with(&KeyHash::new(b"x")), key);
    }

    #[test]
    fn an_operator_types_addresses() {
        let v6 = "2001:db8::1".parse::<std::net::Ipv6Addr>().unwrap();
        assert_eq!(KeyHash::typed(b"127.0.0.1", true), KeyHash::new(&[127, 0, 0, 1]));
        assert_eq!(KeyHash::typed(b"2001:DB8:0::1", true), KeyHash::new(&v6.octets()));
        assert_eq!(KeyHash::typed(b"127.0.0.1", false), KeyHash::new(b"127.0.0.1"));
        assert_eq!(KeyHash::typed(&[127, 1, 2, 3], true), KeyHash::new(&[127, 1, 2, 3]), "as it comes");
    }

    #[test]
    fn names_the_state_in_redis() {
        let key = KeyHash::new(b"}{ Bearer secret");
        let name = redis_key("sluice", "api", &key, Algorithm::Gcra);
        assert_eq!(name, format!("sluice:{{{key}}}:api:g1"));
        assert!(redis_key("p", "z", &key, Algorithm::SlidingWindow).ends_with(":z:w1"));
        assert!(redis_key("p", "z", &key, Algorithm::FixedWindow).ends_with(":z:f1"));
    }
}
