//! `fields=a,b`: less of an answer.
//!
//! An answer may be large, and most of the work is to write it; so what was not asked for is cut out of the text, which is JSON
//! that we have written ourselves.

use core::ops::Range;

/// Where in a document the members stand that `fields` chooses from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// In the document itself.
    Object,
    /// In each member of it; without any name, the names of the members are all that is left.
    Collection,
    /// In each element.
    List,
}

/// The members a client wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields(Vec<String>);

impl Fields {
    /// The value of the argument: names with commas between.
    pub fn parse(text: &str) -> Self {
        Self(text.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect())
    }

    /// The document without what was not asked for. `text` is compact JSON.
    pub fn apply(&self, text: &[u8], shape: Shape) -> Vec<u8> {
        let mut out = Vec::new();
        match (shape, text.first()) {
            (Shape::Collection, Some(b'{')) if self.0.is_empty() => {
                list(&mut out, b"[]", entries(text), |(key, _), out| out.extend_from_slice(key));
            }
            (Shape::Collection, Some(b'{')) => list(&mut out, b"{}", entries(text), |(key, value), out| {
                out.extend_from_slice(key);
                out.push(b':');
                self.pick(value, out);
            }),
            (Shape::List, Some(b'[')) => {
                list(&mut out, b"[]", elements(text), |element, out| self.pick(element, out));
            }
            _ => self.pick(text, &mut out),
        }
        out
    }

    /// The members that are wanted; what has none is left as it is.
    fn pick(&self, object: &[u8], out: &mut Vec<u8>) {
        if object.first() != Some(&b'{') {
            return out.extend_from_slice(object);
        }
        let wanted = |key: &[u8]| self.0.iter().any(|name| inside(key) == name.as_bytes());
        list(out, b"{}", entries(object).filter(|(key, _)| wanted(key)), |(key, value), out| {
            out.extend_from_slice(key);
            out.push(b':');
            out.extend_from_slice(value);
        });
    }
}

/// Things with commas between, in brackets.
fn list<T>(
    out: &mut Vec<u8>,
    [open, close]: &[u8; 2],
    things: impl Iterator<Item = T>,
    write: impl Fn(T, &mut Vec<u8>),
) {
    out.push(*open);
    for (at, thing) in things.enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write(thing, out);
    }
    out.push(*close);
}

/// A string without its quotes.
fn inside(string: &[u8]) -> &[u8] {
    string.get(1..string.len().saturating_sub(1)).unwrap_or_default()
}

/// The members of an object: names, with their quotes, and values.
fn entries(object: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut at = 1;
    core::iter::from_fn(move || {
        let key = value(object, at)?;
        let its = value(object, key.end + 1)?;
        at = its.end + 1;
        Some((object.get(key)?, object.get(its)?))
    })
}

/// The elements of an array.
fn elements(array: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut at = 1;
    core::iter::from_fn(move || {
        let element = value(array, at)?;
        at = element.end + 1;
        array.get(element)
    })
}

/// Where the value that begins at `from` lies; `None` if none does.
fn value(text: &[u8], from: usize) -> Option<Range<usize>> {
    let (mut deep, mut quoted, mut at) = (0_usize, false, from);
    loop {
        match *text.get(at)? {
            b'\\' if quoted => at += 1,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'{' | b'[' => deep += 1,
            b'}' | b']' if deep == 0 => break,
            b'}' | b']' => deep -= 1,
            b',' | b':' if deep == 0 => break,
            _ => {}
        }
        at += 1;
    }
    (at > from).then_some(from..at)
}
