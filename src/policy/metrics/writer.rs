//! The writer: families one after the other, each series once.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::fmt::{self, Write as _};
use std::hash::{BuildHasher, BuildHasherDefault, Hasher};

use super::{Bound, Buckets, Family, Format, Kind, Value};

/// Names and values of a series' labels, in the order they are written. Names are valid and none comes twice.
pub type Labels<'a> = &'a [(&'static str, &'a str)];

/// Hashes of hashes, which need no more hashing.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0 << 8 | u64::from(*byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Writes metrics, at most so many series of them.
pub struct Writer {
    out: Vec<u8>,
    format: Format,
    /// Series that may still be written.
    left: usize,
    written: u64,
    dropped: u64,
    families: HashSet<&'static str>,
    /// Hashes of the labels that the present family has.
    seen: HashSet<u64, BuildHasherDefault<AsItIs>>,
    hasher: RandomState,
    /// The labels of one series, written out.
    labels: String,
    line: String,
}

impl Writer {
    #[must_use]
    pub fn new(format: Format, max_series: usize) -> Self {
        Self {
            out: Vec::new(),
            format,
            left: max_series,
            written: 0,
            dropped: 0,
            families: HashSet::new(),
            seen: HashSet::default(),
            hasher: RandomState::new(),
            labels: String::new(),
            line: String::new(),
        }
    }

    /// A family with what `fill` says; nothing at all, if that is nothing. All series of a family must come in one
    /// call: of a second one nothing is written.
    pub fn family(&mut self, family: &Family, fill: impl FnOnce(&mut Series<'_>)) {
        self.seen.clear();
        let known = !self.families.insert(family.open_name());
        debug_assert!(!known, "{} comes twice", family.name);
        fill(&mut Series { writer: self, family: *family, known, headed: false });
    }

    /// Series written so far, as Prometheus counts them: each bucket is one.
    #[must_use]
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// Series left out so far: there were too many, or they were there already.
    #[must_use]
    pub const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Room for a series that must not be left out, kept until [`Self::release`].
    pub fn reserve(&mut self, series: usize) {
        self.left = self.left.saturating_sub(series);
    }

    /// Gives room back that [`Self::reserve`] kept.
    pub fn release(&mut self, series: usize) {
        self.left += series;
    }

    /// The whole text.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        if self.format == Format::OpenMetrics {
            self.out.extend_from_slice(b"# EOF\n");
        }
        self.out
    }

    fn head(&mut self, family: &Family) {
        let (name, kind) = match self.format {
            Format::Text => (family.name, family.text_type()),
            Format::OpenMetrics => (family.open_name(), family.open_type()),
        };
        self.line.clear();
        self.line.extend(["# HELP ", name, " "]);
        escape(&mut self.line, family.help, self.format == Format::OpenMetrics);
        self.line.extend(["\n# TYPE ", name, " ", kind, "\n"]);
        if let Some(unit) = family.unit().filter(|_| self.format == Format::OpenMetrics) {
            self.line.extend(["# UNIT ", name, " ", unit, "\n"]);
        }
        self.out.extend_from_slice(self.line.as_bytes());
    }

    /// Writes the labels out. False if the family has a series with these.
    fn set_labels(&mut self, labels: Labels<'_>) -> bool {
        self.labels.clear();
        for (name, value) in labels {
            let comma = if self.labels.is_empty() { "" } else { "," };
            self.labels.extend([comma, name, "=\""]);
            escape(&mut self.labels, value, true);
            self.labels.push('"');
        }
        self.seen.insert(self.hasher.hash_one(&self.labels))
    }

    fn sample(&mut self, name: &str, suffix: &str, le: Option<Bound>, value: impl fmt::Display) {
        self.line.clear();
        self.line.extend([name, suffix]);
        if le.is_some() || !self.labels.is_empty() {
            self.line.extend(["{", &self.labels]);
            if let Some(le) = le {
                let comma = if self.labels.is_empty() { "" } else { "," };
                // Writing to a String does not fail.
                let _ = write!(self.line, "{comma}le=\"{le}\"");
            }
            self.line.push('}');
        }
        let _ = writeln!(self.line, " {value}");
        self.out.extend_from_slice(self.line.as_bytes());
    }
}

/// The series of one family.
pub struct Series<'w> {
    writer: &'w mut Writer,
    family: Family,
    known: bool,
    headed: bool,
}

impl Series<'_> {
    /// A series of a counter, a gauge or facts.
    pub fn put(&mut self, labels: Labels<'_>, value: impl Into<Value>) {
        debug_assert!(self.family.kind != Kind::Histogram, "{}", self.family.name);
        if self.begin(labels, 1) {
            self.writer.sample(self.family.name, "", None, value.into());
        }
    }

    /// A histogram: whole, or not at all.
    pub fn put_histogram(&mut self, labels: Labels<'_>, buckets: &Buckets<'_>) {
        debug_assert!(self.family.kind == Kind::Histogram, "{}", self.family.name);
        if !self.begin(labels, buckets.bounds.len() + 3) {
            return;
        }
        let name = self.family.name;
        for (bound, count) in buckets.cumulative() {
            self.writer.sample(name, "_bucket", Some(bound), count);
        }
        self.writer.sample(name, "_count", None, buckets.count());
        self.writer.sample(name, "_sum", None, Value::Millis(buckets.sum));
    }

    /// Makes room for so many series; false if there is none, or they are there.
    fn begin(&mut self, labels: Labels<'_>, series: usize) -> bool {
        if self.known || self.writer.left < series || !self.writer.set_labels(labels) {
            self.writer.dropped += series as u64;
            return false;
        }
        self.writer.left -= series;
        self.writer.written += series as u64;
        if !self.headed {
            self.headed = true;
            self.writer.head(&self.family);
        }
        true
    }
}

/// `text` with backslashes, ends of lines and, if `quotes`, quotes escaped.
fn escape(to: &mut String, text: &str, quotes: bool) {
    // Nearly all have none; to look at all bytes is what processors do many at a time.
    if !text.bytes().fold(false, |found, byte| found | matches!(byte, b'\\' | b'\n' | b'"')) {
        return to.push_str(text);
    }
    let mut from = 0;
    for (at, byte) in text.bytes().enumerate() {
        let escaped = match byte {
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'"' if quotes => "\\\"",
            _ => continue,
        };
        to.push_str(&text[from..at]);
        to.push_str(escaped);
        from = at + 1;
    }
    to.push_str(&text[from..]);
}
