//! A strict parser of both formats, written from their specifications: panics at whatever they forbid.

use std::collections::{HashMap, HashSet};

use super::Format;

/// A sample.
#[derive(Clone, Debug)]
pub struct Parsed {
    pub name: String,
    pub labels: Vec<(String, String)>,
    pub value: String,
}

impl Parsed {
    pub fn is(&self, labels: &[(&str, &String)]) -> bool {
        self.labels.len() == labels.len()
            && self.labels.iter().zip(labels).all(|((name, value), (n, v))| name == n && value == *v)
    }
}

#[derive(Default)]
struct Family {
    name: String,
    kind: String,
    unit: bool,
    samples: Vec<Parsed>,
}

/// All samples of `text`.
pub fn parse(format: Format, text: &str) -> Vec<Parsed> {
    assert!(text.is_empty() || text.ends_with('\n'));
    let body = match format {
        Format::Text => {
            assert!(!text.contains("# EOF") && !text.contains("# UNIT"));
            text
        }
        Format::OpenMetrics => text.strip_suffix("# EOF\n").expect("an end"),
    };
    let mut families: Vec<Family> = Vec::new();
    for line in body.split_terminator('\n') {
        match line.strip_prefix("# ") {
            Some(metadata) => head(format, &mut families, metadata),
            None => {
                let family = families.last_mut().expect("a family first");
                assert!(!family.kind.is_empty(), "a type first");
                family.samples.push(sample(line));
            }
        }
    }
    let mut seen = HashSet::new();
    for family in &families {
        assert!(seen.insert(&family.name), "{} comes twice", family.name);
        check(format, family);
    }
    families.into_iter().flat_map(|family| family.samples).collect()
}

fn head(format: Format, families: &mut Vec<Family>, metadata: &str) {
    let mut words = metadata.splitn(3, ' ');
    let mut word = || words.next().expect("a word");
    let (what, name, rest) = (word(), word(), word());
    assert!(is_name(name, true), "{name}");
    if families.last().is_none_or(|family| family.name != name) {
        families.push(Family { name: name.to_owned(), ..Family::default() });
    }
    let family = families.last_mut().expect("just pushed");
    assert!(family.samples.is_empty(), "metadata after samples");
    match what {
        "HELP" => {
            unescape(rest, format == Format::OpenMetrics);
        }
        "TYPE" => {
            assert!(family.kind.is_empty());
            family.kind = rest.to_owned();
        }
        "UNIT" => {
            assert!(!family.unit && name.ends_with(&format!("_{rest}")));
            family.unit = true;
        }
        _ => panic!("{metadata}"),
    }
}

fn is_name(name: &str, colon: bool) -> bool {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '_' || (colon && c == ':');
    !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && name.chars().all(good)
}

fn unescape(text: &str, quotes: bool) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        assert!(!quotes || c != '"', "a bare quote in {text}");
        out.push(match c {
            '\\' => match chars.next() {
                Some('n') => '\n',
                Some('\\') => '\\',
                Some('"') if quotes => '"',
                other => panic!("\\{other:?}"),
            },
            c => c,
        });
    }
    out
}

fn sample(line: &str) -> Parsed {
    let end = line.find(['{', ' ']).expect("a name");
    let (name, rest) = line.split_at(end);
    assert!(is_name(name, true), "{name}");
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest),
        None => (Vec::new(), rest),
    };
    let value = rest.strip_prefix(' ').expect("one space");
    value.parse::<f64>().expect("a number");
    Parsed { name: name.to_owned(), labels, value: value.to_owned() }
}

fn labels(mut rest: &str) -> (Vec<(String, String)>, &str) {
    let mut labels: Vec<(String, String)> = Vec::new();
    loop {
        let (name, after) = rest.split_once("=\"").expect("a label");
        assert!(is_name(name, false) && labels.iter().all(|(other, _)| other != name), "{name}");
        let mut escaped = false;
        let end = after.bytes().position(|byte| {
            let literal = std::mem::take(&mut escaped);
            escaped = byte == b'\\' && !literal;
            byte == b'"' && !literal
        });
        let (value, after) = after.split_at(end.expect("a closing quote"));
        labels.push((name.to_owned(), unescape(value, true)));
        match after[1..].strip_prefix(',') {
            Some(more) => rest = more,
            None => return (labels, after[1..].strip_prefix('}').expect("a brace")),
        }
    }
}

fn check(format: Format, family: &Family) {
    let open = format == Format::OpenMetrics;
    assert!(!family.samples.is_empty(), "{} has metadata alone", family.name);
    let suffixes: &[&str] = match family.kind.as_str() {
        "counter" if open => &["_total"],
        "info" if open => &["_info"],
        "counter" | "gauge" => &[""],
        "histogram" => &["_bucket", "_count", "_sum"],
        other => panic!("type {other}"),
    };
    let mut seen = HashSet::new();
    let mut series: HashMap<Vec<(String, String)>, Vec<&Parsed>> = HashMap::new();
    for sample in &family.samples {
        let suffix = sample.name.strip_prefix(&family.name).expect("the family's name");
        assert!(suffixes.contains(&suffix), "{}", sample.name);
        assert!(seen.insert((&sample.name, &sample.labels)), "{sample:?} comes twice");
        let mut labels = sample.labels.clone();
        labels.retain(|(name, _)| suffix != "_bucket" || name != "le");
        series.entry(labels).or_default().push(sample);
    }
    if family.kind == "histogram" {
        series.values().for_each(|samples| check_histogram(samples));
    }
}

fn check_histogram(samples: &[&Parsed]) {
    let ends = |suffix: &str| -> Vec<_> { samples.iter().filter(|s| s.name.ends_with(suffix)).collect() };
    let (buckets, counts, sums) = (ends("_bucket"), ends("_count"), ends("_sum"));
    assert_eq!((counts.len(), sums.len()), (1, 1));
    let mut before = (f64::NEG_INFINITY, 0.0);
    for bucket in &buckets {
        let le = &bucket.labels.iter().find(|(name, _)| name == "le").expect("le").1;
        assert!(le == "+Inf" || le.contains('.'), "{le} is not canonical");
        let now = (le.parse::<f64>().expect("le"), bucket.value.parse::<f64>().expect("a count"));
        assert!(now.0 > before.0 && now.1 >= before.1, "{before:?} {now:?}");
        before = now;
    }
    assert!(before.0.is_infinite());
    assert_eq!(buckets.last().map(|b| &b.value), counts.first().map(|c| &c.value));
}
