//! Paths against a full implementation of RFC 9535, and pointers against the parser's own.

use proptest::prelude::*;
use serde_json::Value;

use super::super::json::{found, parse};

fn document() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (0_i64..4).prop_map(Value::from),
        "[ab]{0,2}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("a|b|odd key|é|0|'|/|~", inner, 0..4)
                .prop_map(|members| members.into_iter().collect()),
        ]
    })
}

fn path() -> impl Strategy<Value = String> {
    let step = prop_oneof![
        4 => "\\.(a|b|é|\\*)",
        2 => "\\[(0|1|-1|-2|\\*|'a'|\"b\"|'odd key'|'\\\\''|\"'\"|'\\\\u00e9'|'\\\\u00E9'| 'a' )\\]",
        1 => "\\.\\.(a|b|\\*|\\[0\\]|\\[-1\\]|\\['a'\\]|\\[\\*\\])",
    ];
    prop::collection::vec(step, 0..5).prop_map(|steps| format!("${}", steps.concat()))
}

proptest! {
    #[test]
    fn paths_find_what_the_standard_says(document in document(), path in path()) {
        let wanted = serde_json_path::JsonPath::parse(&path).unwrap().query(&document).all();
        match found(&path, &document) {
            Some(got) => prop_assert_eq!(got, wanted, "{}", path),
            None => prop_assert!(path.contains("..")),
        }
    }

    #[test]
    fn pointers_find_what_the_parser_says(document in document(), pointer in "(/(a|b|0|1|01|-|odd key|~0|~1|é|))(/(a|b|0|1|~1|))?") {
        let got = found(&pointer, &document);
        prop_assert_eq!(got, Some(document.pointer(&pointer).into_iter().collect::<Vec<_>>()));
    }

    #[test]
    fn every_refused_path_is_outside_the_subset(path in "\\$[\\[\\].*'a0\\-]{0,8}") {
        let ours = super::Builder::new("t").line("json", &[&path, "exists"]).is_ok();
        let theirs = serde_json_path::JsonPath::parse(&path).is_ok();
        prop_assert_eq!(ours, theirs, "{}", path);
    }

    #[test]
    fn every_document_is_read_back(document in document()) {
        let text = serde_json::to_vec_pretty(&document).unwrap();
        prop_assert_eq!(parse(&text).ok(), Some(document));
    }
}
