//! Servers that break, stall or lie. Whatever they do, the deadline holds and the reason is right.

use std::io::{Error, Write};
use std::net::{Shutdown, TcpListener};
use std::time::{Duration, Instant};

use super::super::fault::Fault;
use super::super::{Outcome, Request, Target};
use super::{Peer, drip, failed, hang, healthy, made, ok, probe, request};

const DEADLINE: Duration = Duration::from_millis(150);
/// For a machine under load.
const SLACK: Duration = Duration::from_millis(1500);

fn hurried(peer: &Peer) -> Request {
    Request { timeout: DEADLINE, ..request(Target::Tcp(peer.address), healthy()) }
}

/// Probes with a short deadline, and checks that it was kept from both sides.
fn times_out(peer: Peer) -> String {
    let started = Instant::now();
    let report = made(hurried(&peer));
    assert!(report.elapsed >= DEADLINE && started.elapsed() < DEADLINE + SLACK, "{report:?}");
    // The script ends only when the probe's connection is closed.
    peer.asked();
    let (kind, detail) = failed(&report.outcome);
    assert_eq!((report.ticket, kind), (7, "timeout"), "{detail}");
    detail.to_owned()
}

#[test]
fn refused() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let outcome = made(request(Target::Tcp(address), ok())).outcome;
    let (kind, detail) = failed(&outcome);
    assert_eq!(kind, "connect");
    assert!(detail.starts_with("connect() failed: Connection refused"), "{detail}");
}

#[test]
fn accepts_and_hangs() {
    assert_eq!(times_out(Peer::new(hang)), "timed out after 150 ms while waiting for the response header");
}

#[test]
fn one_byte_at_a_time() {
    let header = Peer::new(|stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nX: ").unwrap();
        drip(stream, b"x", Duration::from_millis(20));
    });
    assert_eq!(times_out(header), "timed out after 150 ms while waiting for the response header");
    let body = Peer::new(|stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n").unwrap();
        drip(stream, b"x", Duration::from_millis(20));
    });
    assert_eq!(times_out(body), "timed out after 150 ms while reading the response body");
}

#[test]
fn interim_answers_without_end() {
    const INTERIM: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
    let slow = Peer::new(|stream| drip(stream, INTERIM, Duration::from_millis(10)));
    assert_eq!(times_out(slow), "timed out after 150 ms while waiting for the response header");
    let flood = Peer::new(|stream| drip(stream, &INTERIM.repeat(1000), Duration::ZERO));
    assert_eq!(failed(&probe(&flood, ok())), ("header_too_large", "response header is too large"));
    flood.asked();
}

#[test]
fn chunks_at_full_speed() {
    let peer = Peer::new(|stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        drip(stream, &b"1\r\n \r\n".repeat(1000), Duration::ZERO);
    });
    let started = Instant::now();
    let report = made(hurried(&peer));
    assert!(started.elapsed() < DEADLINE + SLACK, "{report:?}");
    // Which comes first depends on the machine.
    assert!(matches!(failed(&report.outcome).0, "timeout" | "body_too_large"));
    peer.asked();
}

#[test]
fn chunks_without_end() {
    let peer = Peer::new(|stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        drip(stream, b"1\r\n \r\n", Duration::from_millis(1));
    });
    assert_eq!(times_out(peer), "timed out after 150 ms while reading the response body");
}

#[test]
fn headers_without_end() {
    for line in
        [&b"X-Filler: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n"[..], b"A: b\r\n"]
    {
        let peer = Peer::new(move |stream| {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n");
            drip(stream, &line.repeat(100), Duration::ZERO);
        });
        let outcome = probe(&peer, ok());
        assert_eq!(failed(&outcome), ("header_too_large", "response header is too large"));
        peer.asked();
    }
}

#[test]
fn sixty_kilobytes_of_header_are_read() {
    let filler = format!("X-Filler: {}\r\n", "a".repeat(6000)).repeat(10);
    assert_eq!(probe(&Peer::says(format!("HTTP/1.1 200 OK\r\n{filler}\r\n")), ok()), Outcome::Pass);
}

#[test]
fn trailers_without_end() {
    let peer = Peer::new(|stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n").unwrap();
        drip(
            stream,
            &b"X-Filler: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n".repeat(50),
            Duration::ZERO,
        );
    });
    assert!(matches!(failed(&probe(&peer, ok())).0, "protocol" | "header_too_large" | "reset"));
    peer.asked();
}

#[test]
fn closed_early() {
    for (said, kind) in [
        ("", "reset"),
        ("HTTP/1.1 20", "reset"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "reset"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{", "reset"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "reset"),
    ] {
        let outcome = probe(&Peer::says(said), ok());
        assert_eq!(failed(&outcome), (kind, "connection closed before the answer was complete"), "{said:?}");
    }
}

#[test]
fn closed_before_the_request() {
    let peer = Peer::raw(|stream| {
        stream.shutdown(Shutdown::Both).unwrap();
        String::new()
    });
    assert_eq!(failed(&probe(&peer, ok())).0, "reset");
}

#[test]
fn reset() {
    for said in ["", "HTTP/1.1 200 OK\r\nX: ", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"] {
        // Closing while the request lies unread makes the kernel send RST.
        let peer = Peer::raw(move |stream| {
            stream.peek(&mut [0; 1]).unwrap();
            stream.write_all(said.as_bytes()).unwrap();
            String::new()
        });
        assert_eq!(failed(&probe(&peer, ok())).0, "reset", "{said:?}");
    }
}

#[test]
fn not_http() {
    for said in [
        &b"<html>it works</html>\r\n\r\n"[..],
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x80\x00\x04",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/3.0 200 OK\r\n\r\n",
    ] {
        let outcome = probe(&Peer::says(said), ok());
        assert_eq!(failed(&outcome).0, "protocol", "{} {outcome:?}", said.escape_ascii());
    }
}

#[test]
fn our_own_shortage_is_no_verdict() {
    for code in [libc::EMFILE, libc::ENFILE, libc::ENOMEM, libc::ENOBUFS, libc::EADDRNOTAVAIL] {
        let outcome: Outcome = Fault::connect(Error::from_raw_os_error(code)).into();
        assert_eq!(failed(&outcome).0, "unknown");
    }
    for code in [libc::ECONNREFUSED, libc::EHOSTUNREACH, libc::ENETUNREACH, libc::ETIMEDOUT, libc::ENOENT] {
        let outcome: Outcome = Fault::connect(Error::from_raw_os_error(code)).into();
        assert_eq!(failed(&outcome).0, "connect");
    }
}

#[test]
fn no_descriptor_left() {
    const CHILD: &str = "SLUICE_TEST_WITHOUT_DESCRIPTORS";
    if std::env::var_os(CHILD).is_none() {
        // The limit is the process's: a child of its own keeps the other tests out of it.
        let name = std::thread::current().name().unwrap_or_default().to_owned();
        let run = std::process::Command::new("sh")
            .args(["-c", "ulimit -n 64; exec \"$0\" --exact \"$1\""])
            .args([std::env::current_exe().unwrap().as_os_str(), name.as_ref()])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&run.stdout).into_owned();
        assert!(run.status.success() && told.contains("1 passed"), "{told}");
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let held: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
    let target = Target::Tcp(listener.local_addr().unwrap());
    let outcome = runtime.block_on(super::run(request(target, ok()))).outcome;
    drop(held);
    assert_eq!(failed(&outcome), ("unknown", "cannot open a connection: Too many open files (os error 24)"));
}

#[test]
fn a_dropped_probe_closes_its_connection() {
    let peer = Peer::new(hang);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let probe = super::run(request(Target::Tcp(peer.address), ok()));
        let probe = sendable(probe);
        assert!(tokio::time::timeout(DEADLINE, probe).await.is_err());
    });
    // The runtime still lives, and nothing in it holds the connection.
    peer.asked();
    drop(runtime);
}

fn sendable<T: Send>(probe: T) -> T {
    probe
}
