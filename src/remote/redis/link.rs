//! The life of one connection: reach a server, serve batches until something breaks, reach it again.
//!
//! All that waits is bounded. Calls older than the timeout are not sent any more, few batches are on their way
//! at once, and an open [`Gate`] drops the connection with everything that was queued or outstanding, so that a
//! stalled server finds nothing of ours but those few batches when it wakes.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ::redis::{RedisResult, Value};
use tokio::sync::mpsc::{Sender, UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::sleep;

use super::ban::{Ask, Bans};
use super::batch::{Batch, Terms};
use super::beat::Beat;
use super::cluster::{Members, Shards, gather};
use super::connect::{Connection, connect};
use super::failure::{self, Failure};
use super::flight::Flights;
use super::reply::Decoded;
use super::{Call, Gate, LinkEvent, Mode, Reply, Ruled, Server, Settings};
use crate::remote::engine::{Done, Outbox};

/// Most calls taken from the queue at once.
pub(super) const GULP: usize = 4096;
/// Most limits in one script call; it keeps Redis busy for some 3 ms.
pub(super) const BATCH: usize = 512;
/// Script calls on their way at once to a Redis nearby: one that it decides, and one that reaches it meanwhile. What
/// comes until one of them is back forms the next, so a hot key costs at most two runs in the time of one way there and
/// back. Measured with 1, 2, 4 and 8, one to 256 calls at once, two took no longer than more did; and each run costs
/// Redis some 3 to 10 us before its first decision, which smaller batches would only pay more often.
const FLIGHT: usize = 2;
/// To one far away as many more as the way takes milliseconds, up to so many: nobody waits long for a seat.
const FAR: u128 = 30;

/// How many script calls may be on their way where the last took so long.
pub(super) fn seats(took: Duration) -> usize {
    FLIGHT + took.as_millis().min(FAR) as usize
}

/// Least time between two reports of foreign values.
const QUIET: Duration = Duration::from_secs(60);

/// A call, and when the worker handed it over.
pub(super) type Waiting = (Instant, Call);

/// The way to a link.
pub(in crate::remote) struct Feed {
    calls: UnboundedSender<Waiting>,
    bans: Sender<Ask>,
}

impl Feed {
    /// Queues a call. If the link has ended, so has the engine, and nobody waits for the answer.
    pub(in crate::remote) fn push(&self, at: Instant, call: Call) {
        let _ = self.calls.send((at, call));
    }

    /// Queues what is to be told of bans; false if there is no room.
    pub(in crate::remote) fn ban(&self, ask: Ask) -> bool {
        self.bans.try_send(ask).is_ok()
    }
}

/// One Redis as this worker sees it.
pub(in crate::remote) struct Link {
    pub(super) settings: Settings,
    pub(super) name: Arc<str>,
    pub(super) gate: Arc<Gate>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) beat: Beat,
    pub(super) bans: Arc<Bans>,
    inbox: tokio::sync::Mutex<UnboundedReceiver<Waiting>>,
    log: Mutex<Log>,
}

/// What the operator was told last.
#[derive(Default)]
pub(super) struct Log {
    connected: bool,
    lost: Option<Instant>,
    /// In a cluster: primaries that are away, while the others serve.
    pub(super) shards: HashMap<Server, Instant>,
    foreign: Option<Instant>,
    unreported: u64,
}

/// Why serving ended.
pub(super) enum End {
    /// The worker has closed the queue.
    Closed,
    /// The connection is to be replaced at once.
    Broken(String),
    /// The gate is open: test now and then.
    Opened,
}

/// What there is to serve with.
enum Reached {
    One(Connection),
    Cluster(Box<Members>),
}

impl Link {
    /// A link that does nothing yet, and the way to feed it. `number` is its place among all, `gateway` is what this host calls itself.
    pub(in crate::remote) fn new(
        settings: Settings,
        (number, gateway): (usize, u64),
        outbox: Arc<Outbox>,
    ) -> (Feed, Self) {
        let (calls, inbox) = unbounded_channel();
        let gate = Arc::new(Gate::new(&settings.breaker));
        let name = settings.name.as_str().into();
        let inbox = tokio::sync::Mutex::new(inbox);
        let patience = settings.connect_timeout + settings.timeout;
        let beat = Beat::new(&settings.key_prefix, gateway, patience);
        let (asks, bans) = Bans::new(&settings, number, (outbox.clone(), gate.clone()));
        let link = Self { settings, name, gate, outbox, beat, bans, inbox, log: Mutex::default() };
        (Feed { calls, bans: asks }, link)
    }

    pub(in crate::remote) fn gate(&self) -> Arc<Gate> {
        self.gate.clone()
    }

    pub(in crate::remote) fn name(&self) -> &str {
        &self.name
    }

    /// Runs until the feed is dropped and all is answered.
    pub(in crate::remote) async fn run(&self) {
        let mut inbox = self.inbox.lock().await;
        let mut end = None;
        loop {
            let Some(connection) = self.reach(&mut inbox, end.as_ref()).await else { return };
            let up = Instant::now();
            let served = match connection {
                Reached::One(connection) => self.serve(connection, &mut inbox).await,
                Reached::Cluster(members) => Shards::new(self, *members).serve(&mut inbox).await,
            };
            match served {
                End::Closed => return,
                End::Opened => self.lost("no answer in time"),
                // A server that hangs up on whoever has just come in must not be courted in a tight loop.
                End::Broken(ref reason) if up.elapsed() < self.settings.breaker.open => self.failed(reason),
                End::Broken(_) => {}
            }
            end = Some(if self.gate.admits() { End::Broken(String::new()) } else { End::Opened });
        }
    }

    /// After a panic: no request waits until the link is up again.
    pub(in crate::remote) fn fault(&self) {
        self.gate.open();
        self.log().lost.get_or_insert_with(Instant::now);
    }

    /// Tries until there is a connection; none if the queue was closed meanwhile. At the start calls wait
    /// for the first attempt; later nothing waits.
    async fn reach(&self, inbox: &mut UnboundedReceiver<Waiting>, last: Option<&End>) -> Option<Reached> {
        let mut hold = last.is_none();
        if matches!(last, Some(End::Opened)) {
            self.refuse_during(inbox, sleep(self.pause()), false).await?;
        }
        loop {
            match self.refuse_during(inbox, self.attempt(), hold).await? {
                Ok(connection) => {
                    self.back();
                    return Some(connection);
                }
                Err(reason) => {
                    self.gate.open();
                    self.lost(&reason);
                }
            }
            hold = false;
            self.refuse_during(inbox, sleep(self.pause()), hold).await?;
        }
    }

    async fn attempt(&self) -> Result<Reached, String> {
        match self.settings.mode {
            Mode::Cluster => gather(&self.settings).await.map(|members| Reached::Cluster(Box::new(members))),
            _ => connect(&self.settings).await.map(Reached::One),
        }
    }

    /// From one test of a lost Redis to the next. One that can repair itself is tested more often, so that with
    /// the default of a second it serves again within one of having done so. Sentinels are the last to know.
    fn pause(&self) -> Duration {
        let open = self.settings.breaker.open;
        match self.settings.mode {
            Mode::Standalone => open,
            Mode::Cluster => open / 2,
            Mode::Sentinel { .. } => open / 4,
        }
    }

    /// Waits for `work` and refuses calls that come meanwhile; with `hold` only from when the gate opens.
    /// None if the queue was closed.
    async fn refuse_during<T>(
        &self,
        inbox: &mut UnboundedReceiver<Waiting>,
        work: impl Future<Output = T>,
        hold: bool,
    ) -> Option<T> {
        tokio::pin!(work);
        let mut open = false;
        loop {
            tokio::select! {
                biased;
                done = &mut work => return Some(done),
                () = self.gate.opened(), if !open => {
                    open = true;
                    self.lost("no answer in time");
                }
                waiting = inbox.recv(), if !hold || open => {
                    let (_, call) = waiting?;
                    self.answer(call.ticket, Err(Failure::Unavailable));
                }
            }
        }
    }

    /// Sends batches and hands out answers until something ends it. Nothing is outstanding afterwards.
    async fn serve(&self, mut connection: Connection, inbox: &mut UnboundedReceiver<Waiting>) -> End {
        let mut flights = Flights::default();
        let (mut gulp, mut waiting) = (Vec::new(), VecDeque::new());
        let kept = (
            self.beat.clone().keep(connection.redis.clone(), self.gate.clone()),
            self.bans.keep(connection.redis.clone()),
        );
        // One for all batches: it is set anew only when it has gone off.
        let watchdog = sleep(self.overdue());
        tokio::pin!(watchdog);
        let end = loop {
            while flights.have_seat()
                && let Some(batch) = self.pack(&mut waiting)
            {
                flights.launch(&connection.redis, batch);
            }
            tokio::select! {
                biased;
                () = self.gate.opened() => break End::Opened,
                Some((batch, result)) = flights.next() => {
                    if let Some(reason) = self.land(&batch, result) {
                        break End::Broken(reason);
                    }
                }
                reason = connection.ended(&self.bans) => break End::Broken(reason.to_owned()),
                () = &mut watchdog => {
                    let since = flights.oldest().unwrap_or_else(Instant::now);
                    if since.elapsed() >= self.overdue() {
                        break self.overdrawn(&mut flights);
                    }
                    watchdog.as_mut().reset((since + self.overdue()).into());
                }
                count = inbox.recv_many(&mut gulp, GULP), if flights.have_seat() => {
                    if count == 0 {
                        break End::Closed;
                    }
                    waiting.extend(gulp.drain(..));
                }
            }
        };
        drop(kept);
        waiting.into_iter().for_each(|(_, call)| self.answer(call.ticket, Err(Failure::Unavailable)));
        self.wind_up(flights, matches!(end, End::Closed)).await;
        end
    }

    /// The oldest batch has waited longer than any answer takes.
    fn overdrawn(&self, flights: &mut Flights) -> End {
        let reason = "no answer in time".to_owned();
        if let Some(batch) = flights.give_up_oldest() {
            self.fail(&batch, &Failure::Lost(reason.clone()));
        }
        End::Broken(reason)
    }

    /// Hands out the answers that are there; with `patient` waits for the others, otherwise gives them up.
    async fn wind_up(&self, mut flights: Flights, patient: bool) {
        loop {
            let landed = if patient { flights.next().await } else { flights.landed().await };
            let Some((batch, result)) = landed else { break };
            self.land(&batch, result);
        }
        let failure = Failure::Lost("connection given up".to_owned());
        while let Some(batch) = flights.give_up_oldest() {
            batch.tickets().for_each(|ticket| self.answer(ticket, Err(failure.clone())));
        }
    }

    /// Longer than this no answer takes; the connection is dead although nobody says so.
    pub(super) fn overdue(&self) -> Duration {
        self.settings.connect_timeout + self.settings.timeout
    }

    /// What the next batch is sent with.
    pub(super) fn terms(&self) -> Terms {
        Terms { gateways: self.gate.gateways(), learning: self.gate.learning() }
    }

    /// Makes one batch of what waits, and answers what cannot be sent.
    fn pack(&self, waiting: &mut VecDeque<Waiting>) -> Option<Batch> {
        let mut batch = Batch::new(self.terms());
        while let Some((at, call)) = waiting.pop_front() {
            if !call.is_valid() {
                self.answer(call.ticket, Err(Failure::Invalid));
            } else if at.elapsed() > self.settings.timeout {
                self.answer(call.ticket, Err(Failure::Stale));
            } else if batch.limits() + call.limits.len() > BATCH {
                waiting.push_front((at, call));
                break;
            } else {
                batch.push(at, call);
            }
        }
        (batch.limits() > 0).then_some(batch)
    }

    /// Hands out the answers of one batch. Some reason if the connection is of no more use.
    fn land(&self, batch: &Batch, result: RedisResult<Value>) -> Option<String> {
        match result.map(|value| batch.decode(value)) {
            Ok(Ok(decoded)) => {
                self.hand_out(batch, decoded);
                None
            }
            Ok(Err(reason)) => {
                self.fail(batch, &Failure::Unexpected(reason.to_owned()));
                None
            }
            Err(error) => {
                self.fail(batch, &Failure::from_error(&error));
                failure::is_fatal(&error).then(|| failure::describe(&error))
            }
        }
    }

    /// One batch has failed; whatever it held, it counts once.
    fn fail(&self, batch: &Batch, failure: &Failure) {
        self.failed(&failure.to_string());
        batch.tickets().for_each(|ticket| self.answer(ticket, Err(failure.clone())));
    }

    /// The good case of [`land`](Self::land). An answer after the deadline has helped nobody, and ends no run.
    fn hand_out(&self, batch: &Batch, decoded: Decoded) {
        if batch.age() <= self.settings.timeout {
            self.gate.answered();
        }
        for (ticket, rulings) in batch.tickets().zip(decoded.rulings) {
            self.answer(ticket, Ok(rulings));
        }
        self.report_foreign(decoded.foreign);
    }

    pub(super) fn answer(&self, ticket: u64, result: Result<Vec<Ruled>, Failure>) {
        self.outbox.put(Done::Limit(Reply { ticket, result }));
    }

    /// One failure more; says why if it is the one that opens the gate.
    pub(super) fn failed(&self, reason: &str) {
        self.gate.failed();
        if !self.gate.admits() {
            self.lost(reason);
        }
    }

    /// Tells the operator, once per outage.
    fn lost(&self, reason: &str) {
        let mut log = self.log();
        if log.lost.is_none() {
            log.lost = Some(Instant::now());
            let reason = failure::clean(reason);
            self.outbox.put(Done::Link(LinkEvent::Lost { name: self.name.clone(), reason }));
        }
    }

    /// There is a proven connection. A gate that is still closed keeps its run of failures: only answers to
    /// requests count there.
    fn back(&self) {
        let log = self.log();
        if log.connected || log.lost.is_some() {
            self.gate.learn();
        }
        drop(log);
        if !self.gate.admits() {
            self.gate.close();
        }
        if !std::mem::replace(&mut self.log().connected, true) {
            self.outbox.put(Done::Link(LinkEvent::Connected { name: self.name.clone() }));
        }
        if let Some(since) = self.log().lost.take() {
            let event = LinkEvent::Back { name: self.name.clone(), after: since.elapsed() };
            self.outbox.put(Done::Link(event));
        }
    }

    /// Tells about values that are not ours, not more than once a minute.
    pub(super) fn report_foreign(&self, values: u64) {
        let mut log = self.log();
        log.unreported += values;
        if log.unreported > 0 && log.foreign.is_none_or(|at| at.elapsed() >= QUIET) {
            log.foreign = Some(Instant::now());
            let values = std::mem::take(&mut log.unreported);
            self.outbox.put(Done::Link(LinkEvent::Foreign { name: self.name.clone(), values }));
        }
    }

    pub(super) fn log(&self) -> std::sync::MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
