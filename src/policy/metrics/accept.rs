//! Which format a client asks for: the `Accept` header of RFC 9110, as far as it can name our two.

use super::Format;

/// Weights are thousandths, as the header has three decimals.
const WHOLE: u32 = 1_000;

/// The format for the values of all `Accept` headers. OpenMetrics only if it is named and wanted no less than text:
/// a wildcard or a browser gets text, and so does who accepts neither.
#[must_use]
pub fn negotiate<'a>(accept: impl Iterator<Item = &'a str>) -> Format {
    let mut text = Weight::default();
    let mut open = Weight::default();
    for range in accept.flat_map(|value| split(value, ',')) {
        let Some(range) = Range::parse(range) else { continue };
        match range.media.as_str() {
            "application/openmetrics-text" if range.is_version("1.0.0") => open.offer(2, range.weight),
            "text/plain" if range.is_version("0.0.4") => text.offer(2, range.weight),
            "text/*" => text.offer(1, range.weight),
            "*/*" => text.offer(0, range.weight),
            _ => {}
        }
    }
    if open.weight > 0 && open.weight >= text.weight { Format::OpenMetrics } else { Format::Text }
}

/// The weight of the most specific range seen; among equals, the greatest.
#[derive(Default)]
struct Weight {
    precedence: u32,
    weight: u32,
}

impl Weight {
    fn offer(&mut self, precedence: u32, weight: u32) {
        if precedence > self.precedence {
            *self = Self { precedence, weight };
        } else if precedence == self.precedence {
            self.weight = self.weight.max(weight);
        }
    }
}

struct Range<'a> {
    media: String,
    version: Option<&'a str>,
    weight: u32,
}

impl<'a> Range<'a> {
    /// `None` for what is no media range.
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = split(text, ';').map(str::trim);
        let media = parts.next().filter(|media| media.contains('/'))?.to_ascii_lowercase();
        let mut range = Self { media, version: None, weight: WHOLE };
        for part in parts {
            let Some((name, value)) = part.split_once('=') else { continue };
            let value = value.trim().trim_matches('"');
            if name.trim().eq_ignore_ascii_case("q") {
                range.weight = weight(value)?;
            } else if name.trim().eq_ignore_ascii_case("version") {
                range.version = Some(value);
            }
        }
        Some(range)
    }

    fn is_version(&self, version: &str) -> bool {
        self.version.is_none_or(|its| its == version)
    }
}

/// `0`, `0.75`, `1.000` in thousandths.
fn weight(text: &str) -> Option<u32> {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let digits = decimals.bytes().all(|byte| byte.is_ascii_digit()) && decimals.len() <= 3;
    let whole = match whole {
        "0" if digits => 0,
        "1" if digits => WHOLE,
        _ => return None,
    };
    let thousandths = format!("{decimals:0<3}").parse::<u32>().ok()?;
    Some(whole + thousandths).filter(|weight| *weight <= WHOLE)
}

/// `text` between separators that are not in quotes.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let mut escaped = false;
    text.split(move |c| {
        let was_escaped = std::mem::take(&mut escaped);
        match c {
            '\\' if quoted && !was_escaped => escaped = true,
            '"' if !was_escaped => quoted = !quoted,
            _ => {}
        }
        c == separator && !quoted
    })
}
