//! `status 200;`, `status 200-399 404;`, `status ! 500-599;`

use super::error::MatchError;

const USAGE: &str = "\"status CODE ...\" or \"status ! CODE ...\"";

/// Codes and ranges of codes, of which one must hold the answer's (or, with `!`, none may).
#[derive(Debug)]
pub(super) struct StatusTest {
    negated: bool,
    ranges: Vec<(u16, u16)>,
}

impl StatusTest {
    pub fn new(args: &[&str]) -> Result<Self, MatchError> {
        let (negated, codes) = match args {
            ["!", codes @ ..] => (true, codes),
            codes => (false, codes),
        };
        if codes.is_empty() {
            return Err(MatchError::Arguments { directive: "status", expected: USAGE });
        }
        let ranges = codes.iter().map(|text| range(text)).collect::<Result<_, _>>()?;
        Ok(Self { negated, ranges })
    }

    /// 200 to 399, what a check without a `match` block wants.
    pub fn success() -> Self {
        Self { negated: false, ranges: vec![(200, 399)] }
    }

    pub fn holds(&self, status: u16) -> bool {
        self.ranges.iter().any(|(low, high)| (*low..=*high).contains(&status)) != self.negated
    }

    pub fn wanted(&self) -> String {
        let mut out = String::from(if self.negated { "! " } else { "" });
        for (i, (low, high)) in self.ranges.iter().enumerate() {
            let space = if i == 0 { "" } else { " " };
            let range = if low == high { low.to_string() } else { format!("{low}-{high}") };
            out.push_str(space);
            out.push_str(&range);
        }
        out
    }
}

fn range(text: &str) -> Result<(u16, u16), MatchError> {
    if text.starts_with('!') {
        let word = text.to_owned();
        return Err(MatchError::Unexpected {
            directive: "status",
            word,
            expected: "\"!\" once, first, with a space after it",
        });
    }
    let bad = || MatchError::Status(text.to_owned());
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    let (low, high) = (code(low).ok_or_else(bad)?, code(high).ok_or_else(bad)?);
    if low > high {
        return Err(bad());
    }
    Ok((low, high))
}

fn code(text: &str) -> Option<u16> {
    let digits = text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|code| digits && *code >= 100)
}
