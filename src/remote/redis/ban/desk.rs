//! One link's share in the bans: what waits to be told, and what is heard.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ::redis::aio::MultiplexedConnection;
use ::redis::{PushInfo, PushKind, Value};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use super::wire::{self, PAGE, Place};
use super::{Ask, Heard, News, What};
use crate::policy::Millis;
use crate::remote::engine::{Done, Outbox};
use crate::remote::redis::failure::{describe, is_fatal};
use crate::remote::redis::{Gate, LinkEvent, Settings, script};

/// Most that waits to be told; what comes beyond is not.
const QUEUE: usize = 4_096;
/// Script calls on their way at once.
const FLIGHTS: usize = 32;
/// How often a list that changes while it is read is begun anew.
const TRIES: usize = 3;

/// Shared by a link and its tasks.
pub(in crate::remote::redis) struct Bans {
    link: usize,
    name: Arc<str>,
    prefix: String,
    database: u32,
    /// Whether any zone of bans names this Redis.
    on: bool,
    /// How long an answer may take.
    patience: Duration,
    outbox: Arc<Outbox>,
    gate: Arc<Gate>,
    asks: tokio::sync::Mutex<Receiver<Ask>>,
    /// The operator was told why the bans of others come late.
    deaf: AtomicBool,
    /// And why nothing comes, and why nothing can be told.
    ailing: [AtomicBool; 2],
}

/// What a call says about its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::remote::redis) enum Health {
    Well,
    /// Another server is to be asked.
    Moved,
}

impl Bans {
    pub(in crate::remote::redis) fn new(
        settings: &Settings,
        link: usize,
        (outbox, gate): (Arc<Outbox>, Arc<Gate>),
    ) -> (Sender<Ask>, Arc<Self>) {
        let (sender, asks) = channel(QUEUE);
        let bans = Self {
            link,
            name: settings.name.as_str().into(),
            prefix: settings.key_prefix.clone(),
            database: settings.database,
            on: settings.bans,
            patience: settings.connect_timeout + settings.timeout,
            outbox,
            gate,
            asks: tokio::sync::Mutex::new(asks),
            deaf: AtomicBool::new(false),
            ailing: Default::default(),
        };
        (sender, Arc::new(bans))
    }

    /// Asks to be told of bans as they come. Whoever cannot be reads the list.
    pub(in crate::remote::redis) async fn subscribe(&self, redis: &mut MultiplexedConnection) {
        if !self.on {
            return;
        }
        let asked = timeout(self.patience, redis.subscribe(wire::channel(&self.prefix))).await;
        if let Ok(Err(error)) = asked
            && !self.deaf.swap(true, Ordering::Relaxed)
        {
            let (name, reason) = (self.name.clone(), describe(&error));
            self.outbox.put(Done::Link(LinkEvent::Deaf { name, reason }));
        }
    }

    /// Something was pushed to us.
    pub(in crate::remote::redis) fn heard(&self, push: &PushInfo) {
        if push.kind != PushKind::Message {
            return;
        }
        if let Some(Value::BulkString(bytes)) = push.data.last()
            && let Ok(text) = std::str::from_utf8(bytes)
            && let Some(((database, zone), what)) = wire::message(text)
            // Messages are heard in all databases of a server.
            && database == self.database
        {
            self.tell(zone, what);
        }
    }

    /// Serves one connection until the guard is dropped.
    pub(in crate::remote::redis) fn keep(self: &Arc<Self>, mut redis: MultiplexedConnection) -> Guard {
        let this = self.clone();
        let task = tokio::spawn(async move {
            this.subscribe(&mut redis).await;
            let mut flights = JoinSet::new();
            let clock = Arc::new(Clock::default());
            loop {
                tokio::select! {
                    Some(_) = flights.join_next() => {}
                    Some(ask) = this.next(), if flights.len() < FLIGHTS => {
                        let (this, redis, clock) = (this.clone(), redis.clone(), clock.clone());
                        flights.spawn(async move { this.ask(redis, &clock, &ask).await });
                    }
                    else => return,
                }
            }
        });
        Guard(task.abort_handle())
    }

    /// The next that is to be told. None if there will be no more.
    pub(in crate::remote::redis) async fn next(&self) -> Option<Ask> {
        self.asks.lock().await.recv().await
    }

    /// The name of the key whose slot decides who is to be told.
    pub(in crate::remote::redis) fn key(&self, ask: &Ask) -> String {
        wire::list_key(&self.prefix, &ask.zone)
    }

    /// Nobody can be told.
    pub(in crate::remote::redis) fn refuse(&self, ask: &Ask) {
        self.tell(&ask.zone, Heard::Failed);
    }

    /// Tells one thing, and passes on the answer.
    pub(in crate::remote::redis) async fn ask(
        &self,
        mut redis: MultiplexedConnection,
        clock: &Clock,
        ask: &Ask,
    ) -> Health {
        let place = Place {
            prefix: &self.prefix,
            database: self.database,
            zone: &ask.zone,
            origin: ask.origin,
            known: ask.known,
            now: clock.now(),
            script: script::BAN.get_hash(),
        };
        let told = match &ask.what {
            What::List { known } => {
                timeout(self.patience, self.list((&mut redis, clock), &place, *known)).await
            }
            _ => timeout(self.patience, self.one((&mut redis, clock), &place, ask)).await,
        };
        // That the list can be read says nothing of whether anything can be written.
        let ailing = &self.ailing[usize::from(!matches!(ask.what, What::List { .. }))];
        match told {
            Ok(Ok(heard)) => {
                ailing.store(false, Ordering::Relaxed);
                heard.into_iter().for_each(|what| self.tell(&ask.zone, what));
                Health::Well
            }
            Ok(Err((reason, moved))) => {
                self.tell(&ask.zone, Heard::Failed);
                let ailed = || self.ailing.iter().any(|ailing| ailing.load(Ordering::Relaxed));
                if !moved && !ailed() {
                    self.outbox.put(Done::Link(LinkEvent::Bans { name: self.name.clone(), reason }));
                }
                ailing.fetch_or(!moved, Ordering::Relaxed);
                if moved { Health::Moved } else { Health::Well }
            }
            // Nobody else may be talking to this server: that it is gone must be found out here.
            Err(_) => {
                self.gate.open();
                self.tell(&ask.zone, Heard::Failed);
                Health::Well
            }
        }
    }

    async fn one(
        &self,
        redis: (&mut MultiplexedConnection, &Clock),
        place: &Place<'_>,
        ask: &Ask,
    ) -> Result<Option<Heard>, (String, bool)> {
        let passed = Millis::try_from(ask.at.elapsed().as_millis()).unwrap_or(Millis::MAX);
        let reply = self.run(redis, &place.command(&ask.what, passed)).await?;
        wire::read(ask, &reply).map_err(|reason| (reason.to_owned(), false))
    }

    /// Reads the list page by page. If it has changed meanwhile it is read again, and at last taken as it is.
    async fn list(
        &self,
        (redis, clock): (&mut MultiplexedConnection, &Clock),
        place: &Place<'_>,
        known: u64,
    ) -> Result<Option<Heard>, (String, bool)> {
        let (mut tries, begun) = (0, Instant::now());
        let (mut bans, mut first, mut version) = (Vec::new(), 0, None);
        loop {
            let reply = self.run((redis, clock), &place.page(known, first)).await?;
            let (current, page) = wire::read_page(&reply).map_err(|reason| (reason.to_owned(), false))?;
            let Some((page, members)) = page else { return Ok(None) };
            if version.is_some_and(|version| version != current) && tries < TRIES {
                (bans, first, version, tries) = (Vec::new(), 0, None, tries + 1);
                continue;
            }
            let whole = version.is_none_or(|version| version == current);
            bans.extend(page);
            let version = *version.get_or_insert(current);
            first += PAGE;
            if begun.elapsed() > self.patience {
                // This process stood still: the lengths of time in it are no longer true.
                return Ok(Some(Heard::Failed));
            }
            if members < PAGE {
                return Ok(Some(Heard::Listed { version, bans, whole }));
            }
        }
    }

    async fn run(
        &self,
        (redis, clock): (&mut MultiplexedConnection, &Clock),
        command: &::redis::Cmd,
    ) -> Result<Value, (String, bool)> {
        let mut reply = script::execute(redis, command).await.map_err(|error| {
            let moved = matches!(error.code(), Some("MOVED" | "ASK" | "TRYAGAIN" | "CLUSTERDOWN"));
            (describe(&error), moved || is_fatal(&error))
        })?;
        if let Some(time) = wire::take_time(&mut reply) {
            clock.set(time);
        }
        Ok(reply)
    }

    fn tell(&self, zone: &str, what: Heard) {
        let news = News { link: self.link, zone: zone.to_owned(), at: Instant::now(), what };
        self.outbox.put(Done::Ban(news));
    }
}

/// What is known of the clock at the other end of a connection: a server that stood still carries out what it was sent before, and is
/// to know when that was.
pub(in crate::remote::redis) struct Clock {
    start: Instant,
    /// The time there less the milliseconds since `start`, plus 1; 0: nobody knows.
    ahead: AtomicU64,
}

impl Default for Clock {
    fn default() -> Self {
        Self { start: Instant::now(), ahead: AtomicU64::new(0) }
    }
}

impl Clock {
    fn elapsed(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// A reply says what time it was; the one that was the least on its way is the best.
    fn set(&self, time: u64) {
        self.ahead.fetch_max(time.saturating_sub(self.elapsed()).saturating_add(1), Ordering::Relaxed);
    }

    /// The time there, milliseconds, never too late; 0: nobody knows.
    fn now(&self) -> u64 {
        match self.ahead.load(Ordering::Relaxed) {
            0 => 0,
            ahead => (ahead - 1).saturating_add(self.elapsed()),
        }
    }
}

/// Ends the service of a connection when dropped.
pub(in crate::remote::redis) struct Guard(AbortHandle);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.abort();
    }
}
