//! Why a call got no decision, and whether it may have been charged all the same.

use ::redis::{ErrorKind, RedisError, ServerErrorKind};

/// Longest text of a server that is passed on, in bytes.
const MAX_DETAIL: usize = 240;

/// Error codes that Redis gives before the script has run, or at its first write, which then changes nothing.
const NOT_EXECUTED: [&str; 19] = [
    "ASK",
    "BUSY",
    "CLUSTERDOWN",
    "CROSSSLOT",
    "DENIED",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "MOVED",
    "NOAUTH",
    "NOPERM",
    "NOREPLICAS",
    "NOSCRIPT",
    "OOM",
    "READONLY",
    "TRYAGAIN",
    "UNKILLABLE",
    "WRONGPASS",
    "WRONGTYPE",
];

/// Error codes after which this connection will not serve: another server, or another login, is needed.
const RECONNECT: [&str; 7] =
    ["LOADING", "MASTERDOWN", "MOVED", "NOAUTH", "READONLY", "WRONGPASS", "UNBLOCKED"];

/// Why a call was not decided. After [`Lost`](Self::Lost) and [`Unexpected`](Self::Unexpected) nobody knows
/// whether Redis has charged it, so it must never be sent again; after the others nothing was charged.
/// None of these texts holds a secret or a control character.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// There is no connection; nothing was sent.
    #[error("redis is not connected")]
    Unavailable,
    /// It waited longer for its turn than a request waits for its answer; nothing was sent.
    #[error("redis is too slow, the call was not sent")]
    Stale,
    /// No such link, or not [1 to `MAX_LIMITS`](super::MAX_LIMITS) limits of at most
    /// [`MAX_COST`](super::MAX_COST); nothing was sent.
    #[error("invalid link, cost or number of limits")]
    Invalid,
    /// Redis refused before anything was charged (`LOADING`, `READONLY`, `OOM`, `NOAUTH` and the like).
    #[error("redis refused: {0}")]
    Refused(String),
    /// The connection broke, or was given up, with the answer outstanding.
    #[error("redis connection lost with a call outstanding: {0}")]
    Lost(String),
    /// The script failed in the middle, or the answer is not one of our script's.
    #[error("unexpected answer from redis: {0}")]
    Unexpected(String),
}

impl Failure {
    /// Sorts an error of the client library.
    pub(super) fn from_error(error: &RedisError) -> Self {
        match code(error) {
            Some(code) if NOT_EXECUTED.contains(&code) => Self::Refused(describe(error)),
            Some(_) => Self::Unexpected(describe(error)),
            None if matches!(error.kind(), ErrorKind::Parse | ErrorKind::UnexpectedReturnType) => {
                Self::Unexpected(describe(error))
            }
            None => Self::Lost(describe(error)),
        }
    }
}

/// The server's error code (`OOM`), none if the error is not the server's.
pub(super) fn code(error: &RedisError) -> Option<&str> {
    error.code()
}

/// True if the script must be loaded again.
pub(super) fn is_no_script(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

/// True if the connection is of no more use after this error.
pub(super) fn is_fatal(error: &RedisError) -> bool {
    match code(error) {
        Some(code) => RECONNECT.contains(&code),
        None => true,
    }
}

/// One line about an error, cut and freed of control characters. What follows "args" is left out: Redis repeats
/// the arguments of a command that it does not know, and of AUTH that is the password.
pub(super) fn describe(error: &RedisError) -> String {
    let text = match (code(error), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        (Some(code), None) => code.to_owned(),
        (None, _) => error.to_string(),
    };
    clean(&text)
}

/// See [`describe`].
pub(super) fn clean(text: &str) -> String {
    let text = text.split(", with args").next().unwrap_or_default();
    let mut line = String::with_capacity(MAX_DETAIL + 4);
    for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if line.len() + c.len_utf8() > MAX_DETAIL {
            line.push('…');
            break;
        }
        line.push(c);
    }
    line
}
