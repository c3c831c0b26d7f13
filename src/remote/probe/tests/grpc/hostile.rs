//! Servers of HTTP/2 that break, flood or lie, frame by frame.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use super::super::super::{Request, Target};
use super::super::backend::{Nginx, pki};
use super::super::{Peer, drip, failed, hang, made_as, ok, request};
use super::{SETTINGS, frame, greeted, wanting};

/// What comes of a server that says its SETTINGS, once it has been greeted, and then plays `script`.
fn hostile(script: impl FnOnce(&mut TcpStream) + Send + 'static) -> (String, String) {
    let peer = Peer::raw(move |stream| {
        greeted(stream);
        let _ = stream.write_all(SETTINGS);
        script(stream);
        String::new()
    });
    let timeout = Duration::from_millis(1000);
    let hurried = Request { timeout, ..request(Target::Tcp(peer.address), ok()) };
    let started = Instant::now();
    let outcome = made_as(hurried, &wanting(0));
    assert!(started.elapsed() < Duration::from_millis(2500), "{outcome:?}");
    peer.asked();
    let (kind, detail) = failed(&outcome);
    (kind.to_owned(), detail.to_owned())
}

/// Closes without a reset, which would be one if something lay unread.
fn end(stream: &mut TcpStream) {
    stream.shutdown(Shutdown::Write).unwrap();
    hang(stream);
}

fn says(bytes: Vec<u8>) -> (String, String) {
    hostile(move |stream| {
        let _ = stream.write_all(&bytes);
        hang(stream);
    })
}

#[test]
fn servers_of_another_protocol() {
    for (said, detail) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "not HTTP/2, the server speaks HTTP/1"),
        (b"<html><head>", "not HTTP/2"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not HTTP/2"),
        (b"\x15\x03\x01\x00\x02\x02\x16", "not HTTP/2"),
    ] {
        let peer = Peer::raw(move |stream| {
            greeted(stream);
            // At one byte a time it is still the same.
            said.iter().for_each(|byte| drop(stream.write_all(&[*byte])));
            hang(stream);
            String::new()
        });
        let outcome = made_as(request(Target::Tcp(peer.address), ok()), &wanting(0));
        assert_eq!(failed(&outcome), ("protocol", detail), "{}", said.escape_ascii());
        peer.asked();
    }
    let nginx = Nginx::start("", &pki().good, "location / { return 200; }");
    let outcome = made_as(request(Target::Tcp(nginx.address), ok()), &wanting(0));
    assert_eq!(failed(&outcome).0, "protocol", "{outcome:?}");
}

#[test]
fn servers_that_break_off() {
    let closed = "connection closed before the answer was complete";
    assert_eq!(hostile(end), ("reset".to_owned(), closed.to_owned()));
    let (kind, detail) = says(frame(3, 0, 1, &[0, 0, 0, 7]));
    assert_eq!(
        (&*kind, &*detail),
        ("reset", "stream error received: refused stream before processing any application logic")
    );
    let (kind, detail) = says(frame(7, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0x0b]));
    assert_eq!(
        (&*kind, &*detail),
        ("protocol", "connection error received: detected excessive load generating behavior")
    );
    // Half an answer: a header, and then nothing, or the end.
    let head = frame(1, 4, 1, b"\x88");
    assert_eq!(says(head.clone()).0, "grpc", "without a content type it is not gRPC");
    let head = frame(1, 4, 1, b"\x88\x0f\x10\x10application/grpc");
    let (kind, detail) = says(head.clone());
    assert_eq!((&*kind, &*detail), ("timeout", "timed out after 1000 ms while reading the response body"));
    let cut = hostile(move |stream| {
        stream.write_all(&head).unwrap();
        end(stream);
    });
    assert_eq!(cut, ("reset".to_owned(), closed.to_owned()));
}

#[test]
fn frames_that_are_not_allowed() {
    for bytes in [
        frame(1, 4, 1, b"\xff\xff\xff\xff\xff"),
        frame(0, 0, 0, b"x"),
        frame(4, 0, 0, b"x"),
        frame(5, 4, 1, b"\0\0\0\x02\x82"),
        frame(8, 0, 0, &[0, 0, 0, 0]),
        [&[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1][..], &[0; 64]].concat(),
    ] {
        let (kind, detail) = says(bytes.clone());
        assert_eq!(kind, "protocol", "{detail} after {}", bytes.escape_ascii());
    }
}

#[test]
fn floods() {
    let ping = frame(6, 0, 0, &[0; 8]).repeat(500);
    let empty = frame(0, 0, 1, b"").repeat(500);
    let update = frame(8, 0, 0, &[0, 0, 0, 1]).repeat(500);
    let unknown = frame(0x42, 0, 1, &[0; 200]).repeat(50);
    let more = frame(9, 0, 1, &[0; 200]).repeat(50);
    let head = frame(1, 4, 1, b"\x88\x0f\x10\x10application/grpc");
    let starts: [(Vec<u8>, Vec<u8>); 5] = [
        (Vec::new(), ping),
        (head, empty),
        (Vec::new(), update),
        (Vec::new(), unknown),
        (frame(1, 0, 1, b"\x88"), more),
    ];
    for (start, piece) in starts {
        let shown = piece[..9].escape_ascii().to_string();
        let (kind, detail) = hostile(move |stream| {
            let _ = stream.write_all(&start);
            drip(stream, &piece, Duration::ZERO);
        });
        assert_eq!(kind, "protocol", "{shown}: {detail}");
    }
}

#[test]
fn too_much_header() {
    // A line that is put in the table once, and then named 2,000 times, by one byte each.
    let line = [&b"\x40\x01a\x7f\x64"[..], &[b'v'; 227]].concat();
    let bomb = frame(1, 4, 1, &[&b"\x88"[..], &line, &[0xbe; 2000]].concat());
    let (kind, detail) = says(bomb);
    assert_eq!(kind, "protocol");
    assert!(detail.contains("header_list_way_too_large"), "{detail}");
}
