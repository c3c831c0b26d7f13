//! The session cookie: finding it in what a client sends, and the text that sets it.

/// How long a browser keeps the cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expires {
    /// For so many seconds.
    After(u64),
    /// For as long as browsers do.
    Max,
}

/// What follows the value of the cookie, evaluated for one response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Attributes<'a> {
    /// The point in time, as cookies write it, and the seconds until then.
    pub expires: Option<(&'a str, u64)>,
    pub domain: &'a str,
    pub httponly: bool,
    pub secure: bool,
    pub samesite: &'a str,
    pub path: &'a str,
}

impl Attributes<'_> {
    /// The value of `Set-Cookie`. An attribute that would break out of it is left out.
    #[must_use]
    pub fn set(&self, name: &str, value: &str) -> String {
        let mut text = format!("{name}={value}");
        if let Some((time, seconds)) = self.expires {
            pair(&mut text, "expires", time);
            pair(&mut text, "max-age", &seconds.to_string());
        }
        pair(&mut text, "domain", self.domain);
        if self.httponly {
            text.push_str("; httponly");
        }
        if self.secure {
            text.push_str("; secure");
        }
        pair(&mut text, "samesite", self.samesite);
        pair(&mut text, "path", self.path);
        text
    }
}

fn pair(text: &mut String, name: &str, value: &str) {
    if !value.is_empty() && is_value(value) {
        text.extend(["; ", name, "=", value]);
    }
}

/// Whether a cookie may be called so (RFC 6265: a token).
#[must_use]
pub fn is_name(name: &str) -> bool {
    let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(token)
}

/// Whether this may stand in an attribute: no control characters, no semicolon.
#[must_use]
pub fn is_value(value: &str) -> bool {
    value.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b';')
}

/// The value of the cookie `name` in one `Cookie` header, without quotes.
#[must_use]
pub fn cookie<'h>(header: &'h [u8], name: &[u8]) -> Option<&'h [u8]> {
    header.split(|byte| *byte == b';').find_map(|pair| {
        let mut parts = pair.splitn(2, |byte| *byte == b'=');
        let (key, value) = (parts.next()?, parts.next()?);
        if key.trim_ascii() != name {
            return None;
        }
        let value = value.trim_ascii();
        Some(value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value))
    })
}
