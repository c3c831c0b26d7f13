//! What one script run is asked: calls, equal ones counted together, and the arguments they make.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use ::redis::Cmd;

use super::{Act, Call, Limit, script};
use crate::policy::limit::{Gcra, Rule, Tat};

/// What all calls of one script run have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// How many share what is taken in advance, at least 1.
    pub(super) gateways: u32,
    /// Whether Redis is told what this host knows.
    pub(super) learning: bool,
}

/// Calls that one script run decides.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) terms: Terms,
    pub(super) entries: Vec<Entry>,
    /// Where an entry stands that others may join, by its key's hash.
    joinable: HashMap<u64, usize>,
    hasher: RandomState,
    /// When the oldest call was handed over.
    since: Instant,
    limits: usize,
}

/// A call, and those that ask just the same. The script counts how many of them pass, which is what deciding one
/// after another comes to: so the work for a hot key does not grow with its traffic.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) call: Call,
    /// Tickets of the others.
    others: Vec<u64>,
}

impl Entry {
    pub(super) fn times(&self) -> usize {
        1 + self.others.len()
    }

    fn tickets(&self) -> impl Iterator<Item = u64> {
        std::iter::once(self.call.ticket).chain(self.others.iter().copied())
    }
}

impl Batch {
    pub(super) fn new(terms: Terms) -> Self {
        Self {
            terms,
            entries: Vec::new(),
            joinable: HashMap::new(),
            hasher: RandomState::new(),
            since: Instant::now(),
            limits: 0,
        }
    }

    /// Adds a call that the worker handed over at `at`.
    pub(super) fn push(&mut self, at: Instant, mut call: Call) {
        self.since = self.since.min(at);
        if let Some(entry) = self.twin(&call) {
            entry.others.push(call.ticket);
            // Each of them is known to be in use at least.
            let known = call.limits.first().map_or(0, |limit| limit.known);
            entry.call.limits.iter_mut().for_each(|limit| limit.known = limit.known.max(known));
            return;
        }
        grant_each_key_once(&mut call.limits);
        self.limits += call.limits.len();
        self.entries.push(Entry { call, others: Vec::new() });
    }

    /// The entry that this call may join. If there is none, others may join the one that it will make.
    fn twin(&mut self, call: &Call) -> Option<&mut Entry> {
        let [limit] = &call.limits[..] else { return None };
        if !joins(limit) {
            return None;
        }
        let place = self.joinable.entry(self.hasher.hash_one(&limit.key)).or_insert(self.entries.len());
        let same = |entry: &&mut Entry| {
            let other = entry.call.limits.first();
            other.is_some_and(|o| o.key == limit.key && o.act == limit.act && o.rule == limit.rule)
        };
        let next = self.entries.len();
        let twin = self.entries.get_mut(*place).filter(same);
        if twin.is_none() {
            *place = next;
        }
        twin
    }

    /// Limits that the script has to look at.
    pub(super) fn limits(&self) -> usize {
        self.limits
    }

    /// Time since the oldest call was handed over.
    pub(super) fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// The calls again, for whoever sends them elsewhere.
    pub(super) fn into_calls(self) -> (Instant, Vec<Call>) {
        let each = |entry: Entry| {
            let tickets: Vec<_> = entry.tickets().collect();
            tickets.into_iter().map(move |ticket| Call { ticket, ..entry.call.clone() })
        };
        (self.since, self.entries.into_iter().flat_map(each).collect())
    }

    /// In the order of [`decode`](Self::decode).
    pub(super) fn tickets(&self) -> impl Iterator<Item = u64> {
        self.entries.iter().flat_map(Entry::tickets)
    }

    /// Whether every call has one limit, and every limit is gcra.
    pub(super) fn is_plain(&self) -> bool {
        let plain = |entry: &Entry| matches!(&entry.call.limits[..], [Limit { rule: Rule::Gcra(_), .. }]);
        self.entries.iter().all(plain)
    }

    /// The EVALSHA. A key that several limits name is sent, read and written once.
    pub(super) fn command(&self) -> Cmd {
        let limits = || self.entries.iter().flat_map(|entry| &entry.call.limits);
        // By kind too: a caller's mistake must not let one kind of state be read as another within a run.
        let mut places: HashMap<(&str, u8), usize> = HashMap::with_capacity(self.limits);
        let mut keys = Vec::with_capacity(self.limits);
        for limit in limits() {
            places.entry(name(limit)).or_insert_with(|| {
                keys.push(&limit.key);
                keys.len()
            });
        }
        let bytes = keys.iter().map(|key| key.len() + 16).sum::<usize>() + self.limits * 64;
        let mut command = Cmd::with_capacity(4 + keys.len() + self.limits * 8 + self.entries.len(), bytes);
        script::call(&mut command, self.is_plain()).arg(keys.len()).arg(keys).arg(self.terms.gateways.max(1));
        let place = |limit| places.get(&name(limit)).copied().unwrap_or_default();
        for entry in &self.entries {
            for limit in &entry.call.limits {
                put_right(&mut command, place(limit), limit, self.terms.learning);
            }
            match entry.times() {
                1 => command.arg(entry.call.limits.len()),
                times => command.arg(-times.cast_signed()),
            };
            for limit in &entry.call.limits {
                encode(&mut command, place(limit), limit);
            }
        }
        command
    }
}

/// Whether one after another is as good as all at once.
fn joins(limit: &Limit) -> bool {
    matches!(limit.act, Act::Take { more: 0, unused: None, .. })
}

/// A key that the call names twice gets nothing in advance: each of the two would be told as if it were the last.
fn grant_each_key_once(limits: &mut [Limit]) {
    let wants = |limit: &Limit| matches!(limit.act, Act::Take { more: 1.., .. });
    if limits.len() < 2 || !limits.iter().any(wants) {
        return;
    }
    for place in 0..limits.len() {
        let twice = limits.iter().filter(|other| other.key == limits[place].key).count() > 1;
        if let Act::Take { more, .. } = &mut limits[place].act
            && twice
        {
            *more = 0;
        }
    }
}

/// What makes two limits share a state.
fn name(limit: &Limit) -> (&str, u8) {
    let kind = match limit.rule {
        Rule::Gcra(_) => 1,
        Rule::Sliding { .. } => 2,
        Rule::Fixed(_) => 3,
    };
    (&limit.key, kind)
}

/// Appends what comes before a limit's call, as the script expects it.
fn put_right(command: &mut Cmd, place: usize, limit: &Limit, learning: bool) {
    let kind = name(limit).1;
    if let Act::Take { unused: Some(unused), .. } = limit.act
        && unused.tokens > 0
    {
        command.arg(0).arg(place).arg(kind + 3).arg(unused.tokens);
        numbers(command, &limit.rule);
        match limit.rule {
            Rule::Gcra(_) => {
                let tat = Tat::from_bits(unused.stamp);
                command.arg(tat.ms()).arg(tat.fraction());
            }
            _ => {
                command.arg(unused.stamp);
            }
        }
    }
    if learning && limit.known > 0 {
        command.arg(0).arg(place).arg(kind).arg(limit.known);
        numbers(command, &limit.rule);
    }
}

/// Appends one limit as the script expects it.
fn encode(command: &mut Cmd, place: usize, limit: &Limit) {
    let kind = name(limit).1;
    let (code, cost, more) = match limit.act {
        Act::Take { cost, more: 0, .. } => (kind, cost.cast_signed(), None),
        Act::Take { cost, more, .. } => (kind + 6, cost.cast_signed(), Some(more)),
        Act::GiveBack { cost } => (kind, -cost.cast_signed(), None),
        Act::Post { cost } => (kind + 3, cost.cast_signed(), None),
    };
    command.arg(place).arg(code).arg(cost);
    numbers(command, &limit.rule);
    if let Some(more) = more {
        command.arg(more);
    }
}

/// Appends the numbers of a rule.
fn numbers(command: &mut Cmd, rule: &Rule) {
    let ticks = |command: &mut Cmd, gcra: &Gcra| {
        command.arg(gcra.n()).arg(gcra.p()).arg(gcra.burst());
    };
    match rule {
        Rule::Gcra(gcra) => ticks(command, gcra),
        Rule::Sliding { window, burst } => {
            command.arg(window.tick()).arg(window.rate().count);
            match burst {
                Some(gcra) => ticks(command, gcra),
                None => {
                    command.arg(0).arg(0).arg(0);
                }
            }
        }
        Rule::Fixed(window) => {
            let rate = window.rate();
            command.arg(rate.period).arg(rate.count);
        }
    }
}
