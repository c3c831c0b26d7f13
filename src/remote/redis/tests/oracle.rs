//! Random batches, each replayed at Redis's own time by the policy, state by state and expiry by expiry.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use ::redis::cmd;

use super::super::batch::{self, Batch};
use super::super::connect::connect;
use super::{Redis, rule};
use crate::policy::limit::{Algorithm, Bucket, Decision, Gcra, Rule, Tat};
use crate::remote::redis::{Call, Limit};

/// xorshift64*, so that a failure can be repeated.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % bound
    }
}

/// One key in the model: the parts of state that any rule has.
#[derive(Clone, Default)]
struct Model {
    tat: Tat,
    buckets: Vec<Bucket>,
    fixed: Bucket,
}

impl Model {
    fn decide(&self, rule: &Rule, now: u64, cost: u64) -> Decision {
        match rule {
            Rule::Gcra(gcra) => gcra.decide(gcra.level(self.tat, now), cost),
            Rule::Sliding { window, burst } => {
                let usage = window.usage(self.buckets.iter().copied(), now);
                let level = burst.map_or(0, |gcra| gcra.level(self.tat, now));
                window.decide_with(burst.as_ref(), &usage, level, now, cost)
            }
            Rule::Fixed(window) => window.decide(window.current(self.fixed, now), now, cost),
        }
    }

    fn charge(&mut self, rule: &Rule, now: u64, cost: u64) {
        let pour = |tat: Tat, gcra: &Gcra| gcra.tat(gcra.poured(gcra.level(tat, now), cost), now);
        match rule {
            Rule::Gcra(gcra) => self.tat = pour(self.tat, gcra),
            Rule::Sliding { window, burst } => {
                let tick = window.usage(self.buckets.iter().copied(), now).newest;
                self.buckets.push(Bucket { tick, count: cost });
                if let Some(gcra) = burst {
                    self.tat = pour(self.tat, gcra);
                }
            }
            Rule::Fixed(window) => {
                self.fixed = window.current(self.fixed, now);
                self.fixed.count += cost;
            }
        }
    }

    /// The millisecond at which the state says nothing any more.
    fn drained_at(&self, rule: &Rule) -> u64 {
        let tat = self.tat.ms() + u64::from(self.tat.fraction() > 0);
        match rule {
            Rule::Gcra(_) => tat,
            Rule::Sliding { window, .. } => {
                let last = self.buckets.iter().map(|bucket| bucket.tick).max();
                tat.max(last.map_or(0, |tick| window.leaves_at(tick)))
            }
            Rule::Fixed(window) => {
                if self.fixed.count > 0 {
                    window.ends_at(self.fixed.tick)
                } else {
                    0
                }
            }
        }
    }
}

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

/// One to four calls of one to three limits on a few keys.
fn roll(dice: &mut Dice, rules: &[Rule]) -> Vec<Call> {
    let calls = 1 + dice.below(4);
    let limit = |dice: &mut Dice| {
        let place = dice.below(rules.len() as u64) as usize;
        let cost = [0, 1, 1, 1, 1, 2, 3, 30][dice.below(8) as usize];
        Limit { key: format!("r{place}:k{}", dice.below(2)), rule: rules[place], cost }
    };
    let call = |ticket| {
        let count = 1 + dice.below(3);
        Call { ticket, link: 0, limits: (0..count).map(|_| limit(dice)).collect() }
    };
    (0..calls).map(call).collect()
}

/// What the policy makes of one call; the models are charged if it is admitted. As in the script, a key named
/// twice meets what its first limit left.
fn replay(models: &mut HashMap<String, Model>, call: &Call, now: u64) -> Vec<Decision> {
    let mut trial = models.clone();
    let mut met = Vec::new();
    for limit in &call.limits {
        let model = trial.entry(limit.key.clone()).or_default();
        met.push(model.clone());
        if limit.cost > 0 && model.decide(&limit.rule, now, limit.cost as u64).admitted {
            model.charge(&limit.rule, now, limit.cost as u64);
        }
    }
    let decide = |(limit, model): (&Limit, &Model)| model.decide(&limit.rule, now, limit.cost as u64);
    let decisions: Vec<_> = call.limits.iter().zip(&met).map(decide).collect();
    if decisions.iter().all(|decision| decision.admitted) {
        *models = trial;
        return decisions;
    }
    let peek = |(decision, (limit, model)): (&Decision, (&Limit, &Model))| {
        if decision.admitted { model.decide(&limit.rule, now, 0) } else { *decision }
    };
    decisions.iter().zip(call.limits.iter().zip(&met)).map(peek).collect()
}

#[test]
fn live_script_decides_as_the_policy_does() {
    let redis = Redis::start(&[]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut own = redis.plain();
    let rules = rules();
    let mut dice = Dice(0x5EED);
    let mut models = HashMap::new();
    let mut decisions = 0;
    runtime.block_on(async {
        let mut connection = connect(&redis.settings()).await.unwrap().redis;
        let until = Instant::now() + Duration::from_millis(3500);
        while Instant::now() < until {
            let calls = roll(&mut dice, &rules);
            let mut batch = Batch::new();
            calls.iter().for_each(|call| batch.push(Instant::now(), call.clone()));
            let reply = batch::execute(&mut connection, &batch).await.unwrap();
            let decoded = batch.decode(reply).unwrap();
            for (call, got) in calls.iter().zip(&decoded.decisions) {
                assert_eq!(got, &replay(&mut models, call, decoded.now), "{call:?} at {}", decoded.now);
                decisions += got.len();
            }
            for limit in calls.iter().flat_map(|call| &call.limits) {
                let drained = models.get(&limit.key).map_or(0, |model| model.drained_at(&limit.rule));
                let at: i64 = cmd("PEXPIRETIME").arg(&limit.key).query(&mut own).unwrap();
                let (s, us): (u64, u64) = cmd("TIME").query(&mut own).unwrap();
                // Gone is right only if its time has come.
                let gone = at == -2 && drained <= s * 1000 + us / 1000;
                assert!(at == drained as i64 || gone, "{limit:?} {at} {drained}");
            }
            std::thread::sleep(Duration::from_millis(dice.below(12)));
        }
    });
    println!("{decisions} decisions compared");
    assert!(decisions > 200, "only {decisions} decisions compared");
}
