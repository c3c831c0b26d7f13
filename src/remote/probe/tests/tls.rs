//! HTTPS: names, certificates, and servers that will not have it.

use std::io::Write;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::super::tls::TlsError;
use super::super::{Manner, Outcome, Protocol, Request, Target, TlsSettings};
use super::backend::{Nginx, Pair, pki};
use super::{Peer, UNVERIFIED, drip, expect, failed, made_as, ok, read_head, request, secured};

const SAYS_NAME: &str = "location / { return 200 '$ssl_server_name'; }";

fn verified(trusted: &[u8]) -> TlsSettings<'_> {
    TlsSettings { trusted: Some(trusted), ..UNVERIFIED }
}

fn asked(nginx: &Nginx, settings: &TlsSettings<'_>, body: &str) -> Outcome {
    let request = request(Target::Tcp(nginx.address), expect(&[("body", &["~", body])]));
    made_as(request, &secured(Protocol::Http, settings))
}

/// What a server with that certificate is told.
fn refused(pair: &Pair, settings: &TlsSettings<'_>) -> String {
    let nginx = Nginx::start(" ssl", pair, SAYS_NAME);
    let outcome = asked(&nginx, settings, "");
    let (kind, detail) = failed(&outcome);
    assert_eq!(kind, "tls", "{detail}");
    detail.to_owned()
}

#[test]
fn names_are_sent_if_wanted() {
    let nginx = Nginx::start(" ssl", &pki().good, SAYS_NAME);
    assert_eq!(asked(&nginx, &UNVERIFIED, "^backend.example$"), Outcome::Pass);
    assert_eq!(
        asked(&nginx, &TlsSettings { name: "b.example:8443", ..UNVERIFIED }, "^b.example$"),
        Outcome::Pass
    );
    assert_eq!(asked(&nginx, &TlsSettings { sni: false, ..UNVERIFIED }, "^$"), Outcome::Pass);
    // Nobody looks at a name that is neither sent nor verified.
    assert_eq!(asked(&nginx, &TlsSettings { name: "a b", sni: false, ..UNVERIFIED }, "^$"), Outcome::Pass);
    let request = request(Target::Unix(nginx.socket()), expect(&[("body", &["~", "^backend"])]));
    assert_eq!(made_as(request, &secured(Protocol::Http, &UNVERIFIED)), Outcome::Pass);
}

#[test]
fn certificates_are_verified_if_wanted() {
    let pki = pki();
    let nginx = Nginx::start(" ssl", &pki.good, SAYS_NAME);
    let trusted = verified(&pki.authority);
    assert_eq!(asked(&nginx, &trusted, "^backend.example$"), Outcome::Pass);
    assert_eq!(asked(&nginx, &TlsSettings { sni: false, ..trusted }, "^$"), Outcome::Pass);
    for address in ["127.0.0.1", "127.0.0.1:443"] {
        assert_eq!(asked(&nginx, &TlsSettings { name: address, ..trusted }, "^$"), Outcome::Pass);
    }
    let both = [&pki.own.certificate[..], &pki.authority].concat();
    assert_eq!(asked(&nginx, &verified(&both), ""), Outcome::Pass);
    let wrong_name = asked(&nginx, &TlsSettings { name: "other.example", ..trusted }, "");
    let (kind, detail) = failed(&wrong_name);
    assert_eq!(kind, "tls");
    let start =
        "TLS handshake failed: invalid peer certificate: certificate not valid for name \"other.example\"";
    assert!(detail.starts_with(start) && detail.len() < 400, "{detail}");
    let unknown = asked(&nginx, &verified(&pki.own.certificate), "");
    let said = "TLS handshake failed: invalid peer certificate: UnknownIssuer";
    assert_eq!(failed(&unknown), ("tls", said));
}

#[test]
fn certificates_out_of_date() {
    let pki = pki();
    let detail = refused(&pki.expired, &verified(&pki.authority));
    assert!(
        detail.starts_with("TLS handshake failed: invalid peer certificate: certificate expired"),
        "{detail}"
    );
    let nginx = Nginx::start(" ssl", &pki.expired, SAYS_NAME);
    assert_eq!(asked(&nginx, &UNVERIFIED, ""), Outcome::Pass);
}

#[test]
fn a_certificate_that_is_its_own_authority() {
    let pki = pki();
    let nginx = Nginx::start(" ssl", &pki.own, SAYS_NAME);
    assert_eq!(asked(&nginx, &verified(&pki.own.certificate), ""), Outcome::Pass);
    let other = TlsSettings { name: "other.example", ..verified(&pki.own.certificate) };
    let outcome = asked(&nginx, &other, "");
    assert!(failed(&outcome).1.contains("not valid for name"), "{outcome:?}");
    let outcome = asked(&nginx, &verified(&pki.authority), "");
    let said =
        "TLS handshake failed: the certificate is an authority's, and is not itself among the trusted ones";
    assert_eq!(failed(&outcome), ("tls", said));
}

#[test]
fn our_certificate_is_shown_if_wanted() {
    let pki = pki();
    let wants = "ssl_client_certificate ca.pem; ssl_verify_client on; location / { return 200 '$ssl_client_verify'; }";
    let nginx = Nginx::start(" ssl", &pki.good, wants);
    let identity = Some((&pki.good.certificate[..], &pki.good.key[..]));
    assert_eq!(asked(&nginx, &TlsSettings { identity, ..UNVERIFIED }, "^SUCCESS$"), Outcome::Pass);
    let without = made_as(request(Target::Tcp(nginx.address), ok()), &secured(Protocol::Http, &UNVERIFIED));
    assert_eq!(failed(&without), ("status", "status: wanted 200-399, got 400"));
}

#[test]
fn both_versions_of_tls() {
    for version in ["TLSv1.2", "TLSv1.3"] {
        let server = format!("ssl_protocols {version}; location / {{ return 200 $ssl_protocol; }}");
        let nginx = Nginx::start(" ssl", &pki().good, &server);
        assert_eq!(asked(&nginx, &verified(&pki().authority), &format!("^{version}$")), Outcome::Pass);
    }
    // Only what is offered is spoken, although this server would rather have HTTP/2.
    let nginx = Nginx::start(" ssl http2", &pki().good, "location / { return 200 '$server_protocol'; }");
    assert_eq!(asked(&nginx, &UNVERIFIED, "^HTTP/1.1$"), Outcome::Pass);
}

#[test]
fn servers_without_tls() {
    let nginx = Nginx::start("", &pki().good, SAYS_NAME);
    let outcome = asked(&nginx, &UNVERIFIED, "");
    assert_eq!(failed(&outcome), ("tls", "TLS handshake failed: the server does not speak TLS"));
    let peer = Peer::raw(|_| String::new());
    let outcome = made_as(request(Target::Tcp(peer.address), ok()), &secured(Protocol::Http, &UNVERIFIED));
    let (kind, detail) = failed(&outcome);
    assert!(kind == "tls" && detail.starts_with("TLS handshake failed: "), "{detail}");
    // The other way round.
    let nginx = Nginx::start(" ssl", &pki().good, SAYS_NAME);
    let outcome = super::made(request(Target::Tcp(nginx.address), ok())).outcome;
    assert_eq!(failed(&outcome), ("status", "status: wanted 200-399, got 400"));
}

#[test]
fn a_handshake_at_one_byte_at_a_time() {
    // The beginning of a record that could be long.
    let peer = Peer::raw(|stream| {
        let _ = stream.write_all(b"\x16\x03\x03\x3f\xff\x02\x00\x3f\xfb");
        drip(stream, b"x", Duration::from_millis(10));
        String::new()
    });
    let timeout = Duration::from_millis(150);
    let hurried = Request { timeout, ..request(Target::Tcp(peer.address), ok()) };
    let started = Instant::now();
    let outcome = made_as(hurried, &secured(Protocol::Http, &UNVERIFIED));
    assert_eq!(failed(&outcome), ("timeout", "timed out after 150 ms while negotiating TLS"));
    assert!(started.elapsed() < Duration::from_millis(1650));
    peer.asked();
}

#[test]
fn a_handshake_without_end() {
    // Empty handshake records, or one message that never fits, as fast as they go.
    for piece in [b"\x16\x03\x03\x00\x00".repeat(1000), b"\x16\x03\x03\x00\x04\x02\xff\xff\xff".repeat(1000)]
    {
        let peer = Peer::raw(move |stream| {
            drip(stream, &piece, Duration::ZERO);
            String::new()
        });
        let outcome =
            made_as(request(Target::Tcp(peer.address), ok()), &secured(Protocol::Http, &UNVERIFIED));
        assert_eq!(failed(&outcome).0, "tls", "{outcome:?}");
        peer.asked();
    }
}

/// Speaks TLS, answers, and closes without the alert that says so.
fn closing_rudely(answer: &'static [u8]) -> Outcome {
    let pair = &pki().good;
    let chain = CertificateDer::pem_slice_iter(&pair.certificate).collect::<Result<_, _>>().unwrap();
    let config = rustls::ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_slice(&pair.key).unwrap())
        .unwrap();
    let peer = Peer::raw(move |stream| {
        let mut connection = rustls::ServerConnection::new(config.into()).unwrap();
        let mut tls = rustls::Stream::new(&mut connection, stream);
        let head = read_head(&mut tls);
        tls.write_all(answer).unwrap();
        head
    });
    made_as(request(Target::Tcp(peer.address), ok()), &secured(Protocol::Http, &UNVERIFIED))
}

#[test]
fn an_end_without_a_closing_alert() {
    assert_eq!(closing_rudely(b"HTTP/1.1 200 OK\r\n\r\nall there is"), Outcome::Pass);
    let cut = closing_rudely(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nnot all");
    assert_eq!(failed(&cut), ("reset", "connection closed before the answer was complete"));
}

#[test]
fn settings_that_cannot_be_used() {
    let made = |settings: TlsSettings<'_>| {
        Manner::new(Protocol::Http, Some(&settings), Duration::ZERO).map(drop).unwrap_err()
    };
    let pki = pki();
    assert_eq!(made(TlsSettings { name: "a b", ..UNVERIFIED }).to_string(), "invalid server name \"a b\"");
    assert_eq!(made(verified(b"")), TlsError::NothingTrusted);
    assert_eq!(made(verified(&pki.good.key)), TlsError::NothingTrusted);
    let garbled = b"-----BEGIN CERTIFICATE-----\n%\n-----END CERTIFICATE-----\n";
    assert!(matches!(made(verified(garbled)), TlsError::Certificate(_)));
    let shows = |certificate, key| made(TlsSettings { identity: Some((certificate, key)), ..UNVERIFIED });
    assert!(matches!(shows(&pki.good.certificate, b""), TlsError::Key(_)));
    assert!(matches!(shows(&pki.good.certificate, &pki.own.key), TlsError::Refused(_)));
    assert!(matches!(shows(b"", &pki.own.key), TlsError::Refused(_)));
}
