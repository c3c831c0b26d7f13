//! The segments of a path, decoded, behind the location's prefix.

use super::query::decode;

/// What stands before the API's own path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefix<'a> {
    /// The name of the location.
    Text(&'a [u8]),
    /// A location without a text of its own (a regular expression, a named one): up to the first segment of digits, which
    /// is the version.
    Unknown,
}

/// The segments of `uri` behind the prefix; `None` if the prefix ends within a segment. Empty segments do not count, so a
/// slash at the end or two in a row change nothing.
///
/// `uri` is what nginx made of the request line, in which an encoded slash has become one that separates. `raw` is the path
/// as the client sent it. As long as both say the same, the segments are those of `raw`, each decoded by itself: a key may hold
/// slashes. Where they differ (a rewrite, dots) `uri` is what counts.
pub fn segments(uri: &[u8], raw: &[u8], prefix: Prefix<'_>) -> Option<Vec<Vec<u8>>> {
    let parsed = split(uri).map(<[u8]>::to_vec).collect::<Vec<_>>();
    let sent = split(raw.split(|byte| *byte == b'?').next().unwrap_or_default())
        .map(|segment| decode(segment, false))
        .collect::<Vec<_>>();
    let all = if same(&parsed, &sent) { sent } else { parsed };
    let skip = match prefix {
        Prefix::Text(name) => {
            let inside = all.len() >= split(name).count() && split(name).zip(&all).all(|(a, b)| a == b);
            inside.then(|| split(name).count())?
        }
        Prefix::Unknown => all.iter().position(|segment| is_number(segment)).unwrap_or(all.len()),
    };
    Some(all.into_iter().skip(skip).collect())
}

fn split(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|segment| !segment.is_empty())
}

fn is_number(segment: &[u8]) -> bool {
    segment.iter().all(u8::is_ascii_digit)
}

/// Whether two paths are the same but for slashes.
fn same(a: &[Vec<u8>], b: &[Vec<u8>]) -> bool {
    fn letters(path: &[Vec<u8>]) -> impl Iterator<Item = &u8> {
        path.iter().flatten().filter(|byte| **byte != b'/')
    }
    letters(a).eq(letters(b))
}
