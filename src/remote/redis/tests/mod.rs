//! Against a real redis-server, started by each test on a socket of its own.

mod ban;
mod bench;
mod cluster;
mod commit;
mod faults;
mod lease;
mod model;
mod oracle;
mod reach;
mod script;
mod settings;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use ::redis::{
    Client, ConnectionAddr, FromRedisValue, IntoConnectionInfo, RedisConnectionInfo, RedisResult, cmd,
};

use super::{Act, Call, Failure, Limit, LinkEvent, Ruled, Secret, Server, Settings};
use crate::policy::limit::{Algorithm, Decision, Delay, Rate, Rule};
use crate::remote::{Done, Engine, Job};

/// Far beyond anything that is waited for here.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// A redis-server of our own, killed by its process id when dropped.
pub(super) struct Redis {
    child: Child,
    dir: PathBuf,
    args: Vec<String>,
}

impl Redis {
    pub(super) fn start(args: &[&str]) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("sluice-redis-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let args: Vec<_> = args.iter().map(|&arg| arg.to_owned()).collect();
        let child = spawn(&dir, &args);
        let redis = Self { child, dir, args };
        redis.wait_until_up();
        redis
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.dir.join("s")
    }

    /// Any answer will do, also that a password is wanted.
    fn wait_until_up(&self) {
        let until = Instant::now() + PATIENCE;
        while std::os::unix::net::UnixStream::connect(self.socket()).is_err() {
            assert!(Instant::now() < until, "redis-server did not start");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub(super) fn settings(&self) -> Settings {
        let mut settings = Settings::new("main");
        settings.servers = vec![Server::Unix(self.socket())];
        // Generous: the machine that runs the tests may be busy.
        settings.timeout = Duration::from_millis(500);
        settings.breaker.open = Duration::from_millis(100);
        settings
    }

    /// A connection of the test's own. Fails while a server changes its role, which cuts connections.
    pub(super) fn try_connect(&self, login: RedisConnectionInfo) -> RedisResult<::redis::Connection> {
        let info = ConnectionAddr::Unix(self.socket()).into_connection_info()?;
        Client::open(info.set_redis_settings(login))?.get_connection()
    }

    pub(super) fn connect(&self, login: RedisConnectionInfo) -> ::redis::Connection {
        self.try_connect(login).unwrap()
    }

    pub(super) fn plain(&self) -> ::redis::Connection {
        self.connect(RedisConnectionInfo::default())
    }

    /// One command, on a connection of its own.
    pub(super) fn ask<T: FromRedisValue>(&self, command: &[&str]) -> RedisResult<T> {
        let mut connection = self.try_connect(RedisConnectionInfo::default())?;
        cmd(command[0]).arg(&command[1..]).query(&mut connection)
    }

    pub(super) fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    pub(super) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let _ = std::fs::remove_file(self.socket());
    }

    pub(super) fn restart(&mut self) {
        self.child = spawn(&self.dir, &self.args);
        self.wait_until_up();
    }
}

/// With a configuration file as the first argument it says all, otherwise nothing but the socket is opened.
fn spawn(dir: &std::path::Path, args: &[String]) -> Child {
    let own = ["--port", "0", "--unixsocket", "s", "--save", "", "--appendonly", "no", "--dir", "."];
    let given = args.first().is_some_and(|arg| arg.ends_with(".conf"));
    Command::new("redis-server")
        .args(if given { &[] } else { &own[..] })
        .args(args)
        .current_dir(dir)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// An engine and the little of an event loop that it needs.
pub(super) struct Worker {
    pub(super) engine: Engine,
    woken: Receiver<()>,
    seen: std::cell::RefCell<Vec<Done>>,
    next: std::cell::Cell<u64>,
}

impl Worker {
    pub(super) fn new(settings: Settings) -> Self {
        Self::on_host(settings, 1)
    }

    /// A worker of another host.
    pub(super) fn on_host(settings: Settings, gateway: u64) -> Self {
        settings.validate().unwrap();
        let (wake, woken) = channel();
        let wake = move || {
            // The worker may be gone already.
            let _ = wake.send(());
        };
        let engine = Engine::start(vec![settings], gateway, wake).unwrap();
        Self { engine, woken, seen: Vec::new().into(), next: 0.into() }
    }

    /// Hands calls over in one turn; their tickets.
    pub(super) fn submit(&self, calls: Vec<Vec<Limit>>) -> Vec<u64> {
        let first = self.next.get();
        self.next.set(first + calls.len() as u64);
        let job = |(limits, ticket)| Job::Limit(Call { ticket, link: 0, limits });
        self.engine.submit(calls.into_iter().zip(first..).map(job).collect());
        (first..self.next.get()).collect()
    }

    /// Waits until `pick` finds what it looks for among all that came; takes it out.
    pub(super) fn wait<T>(&self, mut pick: impl FnMut(&Done) -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            self.engine.drain(|done| self.seen.borrow_mut().push(done));
            let mut seen = self.seen.borrow_mut();
            if let Some((place, found)) = seen.iter().enumerate().find_map(|(i, done)| Some((i, pick(done)?)))
            {
                seen.remove(place);
                return found;
            }
            drop(seen);
            let left = until.checked_duration_since(Instant::now()).expect("nothing came");
            let _ = self.woken.recv_timeout(left);
        }
    }

    /// The decisions alone.
    pub(super) fn reply(&self, ticket: u64) -> Result<Vec<Decision>, Failure> {
        Ok(self.ruled(ticket)?.iter().map(|ruled| ruled.decision).collect())
    }

    pub(super) fn ruled(&self, ticket: u64) -> Result<Vec<Ruled>, Failure> {
        self.wait(|done| match done {
            Done::Limit(reply) if reply.ticket == ticket => Some(reply.result.clone()),
            _ => None,
        })
    }

    /// The next one but [`LinkEvent::Connected`].
    pub(super) fn event(&self) -> LinkEvent {
        self.wait(|done| match done {
            Done::Link(LinkEvent::Connected { .. }) => None,
            Done::Link(event) => Some(event.clone()),
            _ => None,
        })
    }

    /// Events that have come and were not waited for, but [`LinkEvent::Connected`].
    pub(super) fn other_events(&self) -> usize {
        self.engine.drain(|done| self.seen.borrow_mut().push(done));
        let counts = |done: &&Done| match done {
            Done::Link(event) => !matches!(event, LinkEvent::Connected { .. }),
            _ => false,
        };
        self.seen.borrow().iter().filter(counts).count()
    }

    pub(super) fn call(&self, limits: Vec<Limit>) -> Result<Vec<Decision>, Failure> {
        self.reply(self.submit(vec![limits])[0])
    }

    pub(super) fn one(&self, limit: Limit) -> Decision {
        self.call(vec![limit]).unwrap()[0]
    }

    pub(super) fn act(&self, limit: &Limit, act: Act) -> Ruled {
        self.ruled(self.submit(vec![vec![Limit { act, ..limit.clone() }]])[0]).unwrap()[0]
    }
}

pub(super) fn rule(algorithm: Algorithm, rate: &str, burst: Option<u64>) -> Rule {
    Rule::new(algorithm, Rate::parse(rate).unwrap(), burst, Delay::None).unwrap()
}

pub(super) fn limit(key: &str, rule: Rule, act: Act) -> Limit {
    Limit { key: key.to_owned(), rule, act, known: 0 }
}

/// Takes, or gives back if `cost` is below 0.
pub(super) fn gcra(key: &str, rate: &str, burst: u64, cost: i64) -> Limit {
    limit(key, rule(Algorithm::Gcra, rate, Some(burst)), charge(cost))
}

pub(super) fn charge(cost: i64) -> Act {
    let requests = cost.unsigned_abs();
    if cost < 0 { Act::GiveBack { cost: requests } } else { Act::take(requests) }
}

pub(super) fn secret(text: &str) -> Option<Secret> {
    Some(Secret::new(text))
}
