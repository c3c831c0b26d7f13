//! What a `redis` block may say.

use std::path::PathBuf;

use super::super::failure::clean;
use super::super::settings::SettingsError;
use super::super::{Mode, Secret, Server, Settings, Tls};

fn tcp(host: &str, port: Option<u16>) -> Server {
    Server::Tcp { host: host.to_owned(), port }
}

#[test]
fn reads_servers() {
    let good = [
        ("redis", tcp("redis", None)),
        ("127.0.0.1:6380", tcp("127.0.0.1", Some(6380))),
        ("[::1]", tcp("::1", None)),
        ("[::1]:6379", tcp("::1", Some(6379))),
        ("unix:/run/redis.sock", Server::Unix(PathBuf::from("/run/redis.sock"))),
    ];
    for (text, server) in good {
        assert_eq!(Server::parse(text), Ok(server.clone()));
        assert_eq!(server.to_string(), text);
    }
    for text in [
        "",
        ":6379",
        "a:",
        "a:0",
        "a:65536",
        "a:+1",
        "::1",
        "[::1",
        "[x]",
        "[::1]6379",
        "unix:",
        "a b",
        "u@h",
    ] {
        assert_eq!(Server::parse(text), Err(SettingsError::Server(text.to_owned())));
    }
}

#[test]
fn refuses_what_does_not_go_together() {
    let mut good = Settings::new("main");
    good.servers = vec![tcp("redis", None)];
    assert_eq!(good.validate(), Ok(()));
    let refused = |change: fn(&mut Settings)| {
        let mut settings = good.clone();
        change(&mut settings);
        settings.validate().unwrap_err().to_string()
    };
    let sentinel = |settings: &mut Settings, master: &str| {
        settings.mode = Mode::Sentinel { master: master.to_owned(), username: None, password: None };
    };
    let tls = Tls { ca: None, certificate: None, key: None, name: None, verify: true };
    assert_eq!(refused(|s| s.servers.clear()), "redis \"main\" has no \"server\"");
    assert!(refused(|s| s.username = Some("u".to_owned())).contains("without \"password\""));
    assert!(refused(|s| s.breaker.failures = 0).contains("above 0"));
    assert!(refused(|s| (s.mode, s.database) = (Mode::Cluster, 1)).contains("no \"database\" but 0"));
    assert_eq!(Settings { mode: Mode::Cluster, ..good.clone() }.validate(), Ok(()));
    let mut other = good.clone();
    sentinel(&mut other, "");
    assert_eq!(other.validate(), Err(SettingsError::NoMaster("main".to_owned())));
    sentinel(&mut other, "m");
    assert_eq!(other.validate(), Ok(()));
    other.servers.push(Server::Unix(PathBuf::from("/s")));
    assert_eq!(other.validate(), Err(SettingsError::Socket("main".to_owned())));
    let with = |change: fn(&mut Tls)| {
        let mut tls = tls.clone();
        change(&mut tls);
        Settings { tls: Some(tls), ..good.clone() }.validate()
    };
    assert_eq!(with(|_| ()), Ok(()));
    assert_eq!(with(|tls| tls.key = Some(Secret::new("k"))), Err(SettingsError::HalfKey("main".to_owned())));
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let empty = with(|tls| tls.ca = Some(b"no certificate".to_vec())).unwrap_err().to_string();
    assert!(empty.ends_with("no certificate in \"tls_ca\""), "{empty}");
    other.servers.pop();
    other.tls = Some(Tls { name: Some("redis.example".to_owned()), ..tls.clone() });
    assert_eq!(other.validate(), Ok(()));
    assert!(
        matches!(with(|tls| tls.ca = Some(broken_ca())), Err(SettingsError::Certificate { .. })),
        "{broken}"
    );
}

fn broken_ca() -> Vec<u8> {
    b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_vec()
}

#[test]
fn secrets_and_server_texts_are_not_shown() {
    let mut settings = Settings::new("main");
    settings.password = Some(Secret::new("hunter2"));
    assert!(!format!("{settings:?}").contains("hunter2"));
    assert_eq!(
        clean("ERR unknown command 'AUTH', with args beginning with: 'hunter2'"),
        "ERR unknown command 'AUTH'"
    );
    assert_eq!(clean("a\r\nb"), "a  b");
    assert!(clean(&"é".repeat(500)).len() < 250);
}
