//! Redis dies, hangs, forgets and refuses.

use std::time::{Duration, Instant};

use ::redis::{Value, cmd};

use super::{Failure, LinkEvent, PATIENCE, Redis, Server, Worker, gcra};

/// Waits until the gate is as wanted.
fn wait_gate(worker: &Worker, admits: bool) {
    let until = Instant::now() + PATIENCE;
    while worker.engine.link(0).admits() != admits {
        assert!(Instant::now() < until, "gate is not {admits}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn live_a_killed_server_is_lost_once_and_back_once() {
    let mut redis = Redis::start(&[]);
    let worker = Worker::new(redis.settings());
    assert!(worker.one(gcra("k", "1r/h", 0, 1)).admitted);
    redis.kill();
    let LinkEvent::Lost { name, reason } = worker.event() else { panic!("expected to be lost") };
    assert_eq!(&*name, "main");
    assert!(reason.starts_with("unix:"), "{reason}");
    wait_gate(&worker, false);
    assert_eq!(worker.call(vec![gcra("k", "1r/h", 0, 1)]), Err(Failure::Unavailable));
    std::thread::sleep(Duration::from_millis(250));
    assert_eq!(worker.other_events(), 0, "one line, however long it takes");
    redis.restart();
    assert!(matches!(worker.event(), LinkEvent::Back { after, .. } if after >= Duration::from_millis(250)));
    wait_gate(&worker, true);
    assert!(worker.one(gcra("k", "1r/h", 0, 1)).admitted);
    assert!(!worker.one(gcra("k", "1r/h", 0, 1)).admitted);
    assert_eq!(worker.other_events(), 0);
}

#[test]
fn live_a_server_that_is_away_at_the_start_opens_the_gate_at_once() {
    let mut redis = Redis::start(&[]);
    redis.kill();
    let worker = Worker::new(redis.settings());
    assert!(matches!(worker.event(), LinkEvent::Lost { .. }));
    wait_gate(&worker, false);
    redis.restart();
    wait_gate(&worker, true);
    assert!(worker.one(gcra("k", "1r/h", 0, 1)).admitted);
}

#[test]
fn live_a_hung_server_opens_the_gate_and_gets_nothing_stale() {
    let redis = Redis::start(&[]);
    let mut settings = redis.settings();
    settings.connect_timeout = Duration::from_millis(100);
    let worker = Worker::new(settings);
    assert!(worker.one(gcra("k", "1r/h", 99, 1)).admitted);
    redis.signal("-STOP");
    let tickets = worker.submit(vec![vec![gcra("k", "1r/h", 99, 1)]; 4]);
    // Time for them to be sent, most likely.
    std::thread::sleep(Duration::from_millis(50));
    for _ in 0..4 {
        worker.engine.link(0).timed_out();
    }
    assert!(worker.engine.link(0).admits());
    worker.engine.link(0).timed_out();
    assert!(!worker.engine.link(0).admits());
    for ticket in tickets {
        let failure = worker.reply(ticket).unwrap_err();
        assert!(matches!(failure, Failure::Lost(_) | Failure::Unavailable), "{failure}");
    }
    let LinkEvent::Lost { reason, .. } = worker.event() else { panic!("expected to be lost") };
    assert_eq!(reason, "no answer in time");
    for ticket in worker.submit(vec![vec![gcra("k", "1r/h", 99, 1)]; 50]) {
        assert_eq!(worker.reply(ticket), Err(Failure::Unavailable));
    }
    redis.signal("-CONT");
    assert!(matches!(worker.event(), LinkEvent::Back { .. }));
    wait_gate(&worker, true);
    // One before, at most four that lay in the socket, none of the fifty.
    assert!(worker.one(gcra("k", "1r/h", 99, 0)).remaining >= 95);
}

#[test]
fn live_a_silent_server_is_found_out_without_the_workers_deadlines() {
    let redis = Redis::start(&[]);
    let mut settings = redis.settings();
    settings.connect_timeout = Duration::from_millis(100);
    let patience = settings.connect_timeout + settings.timeout;
    let worker = Worker::new(settings);
    assert!(worker.one(gcra("k", "1r/h", 99, 1)).admitted);
    redis.signal("-STOP");
    let begun = Instant::now();
    let first = worker.submit(vec![vec![gcra("k", "1r/h", 99, 1)]]);
    std::thread::sleep(Duration::from_millis(20));
    let second = worker.submit(vec![vec![gcra("k", "1r/h", 99, 1)]]);
    let answers = [first, second].map(|tickets| worker.reply(tickets[0]).unwrap_err().to_string());
    let waited = begun.elapsed();
    assert!(waited >= patience && waited < patience * 3, "{waited:?}");
    assert!(answers[0].contains("no answer in time") && answers[1].contains("given up"), "{answers:?}");
    redis.signal("-CONT");
}

#[test]
fn live_a_cut_connection_is_replaced_without_a_word() {
    let redis = Redis::start(&[]);
    let mut settings = redis.settings();
    settings.breaker.open = Duration::from_secs(60);
    let worker = Worker::new(settings);
    let mut own = redis.plain();
    for _ in 0..3 {
        assert!(worker.one(gcra("k", "1r/h", 9, 1)).admitted);
        let _: Value = cmd("CLIENT")
            .arg("KILL")
            .arg("TYPE")
            .arg("normal")
            .arg("SKIPME")
            .arg("yes")
            .query(&mut own)
            .unwrap();
        // Calls fail until the new connection stands.
        let until = Instant::now() + PATIENCE;
        while worker.call(vec![gcra("probe", "1r/h", 0, 0)]).is_err() {
            assert!(Instant::now() < until);
        }
    }
    assert_eq!(worker.other_events(), 0);
}

#[test]
fn live_a_server_without_memory_refuses_and_is_found_out_by_the_test() {
    let redis = Redis::start(&[]);
    let worker = Worker::new(redis.settings());
    assert!(worker.one(gcra("k", "1r/h", 99, 1)).admitted);
    let mut own = redis.plain();
    let _: Value = cmd("CONFIG").arg("SET").arg("maxmemory").arg(1).query(&mut own).unwrap();
    for _ in 0..5 {
        let refused = worker.call(vec![gcra("k", "1r/h", 99, 1)]).unwrap_err();
        assert!(matches!(&refused, Failure::Refused(text) if text.starts_with("OOM")), "{refused}");
    }
    assert!(matches!(worker.event(), LinkEvent::Lost { reason, .. } if reason.contains("OOM")));
    std::thread::sleep(Duration::from_millis(250));
    assert_eq!(worker.other_events(), 0, "the test fails as requests did");
    let _: Value = cmd("CONFIG").arg("SET").arg("maxmemory").arg(0).query(&mut own).unwrap();
    assert!(matches!(worker.event(), LinkEvent::Back { .. }));
    assert_eq!(worker.one(gcra("k", "1r/h", 99, 0)).remaining, 99);
}

#[test]
fn live_the_next_server_takes_over_and_a_replica_does_not() {
    let primary = Redis::start(&[]);
    let mut first = Redis::start(&[]);
    let replica = Redis::start(&["--replicaof", "127.0.0.1", "1"]);
    let mut settings = first.settings();
    settings.servers = [&first, &replica, &primary].map(|redis| Server::Unix(redis.socket())).to_vec();
    let worker = Worker::new(settings);
    assert!(worker.one(gcra("k", "1r/h", 0, 1)).admitted);
    first.kill();
    let until = Instant::now() + PATIENCE;
    while worker.call(vec![gcra("k", "1r/h", 0, 1)]).is_err() {
        assert!(Instant::now() < until);
    }
    let kept: i64 = cmd("EXISTS").arg("k").query(&mut primary.plain()).unwrap();
    assert_eq!(kept, 1);
}

#[test]
fn live_calls_that_cannot_be_sent_are_answered() {
    let redis = Redis::start(&[]);
    let worker = Worker::new(redis.settings());
    let limit = || gcra("k", "1r/h", 0, 1);
    for limits in [vec![], vec![limit(); 65], vec![gcra("k", "1r/h", 0, i64::MAX)]] {
        assert_eq!(worker.call(limits), Err(Failure::Invalid));
    }
    // More than fit one script call.
    let tickets =
        worker.submit((0..300).map(|i| vec![gcra(&format!("a{i}"), "1r/h", 0, 1), limit()]).collect());
    let passed =
        tickets.iter().filter(|&&ticket| worker.reply(ticket).unwrap().iter().all(|d| d.admitted)).count();
    assert_eq!(passed, 1);
}

#[test]
fn live_shutdown_is_quick_and_sends_what_was_handed_over() {
    let redis = Redis::start(&[]);
    let worker = Worker::new(redis.settings());
    assert!(worker.one(gcra("k", "1r/h", 9, 1)).admitted);
    worker.submit(vec![vec![gcra("k", "1r/h", 9, 3)]]);
    worker.engine.shutdown();
    let again = Worker::new(redis.settings());
    assert_eq!(again.one(gcra("k", "1r/h", 9, 0)).remaining, 6);
    redis.signal("-STOP");
    again.submit(vec![vec![gcra("k", "1r/h", 9, 3)]]);
    let begun = Instant::now();
    again.engine.shutdown();
    assert!(begun.elapsed() < Duration::from_secs(1));
}
