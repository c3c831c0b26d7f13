//! What many calls have in common: one entry for a hot key, what the host knows, and how many hosts there are.

use std::time::{Duration, Instant};

use ::redis::Value;

use super::{Act, LinkEvent, PATIENCE, Redis, Worker, gcra, limit, rule};
use crate::policy::limit::Algorithm;
use crate::remote::Done;
use crate::remote::redis::{Gate, Settings};

/// How often a command was called.
fn calls(redis: &Redis, command: &str) -> usize {
    let stats: String = redis.ask(&["INFO", "commandstats"]).unwrap();
    let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

#[test]
fn live_a_flood_on_one_key_takes_few_script_runs_and_is_exact() {
    let redis = Redis::start(&[]);
    let worker = Worker::new(redis.settings());
    assert!(worker.one(gcra("k", "1r/d", 999, 0)).admitted);
    let before = calls(&redis, "evalsha");
    let begun = Instant::now();
    let turns = (0..50).map(|_| worker.submit(vec![vec![gcra("k", "1r/d", 999, 1)]; 100]));
    let tickets: Vec<u64> = turns.flatten().collect();
    let decisions: Vec<_> = tickets.iter().map(|&ticket| worker.reply(ticket).unwrap()[0]).collect();
    let runs = calls(&redis, "evalsha") - before;
    println!("5000 calls on one key: {runs} script runs in {:?}", begun.elapsed());
    assert!(runs < 200, "{runs}");
    // In the order in which they were asked.
    let left: Vec<u64> = decisions.iter().take_while(|d| d.admitted).map(|d| d.remaining).collect();
    assert!(left.iter().copied().eq((0..1000).rev()), "{left:?}");
    assert!(decisions[1000..].iter().all(|decision| !decision.admitted && decision.retry_after > 0));
}

#[test]
fn live_equal_calls_are_counted_and_others_are_not_mixed_up_with_them() {
    let redis = Redis::start(&[]);
    let worker = Worker::new(redis.settings());
    for (n, (algorithm, burst)) in
        [(Algorithm::Gcra, Some(9)), (Algorithm::SlidingWindow, None), (Algorithm::FixedWindow, None)]
            .into_iter()
            .enumerate()
    {
        let one = |rate, cost| vec![limit(&format!("k{n}"), rule(algorithm, rate, burst), Act::take(cost))];
        // Two by two until one more would be too many; peeks see what is left after the calls before them.
        let rate = if algorithm == Algorithm::Gcra { "1r/d" } else { "10r/d" };
        let turn: Vec<_> = (0..7).map(|_| one(rate, 2)).chain((0..3).map(|_| one(rate, 0))).collect();
        let tickets = worker.submit(turn);
        let told = tickets.iter().map(|&ticket| worker.reply(ticket).unwrap()[0]);
        let told: Vec<_> = told.map(|decision| (decision.admitted, decision.remaining)).collect();
        let taken = [8, 6, 4, 2, 0].map(|left| (true, left));
        assert_eq!(told[..5], taken);
        assert_eq!(told[5..], [(false, 0), (false, 0), (true, 0), (true, 0), (true, 0)]);
    }
}

#[test]
fn live_a_new_server_is_told_what_is_known() {
    let mut redis = Redis::start(&[]);
    let worker = Worker::new(redis.settings());
    let connected = |done: &Done| matches!(done, Done::Link(LinkEvent::Connected { .. })).then_some(());
    worker.wait(connected);
    let gate = worker.engine.link(0);
    assert!(!gate.learning());
    let day = 86_400_000;
    let rules = [
        (rule(Algorithm::Gcra, "1r/d", Some(9)), 8 * day - 5),
        (rule(Algorithm::SlidingWindow, "10r/d", None), 8),
        (rule(Algorithm::FixedWindow, "10r/d", None), 8),
    ];
    let know = |n: usize, known, cost| {
        let (rule, _) = rules[n];
        worker.one(super::Limit { known, ..limit(&format!("k{n}"), rule, Act::take(cost)) })
    };
    (0..3).for_each(|n| assert_eq!(know(n, 0, 9).remaining, 1));
    redis.kill();
    assert!(matches!(worker.event(), LinkEvent::Lost { .. }));
    redis.restart();
    assert!(matches!(worker.event(), LinkEvent::Back { .. }));
    assert!(gate.learning());
    for (n, (_, known)) in rules.into_iter().enumerate() {
        // A refused call raises too; what is known is never lowered, and never more than a full state.
        assert!(!know(n, known, 3).admitted);
        assert_eq!(know(n, 1, 0).remaining, 2);
        assert_eq!(know(n, known, 1).remaining, 1);
        assert_eq!(know(n, u64::MAX >> 12, 0).remaining, 0);
        assert!(know(n, 0, 1).retry_after <= day + day / 16);
    }
    // Said once.
    worker.engine.drain(|done| assert!(connected(&done).is_none()));
}

#[test]
fn a_gate_keeps_the_greatest_of_a_few_counts() {
    let gate = Gate::new(&Settings::new("n").breaker);
    assert!(!gate.learning() && gate.gateways() == 1);
    gate.learn();
    assert!(gate.learning() && gate.gateways() == 1);
    gate.counted(3);
    (0..3).for_each(|_| gate.counted(1));
    assert_eq!(gate.gateways(), 3);
    gate.counted(0);
    assert_eq!(gate.gateways(), 1);
}

/// Waits until all of them know of so many gateways.
pub(super) fn until_gateways(workers: &[&Worker], count: u32) {
    let until = Instant::now() + PATIENCE;
    while workers.iter().any(|worker| worker.engine.link(0).gateways() != count) {
        assert!(Instant::now() < until, "never {count} gateways");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn live_gateways_count_each_other() {
    let redis = Redis::start(&[]);
    let _: Value = redis.ask(&["RPUSH", "sluice:gateways", "not ours"]).unwrap();
    let [one, two] = [1, 2].map(|host| Worker::on_host(redis.settings(), host));
    let again = Worker::on_host(redis.settings(), 2);
    until_gateways(&[&one, &two, &again], 2);
    let life: i64 = redis.ask(&["PTTL", "sluice:gateways"]).unwrap();
    assert!((10_000..=14_000).contains(&life), "{life}");
    let _: Value = redis.ask(&["SET", "sluice:gateways", "0123 rubbish"]).unwrap();
    let third = Worker::on_host(redis.settings(), u64::MAX);
    until_gateways(&[&one, &two, &again, &third], 3);
    // One that was heard of just now, and one that was not for longer than a gateway that lives is silent.
    let (now, _): (u64, u64) = redis.ask(&["TIME"]).unwrap();
    let list = format!("aa {} bb {}", now * 1000 - 8_000, now * 1000);
    let _: Value = redis.ask(&["SET", "other:gateways", &list]).unwrap();
    let mut settings = redis.settings();
    settings.key_prefix = "other".to_owned();
    until_gateways(&[&Worker::on_host(settings, 9)], 2);
    assert_eq!(one.other_events() + again.other_events(), 0);
    let stats: String = redis.ask(&["INFO", "commandstats"]).unwrap();
    println!("{}", stats.lines().find(|line| line.starts_with("cmdstat_evalsha")).unwrap());
}
