//! JSON values: how they compare, and how the configuration writes them.

use std::cmp::Ordering;

use serde_json::{Number, Value};

use super::super::error::MatchError;
use super::super::reason::quoted;

/// `=`, `!=` and the orderings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Comparison {
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "=" => Self::Equal,
            "!=" => Self::NotEqual,
            "<" => Self::Less,
            "<=" => Self::LessOrEqual,
            ">" => Self::Greater,
            ">=" => Self::GreaterOrEqual,
            _ => return None,
        })
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }

    /// Whether it is one of the four that only numbers have.
    pub fn is_ordering(self) -> bool {
        !matches!(self, Self::Equal | Self::NotEqual)
    }

    pub fn accepts(self, ordering: Ordering) -> bool {
        match self {
            Self::Equal => ordering.is_eq(),
            Self::NotEqual => ordering.is_ne(),
            Self::Less => ordering.is_lt(),
            Self::LessOrEqual => ordering.is_le(),
            Self::Greater => ordering.is_gt(),
            Self::GreaterOrEqual => ordering.is_ge(),
        }
    }

    pub fn holds(self, got: &Value, wanted: &Value) -> bool {
        match (self, got, wanted) {
            (Self::Equal, ..) => equal(got, wanted),
            (Self::NotEqual, ..) => !equal(got, wanted),
            (_, Value::Number(got), Value::Number(wanted)) => {
                compare(got, wanted).is_some_and(|ordering| self.accepts(ordering))
            }
            _ => false,
        }
    }
}

/// The types a path can be tested for. A number without a fraction is an `integer`, however it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Null,
    Boolean,
    Number,
    Integer,
    String,
    Array,
    Object,
}

impl Type {
    const ALL: [Self; 7] =
        [Self::Null, Self::Boolean, Self::Number, Self::Integer, Self::String, Self::Array, Self::Object];

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean => "boolean",
            Self::Number => "number",
            Self::Integer => "integer",
            Self::String => "string",
            Self::Array => "array",
            Self::Object => "object",
        }
    }

    pub fn holds(self, got: &Value) -> bool {
        match self {
            Self::Null => got.is_null(),
            Self::Boolean => got.is_boolean(),
            Self::Number => got.is_number(),
            Self::Integer => got.as_number().is_some_and(is_whole),
            Self::String => got.is_string(),
            Self::Array => got.is_array(),
            Self::Object => got.is_object(),
        }
    }
}

fn is_whole(number: &Number) -> bool {
    !number.is_f64() || number.as_f64().is_some_and(|value| value.fract() == 0.0)
}

/// Equal in type and value; 12 equals 12.0. Numbers inside arrays and objects never meet here: the
/// configuration writes scalars only.
pub(super) fn equal(got: &Value, wanted: &Value) -> bool {
    match (got, wanted) {
        (Value::Number(got), Value::Number(wanted)) => compare(got, wanted).is_some_and(Ordering::is_eq),
        _ => got == wanted,
    }
}

/// Exact between whole numbers of 64 bits, as f64 otherwise.
fn compare(a: &Number, b: &Number) -> Option<Ordering> {
    match (a.as_i128(), b.as_i128()) {
        (Some(a), Some(b)) => Some(a.cmp(&b)),
        _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
    }
}

/// Characters of a string, elements of an array, members of an object.
pub(super) fn length(value: &Value) -> Option<u64> {
    let length = match value {
        Value::String(text) => text.chars().count(),
        Value::Array(elements) => elements.len(),
        Value::Object(members) => members.len(),
        _ => return None,
    };
    u64::try_from(length).ok()
}

/// A value as a reason shows it.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text.as_bytes()),
        Value::Array(elements) => format!("an array of {}", elements.len()),
        Value::Object(members) => format!("an object of {}", members.len()),
        scalar => scalar.to_string(),
    }
}

/// A value as the configuration writes it: a number, `true`, `false`, `null`, a string in JSON's own quotes,
/// or a bareword, which is a string.
pub(super) fn literal(text: &str) -> Result<Value, MatchError> {
    let refuse = |what: &str, column: usize| MatchError::Value {
        value: text.to_owned(),
        what: what.to_owned(),
        column: Some(column.max(1)),
    };
    if text.starts_with('"') {
        return serde_json::from_str::<String>(text).map(Value::String).map_err(|error| {
            let column = text.char_indices().take_while(|(at, _)| *at < error.column()).count();
            refuse("expected one string in double quotes", column)
        });
    }
    match text {
        "true" => Ok(Value::Bool(true)),
        "false" => Ok(Value::Bool(false)),
        "null" => Ok(Value::Null),
        text if is_number(text) => serde_json::from_str::<Number>(text)
            .map(Value::Number)
            .map_err(|_| refuse("number out of range", 1)),
        text => Ok(Value::String(text.to_owned())),
    }
}

/// The number grammar of RFC 8259. `007`, `+1` and `.5` are barewords.
fn is_number(text: &str) -> bool {
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (mantissa, None),
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(|exponent| digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent)))
}

/// `64m as bytes`, `1m30s as ms`: nginx's sizes and times as whole numbers. A time must carry its unit,
/// because nginx would take a bare 250 for seconds.
pub(super) fn measure(text: &str, unit: &str) -> Result<Value, MatchError> {
    let refuse =
        |what: &str| MatchError::Value { value: text.to_owned(), what: what.to_owned(), column: Some(1) };
    match unit {
        "bytes" => size(text).map(Value::from).ok_or_else(|| refuse("expected a size, as in 64k")),
        "ms" => {
            time(text).map(Value::from).ok_or_else(|| refuse("expected a time with its unit, as in 250ms"))
        }
        _ => {
            Err(MatchError::Unexpected { directive: "json", word: unit.to_owned(), expected: "bytes or ms" })
        }
    }
}

fn size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 10),
        b'm' | b'M' => (&text[..text.len() - 1], 20),
        b'g' | b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    number(digits)?.checked_mul(1 << shift)
}

fn time(text: &str) -> Option<u64> {
    const UNITS: [(&str, u64); 6] =
        [("w", 604_800_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];
    let (mut rest, mut total, mut units) = (text, 0_u64, UNITS.as_slice());
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let after = &rest[digits..];
        let name = &after[..after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len())];
        // As in nginx, the larger unit comes first and none comes twice.
        let place = units.iter().position(|(unit, _)| *unit == name)?;
        let value = number(&rest[..digits])?.checked_mul(units[place].1)?;
        total = total.checked_add(value)?;
        (rest, units) = (&after[name.len()..], &units[place + 1..]);
    }
    (!text.is_empty()).then_some(total)
}

/// Digits only: `parse` alone would take a sign.
pub(super) fn number(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}
