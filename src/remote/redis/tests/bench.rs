//! What a decision costs Redis. Prints numbers; run with `--nocapture`.

use std::time::Instant;

use ::redis::cmd;

use super::super::batch::{Batch, Terms};
use super::super::connect::connect;
use super::super::script;
use super::{Redis, limit, rule};
use crate::policy::limit::{Algorithm, Rule};
use crate::remote::redis::{Act, Call};

fn limits(rule: Rule, count: usize, same: bool, more: u64) -> Batch {
    let mut batch = Batch::new(Terms { gateways: 1, learning: false });
    for i in 0..count {
        let key = format!("sluice:{{{:032x}}}:zone:g1", if same { 0 } else { i });
        let limits = vec![limit(&key, rule, Act::Take { cost: 1, more, unused: None })];
        batch.push(Instant::now(), Call { ticket: 0, link: 0, limits });
    }
    batch
}

#[test]
fn live_cost_of_a_decision() {
    let redis = Redis::start(&[]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut own = redis.plain();
    let rounds = if cfg!(debug_assertions) { 300 } else { 3000 };
    let rules = [
        ("gcra", rule(Algorithm::Gcra, "1000000r/s", Some(1_000_000))),
        ("sliding", rule(Algorithm::SlidingWindow, "1000000r/m", Some(1_000_000))),
        ("fixed", rule(Algorithm::FixedWindow, "1000000r/m", None)),
    ];
    for (name, rule) in rules {
        for (count, same, more) in
            [(1, false, 0), (16, false, 0), (64, false, 0), (64, true, 0), (1, false, 16), (16, false, 16)]
        {
            let _: () = cmd("FLUSHALL").query(&mut own).unwrap();
            let _: () = cmd("CONFIG").arg("RESETSTAT").query(&mut own).unwrap();
            let batch = limits(rule, count, same, more);
            runtime.block_on(async {
                let mut connection = connect(&redis.settings()).await.unwrap().redis;
                for _ in 0..rounds {
                    let reply = script::execute(&mut connection, &batch.command()).await.unwrap();
                    assert_eq!(batch.decode(reply).unwrap().rulings.len(), count);
                }
            });
            let stats: String = cmd("INFO").arg("commandstats").query(&mut own).unwrap();
            let line = stats.lines().find(|line| line.starts_with("cmdstat_evalsha")).unwrap();
            let usec = line.split("usec_per_call=").nth(1).unwrap().split(',').next().unwrap();
            let each = usec.parse::<f64>().unwrap() / count as f64;
            println!(
                "{name}, {count} a batch, same key {same}, lease of {more}: {each:.2} us of Redis a call"
            );
        }
    }
}
