//! What the script decides, writes and survives.

use std::time::Instant;

use ::redis::{RedisConnectionInfo, Value, cmd};

use super::{Act, Failure, Limit, LinkEvent, PATIENCE, Redis, Worker, charge, gcra, limit, rule};
use crate::policy::limit::Algorithm;

fn admitted(worker: &Worker, tickets: &[u64]) -> usize {
    tickets.iter().filter(|&&ticket| worker.reply(ticket).unwrap().iter().all(|d| d.admitted)).count()
}

#[test]
fn live_two_workers_share_one_limit_exactly() {
    let redis = Redis::start(&[]);
    let workers = [Worker::new(redis.settings()), Worker::new(redis.settings())];
    let calls = || vec![vec![gcra("k", "100r/m", 20, 1)]; 30];
    let tickets: Vec<_> = workers.iter().map(|worker| worker.submit(calls())).collect();
    let passed: usize = workers.iter().zip(&tickets).map(|(worker, tickets)| admitted(worker, tickets)).sum();
    assert_eq!(passed, 21);
}

#[test]
fn live_one_refusal_charges_none() {
    let redis = Redis::start(&[]);
    let worker = Worker::new(redis.settings());
    let (wide, narrow) = (gcra("wide", "1r/h", 9, 1), gcra("narrow", "1r/h", 0, 1));
    let both = || vec![wide.clone(), narrow.clone()];
    let first = worker.call(both()).unwrap();
    assert!(first.iter().all(|decision| decision.admitted));
    for _ in 0..3 {
        let refused = worker.call(both()).unwrap();
        assert_eq!((refused[0].admitted, refused[0].remaining), (true, 9));
        assert!(!refused[1].admitted && refused[1].retry_after > 3_590_000);
    }
    // The same key twice in one call counts twice.
    let twice = worker.call(vec![gcra("twice", "1r/h", 0, 1), gcra("twice", "1r/h", 0, 1)]).unwrap();
    assert_eq!(twice.iter().filter(|decision| decision.admitted).count(), 1);
    assert!(worker.one(gcra("twice", "1r/h", 0, 1)).admitted);
}

#[test]
fn live_costs_refunds_and_peeks() {
    let redis = Redis::start(&[]);
    let worker = Worker::new(redis.settings());
    let cost = |cost| worker.one(gcra("k", "1r/h", 9, cost));
    assert_eq!(cost(0).remaining, 10);
    assert_eq!(cost(7).remaining, 3);
    assert!(!cost(4).admitted);
    assert_eq!(cost(0).remaining, 3);
    cost(-5);
    assert_eq!(cost(0).remaining, 8);
    cost(-1_000_000_000);
    assert_eq!(cost(0).remaining, 10);
    let left: i64 = cmd("EXISTS").arg("k").query(&mut redis.plain()).unwrap();
    assert_eq!(left, 0, "a bucket that is empty is not kept");
    assert!(!cost(11).admitted);
    for algorithm in [Algorithm::SlidingWindow, Algorithm::FixedWindow] {
        let key = algorithm.name().to_owned();
        let cost = |cost| worker.one(limit(&key, rule(algorithm, "10r/h", None), charge(cost)));
        assert_eq!(cost(7).remaining, 3);
        assert!(!cost(4).admitted);
        cost(-5);
        assert_eq!(cost(0).remaining, 8);
        cost(-9);
        assert_eq!(cost(0).remaining, 10);
    }
}

#[test]
fn live_refusals_write_nothing_and_expiry_is_when_it_is_drained() {
    let redis = Redis::start(&[]);
    let worker = Worker::new(redis.settings());
    let mut own = redis.plain();
    let mut look = || -> (i64, Vec<u8>) {
        let at = cmd("PEXPIRETIME").arg("k").query(&mut own).unwrap();
        (at, cmd("GET").arg("k").query(&mut own).unwrap())
    };
    // 7 requests a second: a fraction of a millisecond remains, and is rounded up.
    let decision = worker.one(gcra("k", "7r/s", 0, 1));
    let (at, value) = look();
    let text = String::from_utf8(value).unwrap();
    let mut parts = text.split(' ').map(|part| part.parse::<i64>().unwrap());
    let (ms, fraction) = (parts.next().unwrap(), parts.next().unwrap());
    assert_eq!((fraction, at), (6, ms + 1), "142 6/7 ms");
    assert_eq!(decision.reset_after, 143);
    let before = look();
    assert!(!worker.one(gcra("k", "7r/s", 0, 1)).admitted);
    assert_eq!(look(), before);
}

#[test]
fn live_foreign_values_are_overwritten_and_reported() {
    let redis = Redis::start(&[]);
    let worker = Worker::new(redis.settings());
    let mut own = redis.plain();
    let huge = "9".repeat(300);
    let values =
        ["", "rubbish", "1 2 3 4 5 6 7 8", "-1 0", "1e3 0", "nan 0", huge.as_str(), "9007199254740992 0"];
    for (i, value) in values.iter().enumerate() {
        for (kind, limit) in every_kind(&format!("k{i}")).into_iter().enumerate() {
            let _: Value = cmd("SET").arg(&limit.key).arg(value).query(&mut own).unwrap();
            // Eight small numbers are a sliding window's state, of a bucket long gone.
            assert!(worker.one(limit).admitted, "kind {kind}, value {value:?}");
        }
        // Beside another limit gcra is the other script's.
        let [gcra, sliding, _] = every_kind(&format!("both{i}"));
        let _: Value = cmd("SET").arg(&gcra.key).arg(value).query(&mut own).unwrap();
        let both = worker.call(vec![gcra, sliding]).unwrap();
        assert!(both.iter().all(|decision| decision.admitted), "value {value:?}");
    }
    assert!(matches!(worker.event(), LinkEvent::Foreign { values: 1, .. }));
    for limit in every_kind("list") {
        let _: Value = cmd("RPUSH").arg(&limit.key).arg("x").query(&mut own).unwrap();
        assert!(worker.one(limit.clone()).admitted);
        let kind: String = cmd("TYPE").arg(&limit.key).query(&mut own).unwrap();
        assert_eq!(kind, "string");
        assert!(!worker.one(limit).admitted);
    }
}

fn every_kind(key: &str) -> [Limit; 3] {
    [Algorithm::Gcra, Algorithm::SlidingWindow, Algorithm::FixedWindow].map(|algorithm| {
        limit(&format!("{key}:{}", algorithm.name()), rule(algorithm, "1r/h", None), Act::take(1))
    })
}

#[test]
fn live_states_of_another_configuration_are_cut_down_and_not_forgotten() {
    let redis = Redis::start(&[]);
    let worker = Worker::new(redis.settings());
    // A bucket filled for a day, then read under a rate that fills within three minutes.
    assert!(worker.one(gcra("k", "1r/d", 0, 1)).admitted);
    let decision = worker.one(gcra("k", "1r/m", 2, 1));
    assert!(!decision.admitted && decision.reset_after <= 180_000, "{decision:?}");
    let mut own = redis.plain();
    let left: i64 = cmd("PTTL").arg("k").query(&mut own).unwrap();
    assert!(left <= 180_000);
    let sliding = |rate| limit("w", rule(Algorithm::SlidingWindow, rate, None), Act::take(4));
    assert_eq!(worker.one(sliding("10r/h")).remaining, 6);
    assert_eq!(worker.one(sliding("10r/m")).remaining, 2);
    assert!(!worker.one(sliding("10r/h")).admitted);
}

#[test]
fn live_scripts_are_loaded_at_once_and_again_when_flushed() {
    let redis = Redis::start(&[]);
    let worker = Worker::new(redis.settings());
    assert!(worker.one(gcra("k", "1r/h", 9, 1)).admitted);
    let until = Instant::now() + PATIENCE;
    while redis.ask(&["EXISTS", "sluice:gateways"]) != Ok(1) {
        assert!(Instant::now() < until, "no heartbeat");
    }
    let window = || limit("w", rule(Algorithm::FixedWindow, "9r/d", None), Act::take(1));
    assert!(worker.one(window()).admitted);
    let errors: String = redis.ask(&["INFO", "errorstats"]).unwrap();
    assert!(!errors.contains("NOSCRIPT"), "{errors}");
    let _: Value = cmd("SCRIPT").arg("FLUSH").query(&mut redis.plain()).unwrap();
    assert_eq!(worker.one(gcra("k", "1r/h", 9, 1)).remaining, 8);
    assert_eq!(worker.one(window()).remaining, 7);
    let _: Value = cmd("SCRIPT").arg("FLUSH").query(&mut redis.plain()).unwrap();
    assert_eq!(worker.one(window()).remaining, 6);
    assert_eq!(worker.other_events(), 0);
}

#[test]
fn live_logs_in_and_selects() {
    let redis = Redis::start(&["--requirepass", "p w"]);
    let mut admin = redis.connect(RedisConnectionInfo::default().set_password("p w"));
    // No HELLO: the older protocol must do.
    let rights = [
        "on",
        ">u w",
        "~sluice:*",
        "~k*",
        "+evalsha",
        "+script|load",
        "+select",
        "+time",
        "+mget",
        "+set",
        "+del",
    ];
    let _: Value = cmd("ACL").arg("SETUSER").arg("limiter").arg(&rights[..]).query(&mut admin).unwrap();
    let mut settings = redis.settings();
    settings.password = super::secret("p w");
    settings.database = 3;
    assert!(Worker::new(settings.clone()).one(gcra("k", "1r/h", 0, 1)).admitted);
    settings.username = Some("limiter".to_owned());
    settings.password = super::secret("u w");
    let worker = Worker::new(settings.clone());
    assert!(!worker.one(gcra("k", "1r/h", 0, 1)).admitted, "same database, same key");
    let denied = worker.call(vec![gcra("other", "1r/h", 0, 1)]).unwrap_err();
    assert!(matches!(denied, Failure::Refused(_)) && denied.to_string().contains("NOPERM"), "{denied}");
    settings.password = super::secret("wrong secret");
    let LinkEvent::Lost { reason, .. } = Worker::new(settings).event() else { panic!("expected to be lost") };
    assert!(reason.contains("WRONGPASS") || reason.contains("uthentication"), "{reason}");
    assert!(!reason.contains("secret"));
}

#[test]
fn live_a_clock_set_back_locks_nobody_up_for_long() {
    let redis = Redis::start(&[]);
    let worker = Worker::new(redis.settings());
    let mut own = redis.plain();
    let (now, _): (u64, u64) = cmd("TIME").query(&mut own).unwrap();
    let mut set = |key: &str, value: String| cmd("SET").arg(key).arg(value).query::<Value>(&mut own).unwrap();
    let limit = |key: &str, algorithm| limit(key, rule(algorithm, "10r/h", None), Act::take(1));
    // The next window is another clock's that is a little ahead; a later one is from before the step.
    let window = now / 3600;
    set("next", format!("3600000 {} 10", window + 1));
    set("later", format!("3600000 {} 10", window + 2));
    assert!(!worker.one(limit("next", Algorithm::FixedWindow)).admitted);
    assert!(worker.one(limit("later", Algorithm::FixedWindow)).admitted);
    // What a sliding window holds is kept, as if it had been counted now.
    let bucket = now / 225;
    for ahead in [16, 17, 100_000] {
        let key = format!("w{ahead}");
        set(&key, format!("225000 {} 0 0 4 6", bucket + ahead));
        let decision = worker.one(limit(&key, Algorithm::SlidingWindow));
        assert!(!decision.admitted && decision.reset_after <= 33 * 225_000, "{decision:?}");
    }
    let value: String = cmd("GET").arg("w100000").query(&mut own).unwrap();
    assert_eq!(value, format!("225000 {bucket} 0 0 4 6"));
}
