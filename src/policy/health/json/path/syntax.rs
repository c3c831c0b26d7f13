//! Reading a path as the configuration writes it. Every refusal names the column.

use super::super::super::error::MatchError;
use super::{MAX_STEPS, Selector, Step};

/// The largest index RFC 9535 lets a path name: integers that every JSON reader holds exactly.
const MAX_INDEX: i64 = (1 << 53) - 1;

pub(super) fn steps(text: &str) -> Result<Vec<Step>, MatchError> {
    let mut reader = Reader { text, chars: text.chars().collect(), at: 0 };
    let mut steps = match reader.next() {
        Some('$') => reader.jsonpath()?,
        Some('/') => reader.pointer()?,
        _ => return Err(reader.refuse_at("expected \"$\" or \"/\"", 0)),
    };
    if steps.len() > MAX_STEPS {
        return Err(reader.refuse_at("more than 32 steps", reader.chars.len()));
    }
    steps.shrink_to_fit();
    Ok(steps)
}

/// Whether a name can stand after a dot (RFC 9535, `member-name-shorthand`).
pub(super) fn is_shorthand(name: &str) -> bool {
    name.chars().next().is_some_and(begins_name)
        && name.chars().all(continues_name)
        && !name.chars().any(char::is_control)
}

fn begins_name(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || !c.is_ascii()
}

fn continues_name(c: char) -> bool {
    begins_name(c) || c.is_ascii_digit()
}

struct Reader<'a> {
    text: &'a str,
    chars: Vec<char>,
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        Some(c)
    }

    fn take(&mut self, wanted: char) -> bool {
        let there = self.peek() == Some(wanted);
        self.at += usize::from(there);
        there
    }

    fn refuse(&self, what: &str) -> MatchError {
        self.refuse_at(what, self.at)
    }

    fn refuse_at(&self, what: &str, at: usize) -> MatchError {
        MatchError::Path { path: self.text.to_owned(), what: what.to_owned(), column: at + 1 }
    }

    /// `expected X, got "c"`, or that the text is over.
    fn expected(&self, what: &str) -> MatchError {
        match self.peek() {
            Some(c) => self.refuse(&format!("expected {what}, got \"{}\"", c.escape_debug())),
            None => self.refuse(&format!("expected {what}, got the end")),
        }
    }

    /// What follows the `$`.
    fn jsonpath(&mut self) -> Result<Vec<Step>, MatchError> {
        let mut steps = Vec::new();
        while let Some(c) = self.peek() {
            let (descend, selector) = match c {
                '[' => (false, self.bracket()?),
                '.' => {
                    self.at += 1;
                    let descend = self.take('.');
                    (descend, self.dotted(descend)?)
                }
                _ => return Err(self.expected("\".\", \"[\" or a blank")),
            };
            steps.push(Step { descend, selector });
        }
        Ok(steps)
    }

    /// What follows a dot or two.
    fn dotted(&mut self, descend: bool) -> Result<Selector, MatchError> {
        match self.peek() {
            Some('*') => {
                self.at += 1;
                Ok(Selector::Wildcard)
            }
            Some('[') if descend => self.bracket(),
            Some(c) if begins_name(c) => {
                let from = self.at;
                while self.peek().is_some_and(continues_name) {
                    self.at += 1;
                }
                if matches!(self.peek(), Some('-')) {
                    return Err(self.refuse("a name with \"-\" is written ['name']"));
                }
                Ok(Selector::Name(self.chars[from..self.at].iter().collect()))
            }
            _ => Err(self.expected("a name or \"*\"")),
        }
    }

    /// `['name']`, `[0]`, `[-1]`, `[*]`
    fn bracket(&mut self) -> Result<Selector, MatchError> {
        self.at += 1;
        self.blanks();
        let selector = match self.peek() {
            Some('*') => {
                self.at += 1;
                Selector::Wildcard
            }
            Some(quote @ ('\'' | '"')) => Selector::Name(self.string(quote)?),
            Some('-' | '0'..='9') => Selector::Index(self.index()?),
            Some('?') => return Err(self.refuse("filters are not supported")),
            Some(':') => return Err(self.refuse("slices are not supported")),
            _ => return Err(self.expected("a quoted name, an index or \"*\"")),
        };
        self.blanks();
        match self.peek() {
            Some(']') => self.at += 1,
            Some(',') => return Err(self.refuse("unions are not supported")),
            Some(':') => return Err(self.refuse("slices are not supported")),
            _ => return Err(self.expected("\"]\"")),
        }
        Ok(selector)
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(' ' | '\t' | '\n' | '\r')) {
            self.at += 1;
        }
    }

    fn index(&mut self) -> Result<i64, MatchError> {
        let from = self.at;
        self.take('-');
        let digits = self.at;
        while self.peek().is_some_and(|c| c.is_ascii_digit()) {
            self.at += 1;
        }
        let text: String = self.chars[from..self.at].iter().collect();
        // "-0" and "01" are no indexes, as RFC 9535 has it.
        if self.chars.get(digits) == Some(&'0') && text != "0" {
            return Err(self.refuse_at("invalid index", from));
        }
        let index = text.parse().ok().filter(|index: &i64| index.abs() <= MAX_INDEX);
        index.ok_or_else(|| self.refuse_at("invalid index", from))
    }

    fn string(&mut self, quote: char) -> Result<String, MatchError> {
        self.at += 1;
        let mut out = String::new();
        loop {
            match self.next() {
                Some(c) if c == quote => return Ok(out),
                Some('\\') => out.push(self.escape(quote)?),
                Some(c) if c < ' ' => return Err(self.refuse_at("control character in a name", self.at - 1)),
                Some(c) => out.push(c),
                None => return Err(self.refuse("unterminated name")),
            }
        }
    }

    fn escape(&mut self, quote: char) -> Result<char, MatchError> {
        let from = self.at - 1;
        Ok(match self.next() {
            Some(c) if c == quote || c == '\\' || c == '/' => c,
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('u') => return self.unicode(from),
            _ => return Err(self.refuse_at("invalid escape", from)),
        })
    }

    /// What follows `\u`: four hex digits, or two such units that make a surrogate pair.
    fn unicode(&mut self, from: usize) -> Result<char, MatchError> {
        let high = self.unit().ok_or_else(|| self.refuse_at("invalid escape", from))?;
        let code = if (0xd800..0xdc00).contains(&high) {
            let low = (self.take('\\') && self.take('u')).then(|| self.unit()).flatten();
            low.filter(|low| (0xdc00..0xe000).contains(low))
                .map(|low| 0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00))
        } else {
            Some(high)
        };
        code.and_then(char::from_u32).ok_or_else(|| self.refuse_at("invalid surrogate", from))
    }

    fn unit(&mut self) -> Option<u32> {
        let digits = self.chars.get(self.at..self.at + 4)?;
        let unit = digits.iter().try_fold(0, |unit, c| Some(unit * 16 + c.to_digit(16)?))?;
        self.at += 4;
        Some(unit)
    }

    /// What follows the first `/`.
    fn pointer(&mut self) -> Result<Vec<Step>, MatchError> {
        let mut steps = Vec::new();
        let mut token = String::new();
        while let Some(c) = self.next() {
            match c {
                '/' => {
                    steps.push(Step { descend: false, selector: Selector::Token(std::mem::take(&mut token)) })
                }
                '~' if self.take('0') => token.push('~'),
                '~' if self.take('1') => token.push('/'),
                '~' => return Err(self.refuse_at("expected \"~0\" or \"~1\"", self.at - 1)),
                c => token.push(c),
            }
        }
        steps.push(Step { descend: false, selector: Selector::Token(token) });
        Ok(steps)
    }
}
