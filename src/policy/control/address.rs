//! The address of a server that is added: numbers or a socket's path, never a name, which somebody would have to resolve.

use std::net::{IpAddr, SocketAddr};

use super::Fault;

/// Longest path of a socket.
const MAX_PATH: usize = 107;
/// `proxy_pass http://` and the like mean this port.
const PORT: u16 = 80;

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Inet(SocketAddr),
    Unix(String),
}

impl Address {
    /// Reads `IP[:PORT]`, `[IPV6][:PORT]` or `unix:PATH`.
    ///
    /// # Errors
    /// [`Fault::Address`], or [`Fault::NoResolver`] for what may be the name of a host.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        let bad = || Fault::Address(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            let good = path.starts_with('/') && path.len() <= MAX_PATH && !path.contains(char::is_control);
            return if good { Ok(Self::Unix(path.to_owned())) } else { Err(bad()) };
        }
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or_else(bad)?;
                (IpAddr::V6(host.parse().map_err(|_| bad())?), Some(rest).filter(|rest| !rest.is_empty()))
            }
            None => {
                let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
                let ip = host.parse().map_err(|_| {
                    match is_name(host) && port.bytes().skip(1).all(|byte| byte.is_ascii_digit()) {
                        true => Fault::NoResolver(text.to_owned()),
                        false => bad(),
                    }
                })?;
                (IpAddr::V4(ip), Some(port).filter(|port| !port.is_empty()))
            }
        };
        let number = |port: &str| {
            let digits = port.strip_prefix(':')?;
            let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse().ok().filter(|port| plain && *port != 0)
        };
        let port = port.map_or(Some(PORT), number).ok_or_else(bad)?;
        Ok(Self::Inet(SocketAddr::new(host, port)))
    }
}

/// Whether it looks like the name of a host and not like a mistyped address.
fn is_name(host: &str) -> bool {
    let plain = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    plain && host.bytes().any(|byte| byte.is_ascii_alphabetic())
}

/// As nginx prints it.
impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Inet(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written() {
        for (text, name) in [
            ("127.0.0.1", "127.0.0.1:80"),
            ("10.0.0.1:8080", "10.0.0.1:8080"),
            ("[::1]", "[::1]:80"),
            ("[2001:db8::1]:8443", "[2001:db8::1]:8443"),
            ("unix:/run/app.sock", "unix:/run/app.sock"),
        ] {
            let address = Address::parse(text).unwrap();
            assert_eq!(address.to_string(), name);
            assert_eq!(Address::parse(name), Ok(address));
        }
    }

    #[test]
    fn names_need_a_resolver_and_the_rest_is_refused() {
        for name in ["backend.example.com", "backend:8080", "localhost"] {
            assert_eq!(Address::parse(name).unwrap_err().code(), "UpstreamConfNoResolver", "{name}");
        }
        let long = format!("unix:/{}", "x".repeat(108));
        for bad in [
            "",
            ":80",
            "127.0.0.1:",
            "127.0.0.1:0",
            "127.0.0.1:65536",
            "127.0.0.1:+80",
            "127.0.0.300",
            "1.2.3",
            "[::1",
            "[::1]80",
            "[::1]:",
            "[127.0.0.1]:80",
            "::1",
            "unix:",
            "unix:relative",
            &long,
            "http://a/",
            "10.0.0.1:80:81",
            "10.0.0.1 :80",
            "a b",
        ] {
            assert_eq!(Address::parse(bad).unwrap_err().code(), "UpstreamBadAddress", "{bad}");
        }
    }
}
