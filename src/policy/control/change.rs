//! The parameters of a server, a change of some of them, and how they read.

use super::super::Millis;

/// All that can be changed of a server. The default is that of a bare `server` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Params {
    pub weight: u32,
    pub max_conns: u32,
    pub max_fails: u32,
    /// Seconds: the core knows no less.
    pub fail_timeout: u32,
    /// Milliseconds.
    pub slow_start: Millis,
    /// Empty: none, the server's address stands for it.
    pub route: String,
    pub down: bool,
    pub drain: bool,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            weight: 1,
            max_conns: 0,
            max_fails: 1,
            fail_timeout: 10,
            slow_start: 0,
            route: String::new(),
            down: false,
            drain: false,
        }
    }
}

/// New values of some parameters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Patch {
    pub weight: Option<u32>,
    pub max_conns: Option<u32>,
    pub max_fails: Option<u32>,
    pub fail_timeout: Option<u32>,
    pub slow_start: Option<Millis>,
    pub route: Option<String>,
    pub down: Option<bool>,
    pub drain: Option<bool>,
}

impl Patch {
    /// What sets a server that is like `from` to `to`, and nothing more.
    #[must_use]
    pub fn between(from: &Params, to: &Params) -> Self {
        fn other<T: PartialEq + Clone>(from: &T, to: &T) -> Option<T> {
            (from != to).then(|| to.clone())
        }
        Self {
            weight: other(&from.weight, &to.weight),
            max_conns: other(&from.max_conns, &to.max_conns),
            max_fails: other(&from.max_fails, &to.max_fails),
            fail_timeout: other(&from.fail_timeout, &to.fail_timeout),
            slow_start: other(&from.slow_start, &to.slow_start),
            route: other(&from.route, &to.route),
            down: other(&from.down, &to.down),
            drain: other(&from.drain, &to.drain),
        }
    }

    /// `params` with the new values.
    #[must_use]
    pub fn over(&self, params: &Params) -> Params {
        Params {
            weight: self.weight.unwrap_or(params.weight),
            max_conns: self.max_conns.unwrap_or(params.max_conns),
            max_fails: self.max_fails.unwrap_or(params.max_fails),
            fail_timeout: self.fail_timeout.unwrap_or(params.fail_timeout),
            slow_start: self.slow_start.unwrap_or(params.slow_start),
            route: self.route.as_ref().unwrap_or(&params.route).clone(),
            down: self.down.unwrap_or(params.down),
            drain: self.drain.unwrap_or(params.drain),
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A time as Plus prints it: `10s`, and `1500ms` where seconds are not enough.
#[must_use]
pub fn seconds(time: Millis) -> String {
    if time.is_multiple_of(1000) { format!("{}s", time / 1000) } else { format!("{time}ms") }
}

/// What is different between two states of a server, in words; empty: nothing.
#[must_use]
pub fn changes(from: &Params, to: &Params) -> String {
    let mut words = Vec::new();
    let mut number = |name: &str, from: u32, to: u32| {
        if from != to {
            words.push(format!("{name} {from} -> {to}"));
        }
    };
    number("weight", from.weight, to.weight);
    number("max_conns", from.max_conns, to.max_conns);
    number("max_fails", from.max_fails, to.max_fails);
    let mut time = |name: &str, from: Millis, to: Millis| {
        if from != to {
            words.push(format!("{name} {} -> {}", seconds(from), seconds(to)));
        }
    };
    time("fail_timeout", Millis::from(from.fail_timeout) * 1000, Millis::from(to.fail_timeout) * 1000);
    time("slow_start", from.slow_start, to.slow_start);
    let on = |flag| if flag { "on" } else { "off" };
    let mut flag = |name: &str, from: bool, to: bool| {
        if from != to {
            words.push(format!("{name} {}", on(to)));
        }
    };
    flag("down", from.down, to.down);
    flag("drain", from.drain, to.drain);
    if from.route != to.route {
        words.push(format!("route \"{}\" -> \"{}\"", from.route, to.route));
    }
    words.join(", ")
}
