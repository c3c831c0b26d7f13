//! Probes that want no more than a connection.

use std::io::Read;
use std::net::TcpListener;
use std::time::Duration;

use super::super::{Outcome, Protocol, Request, Target};
use super::backend::{Nginx, pki};
use super::{Peer, UNVERIFIED, failed, hang, made_as, ok, plain, request, secured};

#[test]
fn a_connection_is_enough() {
    // Silent, or talking: neither is looked at.
    let peer = Peer::raw(|stream| {
        hang(stream);
        String::new()
    });
    assert_eq!(made_as(request(Target::Tcp(peer.address), ok()), &plain(Protocol::Tcp)), Outcome::Pass);
    peer.asked();
    let peer = Peer::raw(|stream| {
        std::io::Write::write_all(stream, b"220 mail ESMTP\r\n").unwrap();
        let mut sent = String::new();
        let _ = stream.read_to_string(&mut sent);
        sent
    });
    assert_eq!(made_as(request(Target::Tcp(peer.address), ok()), &plain(Protocol::Tcp)), Outcome::Pass);
    assert_eq!(peer.asked(), "", "nothing is said");
}

#[test]
fn by_ipv6() {
    let listener = TcpListener::bind("[::1]:0").unwrap();
    let target = Target::Tcp(listener.local_addr().unwrap());
    assert_eq!(made_as(request(target.clone(), ok()), &plain(Protocol::Tcp)), Outcome::Pass);
    drop(listener);
    let outcome = made_as(request(target, ok()), &plain(Protocol::Tcp));
    assert_eq!(failed(&outcome), ("connect", "connect() failed: Connection refused (os error 111)"));
}

#[test]
fn no_such_socket() {
    let outcome = made_as(request(Target::Unix("/nonexistent/s".into()), ok()), &plain(Protocol::Tcp));
    assert_eq!(failed(&outcome), ("connect", "connect() failed: No such file or directory (os error 2)"));
}

#[test]
fn with_tls_the_handshake_counts() {
    let nginx = Nginx::start(" ssl", &pki().good, "");
    let manner = secured(Protocol::Tcp, &UNVERIFIED);
    assert_eq!(made_as(request(Target::Tcp(nginx.address), ok()), &manner), Outcome::Pass);
    assert_eq!(made_as(request(Target::Unix(nginx.socket()), ok()), &manner), Outcome::Pass);
    let peer = Peer::raw(|stream| {
        hang(stream);
        String::new()
    });
    let timeout = Duration::from_millis(150);
    let hurried = Request { timeout, ..request(Target::Tcp(peer.address), ok()) };
    let outcome = made_as(hurried, &manner);
    assert_eq!(failed(&outcome), ("timeout", "timed out after 150 ms while negotiating TLS"));
    peer.asked();
}
