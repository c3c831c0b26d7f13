//! Blocks that do not compile, and the words in which they are refused.

use super::block;

fn refusal(text: &str) -> String {
    block(text).map_or_else(|error| error.to_string(), |block| format!("compiled {block:?}"))
}

#[test]
fn lines() {
    for (line, message) in [
        (
            "status",
            "invalid number of arguments in \"status\", expected \"status CODE ...\" or \"status ! CODE ...\"",
        ),
        (
            "status !",
            "invalid number of arguments in \"status\", expected \"status CODE ...\" or \"status ! CODE ...\"",
        ),
        (
            "status !500",
            "unexpected \"!500\" in \"status\", expected \"!\" once, first, with a space after it",
        ),
        ("status 99", "invalid status \"99\", expected a code or a range between 100 and 999"),
        ("status 399-200", "invalid status \"399-200\", expected a code or a range between 100 and 999"),
        ("status 2xx", "invalid status \"2xx\", expected a code or a range between 100 and 999"),
        ("status +20", "invalid status \"+20\", expected a code or a range between 100 and 999"),
        (
            "header",
            "invalid number of arguments in \"header\", expected \"header NAME\", \"header ! NAME\" or \"header NAME =|!=|~|!~ VALUE\"",
        ),
        ("header !X", "invalid header name \"!X\", write a space after \"!\""),
        ("header \"a b\"", "invalid header name \"a b\""),
        ("header X == 1", "\"==\" is not supported in \"header\": write \"=\""),
        ("header X ~* 1", "unknown operator \"~*\" in \"header\", expected =, !=, ~ or !~"),
        ("header X = a b", "unexpected \"b\" in \"header\", expected one value, quoted"),
        ("body ok", "invalid number of arguments in \"body\", expected \"body ~|!~ REGEX\""),
        ("body = ok", "unknown operator \"=\" in \"body\", expected ~ or !~"),
        ("body ~ a b", "unexpected \"b\" in \"body\", expected one pattern, quoted"),
        ("body ~ a(", "invalid pattern \"a(\" in \"body\": unclosed group at column 2"),
        ("require ok", "invalid variable \"ok\" in \"require\""),
        ("require", "invalid number of arguments in \"require\", expected variables"),
        ("any {\nrequire $ok", "\"require\" cannot stand inside a group in match \"t\""),
        (
            "expect 200",
            "unknown directive \"expect\" in match \"t\", expected status, header, body, json or require",
        ),
    ] {
        assert_eq!(refusal(line), message, "{line}");
    }
}

#[test]
fn json_words() {
    let usage = "invalid number of arguments in \"json\", expected \"json PATH OP VALUE\", \"json PATH exists|absent\", \"json PATH is TYPE\" or \"json PATH length OP N\"";
    for (line, message) in [
        ("json", usage),
        ("json $.a", usage),
        ("json $.a any", usage),
        ("json $.a =", usage),
        ("json $.a is", usage),
        ("json $.a == 1", "\"==\" is not supported in \"json\": write \"=\""),
        ("json $.a <> 1", "\"<>\" is not supported in \"json\": write \"!=\""),
        (
            "json $.a = 1 && $.b = 2",
            "\"&&\" is not supported in \"json\": write one test per line, all lines must hold",
        ),
        (
            "json $.a exists || $.b exists",
            "\"||\" is not supported in \"json\": write one test per line inside \"any { }\"",
        ),
        (
            "json $.a equals 1",
            "unknown operator \"equals\" in \"json\", expected =, !=, <, <=, >, >=, ~, !~, ~*, in, not-in, contains, exists, absent, is or length",
        ),
        ("json $.a or 1", "\"or\" is not supported in \"json\": write one test per line inside \"any { }\""),
        ("json $.a < x", "json operator \"<\" needs a number, got \"x\" at column 7"),
        ("json $.a >= '\"1\"'", "json operator \">=\" needs a number, got \"\"1\"\" at column 8"),
        ("json $.a = 1e400", "invalid json value \"1e400\": number out of range at column 1"),
        ("json $.a = '\"x'", "invalid json value \"\"x\": expected one string in double quotes at column 2"),
        ("json $.a = b c", "unexpected \"c\" in \"json\", expected optional or the end of the line"),
        ("json $.a exists optional", "unexpected \"optional\" in \"json\", expected the end of the line"),
        (
            "json $.a any exists",
            "unexpected \"exists\" in \"json\", expected an operator and a value after all, any or none",
        ),
        (
            "json $.a is text",
            "unexpected \"text\" in \"json\", expected null, boolean, number, integer, string, array or object",
        ),
        ("json $.a length = -1", "json operator \"length\" needs a whole number, got \"-1\" at column 14"),
        ("json $.a length ~ 1", "unknown operator \"~\" in \"json\", expected =, !=, <, <=, > or >="),
        ("json $.a in b", "invalid json value \"b\": expected a list, as in (a, b) at column 1"),
        ("json $.a in (b, c", "invalid json value \"(b, c\": expected \",\" or \")\" at column 6"),
        ("json $.a in (b c)", "invalid json value \"(b c)\": expected \",\" or \")\" at column 4"),
        ("json $.a in (b,)", "invalid json value \"(b,)\": expected a value at column 4"),
        ("json $.a in (b)x", "invalid json value \"(b)x\": expected a blank after \")\" at column 4"),
        ("json $.a in (b) x", "unexpected \"x\" in \"json\", expected optional or the end of the line"),
        ("json $.a ~ [", "invalid pattern \"[\" in \"json\": unclosed character class at column 1"),
        ("json $.a < 64x as bytes", "invalid json value \"64x\": expected a size, as in 64k at column 1"),
        (
            "json $.a < 250 as ms",
            "invalid json value \"250\": expected a time with its unit, as in 250ms at column 1",
        ),
        ("json $.a < 250ms as s", "unexpected \"s\" in \"json\", expected bytes or ms"),
    ] {
        assert_eq!(refusal(line), message, "{line}");
    }
}

#[test]
fn paths() {
    for (path, what) in [
        ("status", "expected \"$\" or \"/\" at column 1"),
        ("$.", "expected a name or \"*\", got the end at column 3"),
        ("$.a.", "expected a name or \"*\", got the end at column 5"),
        ("$..", "expected a name or \"*\", got the end at column 4"),
        ("$...a", "expected a name or \"*\", got \".\" at column 4"),
        ("$a", "expected \".\", \"[\" or a blank, got \"a\" at column 2"),
        ("$.a=ok", "expected \".\", \"[\" or a blank, got \"=\" at column 4"),
        ("$.my-key", "a name with \"-\" is written ['name'] at column 5"),
        ("$.1a", "expected a name or \"*\", got \"1\" at column 3"),
        ("$[", "expected a quoted name, an index or \"*\", got the end at column 3"),
        ("$[0", "expected \"]\", got the end at column 4"),
        ("$[01]", "invalid index at column 3"),
        ("$[-0]", "invalid index at column 3"),
        ("$[-]", "invalid index at column 3"),
        ("$[9007199254740992]", "invalid index at column 3"),
        ("$['a", "unterminated name at column 5"),
        ("$['\\x']", "invalid escape at column 4"),
        ("$['\\ud800']", "invalid surrogate at column 4"),
        ("$[?(@.a)]", "filters are not supported at column 3"),
        ("$[0:2]", "slices are not supported at column 4"),
        ("$[:2]", "slices are not supported at column 3"),
        ("$[0,1]", "unions are not supported at column 4"),
        ("/a~2", "expected \"~0\" or \"~1\" at column 3"),
        ("/a~", "expected \"~0\" or \"~1\" at column 3"),
    ] {
        let mut builder = super::Builder::new("t");
        let message = builder.line("json", &[path, "exists"]).unwrap_err().to_string();
        assert_eq!(message, format!("invalid json path \"{path}\": {what}"));
    }
    assert!(super::Builder::new("t").line("json", &[&"/a".repeat(33), "exists"]).is_err());
    assert!(super::Builder::new("t").line("json", &[&"/a".repeat(32), "exists"]).is_ok());
}

#[test]
fn blocks() {
    for (text, message) in [
        ("", "no tests in match \"t\""),
        ("any {\n}", "empty group \"any\" in match \"t\""),
        ("some {", "unknown group \"some\" in match \"t\", expected any, all, not or degraded"),
        ("any {\nstatus 200", "group \"any\" is not closed in match \"t\""),
        ("}", "unexpected end of a group in match \"t\""),
        ("any {\ndegraded {", "\"degraded\" cannot stand inside another group in match \"t\""),
    ] {
        assert_eq!(refusal(text), message, "{text}");
    }
    assert_eq!(refusal(&"not {\n".repeat(17)), "groups are nested deeper than 16 in match \"t\"");
}
