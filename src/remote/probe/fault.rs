//! Whose fault a broken probe is, and what to call it.

use std::error::Error;
use std::io;

use super::FailKind;
use super::progress::Flood;

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

    /// The exchange failed at any point after connecting.
    pub fn exchange(error: &hyper::Error) -> Self {
        let io = cause(error);
        if let Some(io) = io.filter(|io| io.raw_os_error().is_some()) {
            return match is_ours(io) {
                true => Self::Own(format!("cannot go on: {io}")),
                false => Self::Peer(FailKind::Reset, format!("connection failed: {io}")),
            };
        }
        let flood = io.and_then(io::Error::get_ref).is_some_and(|inner| inner.is::<Flood>());
        // The library tells this one from other malformed heads by its words only; a test holds it to them.
        if flood || error.is_parse() && error.to_string() == "message head is too large" {
            return Self::Peer(FailKind::HeaderTooLarge, "response header is too large".to_owned());
        }
        let cut = io.is_some_and(|io| io.kind() == io::ErrorKind::UnexpectedEof);
        // The library also calls "canceled" a request whose connection was closed before it was sent. A probe
        // that we cancel is dropped and makes no report, so here it is always the server that closed.
        if cut || error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
            return Self::Peer(
                FailKind::Reset,
                "connection closed before the answer was complete".to_owned(),
            );
        }
        let what = error.source().map_or_else(|| error.to_string(), |source| format!("{error}: {source}"));
        Self::Peer(FailKind::Protocol, what)
    }
}

/// The I/O error below `error`: the system's if it has a code, else one the library made up for a broken body.
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

/// Whether an error tells of this host's shortage and not of the server.
fn is_ours(error: &io::Error) -> bool {
    const SHORTAGES: [i32; 5] =
        [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS, libc::EADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|code| SHORTAGES.contains(&code))
}
