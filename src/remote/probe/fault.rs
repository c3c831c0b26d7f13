//! Whose fault a broken probe is, and what to call it.

use std::error::Error;
use std::io;

use rustls::InvalidMessage;

use super::FailKind;
use super::progress::{Foul, Progress};
use super::tls::is_own_authority;

/// Bytes of a server's or a library's words that are shown.
const SHOWN: usize = 256;

/// Why there is no answer to judge.
#[derive(Debug)]
pub(super) enum Fault {
    /// This side's: no verdict.
    Own(String),
    /// The server's.
    Peer(FailKind, String),
}

impl Fault {
    /// `connect()`, or the making of the socket for it, failed.
    pub fn connect(error: io::Error) -> Self {
        if is_ours(&error) {
            return Self::Own(format!("cannot open a connection: {error}"));
        }
        Self::Peer(FailKind::Connect, format!("connect() failed: {error}"))
    }

    /// The TLS handshake failed.
    pub fn handshake(error: io::Error) -> Self {
        if is_ours(&error) {
            return Self::Own(format!("cannot go on: {error}"));
        }
        let what = match tls(&error) {
            Some(error) => told(error),
            None if error.kind() == io::ErrorKind::UnexpectedEof => "connection closed".to_owned(),
            None => shown(&error.to_string()),
        };
        Self::Peer(FailKind::Tls, format!("TLS handshake failed: {what}"))
    }

    /// The exchange failed at any point after connecting.
    pub fn http1(error: &hyper::Error, progress: &Progress) -> Self {
        if let Some(broken) = progress.take_broken() {
            return Self::broken(&broken);
        }
        // The library tells this one from other malformed heads by its words only; a test holds it to them.
        if error.is_parse() && error.to_string() == "message head is too large" {
            return Self::Peer(FailKind::HeaderTooLarge, Foul::Header.to_string());
        }
        let cut = cause(error).is_some_and(|io| io.kind() == io::ErrorKind::UnexpectedEof);
        // The library also calls "canceled" a request whose connection was closed before it was sent. A probe
        // that we cancel is dropped and makes no report, so here it is always the server that closed.
        if cut || error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
            return Self::closed();
        }
        let what = error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
        Self::Peer(FailKind::Protocol, shown(&what))
    }

    /// The same over HTTP/2.
    pub fn http2(error: &h2::Error, progress: &Progress) -> Self {
        if let Some(broken) = progress.take_broken() {
            return Self::broken(&broken);
        }
        // Without an error of the stream below it, this is the library's word for its end.
        if error.is_io() {
            return Self::closed();
        }
        let kind = if error.is_reset() && error.is_remote() { FailKind::Reset } else { FailKind::Protocol };
        Self::Peer(kind, shown(&error.to_string()))
    }

    /// The stream below the protocol broke.
    fn broken(error: &io::Error) -> Self {
        if is_ours(error) {
            return Self::Own(format!("cannot go on: {error}"));
        }
        if let Some(error) = tls(error) {
            return Self::Peer(FailKind::Tls, format!("TLS failed: {}", told(error)));
        }
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Foul>()) {
            Some(Foul::Header) => Self::Peer(FailKind::HeaderTooLarge, Foul::Header.to_string()),
            Some(foul) => Self::Peer(FailKind::Protocol, foul.to_string()),
            None => Self::Peer(FailKind::Reset, format!("connection failed: {error}")),
        }
    }

    fn closed() -> Self {
        Self::Peer(FailKind::Reset, "connection closed before the answer was complete".to_owned())
    }
}

/// The I/O error below `error`: one the library made up for a broken body.
fn cause(error: &hyper::Error) -> Option<&io::Error> {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io);
        }
        source = error.source();
    }
    None
}

/// The TLS error in an I/O error.
fn tls(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// The library's words, or better ones.
fn told(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "the server does not speak TLS".to_owned()
        }
        error if is_own_authority(error) => {
            "the certificate is an authority's, and is not itself among the trusted ones".to_owned()
        }
        error => shown(&error.to_string()),
    }
}

/// Whether an error tells of this host's shortage and not of the server.
fn is_ours(error: &io::Error) -> bool {
    const SHORTAGES: [i32; 5] =
        [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS, libc::EADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|code| SHORTAGES.contains(&code))
}

/// Words that a server may have had a hand in, fit for one line of a log: cut, control characters escaped.
pub(super) fn shown(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if out.len() >= SHOWN {
            out.push_str("...");
            break;
        }
        match c.is_control() {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
    }
    out
}
