//! Answers in every framing that HTTP/1 has.

use std::io::Write;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use super::super::{Head, Outcome, Request, Target};
use super::{Peer, expect, failed, healthy, made, ok, probe, read_head, request};
use crate::policy::health::Builder;

const GOOD: &str = r#"{"status":"healthy"}"#;

#[test]
fn framings() {
    let length = GOOD.len();
    for answer in [
        format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{GOOD}"),
        format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}\r\nf;x=y\r\n{}\r\n0\r\nT: v\r\n\r\n",
            &GOOD[..5],
            &GOOD[5..]
        ),
        format!("HTTP/1.1 200 OK\r\n\r\n{GOOD}"),
        format!("HTTP/1.0 200 OK\r\nServer: old\r\n\r\n{GOOD}"),
        format!("HTTP/1.1 200\r\nConnection: keep-alive\r\nContent-Length: {length}\r\n\r\n{GOOD}"),
        format!(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n{GOOD}"
        ),
        format!("HTTP/1.1 200 OK\nContent-Length: {length}\n\n{GOOD}"),
        format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{GOOD}HTTP/1.1 500 Pipelined\r\n\r\n"),
    ] {
        let outcome = probe(&Peer::says(answer.clone()), healthy());
        assert_eq!(outcome, Outcome::Pass, "{answer}");
    }
}

#[test]
fn answers_without_a_body() {
    assert_eq!(probe(&Peer::says("HTTP/1.1 204 No Content\r\n\r\n"), ok()), Outcome::Pass);
    assert_eq!(
        probe(&Peer::says("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"), ok()),
        Outcome::Pass
    );
    let outcome = probe(&Peer::says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), healthy());
    assert_eq!(failed(&outcome).0, "json_invalid");
    let peer = Peer::says("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n");
    let mut head = request(Target::Tcp(peer.address), ok());
    head.method = "HEAD".to_owned();
    assert_eq!(made(head).outcome, Outcome::Pass);
}

#[test]
fn status_and_headers_are_told_if_wanted() {
    let told = |expect, tells_head| {
        let peer = Peer::says("HTTP/1.1 204 No\r\nX-Load: 0.5\r\nX-Load: 1\r\n\r\n");
        made(Request { tells_head, ..request(Target::Tcp(peer.address), expect) }).head
    };
    let load = |value: &[u8]| ("x-load".to_owned(), value.to_vec());
    assert_eq!(told(ok(), true), Some(Head { status: 204, headers: vec![load(b"0.5"), load(b"1")] }));
    assert_eq!(told(ok(), false), None);
    assert_eq!(told(expect(&[("status", &["200"])]), true), None, "a failure needs no more");
}

#[test]
fn redirects_are_answers() {
    let redirect = "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(probe(&Peer::says(redirect), ok()), Outcome::Pass);
    let outcome = probe(&Peer::says(redirect), expect(&[("status", &["200"])]));
    assert_eq!(failed(&outcome), ("status", "status: wanted 200, got 302"));
}

#[test]
fn the_status_decides_before_the_body_comes() {
    let peer = Peer::new(|stream| {
        stream.write_all(b"HTTP/1.1 503 No\r\nContent-Length: 10\r\n\r\n").unwrap();
        super::hang(stream);
    });
    assert_eq!(failed(&probe(&peer, healthy())), ("status", "status: wanted 200, got 503"));
    peer.asked();
}

#[test]
fn degraded_answers() {
    let mut builder = Builder::new("t");
    builder.line("status", &["200"]).unwrap();
    builder.open("degraded").unwrap();
    builder.line("json", &["$.status", "!=", "healthy"]).unwrap();
    builder.close().unwrap();
    let peer = Peer::says("HTTP/1.1 200 OK\r\n\r\n{\"status\":\"slow\"}");
    let outcome = probe(&peer, builder.finish().unwrap().into());
    assert_eq!(
        outcome,
        Outcome::Degraded("json $.status: degraded when != \"healthy\", got \"slow\"".to_owned())
    );
}

#[test]
fn bodies_up_to_the_limit_and_beyond() {
    let body = |length: usize| format!("HTTP/1.1 200 OK\r\n\r\n\"{}\"", "a".repeat(length - 2));
    let judged = |length: usize, line: (&str, &[&str])| {
        let peer = Peer::says(body(length));
        let mut request = request(Target::Tcp(peer.address), expect(&[line]));
        request.body_limit = 100_000;
        made(request).outcome
    };
    let json: (&str, &[&str]) = ("json", &["$", "is", "string"]);
    assert_eq!(judged(100_000, json), Outcome::Pass);
    let over = judged(100_001, json);
    assert_eq!(
        failed(&over),
        ("body_too_large", "json $: wanted a whole document, got body_too_large, cut after 100000 bytes")
    );
    assert_eq!(judged(1_000_000, ("body", &["~", "^\"a+"])), Outcome::Pass);
    assert_eq!(failed(&judged(100_001, ("body", &["~", "\"$"]))).0, "body");
}

#[test]
fn an_endless_body_is_cut_not_waited_for() {
    let peer = Peer::new(|stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        super::drip(stream, &[b'a'; 65_536], Duration::ZERO);
    });
    assert_eq!(probe(&peer, expect(&[("body", &["~", "^a"])])), Outcome::Pass);
    peer.asked();
}

#[test]
fn encoded_bodies_are_not_judged() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n\x1f\u{8b}";
    let outcome = probe(&Peer::says(answer), healthy());
    assert_eq!(failed(&outcome).0, "encoded_body");
    assert_eq!(probe(&Peer::says(answer), ok()), Outcome::Pass);
}

#[test]
fn over_a_unix_socket() {
    let path = std::env::temp_dir().join(format!("sluice-probe-{}.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    let peer = std::thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let head = read_head(&mut stream);
        stream.write_all(format!("HTTP/1.1 200 OK\r\n\r\n{GOOD}").as_bytes()).unwrap();
        head
    });
    assert_eq!(made(request(Target::Unix(path.clone()), healthy())).outcome, Outcome::Pass);
    assert!(peer.join().unwrap().starts_with("GET /health HTTP/1.1\r\n"));
    std::fs::remove_file(&path).unwrap();
    assert_eq!(failed(&made(request(Target::Unix(path), healthy())).outcome).0, "connect");
}
