//! What was said of one server.

use super::{Record, Words, put, text};
use crate::policy::Millis;
use crate::policy::control::{Params, Patch};
use crate::policy::limit::KeyHash;

/// What was said of a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seat {
    /// New values.
    pub patch: Patch,
    /// What the configuration said then: once it says something else, that counts.
    pub base: Base,
    /// It was taken away.
    pub removed: bool,
    /// It is not in the configuration.
    pub added: Option<Added>,
    /// Wall clock, milliseconds: when the last of it was said.
    pub at: Millis,
}

/// A server that was added.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Added {
    /// As nginx prints it.
    pub address: String,
    pub backup: bool,
}

/// What a configuration says of a server, as far as it can be compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Base {
    weight: u32,
    max_conns: u32,
    max_fails: u32,
    fail_timeout: u32,
    slow_start: Millis,
    /// A hash of it.
    route: u64,
    down: bool,
    drain: bool,
}

impl Base {
    #[must_use]
    pub fn of(params: &Params) -> Self {
        Self {
            weight: params.weight,
            max_conns: params.max_conns,
            max_fails: params.max_fails,
            fail_timeout: params.fail_timeout,
            slow_start: params.slow_start,
            route: KeyHash::new(params.route.as_bytes()).as_u64s().0,
            down: params.down,
            drain: params.drain,
        }
    }
}

impl Seat {
    /// Takes back what was said of parameters that the configuration has changed since. The names of those.
    pub fn yield_to(&mut self, now: Base) -> Vec<&'static str> {
        let (was, patch) = (self.base, &mut self.patch);
        let mut dropped = Vec::new();
        let mut check = |name, same: bool, said: bool| {
            if !same && said {
                dropped.push(name);
            }
            !same
        };
        macro_rules! parameters {
            ($($name:ident),*) => {$(
                if check(stringify!($name), was.$name == now.$name, patch.$name.is_some()) {
                    patch.$name = None;
                }
            )*};
        }
        parameters!(weight, max_conns, max_fails, fail_timeout, slow_start, route, down, drain);
        if self.removed && was != now {
            self.removed = false;
            dropped.push("its removal");
        }
        self.base = now;
        dropped
    }

    /// Whether anything was said.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.patch.is_empty() && !self.removed && self.added.is_none()
    }
}

/// Bits of the first word: which parameters are said, from the lowest; then flags.
const DOWN: u64 = 1 << 8;
const DRAIN: u64 = 1 << 9;
const REMOVED: u64 = 1 << 10;
const ADDED: u64 = 1 << 11;
const BACKUP: u64 = 1 << 12;
const BASE_DOWN: u64 = 1 << 13;
const BASE_DRAIN: u64 = 1 << 14;
const ROUTE: usize = 4;
const ADDRESS: usize = 13;

impl Record {
    /// What it says of a server.
    pub fn seat(&self) -> Option<Seat> {
        self.read().map(|words| unpack(&words))
    }

    /// Says this of its server.
    pub fn set_seat(&self, seat: &Seat) {
        self.write(&pack(seat));
    }
}

const fn pair(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

const fn halves(word: u64) -> (u32, u32) {
    (word as u32, (word >> 32) as u32)
}

fn pack(seat: &Seat) -> Words {
    let (patch, base) = (&seat.patch, &seat.base);
    let said = [
        patch.weight.is_some(),
        patch.max_conns.is_some(),
        patch.max_fails.is_some(),
        patch.fail_timeout.is_some(),
        patch.slow_start.is_some(),
        patch.route.is_some(),
        patch.down.is_some(),
        patch.drain.is_some(),
        patch.down == Some(true),
        patch.drain == Some(true),
        seat.removed,
        seat.added.is_some(),
        seat.added.as_ref().is_some_and(|added| added.backup),
        base.down,
        base.drain,
    ];
    let mut words = Words::default();
    words[0] = said.into_iter().enumerate().fold(0, |word, (bit, said)| word | u64::from(said) << bit);
    words[1] = pair(patch.weight.unwrap_or(0), patch.max_conns.unwrap_or(0));
    words[2] = pair(patch.max_fails.unwrap_or(0), patch.fail_timeout.unwrap_or(0));
    words[3] = patch.slow_start.unwrap_or(0);
    words[0] |= put(&mut words[ROUTE..ROUTE + 4], patch.route.as_deref().unwrap_or_default()) << 32;
    words[8] = pair(base.weight, base.max_conns);
    words[9] = pair(base.max_fails, base.fail_timeout);
    words[10] = base.slow_start;
    words[11] = base.route;
    words[12] = seat.at;
    let address = seat.added.as_ref().map_or("", |added| &added.address);
    words[0] |= put(&mut words[ADDRESS..ADDRESS + 14], address) << 48;
    words
}

fn unpack(words: &Words) -> Seat {
    let flags = words[0];
    let said = |bit: u32| flags >> bit & 1 != 0;
    let is = |flag: u64| flags & flag != 0;
    let ((weight, max_conns), (max_fails, fail_timeout)) = (halves(words[1]), halves(words[2]));
    let route = || text(&words[ROUTE..ROUTE + 4], flags >> 32 & 0xFF);
    let patch = Patch {
        weight: said(0).then_some(weight),
        max_conns: said(1).then_some(max_conns),
        max_fails: said(2).then_some(max_fails),
        fail_timeout: said(3).then_some(fail_timeout),
        slow_start: said(4).then_some(words[3]),
        route: said(5).then(route),
        down: said(6).then_some(is(DOWN)),
        drain: said(7).then_some(is(DRAIN)),
    };
    let ((weight, max_conns), (max_fails, fail_timeout)) = (halves(words[8]), halves(words[9]));
    let (slow_start, route) = (words[10], words[11]);
    let (down, drain) = (is(BASE_DOWN), is(BASE_DRAIN));
    let base = Base { weight, max_conns, max_fails, fail_timeout, slow_start, route, down, drain };
    let address = || text(&words[ADDRESS..ADDRESS + 14], flags >> 48 & 0xFF);
    let added = is(ADDED).then(|| Added { address: address(), backup: is(BACKUP) });
    Seat { patch, base, removed: is(REMOVED), added, at: words[12] }
}
