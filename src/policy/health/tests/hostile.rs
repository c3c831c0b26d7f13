//! Bodies that no honest backend sends.

use proptest::prelude::*;

use super::super::{ReasonKind, Verdict};
use super::{block, judge, told};

fn kind(line: &str, body: &[u8]) -> Option<ReasonKind> {
    match judge(line, body) {
        Verdict::Fail(reason) | Verdict::Degraded(reason) => Some(reason.kind()),
        Verdict::Pass => None,
    }
}

#[test]
fn not_json() {
    for (body, byte) in [
        (&b""[..], 0),
        (b"  ", 2),
        (b"{\"a\":1}x", 8),
        (b"{\"a\":1}\n{\"a\":1}", 9),
        (b"NaN", 1),
        (b"{\"a\":\xff}", 6),
        (b"{\n\n\"a\":x}", 8),
        (b"\xef\xbb\xbf\xef\xbb\xbf1", 4),
        (b"{'a':1}", 2),
    ] {
        let told = told("json $.a = 1", body);
        assert!(told.contains(&format!("got json_invalid at byte {byte} (")), "{told} for {body:?}");
    }
    assert!(told("json $.a = 1", b"{\"a\":1e400}").contains("json_invalid at byte"));
    assert!(told("json $.a = 1", b"{\"a\":\"\xff\"}").contains("json_invalid at byte"));
}

#[test]
fn odd_but_json() {
    assert_eq!(kind("json $.a = 1", b"\xef\xbb\xbf{\"a\":1}"), None);
    assert_eq!(kind("json $.a = 2", br#"{"a":1,"a":2}"#), None);
    assert_eq!(kind("json $ = 7", b" 7\r\n"), None);
    assert_eq!(kind("json $.a = 1e-400", br#"{"a":0}"#), None);
}

#[test]
fn deep_and_wide() {
    let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    assert_eq!(kind("json $ is array", deep(127).as_bytes()), None);
    assert_eq!(kind("json $ is array", deep(129).as_bytes()), Some(ReasonKind::JsonTooComplex));
    assert_eq!(kind("json $ is array", "[".repeat(256 << 10).as_bytes()), Some(ReasonKind::JsonTooComplex));
    let wide = |nodes: usize| format!("[{}1]", "1,".repeat(nodes - 1));
    assert_eq!(kind("json $[*] = 1", wide(1023).as_bytes()), None);
    assert_eq!(kind("json $..* = 1", wide(1023).as_bytes()), None);
    assert_eq!(kind("json $[*] = 1", wide(1024).as_bytes()), Some(ReasonKind::JsonTooComplex));
    assert_eq!(kind("json $..x = 1", wide(131_072).as_bytes()), Some(ReasonKind::JsonTooComplex));
    assert_eq!(kind("json $[131071] = 1", wide(131_072).as_bytes()), None);
    // Descendants of descendants multiply: the budget, not the document, bounds the work.
    assert_eq!(kind("json $..*..*..*..* = 1", deep(100).as_bytes()), Some(ReasonKind::JsonTooComplex));
}

#[test]
fn reasons_are_short_and_clean() {
    let body = format!("{{\"a\":\"{}\"}}", "x".repeat(100_000));
    let told_long = told("json $.a = 1", body.as_bytes());
    assert!(told_long.len() < 128, "{}", told_long.len());
    let told_bad = told("body ~ healthy", b"\x1b[31m\r\nevil\xff");
    assert_eq!(told_bad, r#"body: wanted ~ "healthy", got "\x1b[31m\r\nevil\xff""#);
}

#[test]
fn long_bodies_take_linear_time() {
    let body = "a".repeat(256 << 10);
    let started = std::time::Instant::now();
    assert!(matches!(judge("body ~ \"^(a|a)*(a|aa)+b$\"", body.as_bytes()), Verdict::Fail(_)));
    assert!(started.elapsed() < std::time::Duration::from_secs(2));
}

proptest! {
    #[test]
    fn any_bytes_are_judged(body in prop::collection::vec(any::<u8>(), 0..200), cut in any::<bool>()) {
        let block = block("json $..a none = 1\nbody ~ a\ndegraded {\njson /a/0 = 1\n}").unwrap();
        let mut answer = super::answer(&body);
        answer.body_complete = cut;
        let _ = block.judge(&answer);
    }

    #[test]
    fn any_words_compile_or_are_refused(args in prop::collection::vec("\\PC{0,12}|any|none|in|\\(a,|b\\)|=|~|length|is|as|\\$\\.a|/a", 0..6),
                                        directive in "status|header|body|json") {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let _ = super::Builder::new("t").line(&directive, &args).map_err(|error| error.to_string());
    }

    #[test]
    fn any_path_compiles_or_is_refused(path in "[$/][\\[\\].*'\"a0~?,: \\\\u-]{0,16}") {
        let _ = super::Builder::new("t").line("json", &[&path, "exists"]).map_err(|error| error.to_string());
    }
}
