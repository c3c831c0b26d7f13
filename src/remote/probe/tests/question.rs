//! What a probe sends, and what it refuses to send.

use super::super::request::RequestError;
use super::super::{Outcome, Request, Target};
use super::{Peer, made, ok, request};

fn unsent() -> Request {
    request(Target::Tcp(([127, 0, 0, 1], 1).into()), ok())
}

fn sent(change: impl FnOnce(&mut Request)) -> String {
    let peer = Peer::says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let mut request = request(Target::Tcp(peer.address), ok());
    change(&mut request);
    assert_eq!(request.validate(), Ok(()));
    assert_eq!(made(request).outcome, Outcome::Pass);
    peer.asked()
}

#[test]
fn defaults() {
    assert_eq!(
        sent(|_| {}),
        "GET /health HTTP/1.1\r\nHost: backend\r\nUser-Agent: sluice health check\r\n\
         Accept: application/json, */*;q=0.8\r\nAccept-Encoding: identity\r\nConnection: close\r\n\r\n"
    );
}

#[test]
fn a_method_with_a_body_says_that_there_is_none() {
    for (method, says) in
        [("POST", true), ("PUT", true), ("PATCH", true), ("OPTIONS", false), ("DELETE", false)]
    {
        let head = sent(|request| request.method = method.to_owned());
        assert!(head.starts_with(method), "{head}");
        assert_eq!(head.to_ascii_lowercase().contains("\r\ncontent-length: 0\r\n"), says, "{head}");
    }
}

#[test]
fn headers_of_the_configuration() {
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let head = sent(|request| {
        request.uri = "/__health?from=nginx&a=%20".to_owned();
        request.headers = vec![
            pair("X-A", "1"),
            pair("user-agent", "mine"),
            pair("X-A", "2"),
            pair("Accept", ""),
            pair("host", "h:1"),
        ];
    });
    assert!(head.starts_with("GET /__health?from=nginx&a=%20 HTTP/1.1\r\n"), "{head}");
    for line in ["X-A: 1\r\n", "X-A: 2\r\n", "User-Agent: mine\r\n", "Host: h:1\r\n", "Connection: close\r\n"]
    {
        assert_eq!(head.matches(line).count(), 1, "{line} in {head}");
    }
    assert!(!head.contains("Accept:") && !head.contains("backend"), "{head}");
}

#[test]
fn refusals() {
    let refused = |change: fn(&mut Request)| {
        let mut request = unsent();
        change(&mut request);
        let error = request.validate().unwrap_err();
        // Unchecked, it is no verdict about the server either.
        assert!(!matches!(made(request).outcome, Outcome::Pass));
        error
    };
    let header = |name: &str| (name.to_owned(), "x".to_owned());
    assert_eq!(refused(|r| r.method = "G T".to_owned()), RequestError::Method("G T".to_owned()));
    assert_eq!(refused(|r| r.method = "CONNECT".to_owned()), RequestError::Method("CONNECT".to_owned()));
    assert_eq!(refused(|r| r.uri = "health".to_owned()), RequestError::Uri("health".to_owned()));
    assert_eq!(refused(|r| r.uri = "http://a/".to_owned()), RequestError::Uri("http://a/".to_owned()));
    assert_eq!(refused(|r| r.uri = "/a b".to_owned()), RequestError::Uri("/a b".to_owned()));
    assert_eq!(refused(|r| r.host = "a\r\nb".to_owned()), RequestError::Host("a\r\nb".to_owned()));
    let mut split = unsent();
    split.headers = vec![("X".to_owned(), "a\r\nY: b".to_owned())];
    assert_eq!(split.validate(), Err(RequestError::HeaderValue("X".to_owned())));
    split.headers = vec![header("X Y")];
    assert_eq!(split.validate(), Err(RequestError::HeaderName("X Y".to_owned())));
    split.headers = vec![header("Transfer-Encoding")];
    assert_eq!(split.validate(), Err(RequestError::HeaderReserved("Transfer-Encoding".to_owned())));
}
