//! Whether a browser sends a write on behalf of a page from elsewhere.
//!
//! A page may send a POST without a body to any address its visitor can reach, and an operator's browser reaches this one.
//! Browsers say where a write comes from: in `Sec-Fetch-Site` where the connection is secure or local, in `Origin` always.
//! Programs send neither.

/// Whether the page that makes this request was served by somebody else. The values of the headers `Sec-Fetch-Site`,
/// `Origin` and `Host`, where there are any.
pub fn is_foreign(site: Option<&[u8]>, origin: Option<&[u8]>, host: Option<&[u8]>) -> bool {
    match (site, origin) {
        (Some(site), _) => !matches!(site, b"same-origin" | b"none"),
        (None, None) => false,
        (None, Some(origin)) => {
            let authority = origin.iter().position(|byte| *byte == b'/').and_then(|at| {
                let (scheme, rest) = origin.split_at(at);
                scheme.ends_with(b":").then(|| rest.strip_prefix(b"//"))?
            });
            match (authority, host) {
                (Some(authority), Some(host)) => !authority.eq_ignore_ascii_case(host),
                _ => true,
            }
        }
    }
}
