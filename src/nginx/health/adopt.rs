//! Ties the servers of a group to their records.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use super::super::balance::{GroupConf, Tuning};
use super::super::conf::MainConf;
use super::super::control;
use super::super::sys::mono;
use super::super::upstream::Group;
use super::member::{Member, Record, Server};
use crate::policy::health::State;
use crate::policy::limit::KeyHash;
use crate::shared::balance::Server as Words;
use crate::shared::upstream::{Claims, Found, Full, Key};

/// Who claims, and for what.
pub struct Claimer<'c, 's> {
    pub main: &'c MainConf,
    pub group: &'c Group,
    pub conf: &'c GroupConf,
    pub claims: &'c mut Claims<'s>,
    /// A hash of the group's name.
    pub owner: u64,
    /// The cycle begins: the master is here, and no worker.
    pub beginning: bool,
    /// The numbers of the records claimed.
    pub kept: &'c mut HashSet<usize>,
    /// The zone was too small.
    pub full: &'c mut Option<Full>,
}

impl Claimer<'_, '_> {
    /// The members that `servers` are.
    pub fn members(&mut self, servers: &[Rc<Server>]) -> Vec<Rc<Member>> {
        let mut seen = HashMap::new();
        let lines = self.conf.lines_of(self.group.upstream, servers);
        let member = |(line, server): (_, &Rc<Server>)| {
            let ordinal = next(&mut seen, &server.identity());
            let (records, unchecked) = self.records(server, ordinal);
            let words = if self.conf.is_configured() { self.words(server, ordinal) } else { None };
            let said =
                control::said(self.main, &self.group.name, &server.identity(), ordinal).unwrap_or_default();
            let (words, comes) = words.unzip();
            let tuning = Tuning::new(line, &said, server, words);
            if comes == Some(true) {
                tuning.recover(mono());
            }
            Rc::new(Member::new(server.clone(), records, tuning, unchecked))
        };
        lines.into_iter().zip(servers).map(member).collect()
    }

    /// The records of one server, and whether one lacks that it must have.
    fn records(&mut self, server: &Server, ordinal: usize) -> (Vec<Record>, bool) {
        let (mut seen, mut lacks) = (HashMap::new(), false);
        let mut records = Vec::with_capacity(self.group.checks.len());
        for &number in &self.group.checks {
            let Some(check) = self.main.health.checks.get(number) else { continue };
            let asked = check.identity();
            let again = next(&mut seen, &asked);
            let key = key(&self.group.name, &server.identity(), ordinal, (&asked, again));
            let first = if check.mandatory { State::checking().to_bits() } else { 0 };
            let claimed =
                self.claims.check(self.owner, key, first).map_err(|full| *self.full = Some(full)).ok();
            let record = claimed.and_then(|claim| {
                let shared = self.claims.store().check_at(claim.index)?;
                Some((Record { check: number, index: claim.index, shared }, claim.found))
            });
            match record {
                Some((record, found)) => {
                    self.kept.insert(record.index);
                    self.prepare(&record, found);
                    records.push(record);
                }
                None => lacks |= check.mandatory,
            }
        }
        (records, lacks)
    }

    /// A mandatory check lets no traffic through before the first pass: of a server that has come, and unless it is
    /// persistent, of this cycle. Any other verdict is kept.
    fn prepare(&self, record: &Record, found: Found) {
        let Some(check) = self.main.health.checks.get(record.check) else { return };
        let again = match found {
            Found::New => false,
            Found::Returned => check.mandatory,
            Found::Kept => check.mandatory && self.beginning && !check.persistent,
        };
        if !again {
            return;
        }
        record.shared.set_state(|bits| State::from_bits(bits).anew().to_bits());
        record.shared.hasten(self.claims.store().generation(), mono());
    }

    /// The record of one server for balancing, and whether the server has just come.
    fn words(&mut self, server: &Server, ordinal: usize) -> Option<(&'static Words, bool)> {
        let text = format!("server\0{}\0{}\0{ordinal}", self.group.name, server.identity());
        let (high, low) = KeyHash::new(text.as_bytes()).as_u64s();
        let claimed = self.claims.server(self.owner, [high, low]);
        let claim = claimed.map_err(|full| *self.full = Some(full)).ok()?;
        self.kept.insert(claim.index);
        let words = self.claims.store().server_at(claim.index)?;
        Some((words, !self.beginning && claim.found != Found::Kept))
    }
}

/// How often `key` has been seen before.
pub fn next(seen: &mut HashMap<String, usize>, key: &str) -> usize {
    let count = seen.entry(key.to_owned()).or_default();
    *count += 1;
    *count - 1
}

/// What a record is about, whatever its position in the file.
fn key(group: &str, server: &str, ordinal: usize, (check, again): (&str, usize)) -> Key {
    let text = format!("check\0{group}\0{server}\0{ordinal}\0{check}\0{again}");
    let (high, low) = KeyHash::new(text.as_bytes()).as_u64s();
    [high, low]
}
