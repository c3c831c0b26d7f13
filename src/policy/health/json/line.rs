//! The words of a `json` line.

use serde_json::Value;

use super::super::error::{self, MatchError};
use super::super::pattern::text_pattern;
use super::path::Path;
use super::value::{Comparison, Type, literal, measure, number};
use super::{JsonTest, Over, Test};

const USAGE: &str =
    "\"json PATH OP VALUE\", \"json PATH exists|absent\", \"json PATH is TYPE\" or \"json PATH length OP N\"";
const OPERATORS: &str = "=, !=, <, <=, >, >=, ~, !~, ~*, in, not-in, contains, exists, absent, is or length";
const COMPARISONS: &str = "=, !=, <, <=, > or >=";

pub(super) fn compile(args: &[&str]) -> Result<JsonTest, MatchError> {
    let [path, words @ ..] = args else { return Err(usage()) };
    let path = Path::parse(path)?;
    let (over, words) = match words {
        ["all", rest @ ..] => (Some(Over::All), rest),
        ["any", rest @ ..] => (Some(Over::Any), rest),
        ["none", rest @ ..] => (Some(Over::None), rest),
        rest => (None, rest),
    };
    let [operator, words @ ..] = words else { return Err(usage()) };
    let shaped = shape(operator, words, args)?;
    if let Some(test) = shaped {
        return match over {
            None => Ok(JsonTest { path, over: Over::All, test, optional: false }),
            Some(_) => Err(unexpected(operator, "an operator and a value after all, any or none")),
        };
    }
    let (test, rest) = valued(operator, words, args)?;
    let optional = match rest.as_slice() {
        [] => false,
        ["optional"] => true,
        [word, ..] => return Err(surplus(word, "optional or the end of the line")),
    };
    Ok(JsonTest { path, over: over.unwrap_or(Over::All), test, optional })
}

/// The forms that ask for presence, type or length; `None` for the others.
fn shape(operator: &str, words: &[&str], line: &[&str]) -> Result<Option<Test>, MatchError> {
    let (test, used) = match (operator, words) {
        ("exists", _) => (Test::Exists, 0),
        ("absent", _) => (Test::Absent, 0),
        ("is", [kind, ..]) => {
            let expected = "null, boolean, number, integer, string, array or object";
            (Test::Is(Type::parse(kind).ok_or_else(|| unexpected(kind, expected))?), 1)
        }
        ("length", [comparison, count, ..]) => {
            let parsed = Comparison::parse(comparison);
            let parsed = parsed.ok_or_else(|| error::operator("json", comparison, COMPARISONS))?;
            let count = number(count).ok_or_else(|| operand("length", "a whole number", count, line))?;
            (Test::Length(parsed, count), 2)
        }
        ("is" | "length", _) => return Err(usage()),
        _ => return Ok(None),
    };
    match words.get(used) {
        None => Ok(Some(test)),
        Some(word) => Err(surplus(word, "the end of the line")),
    }
}

/// The forms with a value, and the words after it.
fn valued<'a>(operator: &str, words: &[&'a str], line: &[&str]) -> Result<(Test, Vec<&'a str>), MatchError> {
    if !OPERATORS.split([',', ' ']).any(|known| known == operator) || operator == "or" {
        return Err(error::operator("json", operator, OPERATORS));
    }
    if matches!(operator, "in" | "not-in") {
        let (members, used) = list(words)?;
        return Ok((Test::In { members, negated: operator == "not-in" }, words[used..].to_vec()));
    }
    let [value, rest @ ..] = words else { return Err(usage()) };
    let test = match operator {
        "~" | "!~" | "~*" => {
            let regex = text_pattern("json", value, operator == "~*")?;
            let operator = ["~", "!~", "~*"].into_iter().find(|known| *known == operator).unwrap_or("~");
            Test::Like { regex, pattern: (*value).to_owned(), operator }
        }
        "contains" => Test::Contains(literal(value)?),
        _ => return compared(operator, value, rest, line),
    };
    Ok((test, rest.to_vec()))
}

fn compared<'a>(
    operator: &str,
    text: &str,
    rest: &[&'a str],
    line: &[&str],
) -> Result<(Test, Vec<&'a str>), MatchError> {
    let comparison =
        Comparison::parse(operator).ok_or_else(|| error::operator("json", operator, OPERATORS))?;
    let (value, rest) = match rest {
        ["as", unit, rest @ ..] => (measure(text, unit)?, rest),
        rest => (literal(text)?, rest),
    };
    if comparison.is_ordering() && !value.is_number() {
        return Err(operand(operator, "a number", text, line));
    }
    Ok((Test::Compare(comparison, value), rest.to_vec()))
}

/// `(a, "b c", 3)`, which nginx has split at blanks: the members, and how many words they took.
fn list(words: &[&str]) -> Result<(Vec<Value>, usize), MatchError> {
    let text = words.join(" ");
    let refuse = |what: &str, at: usize| {
        let column = Some(text[..at].chars().count() + 1);
        MatchError::Value { value: text.clone(), what: what.to_owned(), column }
    };
    if !text.starts_with('(') {
        return Err(refuse("expected a list, as in (a, b)", 0));
    }
    let (mut members, mut at) = (Vec::new(), 1);
    loop {
        at += blanks(&text[at..]);
        let length = member(&text[at..]);
        if length == 0 {
            return Err(refuse("expected a value", at));
        }
        members.push(literal(&text[at..at + length])?);
        at += length;
        at += blanks(&text[at..]);
        match text.as_bytes().get(at) {
            Some(b',') => at += 1,
            Some(b')') => break,
            _ => return Err(refuse("expected \",\" or \")\"", at)),
        }
    }
    let used = words_within(words, at + 1).ok_or_else(|| refuse("expected a blank after \")\"", at + 1))?;
    Ok((members, used))
}

/// How many words make up the first `length` bytes of the line, if the last of them ends there.
fn words_within(words: &[&str], length: usize) -> Option<usize> {
    let mut end = 0;
    for (i, word) in words.iter().enumerate() {
        end += word.len() + usize::from(i > 0);
        if end >= length {
            return (end == length).then_some(i + 1);
        }
    }
    None
}

fn blanks(text: &str) -> usize {
    text.len() - text.trim_start().len()
}

/// Bytes of the string or bareword that `text` begins with.
fn member(text: &str) -> usize {
    if !text.starts_with('"') {
        return text.find([',', '(', ')', '"', ' ', '\t']).unwrap_or(text.len());
    }
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '"' if !escaped => return at + 1,
            c => escaped = c == '\\' && !escaped,
        }
    }
    text.len()
}

fn usage() -> MatchError {
    MatchError::Arguments { directive: "json", expected: USAGE }
}

fn unexpected(word: &str, expected: &'static str) -> MatchError {
    MatchError::Unexpected { directive: "json", word: word.to_owned(), expected }
}

/// A word too many. If it is a connective of another language, say what stands for it here.
fn surplus(word: &str, expected: &'static str) -> MatchError {
    match error::operator("json", word, expected) {
        MatchError::Operator { .. } => unexpected(word, expected),
        advice => advice,
    }
}

/// `value` is one of the words of `line`.
fn operand(operator: &str, expected: &'static str, value: &str, line: &[&str]) -> MatchError {
    let before = line.iter().take_while(|word| !std::ptr::eq(**word, value));
    let column = before.map(|word| word.chars().count() + 1).sum::<usize>() + 1;
    MatchError::Operand { operator: operator.to_owned(), expected, value: value.to_owned(), column }
}
