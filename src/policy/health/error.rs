//! What is wrong with a `match` block, in the words of `nginx -t`.

/// A `match` block that cannot be compiled. The caller adds the file and the line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MatchError {
    #[error(
        "unknown directive \"{directive}\" in match \"{name}\", expected status, header, body, json or require"
    )]
    UnknownDirective { name: String, directive: String },
    #[error("\"require\" cannot stand inside a group in match \"{name}\"")]
    NestedRequire { name: String },
    #[error("unknown group \"{group}\" in match \"{name}\", expected any, all, not or degraded")]
    UnknownGroup { name: String, group: String },
    #[error("\"degraded\" cannot stand inside another group in match \"{name}\"")]
    NestedDegraded { name: String },
    #[error("groups are nested deeper than {limit} in match \"{name}\"")]
    TooDeep { name: String, limit: usize },
    #[error("empty group \"{group}\" in match \"{name}\"")]
    EmptyGroup { name: String, group: &'static str },
    #[error("no tests in match \"{name}\"")]
    Empty { name: String },
    #[error("unexpected end of a group in match \"{name}\"")]
    NotOpen { name: String },
    #[error("group \"{group}\" is not closed in match \"{name}\"")]
    NotClosed { name: String, group: &'static str },

    #[error("invalid number of arguments in \"{directive}\", expected {expected}")]
    Arguments { directive: &'static str, expected: &'static str },
    #[error("unexpected \"{word}\" in \"{directive}\", expected {expected}")]
    Unexpected { directive: &'static str, word: String, expected: &'static str },
    #[error("unknown operator \"{operator}\" in \"{directive}\", expected {expected}")]
    Operator { directive: &'static str, operator: String, expected: &'static str },
    #[error("\"{operator}\" is not supported in \"{directive}\": {advice}")]
    Connective { directive: &'static str, operator: String, advice: &'static str },

    #[error("invalid status \"{0}\", expected a code or a range between 100 and 999")]
    Status(String),
    #[error("invalid variable \"{0}\" in \"require\"")]
    Variable(String),
    #[error("invalid header name \"{0}\"")]
    HeaderName(String),
    #[error("invalid header name \"{0}\", write a space after \"!\"")]
    HeaderBang(String),
    #[error("invalid pattern \"{pattern}\" in \"{directive}\": {what}{}", at(*.column))]
    Pattern { directive: &'static str, pattern: String, what: String, column: Option<usize> },
    #[error("invalid json path \"{path}\": {what} at column {column}")]
    Path { path: String, what: String, column: usize },
    #[error("invalid json value \"{value}\": {what}{}", at(*.column))]
    Value { value: String, what: String, column: Option<usize> },
    /// `column`: of the value in the line, after `json`.
    #[error("json operator \"{operator}\" needs {expected}, got \"{value}\" at column {column}")]
    Operand { operator: String, expected: &'static str, value: String, column: usize },
}

fn at(column: Option<usize>) -> String {
    column.map(|column| format!(" at column {column}")).unwrap_or_default()
}

/// Operators that people bring from other languages, and what stands for them here.
pub(super) fn operator(directive: &'static str, operator: &str, expected: &'static str) -> MatchError {
    let advice = match operator {
        "&&" | "and" | "&" => "write one test per line, all lines must hold",
        "||" | "or" | "|" => "write one test per line inside \"any { }\"",
        "==" | "===" | "eq" => "write \"=\"",
        "<>" | "!==" | "ne" => "write \"!=\"",
        "=~" => "write \"~\"",
        "=<" => "write \"<=\"",
        "=>" => "write \">=\"",
        _ => return MatchError::Operator { directive, operator: operator.to_owned(), expected },
    };
    MatchError::Connective { directive, operator: operator.to_owned(), advice }
}
