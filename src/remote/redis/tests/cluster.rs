//! A cluster of three primaries and one replica: exactness, slots on the move, calls over several slots, failover.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ::redis::{FromRedisValue, Value};

use super::super::ban::{Heard, What};
use super::super::settings::Mode;
use super::reach::{free_port, local, until_info};
use super::{Act, Failure, Limit, LinkEvent, PATIENCE, Redis, Settings, Worker, gcra};

/// The servers and their ports; the last one is the replica of the first.
struct Cluster(Vec<(Redis, u16)>);

impl Cluster {
    fn start() -> Self {
        let nodes: Vec<_> = (0..4).map(|_| node()).collect();
        let addresses: Vec<_> = nodes[..3].iter().map(|(_, port)| format!("127.0.0.1:{port}")).collect();
        let made = Command::new("redis-cli")
            .args(["--cluster", "create"])
            .args(&addresses)
            .arg("--cluster-yes")
            .stdout(Stdio::null())
            .status();
        assert!(made.unwrap().success());
        let cluster = Self(nodes);
        let (port, id) = (cluster.0[0].1.to_string(), cluster.id(0));
        let _: Value = cluster.ask(3, &["CLUSTER", "MEET", "127.0.0.1", &port]);
        cluster.until(3, &["CLUSTER", "REPLICATE", &id], "OK");
        until_info(&cluster.0[3].0, "master_link_status:up");
        let replica = cluster.id(3);
        for node in 0..3 {
            cluster.until(node, &["CLUSTER", "INFO"], "cluster_state:ok");
            // Who does not know the replica would not vote for it.
            cluster.until(node, &["CLUSTER", "NODES"], &format!("{replica} 127.0.0.1"));
            cluster.until(node, &["CLUSTER", "NODES"], &format!("slave {id}"));
        }
        cluster
    }

    fn ask<T: FromRedisValue>(&self, node: usize, command: &[&str]) -> T {
        self.0[node].0.ask(command).unwrap()
    }

    /// Until the answer holds what is wanted: news take a moment to go round.
    fn until(&self, node: usize, command: &[&str], wanted: &str) {
        let until = Instant::now() + PATIENCE;
        loop {
            let answer = self.0[node].0.ask::<String>(command);
            if answer.as_ref().is_ok_and(|text| text.contains(wanted)) {
                return;
            }
            assert!(Instant::now() < until, "{command:?}: {answer:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn id(&self, node: usize) -> String {
        self.ask(node, &["CLUSTER", "MYID"])
    }

    /// The second and third servers are the seeds, and one that is away.
    fn settings(&self) -> Settings {
        let mut settings = self.0[0].0.settings();
        settings.mode = Mode::Cluster;
        settings.servers = vec![local(free_port()), local(self.0[1].1), local(self.0[2].1)];
        settings
    }

    /// Like [`settings`](Self::settings), connected to every primary.
    fn worker(&self) -> Worker {
        let worker = Worker::new(self.settings());
        let until = Instant::now() + PATIENCE;
        while !(0..3).all(|node| worker.call(vec![gcra(&self.key(node, "up"), "1r/h", 0, 0)]).is_ok()) {
            assert!(Instant::now() < until, "never up");
        }
        worker
    }

    /// A name that begins with a hash tag of this primary.
    fn key(&self, node: usize, name: &str) -> String {
        let tag = (0..).find(|tag| {
            let slot: u64 = self.ask(1, &["CLUSTER", "KEYSLOT", &tag.to_string()]);
            // As redis-cli deals slots out.
            [5461, 10923, 16384].iter().position(|&end| slot < end) == Some(node)
        });
        format!("{{{}}}:{name}", tag.unwrap())
    }
}

/// A server whose port leaves room for the bus, ten thousand above.
fn node() -> (Redis, u16) {
    let port = std::iter::repeat_with(free_port)
        .find(|&port| port < 55000 && std::net::TcpListener::bind(("127.0.0.1", port + 10000)).is_ok());
    let port = port.unwrap();
    let text = port.to_string();
    let args = ["--port", &text, "--bind", "127.0.0.1", "--cluster-enabled", "yes"];
    let more = ["--cluster-node-timeout", "1000", "--cluster-require-full-coverage", "no"];
    let last = ["--repl-diskless-sync-delay", "0"];
    (Redis::start(&[&args[..], &more[..], &last[..]].concat()), port)
}

fn passed(worker: &Worker, tickets: &[u64]) -> usize {
    tickets.iter().filter(|&&ticket| worker.reply(ticket).unwrap().iter().all(|d| d.admitted)).count()
}

#[test]
fn bans_are_heard_at_every_node() {
    let cluster = Cluster::start();
    let hosts = [1, 2].map(|n| Worker::on_host(super::ban::sharing(cluster.settings()), n));
    (0..3).for_each(|node| cluster.0[node].0.subscribed(2));
    for n in 0..3 {
        hosts[0].say(super::ban::ban(n, 60_000, 0, 1));
        // By a message of each of the three nodes.
        (0..3).for_each(|_| assert_eq!(hosts[1].hear_banned(n).level, 1));
    }
    hosts[1].say(What::List { known: 0 });
    let listed = hosts[1].hear(|heard| match heard {
        Heard::Listed { bans, .. } => Some(bans.len()),
        _ => None,
    });
    assert_eq!(listed, 3);
}

#[test]
fn live_cluster() {
    let mut cluster = Cluster::start();
    let workers = [cluster.worker(), cluster.worker()];
    two_workers_share_many_limits_exactly(&workers);
    calls_over_slots_charge_all_or_nothing(&cluster, &workers);
    scripts_are_loaded_again_where_flushed(&cluster, &workers[0]);
    few_rights_will_do(&cluster);
    gateways_are_counted(&cluster, &workers[0]);
    slots_move_under_load(&cluster, &workers[0]);
    assert_eq!(workers[0].other_events(), 0, "{:?}", workers[0].event());
    a_primary_dies_and_its_replica_takes_over(&mut cluster, &workers[0]);
    a_primary_that_hangs_holds_up_only_its_own(&cluster, &workers[0]);
}

fn two_workers_share_many_limits_exactly(workers: &[Worker; 2]) {
    let calls = || {
        let one = |n: usize| vec![gcra(&format!("sluice:{{{}}}:z:g1", n % 40), "1r/h", 20, 1)];
        (0..1200).map(one).collect::<Vec<_>>()
    };
    let begun = Instant::now();
    let tickets = [workers[0].submit(calls()), workers[1].submit(calls())];
    let mut admitted = [0; 40];
    for (worker, tickets) in workers.iter().zip(&tickets) {
        for (n, &ticket) in tickets.iter().enumerate() {
            admitted[n % 40] += usize::from(worker.reply(ticket).unwrap()[0].admitted);
        }
    }
    println!("2400 calls on 40 keys from two workers: {:?}", begun.elapsed());
    assert_eq!(admitted, [21; 40]);
}

fn calls_over_slots_charge_all_or_nothing(cluster: &Cluster, workers: &[Worker; 2]) {
    let [wide, narrow, third] = [0, 1, 2].map(|node| cluster.key(node, "cross"));
    let both = || vec![gcra(&wide, "1r/h", 9, 1), gcra(&narrow, "1r/h", 0, 1)];
    assert!(workers[0].call(both()).unwrap().iter().all(|decision| decision.admitted));
    for _ in 0..3 {
        let refused = workers[0].call(both()).unwrap();
        assert_eq!((refused[0].admitted, refused[0].remaining), (true, 9));
        assert!(!refused[1].admitted && refused[1].retry_after > 3_590_000);
    }
    // Five of sixty, and no other limit charged for the rest.
    let call = || vec![gcra(&wide, "1r/h", 99, 1), gcra(&third, "1r/h", 4, 1), gcra(&narrow, "1r/s", 99, 0)];
    let before = workers[0].one(gcra(&wide, "1r/h", 99, 0)).remaining;
    let tickets = [0, 1].map(|worker: usize| workers[worker].submit(vec![call(); 30]));
    assert_eq!(passed(&workers[0], &tickets[0]) + passed(&workers[1], &tickets[1]), 5);
    assert_eq!(workers[0].one(gcra(&wide, "1r/h", 99, 0)).remaining, before - 5);
    assert_eq!(workers[0].one(gcra(&third, "1r/h", 4, 0)).remaining, 0);
}

fn scripts_are_loaded_again_where_flushed(cluster: &Cluster, worker: &Worker) {
    let _: Value = cluster.ask(1, &["SCRIPT", "FLUSH"]);
    let calls = (0..30).map(|n| vec![gcra(&format!("{{{n}}}:flushed"), "1r/h", 0, 1)]).collect();
    assert_eq!(passed(worker, &worker.submit(calls)), 30);
}

fn few_rights_will_do(cluster: &Cluster) {
    let rights =
        "on >p ~sluice:* -@all +hello +evalsha +script|load +time +mget +set +del +cluster|slots +asking";
    for node in 0..3 {
        let command: Vec<_> = ["ACL", "SETUSER", "limiter"].into_iter().chain(rights.split(' ')).collect();
        let _: Value = cluster.ask(node, &command);
    }
    let (username, password) = (Some("limiter".to_owned()), super::secret("p"));
    let worker = Worker::new(Settings { username, password, ..cluster.settings() });
    let calls = (0..30).map(|n| vec![gcra(&format!("sluice:{{{n}}}:acl"), "1r/h", 0, 1)]).collect();
    assert_eq!(passed(&worker, &worker.submit(calls)), 30);
    assert_eq!(worker.other_events(), 0);
}

fn gateways_are_counted(cluster: &Cluster, worker: &Worker) {
    let other = Worker::on_host(cluster.settings(), 2);
    super::commit::until_gateways(&[worker, &other], 2);
    let lease = Act::Take { cost: 1, more: 100, unused: None };
    let key = gcra(&cluster.key(0, "lease"), "1r/h", 40, 1);
    assert_eq!(worker.act(&key, lease).granted, 10, "half of the half of what is left");
    let over = vec![Limit { act: lease, ..key.clone() }, gcra(&cluster.key(1, "lease"), "1r/h", 40, 1)];
    let told = worker.ruled(worker.submit(vec![over])[0]).unwrap();
    assert_eq!((told[0].granted, told[0].after.remaining), (0, 29));
}

fn slots_move_under_load(cluster: &Cluster, worker: &Worker) {
    let [old, fresh, load] = ["old", "fresh", "load"].map(|name| cluster.key(2, name));
    let slot: u64 = cluster.ask(1, &["CLUSTER", "KEYSLOT", &old]);
    let slot = slot.to_string();
    let (source, target, port) = (cluster.id(2), cluster.id(1), cluster.0[1].1.to_string());
    let take = |key: &str| worker.one(gcra(key, "1r/h", 99, 1)).remaining;
    assert_eq!(take(&old), 99);
    let patient = Worker::new(Settings { timeout: PATIENCE, ..cluster.settings() });
    assert!(patient.call(vec![gcra(&old, "1r/h", 99, 0)]).is_ok());
    let (stop, begun) = (AtomicBool::new(false), AtomicU64::new(0));
    let charged = std::thread::scope(|scope| {
        let loaded = scope.spawn(|| {
            let (own, mut charged) = (cluster.worker(), 0);
            // Bounded, should the other side fail.
            while !stop.load(Ordering::Relaxed) && charged < 50_000 {
                assert!(own.one(gcra(&load, "1r/h", 99_999, 1)).admitted);
                charged += 1;
                begun.store(charged, Ordering::Relaxed);
            }
            charged
        });
        while begun.load(Ordering::Relaxed) < 100 {
            std::thread::yield_now();
        }
        let _: Value = cluster.ask(1, &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source]);
        let _: Value = cluster.ask(2, &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target]);
        // One key is still here, the other is made there.
        assert_eq!((take(&old), take(&fresh)), (98, 99));
        let split = worker.call(vec![gcra(&old, "1r/h", 99, 1), gcra(&fresh, "1r/h", 99, 1)]);
        let refused = matches!(&split, Err(Failure::Refused(text)) if text.starts_with("TRYAGAIN"));
        assert!(refused || split == Err(Failure::Stale), "{split:?}");
        // Whoever may wait longer is told to try again until the slot has moved.
        let both = patient.submit(vec![vec![gcra(&old, "1r/h", 99, 0), gcra(&fresh, "1r/h", 99, 0)]]);
        std::thread::sleep(Duration::from_millis(200));
        let keys: Vec<String> = cluster.ask(2, &["CLUSTER", "GETKEYSINSLOT", &slot, "100"]);
        for (moved, key) in (1..).zip(&keys) {
            let _: Value = cluster.ask(2, &["MIGRATE", "127.0.0.1", &port, key, "0", "1000"]);
            assert_eq!(take(&fresh), 99 - moved);
        }
        assert_eq!(take(&old), 97);
        for node in [1, 2] {
            let _: Value = cluster.ask(node, &["CLUSTER", "SETSLOT", &slot, "NODE", &target]);
        }
        assert_eq!((take(&old), take(&fresh)), (96, 98 - keys.len() as u64));
        assert_eq!(passed(&patient, &both), 1);
        stop.store(true, Ordering::Relaxed);
        loaded.join().unwrap()
    });
    println!("{charged} calls while a slot moved");
    assert_eq!(worker.one(gcra(&load, "1r/h", 99_999, 0)).remaining, 100_000 - charged);
}

fn a_primary_dies_and_its_replica_takes_over(cluster: &mut Cluster, worker: &Worker) {
    let (dead, alive) = (cluster.key(0, "dead"), cluster.key(1, "alive"));
    let ask = |key: &str| {
        let begun = Instant::now();
        let answer = worker.call(vec![gcra(key, "1r/h", 99_999, 1)]);
        assert!(begun.elapsed() < Duration::from_millis(500), "stalled for {:?}", begun.elapsed());
        answer
    };
    assert!(ask(&dead).is_ok());
    cluster.0[0].0.kill();
    let name = format!("main/127.0.0.1:{}", cluster.0[0].1);
    let (begun, mut refused, mut served) = (Instant::now(), 0, 0);
    while !cluster.ask::<String>(3, &["INFO", "replication"]).contains("role:master") {
        assert!(begun.elapsed() < PATIENCE, "no failover");
        refused += usize::from(ask(&dead).is_err());
        assert!(ask(&alive).is_ok(), "the others serve");
        served += 1;
    }
    let known = Instant::now();
    println!("failover after {:?}: {refused} refused, {served} served", begun.elapsed());
    assert!(refused > 0);
    while ask(&dead).is_err() {
        assert!(known.elapsed() < Duration::from_secs(1), "not limiting again");
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("limiting again {:?} after the new primary was known", known.elapsed());
    assert!(matches!(worker.event(), LinkEvent::Lost { name: lost, .. } if *lost == *name));
    assert!(matches!(worker.event(), LinkEvent::Back { name: back, .. } if *back == *name));
    assert_eq!(worker.other_events(), 0);
    assert!(worker.engine.link(0).admits());
}

fn a_primary_that_hangs_holds_up_only_its_own(cluster: &Cluster, worker: &Worker) {
    let (alive, hung) = (cluster.key(1, "alive"), format!("{}:hung", other_tag(cluster)));
    let call = |key: &str| worker.call(vec![gcra(key, "1r/h", 99_999, 1)]);
    assert!(call(&hung).is_ok() && call(&alive).is_ok());
    cluster.0[2].0.signal("-STOP");
    let outstanding = worker.submit(vec![vec![gcra(&hung, "1r/h", 99_999, 1)]]);
    std::thread::sleep(Duration::from_millis(20));
    assert!(call(&alive).is_ok(), "served beside a call that hangs");
    // As the worker does when deadlines pass.
    (0..5).for_each(|_| worker.engine.link(0).timed_out());
    assert!(matches!(worker.reply(outstanding[0]), Err(Failure::Lost(_))));
    let begun = Instant::now();
    while call(&alive).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(1));
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("the others serve again {:?} after the gate opened", begun.elapsed());
    let (whole, part) = ("main".to_owned(), format!("main/127.0.0.1:{}", cluster.0[2].1));
    assert_eq!(
        [told(worker), told(worker), told(worker)],
        [(false, &whole), (true, &whole), (false, &part)].map(owned)
    );
    // All of it is lost again meanwhile, and back: the one that hangs is still away.
    (0..5).for_each(|_| worker.engine.link(0).timed_out());
    assert_eq!([told(worker), told(worker)], [(false, &whole), (true, &whole)].map(owned));
    let begun = Instant::now();
    assert_eq!(call(&hung), Err(Failure::Unavailable));
    assert!(call(&alive).is_ok() && begun.elapsed() < Duration::from_millis(100), "nobody waits");
    cluster.0[2].0.signal("-CONT");
    let begun = Instant::now();
    while call(&hung).is_err() {
        assert!(begun.elapsed() < PATIENCE, "never back");
        std::thread::sleep(Duration::from_millis(1));
    }
    println!("back {:?} after it woke", begun.elapsed());
    assert_eq!(told(worker), (true, part));
    assert_eq!(worker.other_events(), 0);
}

/// The next event: back or lost, and who.
fn told(worker: &Worker) -> (bool, String) {
    match worker.event() {
        LinkEvent::Lost { name, .. } => (false, name.to_string()),
        LinkEvent::Back { name, .. } => (true, name.to_string()),
        event => panic!("{event:?}"),
    }
}

fn owned((back, name): (bool, &String)) -> (bool, String) {
    (back, name.clone())
}

/// Another hash tag of the third primary than [`Cluster::key`] finds, whose slot has moved.
fn other_tag(cluster: &Cluster) -> String {
    let slot = |tag: u32| cluster.ask::<u64>(1, &["CLUSTER", "KEYSLOT", &tag.to_string()]);
    let mut tags = (0..).filter(|&tag| slot(tag) >= 10923);
    format!("{{{}}}", tags.nth(1).unwrap())
}
