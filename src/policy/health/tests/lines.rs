//! Blocks that compile, and what they make of answers.

use super::super::{Answer, Match, ReasonKind, Verdict};
use super::{DOCUMENT, answer, block, judge, told};

fn on_document(line: &str) -> String {
    told(line, DOCUMENT.as_bytes())
}

#[test]
fn documented_examples_that_pass() {
    for line in [
        "json $.status = healthy",
        "json /status = healthy",
        "json $.status in (healthy, degraded)",
        "json $.checks.*.status = ok",
        "json $.checks.*.status none = fail",
        "json $.checks.database.latency < 100",
        "json $.checks.*.latency <= 50",
        "json /checks/memory/usagePercentage < 90",
        "json $.checks length >= 3",
        "json $.checks is object",
        "json $.checks.kafka absent",
        "json $.status ~ \"^(healthy|ok)$\"",
        "json $..latency < 1000",
    ] {
        assert_eq!(on_document(line), "pass", "{line}");
    }
}

#[test]
fn documented_examples_that_fail() {
    for (line, reason) in [
        (
            "json /checks/memory/usagePercentage >= 90",
            "json /checks/memory/usagePercentage: wanted >= 90, got 45",
        ),
        ("json $.checks.kafka.status = ok", "json $.checks.kafka.status: wanted = \"ok\", got no node"),
        ("json $.checks.kafka.status != fail", "json $.checks.kafka.status: wanted != \"fail\", got no node"),
        (
            r#"json $.checks.database.latency = '"12"'"#,
            "json $.checks.database.latency: wanted = \"12\", got 12",
        ),
        (
            "json $.checks.database.status = down",
            "json $.checks.database.status: wanted = \"down\", got \"ok\"",
        ),
        (
            "json $.checks.*.latency < 10",
            "json $.checks.*.latency: wanted < 10, got 12 at $.checks.database.latency",
        ),
        (
            "json $.checks.*.status any = fail",
            "json $.checks.*.status: wanted any = \"fail\", got \"ok\" at $.checks.database.status (of 3 nodes)",
        ),
        (
            "json $.checks.*.latency none = 3",
            "json $.checks.*.latency: wanted none = 3, got 3 at $.checks.redis.latency",
        ),
        ("json $.checks length = 2", "json $.checks: wanted length = 2, got an object of 3"),
        (
            "json $.status exists\njson $.status absent",
            "json $.status: wanted it to be absent, got \"healthy\"",
        ),
    ] {
        assert_eq!(on_document(line), reason, "{line}");
    }
}

const ODD: &str = r#"{"n":12,"f":12.0,"h":1.5,"s":"12","t":true,"z":null,"e":"","a":[1,"b",null],"u":18446744073709551615,
        "i":9007199254740993,"o":{},"w":"caf\u00e9","odd key":{"a/b":1,"m~n":[7,8]},"neg":-1}"#;

const HOLD: &[&str] = &[
    "json $.n = 12.0",
    "json $.f = 12",
    "json $.f is integer",
    "json $.h is number",
    "json $.t = true",
    "json $.z = null",
    "json $.z exists",
    "json $.z is null",
    "json $.a contains b",
    "json $.a contains null",
    "json $.w contains af",
    "json $.w length = 4",
    "json $.e length = 0",
    "json $.u = 18446744073709551615",
    "json $.u > 18446744073709551614",
    "json $.i != 9007199254740992",
    "json $.i > 9007199254740992",
    "json $.neg < 0",
    "json $.s != 12",
    "json $.s = '\"12\"'",
    "json $.x = 1 optional",
    "json $.n all = 12",
    "json $.w ~* ^CAF",
    "json $.a[-1] = null",
    "json $.a[*] any = b",
    "json $.a[0] is integer",
    "json \"$['odd key']['a/b']\" = 1",
    "json \"/odd key/a~1b\" = 1",
    "json \"/odd key/m~0n/1\" = 8",
    "json $.n not-in '(1, 2, \"x y\")'",
    "json $.n in ( 11 ,12 ) optional",
    "json $.o is object",
    "json $.n <= 12k as bytes",
    "json $.n < 1m30s as ms",
    "json $.s in (\"12\")",
    "json $ is object",
];

const DO_NOT_HOLD: &[&str] = &[
    "json $.n = '\"12\"'",
    "json $.s = 12",
    "json $.s < 13",
    "json $.h is integer",
    "json $.t = '\"true\"'",
    "json $.z = 0",
    "json $.e = null",
    "json $.n ~ 12",
    "json $.n !~ 99",
    "json $.s contains 1",
    "json $.o contains a",
    "json $.n length = 2",
    "json $.x none = 1",
    "json $.n > 12k as bytes",
    "json $.a[3] exists",
    "json $.a[-4] exists",
    "json /a/00 exists",
    "json /a/- exists",
    "json $.n[0] exists",
    "json $.x exists",
    "json $.i = 9007199254740992",
    "json $.w ~ ^CAF",
    "json $.n = 13 optional",
];

#[test]
fn json_semantics() {
    for line in HOLD {
        assert_eq!(told(line, ODD.as_bytes()), "pass", "{line}");
    }
    for line in DO_NOT_HOLD {
        assert_ne!(told(line, ODD.as_bytes()), "pass", "{line}");
    }
}

#[test]
fn the_documented_block() {
    let text = "
        status 200-299
        header Content-Type ~ \"^application/(.+\\+)?json\"
        json $.status in (healthy, degraded)
        json $.checks.database.status = ok
        any {
            json $.checks.redis.status = ok
            json $.checks.redis absent
        }
        degraded {
            any {
                json $.status = degraded
                json $.checks.memory.usagePercentage >= 85
                json $.checks.database.latency > 250
            }
        }";
    assert_eq!(told(text, DOCUMENT.as_bytes()), "pass");
    let slow = DOCUMENT.replace(":12", ":251");
    assert_eq!(told(text, slow.as_bytes()), "json $.checks.database.latency: degraded when > 250, got 251");
    assert!(matches!(judge(text, slow.as_bytes()), Verdict::Degraded(_)));
    let redis = DOCUMENT.replace(r#""redis":{"status":"ok""#, r#""redis":{"status":"fail""#);
    assert_eq!(
        told(text, redis.as_bytes()),
        "json $.checks.redis.status: wanted = \"ok\" (any of 2 lines), got \"fail\""
    );
    let gone = DOCUMENT.replace("redis", "valkey");
    assert_eq!(told(text, gone.as_bytes()), "pass");
}

#[test]
fn deployed_blocks() {
    let pretty: serde_json::Value = serde_json::from_str(DOCUMENT).unwrap();
    let pretty = serde_json::to_string_pretty(&pretty).unwrap();
    let text = r#"
        status 200
        header Content-Type = application/json
        body ~ "\"status\":\"healthy\"""#;
    assert_eq!(told(text, DOCUMENT.as_bytes()), "pass");
    // A text pattern knows nothing of blanks: what `json` lines are for.
    assert_ne!(told(text, pretty.as_bytes()), "pass");
    assert_eq!(told("json $.status = healthy", pretty.as_bytes()), "pass");

    let strict = r#"
        status 200
        header Content-Type ~ "application/json"
        body ~ "\"status\":\"healthy\""
        body ~ "\"database\":{\"status\":\"ok\"}""#;
    let bare = r#"{"status":"healthy","database":{"status":"ok"}}"#;
    assert_eq!(told(strict, bare.as_bytes()), "pass");
    // It means a database object of one member, and refuses one that also tells its latency.
    assert!(
        told(strict, DOCUMENT.as_bytes()).starts_with(r#"body: wanted ~ ""database":{"status":"ok"}", got"#)
    );
}

#[test]
fn statuses() {
    let holds = |line: &str, status: u16| {
        let answer = Answer { status, headers: &[], body: b"", body_complete: true };
        block(line).unwrap().judge(&answer) == Verdict::Pass
    };
    for (line, yes, no) in [
        ("status 200", &[200][..], &[201, 199][..]),
        ("status 200-399 404", &[200, 399, 404], &[199, 400, 405]),
        ("status ! 500-599", &[200, 499, 600], &[500, 599]),
        ("status ! 301-303 307", &[200, 304], &[301, 303, 307]),
        ("status 200-299\nstatus ! 204", &[200], &[204, 300]),
    ] {
        assert!(yes.iter().all(|status| holds(line, *status)), "{line}");
        assert!(!no.iter().any(|status| holds(line, *status)), "{line}");
    }
    let plain = Match::default();
    let verdict = |status| plain.judge(&Answer { status, headers: &[], body: b"", body_complete: false });
    assert_eq!(verdict(399), Verdict::Pass);
    assert!(matches!(verdict(400), Verdict::Fail(r) if r.to_string() == "status: wanted 200-399, got 400"));
}

#[test]
fn headers() {
    let headers: &[(&str, &[u8])] = &[
        ("Content-Type", b"application/json; charset=utf-8"),
        ("X-A", b"1"),
        ("x-a", b"2"),
        ("X-Empty", b""),
    ];
    let answer = Answer { status: 200, headers, body: b"", body_complete: true };
    let holds = |line: &str| block(line).unwrap().judge(&answer) == Verdict::Pass;
    for line in [
        "header content-type",
        "header ! X-B",
        "header Content-Type ~ application/json",
        "header x-a = 1",
        "header x-a = 2",
        "header x-a != 3",
        "header x-a !~ 3",
        "header X-Empty",
        "header X-Empty = \"\"",
        "header CONTENT-TYPE = \"application/json; charset=utf-8\"",
    ] {
        assert!(holds(line), "{line}");
    }
    for line in [
        // The whole value, as Plus compares it.
        "header Content-Type = application/json",
        "header X-B",
        "header ! x-a",
        "header x-a = 3",
        "header x-a != 1",
        "header x-a !~ 2",
        // Not there: neither of the negations holds.
        "header X-B != 1",
        "header X-B !~ 1",
        "header content-type ~ APPLICATION",
    ] {
        assert!(!holds(line), "{line}");
    }
    let Verdict::Fail(reason) = block("header X-a = 3").unwrap().judge(&answer) else { panic!("passed") };
    assert_eq!(reason.to_string(), "header X-a: wanted = \"3\", got \"1\" and 1 more");
}

#[test]
fn groups() {
    let body = br#"{"a":1}"#;
    assert_eq!(told("not {\njson $.a = 2\n}", body), "pass");
    assert_eq!(told("not {\njson $.a = 1\n}", body), "json $.a: wanted not = 1, got 1");
    assert_eq!(told("not {\njson $.a = 1\njson $.a = 2\n}", body), "pass");
    assert_eq!(told("any {\nstatus 500\nall {\nstatus 200\njson $.a = 1\n}\n}", body), "pass");
    // The reason is the status, wherever its line stands.
    assert_eq!(told("json $.a = 2\nbody ~ x\nstatus 204", body), "status: wanted 204, got 200");
    assert_eq!(told("any {\njson $.a = 2\nbody ~ 1\n}", body), "pass");
    assert_eq!(told("degraded {\njson $.a = 1\njson $.a = 2\n}", body), "pass");
    assert_eq!(told("degraded {\nstatus 200\n}", body), "status: degraded when 200, got 200");
    // With nothing but degraded groups the status must still be good.
    let answer = Answer { status: 500, ..answer(body) };
    assert!(matches!(block("degraded {\nstatus 200\n}").unwrap().judge(&answer), Verdict::Fail(_)));
}

#[test]
fn bodies_that_cannot_be_judged() {
    // Neither `not` nor an unlucky order makes a pass of them.
    for text in ["json $.a = 1", "not {\njson $.a = 1\n}", "any {\nstatus 500\njson $.a = 1\n}"] {
        let Verdict::Fail(reason) = judge(text, b"oops") else { panic!("{text}") };
        assert_eq!(reason.kind(), ReasonKind::JsonInvalid, "{text}");
    }
    assert_eq!(told("any {\njson $.a = 1\nbody ~ ^OK\n}", b"OK\n"), "pass");
    assert!(matches!(judge("status 200\ndegraded {\njson $.a = 1\n}", b"oops"), Verdict::Degraded(_)));

    let cut = Answer { body_complete: false, ..answer(b"{\"a\":1}") };
    let fail = |text: &str, answer: &Answer| match block(text).unwrap().judge(answer) {
        Verdict::Fail(reason) => reason.kind(),
        other => panic!("{other:?}"),
    };
    assert_eq!(fail("json $.a = 1", &cut), ReasonKind::BodyTooLarge);
    assert_eq!(block("body ~ a").unwrap().judge(&cut), Verdict::Pass);

    let coded = |coding| [("Content-Encoding", coding)];
    let packed = coded(b"gzip".as_slice());
    let packed = Answer { headers: &packed, ..answer(b"{\"a\":1}") };
    assert_eq!(fail("json $.a = 1", &packed), ReasonKind::EncodedBody);
    assert_eq!(fail("body !~ b", &packed), ReasonKind::EncodedBody);
    assert_eq!(block("status 200").unwrap().judge(&packed), Verdict::Pass);
    let plain = coded(b"Identity".as_slice());
    let plain = Answer { headers: &plain, ..answer(b"{\"a\":1}") };
    assert_eq!(block("json $.a = 1").unwrap().judge(&plain), Verdict::Pass);
}

#[test]
fn the_head_alone_can_fail() {
    let block = block("body ~ ok\nstatus 200\nany {\nstatus 500\nbody ~ x\n}").unwrap();
    let head = |status| Answer { status, headers: &[], body: b"", body_complete: false };
    assert!(block.judge_head(&head(200)).is_none());
    assert!(block.judge_head(&head(503)).is_some());
}
