//! A rate as users write it: `100r/s`, `50r/m`, `20r/10s`.

use std::fmt;

use crate::policy::Millis;

/// So many requests in so much time, as written: `100r/m` stays 100 in 60 000 ms, nothing is truncated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Requests in one period, at least 1.
    pub count: u64,
    /// Length of the period in milliseconds: whole seconds, at most [`Rate::MAX_PERIOD`].
    pub period: Millis,
}

/// The text is not a rate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RateError {
    #[error("invalid rate \"{0}\", expected a form such as \"100r/s\", \"50r/m\" or \"20r/10s\"")]
    Syntax(String),
    #[error("rate \"{0}\" must not be zero")]
    Zero(String),
    #[error("rate \"{0}\" is too large")]
    TooLarge(String),
}

const UNITS: [(char, Millis); 4] = [('s', 1_000), ('m', 60_000), ('h', 3_600_000), ('d', 86_400_000)];

impl Rate {
    /// The longest period, in milliseconds: 10 000 days.
    pub const MAX_PERIOD: Millis = 10_000 * 86_400_000;

    /// Reads `COUNTr/[N]UNIT`, UNIT one of s, m, h, d.
    ///
    /// # Errors
    /// [`RateError`] for anything else, for a zero and for numbers that do not fit.
    pub fn parse(text: &str) -> Result<Self, RateError> {
        let syntax = || RateError::Syntax(text.to_owned());
        let (count, period) = text.split_once("r/").ok_or_else(syntax)?;
        let unit = period.chars().next_back().ok_or_else(syntax)?;
        let (_, unit_ms) = UNITS.into_iter().find(|(name, _)| *name == unit).ok_or_else(syntax)?;
        let units = &period[..period.len() - 1];
        let units = if units.is_empty() { 1 } else { number(units, text)? };
        let count = number(count, text)?;
        if count == 0 || units == 0 {
            return Err(RateError::Zero(text.to_owned()));
        }
        match units.checked_mul(unit_ms) {
            Some(period) if period <= Self::MAX_PERIOD => Ok(Self { count, period }),
            _ => Err(RateError::TooLarge(text.to_owned())),
        }
    }
}

/// Decimal digits only: `str::parse` alone would take a sign.
fn number(digits: &str, text: &str) -> Result<u64, RateError> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return Err(RateError::Syntax(text.to_owned()));
    }
    digits.parse().map_err(|_| RateError::TooLarge(text.to_owned()))
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |unit: &&(char, Millis)| self.period.is_multiple_of(unit.1);
        match UNITS.iter().rev().find(fits) {
            Some((name, unit)) if *unit == self.period => write!(f, "{}r/{name}", self.count),
            Some((name, unit)) => write!(f, "{}r/{}{name}", self.count, self.period / unit),
            None => write!(f, "{}r/{}ms", self.count, self.period),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_contract_lists() {
        let forms = [
            ("100r/s", 100, 1_000),
            ("50r/m", 50, 60_000),
            ("1000r/h", 1000, 3_600_000),
            ("10000r/d", 10_000, 86_400_000),
            ("20r/10s", 20, 10_000),
            ("5r/2m", 5, 120_000),
            ("1r/1d", 1, 86_400_000),
        ];
        for (text, count, period) in forms {
            assert_eq!(Rate::parse(text), Ok(Rate { count, period }), "{text}");
        }
    }

    #[test]
    fn shows_the_shortest_form() {
        for text in ["100r/s", "50r/m", "20r/10s", "1r/d", "3r/90s"] {
            assert_eq!(Rate::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Rate::parse("5r/60s").unwrap().to_string(), "5r/m");
    }

    #[test]
    fn refuses_the_rest() {
        let junk = [
            "", "r/", "r/s", "10", "10r", "10r/", "10x", "10r/x", "10R/s", "+1r/s", "-1r/s", "1.5r/s",
            " 1r/s", "1r/s ", "1r/-1s", "1r/+1s", "1r/s10", "1r/1", "1r/10ss", "1r/1ms", "1r/ß", "١r/s",
            "1r/r/s",
        ];
        for text in junk {
            assert_eq!(Rate::parse(text), Err(RateError::Syntax(text.into())), "{text}");
        }
        for text in ["0r/s", "1r/0s", "0r/0m"] {
            assert_eq!(Rate::parse(text), Err(RateError::Zero(text.into())), "{text}");
        }
        for text in ["18446744073709551616r/s", "1r/18446744073709551615d", "1r/10001d"] {
            assert_eq!(Rate::parse(text), Err(RateError::TooLarge(text.into())), "{text}");
        }
    }
}
