//! Paths, queries, fields, origins and times.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn path(uri: &str, raw: &str, prefix: &str) -> Option<Vec<String>> {
    let found = segments(uri.as_bytes(), raw.as_bytes(), Prefix::Text(prefix.as_bytes()))?;
    Some(found.iter().map(|segment| text(segment)).collect())
}

fn list(segments: &[&str]) -> Option<Vec<String>> {
    Some(segments.iter().map(|&segment| segment.to_owned()).collect())
}

#[test]
fn the_prefix_is_the_location_and_slashes_at_the_end_change_nothing() {
    for prefix in ["/api", "/api/"] {
        for uri in ["/api/9/nginx", "/api/9/nginx/"] {
            assert_eq!(path(uri, uri, prefix), list(&["9", "nginx"]), "{prefix} {uri}");
        }
        assert_eq!(path("/api/", "/api/", prefix), list(&[]));
    }
    assert_eq!(path("/api", "/api?fields=x", "/api"), list(&[]));
    assert_eq!(path("/9", "/9", "/"), list(&["9"]));
    assert_eq!(path("/api/9", "/api/9", "/ap"), None);
}

#[test]
fn a_location_without_text_begins_at_the_version() {
    let of = |uri: &str| segments(uri.as_bytes(), uri.as_bytes(), Prefix::Unknown);
    assert_eq!(of("/a/b/9/ssl"), Some(vec![b"9".to_vec(), b"ssl".to_vec()]));
    assert_eq!(of("/a/b"), Some(vec![]));
}

#[test]
fn a_key_keeps_its_slashes_but_a_rewrite_wins() {
    assert_eq!(path("/api/9/keys/a/b", "/api/9/keys/%2Fa%2Fb", "/api"), list(&["9", "keys", "/a/b"]));
    assert_eq!(path("/api/9/ssl", "/old?x=1", "/api"), list(&["9", "ssl"]));
    assert_eq!(path("/api/9/ssl", "/api/8/../9/ssl", "/api"), list(&["9", "ssl"]));
}

#[test]
fn versions() {
    let known = |v: &str| is_version(v.as_bytes());
    assert!(known("9") && known("1"));
    assert!(!known("0") && !known("10") && !known("09") && !known("") && !known("x"));
}

#[test]
fn arguments_are_decoded() {
    let query = Query::new(b"a=1&fields=x%2Cy,z&b=a+b%zz&wait=-1");
    assert_eq!(query.fields(), Some(Fields::parse("x,y,z")));
    assert_eq!(query.get("b").as_deref(), Some("a b%zz"));
    assert_eq!(
        (query.number("a"), query.number("c"), query.number("wait")),
        (Ok(Some(1)), Ok(None), Err(()))
    );
    assert_eq!(Query::new(b"fields").fields(), None);
}

#[test]
fn fields_choose_within_objects_collections_and_lists() {
    let one = json!({"a": 1, "b": 2});
    let all = json!({"x": {"a": 1, "b": 2}, "y": {"b": 3}});
    let only = |names: &str, document: &Value, shape| {
        let text = Fields::parse(names).apply(document.to_string().as_bytes(), shape);
        serde_json::from_slice::<Value>(&text).unwrap()
    };
    assert_eq!(only("b", &one, Shape::Object), json!({"b": 2}));
    assert_eq!(only("b,c", &all, Shape::Collection), json!({"x": {"b": 2}, "y": {"b": 3}}));
    assert_eq!(only("", &all, Shape::Collection), json!(["x", "y"]));
    assert_eq!(only("a", &json!([{"a": 1, "b": 2}]), Shape::List), json!([{"a": 1}]));
}

#[test]
fn only_pages_of_this_server_write() {
    let foreign = |site: Option<&str>, origin: Option<&str>, host: Option<&str>| {
        is_foreign(site.map(str::as_bytes), origin.map(str::as_bytes), host.map(str::as_bytes))
    };
    assert!(!foreign(None, None, Some("a")));
    assert!(!foreign(None, Some("http://a:8080"), Some("A:8080")));
    assert!(foreign(None, Some("http://b"), Some("a")));
    assert!(foreign(None, Some("null"), Some("a")));
    assert!(foreign(None, Some("http://a"), None));
    assert!(!foreign(Some("same-origin"), Some("https://front"), Some("a")));
    assert!(foreign(Some("cross-site"), None, Some("a")));
}

#[test]
fn what_is_not_text_is_written_out() {
    assert_eq!(text("z\u{e4}".as_bytes()), "z\u{e4}");
    assert_eq!(text(b"z\xff\xc3"), "z\\xff\\xc3");
}

#[test]
fn media_types() {
    assert!(is_json(b"application/json") && is_json(b"Application/JSON ; charset=utf-8"));
    assert!(!is_json(b"text/json") && !is_json(b"application/jsonx") && !is_json(b""));
}

#[test]
fn known_times() {
    for (wall, text) in [
        (0, "1970-01-01T00:00:00.000Z"),
        (1_656_414_944_467, "2022-06-28T11:15:44.467Z"),
        (951_782_400_000, "2000-02-29T00:00:00.000Z"),
        (4_102_444_799_999, "2099-12-31T23:59:59.999Z"),
    ] {
        assert_eq!(iso(wall), text);
    }
}

/// What `fields` means, on a tree.
fn pick(names: &[&str], value: Value, shape: Shape) -> Value {
    let object = |value| match value {
        Value::Object(all) => {
            Value::Object(all.into_iter().filter(|(name, _)| names.contains(&name.as_str())).collect())
        }
        other => other,
    };
    match (shape, value) {
        (Shape::Object, value) => object(value),
        (Shape::Collection, Value::Object(all)) if names.is_empty() => {
            all.into_iter().map(|(name, _)| Value::String(name)).collect()
        }
        (Shape::Collection, Value::Object(all)) => {
            Value::Object(all.into_iter().map(|(name, value)| (name, object(value))).collect())
        }
        (_, Value::Array(all)) => all.into_iter().map(object).collect(),
        (_, other) => other,
    }
}

fn tree() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-c\"\\\\\\[\\]{},:\u{e4}]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 5, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec(("[ab\"\\\\{},:]{0,2}", inner), 0..4)
                .prop_map(|all| all.into_iter().collect()),
        ]
    })
}

proptest! {
    #[test]
    fn cutting_text_is_choosing_from_a_tree(one in tree(), two in tree(), names in proptest::collection::vec("[ab]{1,2}", 0..3)) {
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let fields = Fields::parse(&names.join(","));
        let documents = [
            (one.clone(), Shape::Object),
            (json!({"x": one, "a\"": two}), Shape::Collection),
            (json!([one, two, {}]), Shape::List),
        ];
        for (document, shape) in documents {
            let cut = fields.apply(document.to_string().as_bytes(), shape);
            let cut: Value = serde_json::from_slice(&cut).unwrap();
            prop_assert_eq!(cut, pick(&names, document, shape));
        }
    }

    #[test]
    fn nothing_a_client_sends_panics(uri: Vec<u8>, raw: Vec<u8>, prefix: Vec<u8>, args: Vec<u8>) {
        let _ = segments(&uri, &raw, Prefix::Text(&prefix));
        let _ = segments(&uri, &raw, Prefix::Unknown);
        let query = Query::new(&args);
        let _ = (query.fields(), query.get("a"), query.number("a"));
        let _ = is_foreign(Some(&uri), Some(&raw), Some(&prefix));
        let _ = is_foreign(None, Some(&raw), Some(&prefix));
        let _ = (is_json(&args), is_version(&args));
        for shape in [Shape::Object, Shape::Collection, Shape::List] {
            let _ = Fields::parse("a").apply(&args, shape);
        }
    }

    #[test]
    fn days_follow_each_other(days in 0_u64..100_000) {
        let (today, tomorrow) = (iso(days * 86_400_000), iso((days + 1) * 86_400_000));
        prop_assert!(today < tomorrow);
    }
}
