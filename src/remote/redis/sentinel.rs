//! Which server is the master: all sentinels are asked at once, and asked again as long as the connection lasts.
//!
//! Each sentinel tells the epoch of its configuration, which a failover raises; the highest one is the truth, whoever
//! hangs, is cut off or has slept (Sentinel documentation, "Configuration epochs"). Without the second part nobody
//! would notice a failover that leaves the old master alive: it is told to be a replica ten seconds later at the
//! earliest, and forgets what it has counted since.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{ErrorKind, ProtocolVersion, RedisError, RedisResult};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::connect::{Connection, enter, open, timed_out};
use super::failure::describe;
use super::settings::{Mode, Secret, Server, Settings};

/// How long the other sentinels are waited for once one has answered.
const GRACE: Duration = Duration::from_millis(100);
/// Why a connection that works is given up.
pub(super) const REPLACED: &str = "the sentinels name another master";

/// What one sentinel says.
struct Word {
    epoch: u64,
    /// Whether it can reach the master itself.
    up: bool,
    master: Server,
}

/// What was heard of one sentinel, by its place: its word, or why there is none.
type Heard = (usize, Result<Word, String>);

/// Watches over a connection to a master.
pub(super) struct Vigil {
    heard: UnboundedReceiver<Heard>,
    /// One for each sentinel; they end with it.
    askers: JoinSet<()>,
    epoch: u64,
}

impl Vigil {
    /// Starts to ask all sentinels.
    fn begin(
        settings: &Settings,
        master: &str,
        (username, password): (Option<String>, Option<Secret>),
    ) -> Self {
        let own = Settings { mode: Mode::Standalone, database: 0, username, password, ..settings.clone() };
        let (tell, heard) = unbounded_channel();
        let mut askers = JoinSet::new();
        for (place, server) in settings.servers.iter().enumerate() {
            let server = match server {
                Server::Tcp { host, port } => {
                    Server::Tcp { host: host.clone(), port: Some(settings.port(*port)) }
                }
                Server::Unix(_) => server.clone(),
            };
            askers.spawn(ask(own.clone(), (place, server), master.to_owned(), tell.clone()));
        }
        Self { heard, askers, epoch: 0 }
    }

    /// Waits until a sentinel knows of a failover that the connection does not.
    pub(super) async fn replaced(&mut self) {
        while let Some((_, heard)) = self.heard.recv().await {
            if heard.is_ok_and(|word| word.epoch > self.epoch) {
                return;
            }
        }
        std::future::pending().await
    }

    /// The best that the sentinels know now.
    async fn master(&mut self, patience: Duration) -> Result<Word, String> {
        let (mut best, mut reason) = (None::<Word>, "no sentinel answers in time".to_owned());
        let (mut until, mut silent) =
            (Instant::now() + patience, (0..self.askers.len()).collect::<HashSet<_>>());
        while !silent.is_empty()
            && let Ok(Some((place, heard))) = timeout_at(until, self.heard.recv()).await
        {
            silent.remove(&place);
            match heard {
                Ok(word) => {
                    if best.is_none() {
                        until = until.min(Instant::now() + GRACE);
                    }
                    if best.as_ref().is_none_or(|best| (word.epoch, word.up) > (best.epoch, best.up)) {
                        best = Some(word);
                    }
                }
                Err(error) => reason = error,
            }
        }
        best.ok_or(reason)
    }
}

/// Asks the sentinels for `master` and connects to it, as [`connect`](super::connect::connect) does. `login` is
/// the user and password of the sentinels.
///
/// # Errors
/// What was wrong, in one clean line.
pub(super) async fn connect(
    settings: &Settings,
    master: &str,
    login: (Option<String>, Option<Secret>),
    proof: &str,
) -> Result<Connection, String> {
    let mut vigil = Vigil::begin(settings, master, login);
    let word = vigil.master(settings.connect_timeout).await?;
    if !word.up {
        return Err(format!("{}: down, the sentinels say", word.master));
    }
    vigil.epoch = word.epoch;
    let opened = tokio::select! {
        opened = open(settings, &word.master, Some(proof)) => opened,
        // Nobody waits for one that hangs when another has taken its place.
        () = vigil.replaced() => Err(REPLACED.to_owned()),
    };
    match opened {
        Ok(connection) => Ok(connection.watched_by(vigil)),
        Err(reason) => Err(format!("{}: {reason}", word.master)),
    }
}

/// Asks one sentinel again and again, until nobody listens.
async fn ask(own: Settings, (place, server): (usize, Server), master: String, tell: UnboundedSender<Heard>) {
    loop {
        let entered = timeout(own.connect_timeout, enter(&own, &server, ProtocolVersion::RESP2, None)).await;
        let mut line = match entered {
            Ok(Ok(line)) => Ok(line),
            Ok(Err(error)) => Err(describe(&error)),
            Err(_) => Err(timed_out(&own)),
        };
        while let Ok(redis) = &mut line {
            match timeout(own.connect_timeout, read(redis, &master)).await {
                Ok(Ok(word)) => {
                    if tell.send((place, Ok(word))).is_err() {
                        return;
                    }
                    sleep(pause()).await;
                }
                Ok(Err(error)) => line = Err(describe(&error)),
                Err(_) => line = Err("no answer in time".to_owned()),
            }
        }
        let reason = line.err().unwrap_or_default();
        if tell.send((place, Err(format!("sentinel {server}: {reason}")))).is_err() {
            return;
        }
        sleep(pause()).await;
    }
}

/// From one question to a sentinel to the next: a quarter of a second, an eighth more or less, so that workers that
/// start together do not ask together.
fn pause() -> Duration {
    // The one source of randomness that the standard library has.
    Duration::from_millis(219 + RandomState::new().hash_one(0) % 63)
}

/// One question. The address comes from the second command, for who leads a failover names the new master there at
/// once, and in the first one only when all replicas follow it.
async fn read(redis: &mut MultiplexedConnection, master: &str) -> RedisResult<Word> {
    let mut pipeline = ::redis::pipe();
    for word in ["MASTER", "GET-MASTER-ADDR-BY-NAME"] {
        pipeline.cmd("SENTINEL").arg(word).arg(master);
    }
    let (told, at): (HashMap<String, String>, Vec<String>) = pipeline.query_async(redis).await?;
    let field = |name: &str| told.get(name).map(String::as_str).unwrap_or_default();
    let [host, digits] = &at[..] else { return Err(no_address()) };
    let port: u16 = digits.parse().map_err(|_| no_address())?;
    let moving = (field("ip"), field("port")) != (host, digits);
    let down = field("flags").split(',').any(|flag| matches!(flag, "s_down" | "o_down"));
    Ok(Word {
        epoch: field("config-epoch").parse().unwrap_or_default(),
        up: moving || !down,
        master: Server::Tcp { host: host.clone(), port: Some(port) },
    })
}

fn no_address() -> RedisError {
    (ErrorKind::UnexpectedReturnType, "a master without an address").into()
}
