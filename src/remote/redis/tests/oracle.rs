//! Random batches, each replayed at Redis's own time by the policy, state by state and expiry by expiry.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ::redis::cmd;

use super::super::batch::{Batch, Terms};
use super::super::connect::connect;
use super::super::script;
use super::model::{Dice, Model};
use super::{Redis, rule};
use crate::policy::limit::{Algorithm, Decision, Rule};
use crate::remote::redis::{Act, Call, Limit, Ruled, Unused};

fn rules() -> Vec<Rule> {
    vec![
        rule(Algorithm::Gcra, "100r/m", Some(20)),
        rule(Algorithm::Gcra, "977r/7s", Some(3)),
        rule(Algorithm::Gcra, "4194301r/d", Some(50)),
        rule(Algorithm::Gcra, "1r/d", Some(0)),
        rule(Algorithm::SlidingWindow, "40r/s", None),
        rule(Algorithm::SlidingWindow, "25r/s", Some(5)),
        rule(Algorithm::FixedWindow, "30r/s", None),
    ]
}

/// How many of them are gcra; the first ones.
const GCRA_RULES: usize = 4;

/// Grants that were made for a key and not given back.
type Grants = HashMap<String, Vec<Unused>>;

struct World {
    dice: Dice,
    rules: Vec<Rule>,
    models: HashMap<String, Model>,
    grants: Grants,
    /// Decisions compared, by the script for plain batches and by the one for all.
    compared: [usize; 2],
}

impl World {
    fn act(&mut self, key: &str) -> Act {
        let dice = &mut self.dice;
        let cost = [0, 1, 1, 1, 1, 2, 3, 30][dice.below(8) as usize];
        match dice.below(12) {
            0 => Act::GiveBack { cost },
            1 => Act::Post { cost: if dice.one_in(40) { 1_000_000_000 } else { cost } },
            2..=5 => {
                let more = [0, 1, 3, 16, 1_000_000_000][dice.below(5) as usize];
                let held = self.grants.entry(key.to_owned()).or_default();
                let place = (!held.is_empty() && dice.one_in(2)).then(|| dice.below(held.len() as u64));
                let unused = place.map(|place| held.swap_remove(place as usize));
                let left = |unused: Unused| Unused { tokens: dice.below(unused.tokens + 1), ..unused };
                Act::Take { cost, more, unused: unused.map(left) }
            }
            _ => Act::take(cost),
        }
    }

    /// With `plain` a gcra one.
    fn limit(&mut self, plain: bool) -> Limit {
        let rules = if plain { GCRA_RULES } else { self.rules.len() };
        let place = self.dice.below(rules as u64) as usize;
        let key = format!("r{place}:k{}", self.dice.below(2));
        let bits = self.dice.below(30);
        let known = if self.dice.one_in(6) { self.dice.below(1 << bits) } else { 0 };
        Limit { act: self.act(&key), rule: self.rules[place], key, known }
    }

    /// One to four calls of one to three limits on a few keys, some several times; every other time of one gcra limit
    /// each, which is the other script's.
    fn roll(&mut self) -> Batch {
        let (gateways, learning) = (1 + self.dice.below(4) as u32, self.dice.one_in(2));
        let plain = self.dice.one_in(2);
        let mut batch = Batch::new(Terms { gateways, learning });
        for ticket in 0..=self.dice.below(4) {
            let count = if plain { 1 } else { 1 + self.dice.below(3) };
            let call = Call { ticket, link: 0, limits: (0..count).map(|_| self.limit(plain)).collect() };
            // Unspent requests are given back once.
            let once = call.limits.iter().any(|l| matches!(l.act, Act::Take { unused: Some(_), .. }));
            let times = if once { 1 } else { [1, 1, 2, 7][self.dice.below(4) as usize] };
            (0..times).for_each(|_| batch.push(Instant::now(), call.clone()));
        }
        batch
    }

    /// What the policy makes of one call; the models are charged if it is admitted. As in the script, a key named
    /// twice meets what its first limit left.
    fn replay(&mut self, call: &Call, terms: Terms, now: u64) -> Vec<Ruled> {
        for limit in &call.limits {
            let model = self.models.entry(limit.key.clone()).or_default();
            if let Act::Take { unused: Some(unused), .. } = limit.act {
                model.take_unused(&limit.rule, now, unused);
            }
            if terms.learning {
                model.raise(&limit.rule, now, limit.known);
            }
        }
        let mut trial = self.models.clone();
        let mut met = Vec::new();
        for limit in &call.limits {
            let model = trial.get_mut(&limit.key).unwrap();
            let before = model.clone();
            met.push((before.clone(), apply(model, limit, now), before.decide(&limit.rule, now, 0)));
        }
        if met.iter().any(|(_, decision, _)| !decision.admitted) {
            // Who would have admitted says where it stands.
            let told = |(_, decision, peek): &(_, Decision, _)| {
                let decision = if decision.admitted { *peek } else { *decision };
                Ruled { decision, after: *peek, granted: 0, stamp: 0 }
            };
            return met.iter().map(told).collect();
        }
        self.models = trial;
        let decided = met.iter().map(|(_, decision, _)| *decision).collect::<Vec<_>>();
        let grant = |(limit, decision): (&Limit, _)| self.grant(limit, decision, terms, now);
        call.limits.iter().zip(decided).map(grant).collect()
    }

    /// What an admitted limit gets in advance.
    fn grant(&mut self, limit: &Limit, decision: Decision, terms: Terms, now: u64) -> Ruled {
        let model = self.models.get_mut(&limit.key).unwrap();
        let mut granted = 0;
        if let Act::Take { more, .. } = limit.act {
            let room = model.decide(&limit.rule, now, 0).remaining;
            granted = more.min(1.max(room / (2 * u64::from(terms.gateways)))).min(room);
            model.charge(&limit.rule, now, granted);
        }
        let after = model.decide(&limit.rule, now, 0);
        let stamp = if granted > 0 { model.stamp(&limit.rule, now) } else { 0 };
        Ruled { decision, after, granted, stamp }
    }
}

/// Does what one limit says, if it may; its decision.
fn apply(model: &mut Model, limit: &Limit, now: u64) -> Decision {
    match limit.act {
        Act::Take { cost, .. } => {
            let decision = model.decide(&limit.rule, now, cost);
            if decision.admitted && cost > 0 {
                model.charge(&limit.rule, now, cost);
            }
            return decision;
        }
        Act::GiveBack { cost } => model.give_back(&limit.rule, now, cost),
        Act::Post { cost } => model.post(&limit.rule, now, cost),
    }
    model.decide(&limit.rule, now, 0)
}

/// Where a key that a call names twice stands after everything is told of neither.
fn without_twins(call: &Call, rulings: &[Ruled]) -> Vec<Ruled> {
    let twin = |limit: &Limit| call.limits.iter().filter(|other| other.key == limit.key).count() > 1;
    let one = |(limit, ruled): (&Limit, &Ruled)| {
        let after = if twin(limit) { ruled.decision } else { ruled.after };
        Ruled { after, ..*ruled }
    };
    call.limits.iter().zip(rulings).map(one).collect()
}

#[test]
fn live_scripts_decide_as_the_policy_does() {
    let redis = Redis::start(&[]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut own = redis.plain();
    let mut world = World {
        dice: Dice(0x5EED),
        rules: rules(),
        models: HashMap::new(),
        grants: HashMap::new(),
        compared: [0; 2],
    };
    runtime.block_on(async {
        let mut connection = connect(&redis.settings()).await.unwrap().redis;
        let until = Instant::now() + Duration::from_millis(3500);
        while Instant::now() < until {
            let batch = world.roll();
            let (terms, script) = (batch.terms, usize::from(!batch.is_plain()));
            let reply = script::execute(&mut connection, &batch.command()).await.unwrap();
            let decoded = batch.decode(reply).unwrap();
            let (_, calls) = batch.into_calls();
            assert_eq!(calls.len(), decoded.rulings.len());
            for (call, got) in calls.iter().zip(&decoded.rulings) {
                let wanted = without_twins(call, &world.replay(call, terms, decoded.now));
                assert_eq!(without_twins(call, got), wanted, "{call:?} at {}, {terms:?}", decoded.now);
                world.compared[script] += got.len();
                for (limit, ruled) in call.limits.iter().zip(got).filter(|(_, ruled)| ruled.granted > 0) {
                    let grant = Unused { tokens: ruled.granted.min(1_000_000_000), stamp: ruled.stamp };
                    world.grants.entry(limit.key.clone()).or_default().push(grant);
                }
            }
            for limit in calls.iter().flat_map(|call| &call.limits) {
                let drained = world.models.get(&limit.key).map_or(0, |model| model.drained_at(&limit.rule));
                let at: i64 = cmd("PEXPIRETIME").arg(&limit.key).query(&mut own).unwrap();
                let (s, us): (u64, u64) = cmd("TIME").query(&mut own).unwrap();
                // Gone is right only if its time has come.
                let gone = at == -2 && drained <= s * 1000 + us / 1000;
                assert!(at == drained as i64 || gone, "{limit:?} {at} {drained}");
            }
            std::thread::sleep(Duration::from_millis(world.dice.below(12)));
        }
    });
    println!("{:?} decisions compared", world.compared);
    assert!(world.compared.iter().all(|&compared| compared > 400), "only {:?} compared", world.compared);
}
