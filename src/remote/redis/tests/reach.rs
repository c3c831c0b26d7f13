//! The other ways to a server: through a sentinel, and through TLS.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use ::redis::Value;

use super::super::settings::{Mode, Tls};
use super::{LinkEvent, PATIENCE, Redis, Secret, Server, Settings, Worker, gcra};

/// A port that was free a moment ago.
pub(super) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub(super) fn local(port: u16) -> Server {
    Server::Tcp { host: "127.0.0.1".to_owned(), port: Some(port) }
}

fn on_port(args: &[&str]) -> (Redis, u16) {
    let port = free_port();
    let text = port.to_string();
    let args: Vec<_> = ["--port", &text, "--bind", "127.0.0.1"].iter().chain(args).copied().collect();
    (Redis::start(&args), port)
}

/// Asks until the answer is `wanted`.
pub(super) fn until_info(redis: &Redis, wanted: &str) {
    let until = Instant::now() + PATIENCE;
    loop {
        if redis.ask::<String>(&["INFO"]).is_ok_and(|info| info.contains(wanted)) {
            return;
        }
        assert!(Instant::now() < until, "never saw {wanted}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn live_a_sentinel_leads_to_the_new_primary() {
    let (mut first, port) = on_port(&["--repl-diskless-sync-delay", "0"]);
    let (second, _) = on_port(&["--replicaof", "127.0.0.1", &port.to_string()]);
    until_info(&second, "master_link_status:up");
    let sentinel_port = free_port();
    let conf = second.socket().with_file_name("sentinel.conf");
    let text = format!(
        "port {sentinel_port}\nbind 127.0.0.1\nunixsocket s\nsentinel monitor m 127.0.0.1 {port} 1\n"
    );
    std::fs::write(&conf, text).unwrap();
    let sentinel = Redis::start(&[conf.to_str().unwrap(), "--sentinel"]);
    until_info(&sentinel, "slaves=1");
    let mut settings = sentinel.settings();
    settings.servers = vec![local(sentinel_port)];
    settings.mode = Mode::Sentinel { master: "m".to_owned(), username: None, password: None };
    let worker = Worker::new(settings);
    assert!(worker.one(gcra("k", "1r/h", 9, 1)).admitted);
    let until = Instant::now() + PATIENCE;
    // Refused until the sentinel has looked at the replica.
    while sentinel.ask::<Value>(&["SENTINEL", "FAILOVER", "m"]).is_err() {
        assert!(Instant::now() < until, "the sentinel will not fail over");
        std::thread::sleep(Duration::from_millis(20));
    }
    first.kill();
    until_info(&second, "role:master");
    let until = Instant::now() + PATIENCE;
    loop {
        if second.ask(&["EXISTS", "after"]) == Ok(1) {
            break;
        }
        assert!(Instant::now() < until, "the new primary was never used");
        // Refused until the sentinel names the new one.
        let _ = worker.call(vec![gcra("after", "1r/h", 9, 1)]);
    }
}

/// A certificate for `name`, signed by itself: certificate and key, PEM.
fn certificate(dir: &Path, name: &str) -> (Vec<u8>, Vec<u8>) {
    let subject = format!("/CN={name}");
    let alternative = format!("subjectAltName=DNS:{name}");
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-keyout", "key.pem", "-out", "cert.pem", "-subj", &subject, "-addext", &alternative])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    (std::fs::read(dir.join("cert.pem")).unwrap(), std::fs::read(dir.join("key.pem")).unwrap())
}

#[test]
fn live_tls_verifies_the_name_and_shows_our_certificate() {
    // Its directory keeps the certificate; the server with TLS follows.
    let keeper = Redis::start(&[]);
    let dir = keeper.socket().parent().unwrap().to_owned();
    let (cert, key) = certificate(&dir, "redis.example");
    let (port, path) = (free_port().to_string(), |name: &str| dir.join(name).to_str().unwrap().to_owned());
    let args = ["--tls-port", &port, "--bind", "127.0.0.1", "--tls-cert-file", &path("cert.pem")];
    let more = ["--tls-key-file", &path("key.pem"), "--tls-ca-cert-file", &path("cert.pem")];
    let server = Redis::start(&[&args[..], &more[..]].concat());
    let settings = |change: fn(&mut Tls)| {
        let mut tls = Tls {
            ca: Some(cert.clone()),
            certificate: Some(cert.clone()),
            key: Some(Secret::new(String::from_utf8(key.clone()).unwrap())),
            name: Some("redis.example".to_owned()),
            verify: true,
        };
        change(&mut tls);
        Settings { servers: vec![local(port.parse().unwrap())], tls: Some(tls), ..server.settings() }
    };
    assert!(Worker::new(settings(|_| ())).one(gcra("k", "1r/h", 9, 1)).admitted);
    let unverified = settings(|tls| (tls.verify, tls.name) = (false, None));
    assert!(Worker::new(unverified).one(gcra("k", "1r/h", 9, 1)).admitted);
    let (_, stranger) = certificate(&dir, "other.example");
    let stranger = Secret::new(String::from_utf8(stranger).unwrap());
    let mut mixed = settings(|_| ());
    mixed.tls = mixed.tls.map(|tls| Tls { key: Some(stranger), ..tls });
    let refused = mixed.validate().unwrap_err().to_string();
    assert!(refused.contains("is not that of \"tls_certificate\""), "{refused}");
    let wrong = |settings| matches!(Worker::new(settings).event(), LinkEvent::Lost { .. });
    assert!(wrong(settings(|tls| tls.name = Some("other.example".to_owned()))));
    assert!(wrong(settings(|tls| tls.name = None)));
    assert!(wrong(settings(|tls| (tls.certificate, tls.key) = (None, None))));
}
