//! What is read of operators, clients and backends, each reader as a function of plain bytes: for the fuzz targets, and
//! for a short run of the same within `cargo test`. A broken promise is a panic.

use serde_json::Value;

use super::api;
use super::balance::{self, Attributes};
use super::breaker::Settings;
use super::health::{Answer, Builder, Verdict, found};
use super::limit::{KeyHash, Rate};

/// Bytes of a reason beside what the line itself says: three values of 64 bytes, each escaped to four times as many, and
/// a path to one of them.
const MOST_TOLD: usize = 1_200;

/// The words of a line as nginx splits it; quoted ones may hold spaces.
pub fn words(line: &str) -> Vec<String> {
    let (mut words, mut rest) = (Vec::new(), line.trim_start());
    while let Some(first) = rest.chars().next() {
        let quoted = matches!(first, '"' | '\'');
        let (mut word, mut chars) = (String::new(), rest.char_indices());
        if quoted {
            chars.next();
        }
        let mut end = rest.len();
        while let Some((at, c)) = chars.next() {
            match c {
                '\\' if matches!(rest[at + 1..].chars().next(), Some('"' | '\'' | '\\')) => {
                    word.extend(chars.next().map(|(_, c)| c));
                }
                c if if quoted { c == first } else { c.is_whitespace() } => {
                    end = at + c.len_utf8();
                    break;
                }
                c => word.push(c),
            }
        }
        words.push(word);
        rest = rest[end..].trim_start();
    }
    words
}

/// A `match` block, an empty line, and an answer: its status as text, its body.
pub fn match_block(data: &[u8]) {
    let (lines, answer) = cut(data, b"\n\n");
    let (status, body) = cut(answer, b"\n");
    let Ok(text) = std::str::from_utf8(lines) else { return };
    let mut builder = Builder::new("t");
    for line in text.lines() {
        let words = words(line);
        let Some((directive, args)) = words.split_first() else { continue };
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let read = match (directive.as_str(), args.as_slice()) {
            ("}", _) => builder.close(),
            (group, ["{"]) => builder.open(group),
            (directive, args) => builder.line(directive, args),
        };
        if let Err(error) = read {
            assert!(!error.to_string().is_empty());
            return;
        }
    }
    let Ok(block) = builder.finish() else { return };
    let status = String::from_utf8_lossy(status).trim().parse().unwrap_or(200);
    let headers: [(&str, &[u8]); 2] = [("x-first", body), ("content-type", b"application/json")];
    let answer = Answer { status, headers: &headers, body, body_complete: true };
    let bare = Answer { body: b"", body_complete: false, ..answer };
    let (early, verdict) = (block.judge_head(&bare), block.judge(&answer));
    assert!(early.is_none() || matches!(verdict, Verdict::Fail(_)), "{early:?} {verdict:?}");
    if let Verdict::Fail(reason) | Verdict::Degraded(reason) = verdict {
        let told = reason.to_string();
        assert!(told.len() <= 8 * text.len() + MOST_TOLD, "{} bytes: {told}", told.len());
        let clean = |c: char| !c.is_control() || text.contains(c);
        assert!(told.chars().all(clean), "{told:?}");
    }
    let _ = block.judge(&Answer { body_complete: false, ..answer });
}

/// A path of a `json` line, an end of line, and a document: what is found is what the standard says.
pub fn json_path(data: &[u8]) {
    let (path, document) = cut(data, b"\n");
    let (Ok(path), Ok(document)) = (std::str::from_utf8(path), serde_json::from_slice::<Value>(document))
    else {
        return;
    };
    if Builder::new("t").line("json", &[path, "exists"]).is_err() {
        return;
    }
    let Some(got) = found(path, &document) else { return };
    let wanted = if path.starts_with('/') {
        document.pointer(path).into_iter().collect()
    } else {
        let theirs = serde_json_path::JsonPath::parse(path);
        theirs.unwrap_or_else(|error| panic!("{path:?}: {error}")).query(&document).all()
    };
    assert_eq!(got, wanted, "{path:?}");
}

/// The arguments of a `json` line, an end of line, and a body.
pub fn json_line(data: &[u8]) {
    let (line, body) = cut(data, b"\n");
    let block = [b"json ", line, b"\n\n200\n", body].concat();
    match_block(&block);
}

/// The name of a cookie, an end of line, and a header; and attributes that are to be sent.
pub fn cookie(data: &[u8]) {
    let (name, header) = cut(data, b"\n");
    if let Some(value) = balance::cookie(header, name) {
        assert!(value.len() < header.len() && !value.contains(&b';'));
    }
    let (Ok(name), Ok(value)) = (std::str::from_utf8(name), std::str::from_utf8(header)) else { return };
    if !balance::is_name(name) {
        return;
    }
    let attributes = Attributes { domain: value, samesite: value, path: value, ..Attributes::default() };
    let set = attributes.set(name, "id");
    assert!(set.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{set:?}");
    assert_eq!(balance::cookie(set.as_bytes(), name.as_bytes()), Some(&b"id"[..]));
}

/// A rate, and a back-off.
pub fn rate(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(rate) = Rate::parse(text) {
        assert!(rate.count > 0 && (1..=Rate::MAX_PERIOD).contains(&rate.period));
        assert_eq!(Rate::parse(&rate.to_string()), Ok(rate), "{text:?}");
    }
    let _ = Settings::parse_backoff(text).map_err(|error| error.to_string());
    assert_ne!(KeyHash::new(data), KeyHash::new(&[data, b"x"].concat()));
}

/// A path and arguments as a client of the API sends them, an end of line, and a document that `fields=` chooses from.
pub fn api(data: &[u8]) {
    let (target, rest) = cut(data, b"\n");
    let (path, args) = cut(target, b"?");
    for prefix in [api::Prefix::Text(b"/api"), api::Prefix::Unknown] {
        let segments = api::segments(path, target, prefix).unwrap_or_default();
        assert!(segments.iter().map(Vec::len).sum::<usize>() <= target.len());
    }
    let query = api::Query::new(args);
    let _ = (query.get("since"), query.number("wait"));
    let _ = (api::is_version(path), api::is_json(rest), api::is_foreign(Some(path), Some(args), Some(rest)));
    // What is cut out of is what we have written ourselves.
    let document = serde_json::from_slice::<Value>(rest).map(|document| document.to_string());
    if let (Some(fields), Ok(text)) = (query.fields(), document) {
        for shape in [api::Shape::Object, api::Shape::Collection, api::Shape::List] {
            let less = fields.apply(text.as_bytes(), shape);
            assert!(serde_json::from_slice::<Value>(&less).is_ok(), "{}", String::from_utf8_lossy(&less));
        }
    }
}

/// What stands before the first `at`, and what after.
fn cut<'d>(data: &'d [u8], at: &[u8]) -> (&'d [u8], &'d [u8]) {
    match data.windows(at.len()).position(|window| window == at) {
        Some(place) => (&data[..place], &data[place + at.len()..]),
        None => (data, b""),
    }
}

/// Gives `target` the seeds of its fuzz target, whole and cut at each byte, and bytes that come to mind.
#[cfg(test)]
pub fn smoke(name: &str, target: fn(&[u8])) {
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};

    let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/");
    let files = std::fs::read_dir(format!("{seeds}{name}")).unwrap();
    let seeds: Vec<Vec<u8>> = files.map(|file| std::fs::read(file.unwrap().path()).unwrap()).collect();
    assert!(!seeds.is_empty());
    for seed in &seeds {
        target(seed);
        (0..seed.len()).for_each(|end| target(&seed[..end]));
    }
    let changed = (proptest::sample::select(seeds), any::<prop::sample::Index>(), any::<u8>(), 0..3usize);
    let changed = changed.prop_map(|(mut seed, at, byte, how)| {
        let at = at.index(seed.len().max(1)).min(seed.len());
        match how {
            0 if at < seed.len() => seed[at] = byte,
            1 if at < seed.len() => drop(seed.remove(at)),
            _ => seed.insert(at, byte),
        }
        seed
    });
    let bytes = prop_oneof![3 => changed, 1 => prop::collection::vec(any::<u8>(), 0..200)];
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    let judged = runner.run(&bytes, |bytes| {
        target(&bytes);
        Ok(())
    });
    judged.unwrap();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_too_strange_to_be_read() {
        smoke("match_block", match_block);
        smoke("json_path", json_path);
        smoke("json_line", json_line);
        smoke("cookie", cookie);
        smoke("rate", rate);
        smoke("api", api);
    }
}
