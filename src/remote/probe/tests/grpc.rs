//! gRPC health checks, against a server made of the HTTP/2 library, and against ones that know the frames only.

mod hostile;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use bytes::Bytes;
use hyper::header::HeaderMap;

use super::super::{GrpcCheck, Kept, Manner, Outcome, Protocol, Request, Target, run_as};
use super::backend::{Nginx, pki};
use super::{UNVERIFIED, failed, hang, made_as, ok, plain, request, secured};

const SERVING: &[u8] = b"\0\0\0\0\x02\x08\x01";
const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
/// The first frame of every server: SETTINGS, empty.
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

/// What a server answers to each request.
#[derive(Clone)]
struct Reply {
    status: u16,
    headers: Vec<(&'static str, &'static str)>,
    body: Vec<u8>,
    trailers: Option<Vec<(&'static str, &'static str)>>,
}

impl Default for Reply {
    fn default() -> Self {
        Self {
            status: 200,
            headers: vec![("content-type", "application/grpc")],
            body: SERVING.to_vec(),
            trailers: Some(vec![("grpc-status", "0")]),
        }
    }
}

/// What a server was asked: the request's head and body.
type Asked = (hyper::Request<()>, Vec<u8>);

/// A server of HTTP/2 that sees and answers all requests of all its connections, each `most` times.
struct Server {
    address: SocketAddr,
    asked: Receiver<Asked>,
}

impl Server {
    fn new(reply: Reply, most: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let (address, (sender, asked)) = (listener.local_addr().unwrap(), channel());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                while let Ok((stream, _)) = listener.accept().await {
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    for at in 0.. {
                        if at == most {
                            connection.graceful_shutdown();
                        }
                        let Some(Ok((request, respond))) = connection.accept().await else { break };
                        let (reply, sender) = (reply.clone(), sender.clone());
                        tokio::spawn(async move { reply.give(request, respond, sender).await });
                    }
                }
            });
        });
        Self { address, asked }
    }
}

impl Reply {
    async fn give(
        self,
        request: hyper::Request<h2::RecvStream>,
        mut respond: h2::server::SendResponse<Bytes>,
        told: std::sync::mpsc::Sender<Asked>,
    ) {
        let (head, mut body) = request.into_parts();
        let mut sent = Vec::new();
        while let Some(data) = body.data().await {
            sent.extend_from_slice(&data.unwrap());
        }
        let _ = told.send((hyper::Request::from_parts(head, ()), sent));
        let mut response = hyper::Response::new(());
        *response.status_mut() = self.status.try_into().unwrap();
        *response.headers_mut() = headers(&self.headers);
        let Some(trailers) = self.trailers else {
            respond.send_response(response, true).unwrap();
            return;
        };
        let mut stream = respond.send_response(response, false).unwrap();
        if !self.body.is_empty() {
            stream.send_data(self.body.into(), false).unwrap();
        }
        stream.send_trailers(headers(&trailers)).unwrap();
    }
}

fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    lines.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
}

fn wanting(status: u32) -> Manner {
    plain(Protocol::Grpc(GrpcCheck { status, ..GrpcCheck::default() }))
}

fn answered(reply: Reply, wanted: u32) -> Outcome {
    let server = Server::new(reply, usize::MAX);
    made_as(request(Target::Tcp(server.address), ok()), &wanting(wanted))
}

fn told(reply: Reply) -> String {
    let outcome = answered(reply, 0);
    let (kind, detail) = failed(&outcome);
    assert_eq!(kind, "grpc", "{detail}");
    detail.to_owned()
}

#[test]
fn what_is_asked() {
    let server = Server::new(Reply::default(), usize::MAX);
    let mut request = request(Target::Tcp(server.address), ok());
    request.headers = vec![("X-A".to_owned(), "1".to_owned()), ("user-agent".to_owned(), "mine".to_owned())];
    let check = GrpcCheck { service: "shop.Orders".to_owned(), status: 0 };
    assert_eq!(made_as(request.clone(), &plain(Protocol::Grpc(check))), Outcome::Pass);
    let (head, body) = server.asked.recv().unwrap();
    assert_eq!(
        (head.method().as_str(), head.uri().to_string().as_str()),
        ("POST", "http://backend/grpc.health.v1.Health/Check")
    );
    assert_eq!(body, b"\0\0\0\0\x0d\x0a\x0bshop.Orders");
    let mut names: Vec<_> =
        head.headers().iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    names.sort();
    assert_eq!(
        names,
        [
            "content-type: application/grpc",
            "grpc-accept-encoding: identity",
            "grpc-timeout: 5000m",
            "te: trailers",
            "user-agent: mine",
            "x-a: 1"
        ]
    );
    request.headers = vec![("Host".to_owned(), "other:1".to_owned())];
    assert_eq!(made_as(request, &wanting(0)), Outcome::Pass);
    assert_eq!(server.asked.recv().unwrap().0.uri().authority().unwrap(), "other:1");
}

#[test]
fn what_cannot_be_asked() {
    let unsent = request(Target::Tcp(([127, 0, 0, 1], 1).into()), ok());
    let refused = |change: fn(&mut Request)| {
        let mut request = unsent.clone();
        change(&mut request);
        request.validate_for(&wanting(0)).unwrap_err().to_string()
    };
    assert_eq!(unsent.validate_for(&wanting(0)), Ok(()));
    assert_eq!(refused(|r| r.host = "a b".to_owned()), "invalid host \"a b\"");
    assert_eq!(refused(|r| r.host = String::new()), "invalid host \"\"");
    assert_eq!(
        refused(|r| r.headers = vec![("Grpc-Timeout".to_owned(), "1S".to_owned())]),
        "header \"Grpc-Timeout\" cannot be set, the health check sets it itself"
    );
    // What the protocol does not use is not looked at.
    let odd = Request { uri: "x".to_owned(), method: "G T".to_owned(), ..unsent };
    assert_eq!(odd.validate_for(&wanting(0)), Ok(()));
    assert!(odd.validate_for(&Manner::default()).is_err());
    assert_eq!(odd.validate_for(&plain(Protocol::Tcp)), Ok(()));
}

#[test]
fn serving_and_not() {
    assert_eq!(answered(Reply::default(), 0), Outcome::Pass);
    let says = |body: &[u8]| told(Reply { body: body.to_vec(), ..Reply::default() });
    assert_eq!(says(b"\0\0\0\0\x02\x08\x02"), "wanted SERVING, got NOT_SERVING");
    assert_eq!(says(b"\0\0\0\0\x02\x08\x03"), "wanted SERVING, got SERVICE_UNKNOWN");
    assert_eq!(says(b"\0\0\0\0\x02\x08\x09"), "wanted SERVING, got 9");
    assert_eq!(says(b"\0\0\0\0\0"), "wanted SERVING, got UNKNOWN");
    assert_eq!(says(b""), "no message in the answer");
    assert_eq!(says(&[SERVING, SERVING].concat()), "the answer is not one whole message");
    assert_eq!(says(b"\x01\0\0\0\x02\x08\x01"), "the message is compressed");
    assert_eq!(says(b"\0\0\0\0\x01\xff"), "the message is malformed");
    assert_eq!(says(&[0; 65_537]), "more than 65536 bytes of answer");
}

#[test]
fn the_status_that_is_wanted() {
    let alone = |headers: &[(&'static str, &'static str)]| Reply {
        headers: [&[("content-type", "application/grpc+proto")], headers].concat(),
        trailers: None,
        ..Reply::default()
    };
    let unimplemented = alone(&[("grpc-status", "12"), ("grpc-message", "unknown service")]);
    assert_eq!(answered(unimplemented.clone(), 12), Outcome::Pass);
    assert_eq!(
        answered(Reply { trailers: Some(vec![("grpc-status", "12")]), ..Reply::default() }, 12),
        Outcome::Pass
    );
    let refused = answered(Reply::default(), 12);
    assert_eq!(failed(&refused).1, "wanted grpc-status 12 (UNIMPLEMENTED), got 0 (OK)");
    let late =
        Reply { trailers: Some(vec![("grpc-status", "14"), ("grpc-message", "down")]), ..Reply::default() };
    assert_eq!(told(late), "wanted grpc-status 0 (OK), got 14 (UNAVAILABLE) \"down\"");
    assert_eq!(told(alone(&[("grpc-status", "99")])), "wanted grpc-status 0 (OK), got 99");
    assert_eq!(told(alone(&[("grpc-status", "x\ty")])), "invalid grpc-status \"x\\ty\"");
    assert_eq!(told(alone(&[])), "no grpc-status");
    assert_eq!(told(alone(&[("grpc-status", "0")])), "no message in the answer");
    assert_eq!(told(Reply { trailers: Some(vec![]), ..Reply::default() }), "no grpc-status");
}

#[test]
fn answers_that_are_not_of_grpc() {
    assert_eq!(told(Reply { status: 503, ..Reply::default() }), "wanted HTTP status 200, got 503");
    let html = Reply { headers: vec![("content-type", "text/html")], ..Reply::default() };
    assert_eq!(told(html), "not a gRPC answer, its content type is \"text/html\"");
    let nginx = Nginx::start(" http2", &pki().good, "location / { return 200 hello; }");
    let outcome = made_as(request(Target::Tcp(nginx.address), ok()), &wanting(0));
    assert_eq!(failed(&outcome), ("grpc", "not a gRPC answer, its content type is \"text/plain\""));
}

#[test]
fn through_tls() {
    let server = Server::new(Reply::default(), usize::MAX);
    let pass = format!("location / {{ grpc_pass grpc://{}; }}", server.address);
    let nginx = Nginx::start(" ssl http2", &pki().good, &pass);
    let settings = super::TlsSettings { trusted: Some(&pki().authority), ..UNVERIFIED };
    let manner = secured(Protocol::Grpc(GrpcCheck::default()), &settings);
    assert_eq!(made_as(request(Target::Tcp(nginx.address), ok()), &manner), Outcome::Pass);
    assert_eq!(made_as(request(Target::Unix(nginx.socket()), ok()), &manner), Outcome::Pass);
    // A server that offers HTTP/1 only.
    let nginx = Nginx::start(" ssl", &pki().good, "location / { return 200; }");
    let outcome = made_as(request(Target::Tcp(nginx.address), ok()), &manner);
    let said = "TLS handshake failed: received fatal alert: NoApplicationProtocol";
    assert_eq!(failed(&outcome), ("tls", said));
}

#[test]
fn on_a_kept_connection() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let manner = Manner::new(Protocol::Grpc(GrpcCheck::default()), None, Duration::from_secs(60)).unwrap();
    // A server that says goodbye after two answers: the third probe has a connection of its own.
    for most in [usize::MAX, 2] {
        let (server, kept) = (Server::new(Reply::default(), most), Kept::default());
        for _ in 0..3 {
            let probe = run_as(request(Target::Tcp(server.address), ok()), &manner, &kept);
            assert_eq!(runtime.block_on(probe).outcome, Outcome::Pass);
            assert_eq!(server.asked.recv_timeout(Duration::from_secs(5)).unwrap().1, [0; 5]);
        }
        assert_eq!(kept.count(), 1);
    }
}

#[test]
fn a_request_into_a_closing_connection_is_sent_again_once() {
    let server = super::kept::Server::new(|number, stream| {
        greeted(stream);
        let head = frame(1, 4, 1, b"\x88\x0f\x10\x10application/grpc");
        let trailers = frame(1, 5, 1, b"\x00\x0bgrpc-status\x010");
        stream.write_all(&[SETTINGS, &head, &frame(0, 0, 1, SERVING), &trailers].concat()).unwrap();
        asked(stream);
        match number {
            0 => {}
            // With a goodbye, which is no answer.
            1 => stream.write_all(&frame(7, 0, 0, &[0; 8])).unwrap(),
            _ => hang(stream),
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let manner = Manner::new(Protocol::Grpc(GrpcCheck::default()), None, Duration::from_secs(60)).unwrap();
    let kept = Kept::default();
    for connections in 1..4 {
        let probe = run_as(request(Target::Tcp(server.address), ok()), &manner, &kept);
        assert_eq!(runtime.block_on(probe).outcome, Outcome::Pass);
        assert_eq!(server.connections(), connections);
    }
}

/// Takes the client's preface and its first request.
fn greeted(stream: &mut TcpStream) {
    stream.read_exact(&mut [0; PREFACE]).unwrap();
    asked(stream);
}

/// Takes frames up to the end of a request, or the end of the connection.
fn asked(stream: &mut TcpStream) {
    const DATA: u8 = 0;
    const END_STREAM: u8 = 1;
    let mut head = [0; 9];
    while stream.read_exact(&mut head).is_ok() {
        let [a, b, c, kind, flags, ..] = head;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        stream.read_exact(&mut vec![0; length]).unwrap();
        if kind == DATA && flags & END_STREAM != 0 {
            return;
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}
