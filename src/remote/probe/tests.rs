//! Probes against real sockets. Each peer is a thread that plays one connection by a script.

mod backend;
mod exchange;
mod faults;
mod grpc;
mod kept;
mod question;
mod tcp;
mod tls;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::{FailKind, Kept, Manner, Outcome, Protocol, Report, Request, Target, TlsSettings, run_as};
use crate::policy::health::{Builder, Match};

/// A listener on a free port, and the thread that serves its first connection.
pub struct Peer {
    pub address: SocketAddr,
    thread: JoinHandle<String>,
}

impl Peer {
    /// `script` is run on the first connection after the request has been read.
    pub fn new(script: impl FnOnce(&mut TcpStream) + Send + 'static) -> Self {
        Self::raw(move |stream| {
            let head = read_head(stream);
            script(stream);
            head
        })
    }

    /// `script` is given the connection as it was accepted; what it returns is what was asked.
    pub fn raw(script: impl FnOnce(&mut TcpStream) -> String + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || script(&mut listener.accept().unwrap().0));
        Self { address, thread }
    }

    /// Sends `bytes` after the request and closes.
    pub fn says(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::new(move |stream| drop(stream.write_all(&bytes)))
    }

    /// The request it was sent, once its script is done.
    pub fn asked(self) -> String {
        self.thread.join().unwrap()
    }
}

pub fn read_head(stream: &mut impl Read) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// Sends `piece` every `pause` until the other side is gone, and proves by returning that it is.
pub fn drip(stream: &mut TcpStream, piece: &[u8], pause: Duration) {
    while stream.write_all(piece).is_ok() {
        std::thread::sleep(pause);
    }
}

/// Waits, sending nothing, until the other side has closed.
pub fn hang(stream: &mut TcpStream) {
    let mut rest = [0; 64];
    loop {
        match stream.read(&mut rest) {
            Ok(0) => return,
            Err(error) if error.kind() != ErrorKind::Interrupted => return,
            _ => {}
        }
    }
}

pub fn expect(lines: &[(&str, &[&str])]) -> Arc<Match> {
    let mut builder = Builder::new("t");
    lines.iter().for_each(|(directive, args)| builder.line(directive, args).unwrap());
    Arc::new(builder.finish().unwrap())
}

pub fn ok() -> Arc<Match> {
    Arc::new(Match::default())
}

pub fn healthy() -> Arc<Match> {
    expect(&[("status", &["200"]), ("json", &["$.status", "=", "healthy"])])
}

pub fn request(target: Target, expect: Arc<Match>) -> Request {
    Request {
        ticket: 7,
        target,
        host: "backend".to_owned(),
        method: "GET".to_owned(),
        uri: "/health".to_owned(),
        headers: Vec::new(),
        timeout: Duration::from_secs(5),
        expect,
        body_limit: 256 << 10,
        tells_head: false,
    }
}

/// One probe by HTTP/1.1 without TLS, on a connection of its own.
pub async fn run(request: Request) -> Report {
    run_as(request, &Manner::default(), &Kept::default()).await
}

pub fn made(request: Request) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(run(request))
}

/// One probe by the means of `manner`, keeping nothing.
pub fn made_as(request: Request, manner: &Manner) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(run_as(request, manner, &Kept::default())).outcome
}

/// The means without TLS and without keeping connections.
pub fn plain(protocol: Protocol) -> Manner {
    Manner::new(protocol, None, Duration::ZERO).unwrap()
}

pub fn secured(protocol: Protocol, settings: &TlsSettings<'_>) -> Manner {
    Manner::new(protocol, Some(settings), Duration::ZERO).unwrap()
}

/// The name of the test's server, sent and not verified.
pub const UNVERIFIED: TlsSettings<'static> =
    TlsSettings { name: "backend.example", sni: true, trusted: None, identity: None };

pub fn probe(peer: &Peer, expect: Arc<Match>) -> Outcome {
    made(request(Target::Tcp(peer.address), expect)).outcome
}

/// The reason a probe failed, by name, with the detail.
pub fn failed(outcome: &Outcome) -> (&'static str, &str) {
    match outcome {
        Outcome::Fail { kind, detail } => (FailKind::as_str(*kind), detail),
        Outcome::Pass => ("passed", ""),
        Outcome::Degraded(detail) => ("degraded", detail),
        Outcome::Unknown(detail) => ("unknown", detail),
    }
}
