//! What the API makes of a request and of an answer, without nginx: the path, the query, `fields=`, failures, times.
//! The documents are those of NGINX Plus, API version 9.

mod failure;
mod fields;
mod origin;
mod path;
mod query;
mod time;

pub use failure::Failure;
pub use fields::{Fields, Shape};
pub use origin::is_foreign;
pub use path::{Prefix, segments};
pub use query::Query;
pub use time::iso;

/// Versions of the API that are answered, all with the documents of the newest: each only added resources and members, and
/// what is added is what clients pass over. Collectors with old defaults ask for 2 and 3.
pub const VERSIONS: core::ops::RangeInclusive<u64> = 1..=9;

/// Whether a segment of a path names a version that is answered.
pub fn is_version(segment: &[u8]) -> bool {
    matches!(segment, [digit @ b'1'..=b'9'] if VERSIONS.contains(&u64::from(digit - b'0')))
}

/// What a client wants of a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// HEAD is answered as GET, and the body left out when it is sent.
    Get,
    Post,
    Patch,
    Delete,
    /// No resource knows it.
    Other,
}

impl Method {
    /// Whether it promises to change nothing.
    pub fn is_safe(self) -> bool {
        self == Self::Get
    }

    /// Whether a body comes with it; that of other methods is thrown away.
    pub fn has_body(self) -> bool {
        matches!(self, Self::Post | Self::Patch)
    }
}

/// Whether a body declared as `content_type` is JSON.
pub fn is_json(content_type: &[u8]) -> bool {
    let media = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
    media.trim_ascii().eq_ignore_ascii_case(b"application/json")
}

/// Bytes that somebody else chose, as text: what is not UTF-8 becomes `\xff`, as it does in names of the configuration, so that
/// one can be told from another.
pub fn text(bytes: &[u8]) -> String {
    use core::fmt::Write;
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            // Writing to a String does not fail.
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

#[cfg(test)]
mod tests;
