//! The page: one document, put together from the files of page/, and the policy that lets it do what it does and no more.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::digest::{SHA256, digest};

const FRAME: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/style.css");
/// In the order in which they are run, as one script.
const SCRIPTS: [&str; 8] = [
    include_str!("page/base.js"),
    include_str!("page/charts.js"),
    include_str!("page/model.js"),
    include_str!("page/api.js"),
    include_str!("page/actions.js"),
    include_str!("page/upstreams.js"),
    include_str!("page/panels.js"),
    include_str!("page/main.js"),
];

/// What is the same for all pages of this build.
struct Parts {
    style: String,
    script: String,
    policy: String,
}

static PARTS: LazyLock<Parts> = LazyLock::new(|| {
    let style = tight(&slim(STYLE, "/*"));
    let script = format!("'use strict';{{\n{}}}\n", SCRIPTS.map(|script| slim(script, "//")).concat());
    let policy = policy(&style, &script);
    Parts { style, script, policy }
});

/// A page over the API at one path.
pub struct Page {
    pub body: String,
    /// With its quotes.
    pub etag: String,
}

impl Page {
    /// The page over the API at `api`.
    pub fn new(api: &str) -> Self {
        let body = FRAME
            .replace("{{api}}", &escaped(api))
            .replace("{{style}}", &PARTS.style)
            .replace("{{script}}", &PARTS.script);
        let etag =
            format!("\"{}\"", URL_SAFE_NO_PAD.encode(&digest(&SHA256, body.as_bytes()).as_ref()[..12]));
        Self { body, etag }
    }
}

/// `Content-Security-Policy`: this style and this script, requests to this origin, the icon, and nothing else. No text
/// becomes markup, even if the script meant it to (`require-trusted-types-for`).
pub fn content_security_policy() -> &'static str {
    &PARTS.policy
}

fn policy(style: &str, script: &str) -> String {
    format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; img-src data:; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
        source(script),
        source(style),
    )
}

fn source(text: &str) -> String {
    format!("sha256-{}", STANDARD.encode(digest(&SHA256, text.as_bytes())))
}

/// Without indents, empty lines and lines that are only a comment.
fn slim(text: &str, comment: &str) -> String {
    let mut slim = String::with_capacity(text.len());
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(comment)) {
        slim.push_str(line);
        slim.push('\n');
    }
    slim
}

/// A style without the blanks that only people need. Strings in it hold no marks.
fn tight(style: &str) -> String {
    const MARKS: [(&str, &str); 7] =
        [(" {", "{"), ("{ ", "{"), (" }", "}"), ("; ", ";"), (": ", ":"), (", ", ","), (";}", "}")];
    MARKS.iter().fold(style.to_owned(), |style, (wide, tight)| style.replace(wide, tight))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Whether `path` can be where an API is: absolute, of this origin, plain, and without a slash at the end.
pub fn is_path(path: &str) -> bool {
    const MARKS: &[u8] = b"-._~!$&'()*+,;=:@%/";
    path.len() > 1
        && path.starts_with('/')
        && path.bytes().all(|b| b.is_ascii_alphanumeric() || MARKS.contains(&b))
        && path[1..].split('/').all(|segment| !matches!(segment, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hashes_are_of_what_stands_between_the_tags() {
        let page = Page::new("/api").body;
        for (tag, directive) in [("style", "style-src"), ("script", "script-src")] {
            let open = format!("<{tag}>");
            let (_, rest) = page.split_once(&open).expect("opens");
            let (text, rest) = rest.split_once(&format!("</{tag}>")).expect("closes");
            assert!(!rest.contains(&open), "one {tag}");
            let hash = format!("{directive} 'sha256-{}'", STANDARD.encode(digest(&SHA256, text.as_bytes())));
            assert!(content_security_policy().contains(&hash), "{hash}");
        }
    }

    #[test]
    fn the_page_is_self_contained_and_small() {
        let page = Page::new("/api").body;
        assert!(page.starts_with("<!DOCTYPE html>") && page.contains("data-api=\"/api\""));
        assert!(!page.contains("{{"), "all places are filled");
        for foreign in [
            "src=\"http",
            "href=\"http",
            "url(",
            "@import",
            "innerHTML",
            "outerHTML",
            "insertAdjacent",
            "eval(",
        ] {
            assert!(!page.contains(foreign), "{foreign}");
        }
        assert!(page.len() < 80 * 1024, "{} bytes", page.len());
    }

    #[test]
    fn pages_of_different_places_have_different_tags() {
        assert_ne!(Page::new("/api").etag, Page::new("/other").etag);
        assert_eq!(Page::new("/api").etag, Page::new("/api").etag);
    }

    #[test]
    fn the_place_of_the_api_is_a_path_of_this_origin() {
        for good in ["/api", "/a/b", "/a-b_c~d.e", "/a%20b", "/&'"] {
            assert!(is_path(good), "{good}");
        }
        for bad in [
            "",
            "/",
            "api",
            "//evil",
            "/api/",
            "/a//b",
            "/a/../b",
            "/./a",
            "/a?b",
            "/a#b",
            "/a b",
            "/\"><",
            "/ä",
            "http://a/b",
            "/a\\b",
        ] {
            assert!(!is_path(bad), "{bad}");
        }
        assert!(Page::new("/&'").body.contains("data-api=\"/&amp;'\""));
    }
}
