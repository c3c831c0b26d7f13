//! By what means the servers of one check are probed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::grpc::GrpcCheck;
use super::tls::{Tls, TlsError, TlsSettings};

/// Tells the checks of this process apart. 0 is the check by default means, which keeps no connection.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// What is spoken to a server.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Protocol {
    /// HTTP/1.1: the request is sent and its answer judged.
    #[default]
    Http,
    /// A connection, with TLS if that is asked for, is all that is wanted.
    Tcp,
    /// `grpc.health.v1.Health/Check` over HTTP/2. URI, method and match of the request are not used.
    Grpc(GrpcCheck),
}

/// The means of one check. Made once, when the configuration is read; clones are the same check.
///
/// The default is HTTP/1.1 without TLS, with a new connection for each probe.
#[derive(Debug, Clone, Default)]
pub struct Manner {
    id: u64,
    protocol: Protocol,
    tls: Option<Tls>,
    keep: Duration,
}

impl Manner {
    /// With `keep` above zero, a connection is used for further probes for that long since it was opened.
    ///
    /// # Errors
    /// TLS settings that cannot be used.
    pub fn new(protocol: Protocol, tls: Option<&TlsSettings<'_>>, keep: Duration) -> Result<Self, TlsError> {
        let offered: &[&[u8]] = match protocol {
            Protocol::Http => &[b"http/1.1"],
            Protocol::Tcp => &[],
            Protocol::Grpc(_) => &[b"h2"],
        };
        let tls = tls.map(|settings| Tls::new(settings, offered)).transpose()?;
        Ok(Self { id: NEXT.fetch_add(1, Ordering::Relaxed), protocol, tls, keep })
    }

    /// Whether it is by TLS.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    /// Of this check, in this process.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn protocol(&self) -> &Protocol {
        &self.protocol
    }

    pub(super) fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    pub(super) fn keep(&self) -> Duration {
        self.keep
    }

    /// Whether connections are kept at all.
    pub(super) fn keeps(&self) -> bool {
        !self.keep.is_zero()
    }
}
