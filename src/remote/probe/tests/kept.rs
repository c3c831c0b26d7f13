//! Connections kept from one probe to the next.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use super::super::{Kept, Manner, Outcome, Protocol, Request, Target, run_as};
use super::backend::{Nginx, pki};
use super::{UNVERIFIED, expect, failed, hang, ok, read_head, request};

const LONG: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(5);
const GOOD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";

/// An I/O thread's worth of probing.
struct Bench {
    runtime: Runtime,
    kept: Kept,
}

impl Bench {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { runtime, kept: Kept::default() }
    }

    fn probe(&self, request: Request, manner: &Manner) -> Outcome {
        self.runtime.block_on(run_as(request, manner, &self.kept)).outcome
    }

    fn pass(&self, address: SocketAddr, manner: &Manner) {
        assert_eq!(self.probe(request(Target::Tcp(address), ok()), manner), Outcome::Pass);
    }

    /// Lets the connections act until so many are open.
    fn until_kept(&self, count: usize) {
        let until = Instant::now() + PATIENCE;
        while self.kept.count() != count {
            assert!(Instant::now() < until, "{} connections are kept", self.kept.count());
            self.runtime.block_on(async { tokio::time::sleep(Duration::from_millis(1)).await });
        }
    }
}

fn keeping(time: Duration) -> Manner {
    Manner::new(Protocol::Http, None, time).unwrap()
}

/// A server that plays one script for each connection, in turn, and counts them.
pub struct Server {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Server {
    pub fn new(script: impl Fn(usize, &mut TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, connections) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let counted = connections.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                script(counted.fetch_add(1, Ordering::SeqCst), &mut stream.unwrap());
            }
        });
        Self { address, connections }
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// Answers so many requests.
fn answer(stream: &mut TcpStream, times: usize) {
    for _ in 0..times {
        read_head(stream);
        stream.write_all(GOOD).unwrap();
    }
}

#[test]
fn one_connection_for_many_probes() {
    for (how, tls) in [("", None), (" ssl", Some(&UNVERIFIED))] {
        let nginx = Nginx::start(how, &pki().good, "location / { return 200 '$connection_requests'; }");
        let manner = Manner::new(Protocol::Http, tls, LONG).unwrap();
        let bench = Bench::new();
        for number in ["^1$", "^2$", "^3$"] {
            let request = request(Target::Tcp(nginx.address), expect(&[("body", &["~", number])]));
            assert_eq!(bench.probe(request, &manner), Outcome::Pass);
            assert_eq!(bench.kept.count(), 1);
        }
        // Another server, or another check, has a connection of its own.
        let request = request(Target::Unix(nginx.socket()), expect(&[("body", &["~", "^1$"])]));
        assert_eq!(bench.probe(request.clone(), &manner), Outcome::Pass);
        let other = Manner::new(Protocol::Http, tls, LONG).unwrap();
        assert_eq!(bench.probe(request, &other), Outcome::Pass);
        assert_eq!(bench.kept.count(), 3);
    }
}

#[test]
fn nothing_is_kept_unless_asked_for() {
    let server = Server::new(|_, stream| answer(stream, 1));
    let bench = Bench::new();
    for _ in 0..2 {
        bench.pass(server.address, &keeping(Duration::ZERO));
        assert_eq!(bench.kept.count(), 0);
    }
    assert_eq!(server.connections(), 2);
}

#[test]
fn time_ends_a_connection() {
    let server = Server::new(|_, stream| {
        answer(stream, 1);
        hang(stream);
    });
    let bench = Bench::new();
    let manner = keeping(Duration::from_millis(50));
    bench.pass(server.address, &manner);
    bench.until_kept(0);
    // The server plays one connection at a time: it has seen the first one's end.
    bench.pass(server.address, &manner);
    assert_eq!(server.connections(), 2);
}

#[test]
fn the_end_of_a_kept_connection_is_no_failure() {
    // Closed before the next request, at once or with an answer that says so.
    let server = Server::new(|_, stream| answer(stream, 1));
    let bench = Bench::new();
    bench.pass(server.address, &keeping(LONG));
    bench.until_kept(0);
    bench.pass(server.address, &keeping(LONG));
    let server = Server::new(|_, stream| {
        read_head(stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").unwrap();
        hang(stream);
    });
    let manner = keeping(LONG);
    for count in 1..4 {
        bench.pass(server.address, &manner);
        bench.until_kept(0);
        assert_eq!(server.connections(), count);
    }
}

#[test]
fn a_request_into_a_closing_connection_is_sent_again_once() {
    // Closed, or reset, as the second request comes: too late for us to notice.
    for unread in [false, true] {
        let server = Server::new(move |number, stream| {
            answer(stream, 1);
            match (number, unread) {
                (0, false) => drop(read_head(stream)),
                // Closing while the request lies unread makes the kernel send RST.
                (0, true) => drop(stream.peek(&mut [0; 1])),
                _ => hang(stream),
            }
        });
        let (bench, manner) = (Bench::new(), keeping(LONG));
        bench.pass(server.address, &manner);
        bench.pass(server.address, &manner);
        assert_eq!(server.connections(), 2);
    }
}

#[test]
fn a_new_connection_is_not_tried_twice() {
    let server = Server::new(|number, stream| {
        if number == 0 {
            answer(stream, 1);
        }
        read_head(stream);
    });
    let (bench, manner) = (Bench::new(), keeping(LONG));
    bench.pass(server.address, &manner);
    let outcome = bench.probe(request(Target::Tcp(server.address), ok()), &manner);
    assert_eq!(failed(&outcome), ("reset", "connection closed before the answer was complete"));
    assert_eq!(server.connections(), 2);
}

#[test]
fn an_answer_that_breaks_off_is_a_failure() {
    for said in [&b"H"[..], b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1"] {
        let server = Server::new(|_, stream| {
            answer(stream, 1);
            read_head(stream);
            stream.write_all(said).unwrap();
        });
        let (bench, manner) = (Bench::new(), keeping(LONG));
        bench.pass(server.address, &manner);
        let outcome = bench.probe(request(Target::Tcp(server.address), ok()), &manner);
        assert_eq!(failed(&outcome).0, "reset");
        assert_eq!((server.connections(), bench.kept.count()), (1, 0));
    }
}

#[test]
fn what_is_left_of_an_answer_is_never_read_as_the_next() {
    // The status alone decides, and the body is still to come; or there is more body than is read.
    let server = Server::new(|_, stream| {
        read_head(stream);
        let _ = stream.write_all(
            b"HTTP/1.1 503 No\r\nContent-Length: 38\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        );
    });
    let (bench, manner) = (Bench::new(), keeping(LONG));
    for count in 1..3 {
        let outcome = bench.probe(request(Target::Tcp(server.address), ok()), &manner);
        assert_eq!(failed(&outcome).0, "status");
        assert_eq!((server.connections(), bench.kept.count()), (count, 0));
    }
    let server = Server::new(|_, stream| answer(stream, 1));
    let short = Request { body_limit: 1, ..request(Target::Tcp(server.address), ok()) };
    assert_eq!(bench.probe(short, &manner), Outcome::Pass);
    assert_eq!(bench.kept.count(), 0);
}

#[test]
fn words_between_answers_end_a_connection() {
    let server = Server::new(|_, stream| {
        read_head(stream);
        stream.write_all(&[GOOD, GOOD].concat()).unwrap();
        hang(stream);
    });
    let (bench, manner) = (Bench::new(), keeping(LONG));
    for count in 1..3 {
        bench.pass(server.address, &manner);
        bench.until_kept(0);
        assert_eq!(server.connections(), count);
    }
}

#[test]
fn a_late_answer_is_not_taken_for_the_next_one() {
    let server = Server::new(|number, stream| {
        answer(stream, 1);
        if number == 0 {
            read_head(stream);
            hang(stream);
        }
        answer(stream, 1);
    });
    let (bench, manner) = (Bench::new(), keeping(LONG));
    bench.pass(server.address, &manner);
    let hurried =
        Request { timeout: Duration::from_millis(100), ..request(Target::Tcp(server.address), ok()) };
    let outcome = bench.probe(hurried, &manner);
    assert_eq!(failed(&outcome), ("timeout", "timed out after 100 ms while waiting for the response header"));
    assert_eq!(bench.kept.count(), 0);
    bench.pass(server.address, &manner);
    assert_eq!(server.connections(), 2);
}

#[test]
fn the_store_is_bounded_and_closes_all_it_holds() {
    let open = Arc::new(AtomicUsize::new(0));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let counted = open.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, counted) = (stream.unwrap(), counted.clone());
            counted.fetch_add(1, Ordering::SeqCst);
            std::thread::Builder::new()
                .stack_size(64 << 10)
                .spawn(move || {
                    answer(&mut stream, 1);
                    hang(&mut stream);
                    counted.fetch_sub(1, Ordering::SeqCst);
                })
                .unwrap();
        }
    });
    let bench = Bench::new();
    for _ in 0..300 {
        bench.pass(address, &keeping(LONG));
    }
    assert_eq!(bench.kept.count(), 256);
    let Bench { runtime, kept } = bench;
    drop(kept);
    let until = Instant::now() + PATIENCE;
    while open.load(Ordering::SeqCst) > 0 {
        assert!(Instant::now() < until, "{} connections are open", open.load(Ordering::SeqCst));
        runtime.block_on(async { tokio::time::sleep(Duration::from_millis(1)).await });
    }
}
