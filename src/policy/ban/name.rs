//! What a key is called: by its hash everywhere, and by itself only if it is an address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::super::limit::KeyHash;

/// A key as bans know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    pub hash: KeyHash,
    /// Set if the key is an address, which operators may see. Anything else may be a secret.
    pub address: Option<IpAddr>,
}

impl Name {
    /// The name of a raw key. With `binary` the key is `$binary_remote_addr` and nothing else; 4 or 16 other bytes
    /// may be a secret.
    ///
    /// An address has one name however it is written: IPv4 mapped into IPv6 is the IPv4 address.
    pub fn new(raw: &[u8], binary: bool) -> Self {
        let address = if binary { unpacked(raw) } else { written(raw) };
        match address {
            Some(address) => Self::of_address(address),
            None => Self { hash: KeyHash::new(raw), address: None },
        }
    }

    /// The name of what an operator typed: with `binary` an address in text.
    pub fn typed(text: &[u8], binary: bool) -> Option<Self> {
        match written(text) {
            Some(address) => Some(Self::of_address(address)),
            None if binary => None,
            None => Some(Self::new(text, false)),
        }
    }

    fn of_address(address: IpAddr) -> Self {
        let address = address.to_canonical();
        // No header or argument of a request holds a NUL: no other key has this hash.
        let mut bytes = [0; 17];
        let bytes = match address {
            IpAddr::V4(v4) => {
                bytes[1..5].copy_from_slice(&v4.octets());
                &bytes[..5]
            }
            IpAddr::V6(v6) => {
                bytes[1..].copy_from_slice(&v6.octets());
                &bytes[..]
            }
        };
        Self { hash: KeyHash::new(bytes), address: Some(address) }
    }
}

/// `$binary_remote_addr`
fn unpacked(raw: &[u8]) -> Option<IpAddr> {
    match raw.len() {
        4 => <[u8; 4]>::try_from(raw).ok().map(|octets| Ipv4Addr::from(octets).into()),
        16 => <[u8; 16]>::try_from(raw).ok().map(|octets| Ipv6Addr::from(octets).into()),
        _ => None,
    }
}

/// An address in text.
fn written(raw: &[u8]) -> Option<IpAddr> {
    /// No address is longer.
    const LONGEST: usize = 45;
    if raw.len() > LONGEST { None } else { core::str::from_utf8(raw).ok()?.parse().ok() }
}
