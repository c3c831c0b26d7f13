//! Bodies that are taken and refused, and what is different between two states.

use serde_json::{Value, json};

use super::*;

fn time(text: &str) -> Option<u64> {
    match text.strip_suffix("ms") {
        Some(ms) => ms.parse().ok(),
        None => text.strip_suffix('s').unwrap_or(text).parse::<u64>().ok()?.checked_mul(1000),
    }
}

fn fault(body: &Value) -> (&'static str, String) {
    let fault = read(body, time).unwrap_err();
    (fault.code(), fault.to_string())
}

#[test]
fn the_whole_object_that_the_go_client_sends_is_taken() {
    let body = json!({"server": "127.0.0.1:8001", "max_conns": 321, "max_fails": 64, "fail_timeout": "21s",
        "slow_start": "12s", "weight": 10, "route": "test", "backup": true, "down": true, "drain": true});
    let draft = read(&body, time).unwrap();
    assert_eq!((draft.server.as_deref(), draft.backup), (Some("127.0.0.1:8001"), Some(true)));
    let expected = Params {
        weight: 10,
        max_conns: 321,
        max_fails: 64,
        fail_timeout: 21,
        slow_start: 12_000,
        route: "test".to_owned(),
        down: true,
        drain: true,
    };
    assert_eq!(draft.patch.over(&Params::default()), expected);
    assert_eq!((seconds(1500), seconds(90_000)), ("1500ms".to_owned(), "90s".to_owned()));
}

#[test]
fn what_is_wrong_has_plus_s_code() {
    for (body, code, text) in [
        (json!({"id": 1}), "UpstreamConfFormatError", "unknown parameter \"id\""),
        (json!({"wieght": 1}), "UpstreamConfFormatError", "unknown parameter \"wieght\""),
        (json!([1]), "UpstreamConfFormatError", "the body must be an object"),
        (json!({"down": {"a": 1}}), "UpstreamConfFormatError", "invalid value of \"down\""),
        (json!({"weight": [1]}), "UpstreamConfFormatError", "invalid value of \"weight\""),
        (json!({"down": "yes"}), "UpstreamConfFormatError", "invalid value of \"down\""),
        (json!({"server": 5}), "UpstreamBadAddress", "invalid server address \"5\""),
    ] {
        assert_eq!(fault(&body), (code, text.to_owned()), "{body}");
    }
    for (body, code) in [
        (json!({"weight": 0}), "UpstreamBadWeight"),
        (json!({"weight": -1}), "UpstreamBadWeight"),
        (json!({"weight": 1.5}), "UpstreamBadWeight"),
        (json!({"weight": 65_536}), "UpstreamBadWeight"),
        (json!({"weight": "1"}), "UpstreamBadWeight"),
        (json!({"max_conns": -1}), "UpstreamBadMaxConns"),
        (json!({"max_conns": 4_294_967_296_u64}), "UpstreamBadMaxConns"),
        (json!({"max_fails": "x"}), "UpstreamBadMaxFails"),
        (json!({"fail_timeout": "soon"}), "UpstreamBadFailTimeout"),
        (json!({"fail_timeout": "1500ms"}), "UpstreamBadFailTimeout"),
        (json!({"fail_timeout": u64::MAX}), "UpstreamBadFailTimeout"),
        (json!({"slow_start": "31536000s"}), "UpstreamBadSlowStart"),
        (json!({"slow_start": true}), "UpstreamBadSlowStart"),
        (json!({"route": "a;b"}), "UpstreamBadRoute"),
        (json!({"route": "x".repeat(33)}), "UpstreamBadRoute"),
        (json!({"service": 1}), "UpstreamBadService"),
    ] {
        assert_eq!(fault(&body).0, code, "{body}");
    }
}

#[test]
fn a_patch_holds_what_is_different() {
    let from = Params::default();
    let to = Params { weight: 5, down: true, route: "a".to_owned(), slow_start: 500, ..from.clone() };
    let patch = Patch::between(&from, &to);
    let expected = Patch {
        weight: Some(5),
        down: Some(true),
        route: Some("a".to_owned()),
        slow_start: Some(500),
        ..Patch::default()
    };
    assert_eq!(patch, expected);
    assert_eq!(patch.over(&from), to);
    assert!(Patch::between(&to, &to).is_empty());
    assert_eq!(changes(&from, &to), "weight 1 -> 5, slow_start 0s -> 500ms, down on, route \"\" -> \"a\"");
    assert_eq!(changes(&to, &to), "");
}
