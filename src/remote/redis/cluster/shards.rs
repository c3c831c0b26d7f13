//! Serving with a cluster: calls to the owners of their slots, and answers back.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use ::redis::{RedisError, Value};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};

use super::super::Server;
use super::super::ban::Health;
use super::super::connect::Connection;
use super::super::failure::{self, Failure};
use super::super::link::{End, GULP, Link, Waiting, seats};
use super::Members;
use super::desk::{Answer, Desk};
use super::node::{Item, Landed, Node, Parcel, State, Trouble, fly, pack};
use super::slots::{SlotMap, redirection};

/// Before a call that met a slot on the move is sent again.
const BREATH: Duration = Duration::from_millis(5);
/// How often one call is sent on at most without a breath.
const HOPS: u8 = 16;

/// A cluster as this worker sees it.
pub(in super::super) struct Shards<'a> {
    pub(super) link: &'a Link,
    pub(super) map: SlotMap,
    pub(super) nodes: HashMap<Server, Node>,
    pub(super) desk: Desk,
    /// To be queued at their owners.
    pub(super) todo: VecDeque<Item>,
    pub(super) flights: JoinSet<Flown>,
    pub(super) chores: JoinSet<Chore>,
    pub(super) lines: u64,
    pub(super) search: Search,
    /// When the next heartbeat is due.
    pub(super) pulse: tokio::time::Instant,
    /// Heartbeats so far.
    pub(super) beats: u32,
}

/// The search for owners.
pub(super) struct Search {
    pub(super) wanted: bool,
    pub(super) running: bool,
    /// Not before this.
    pub(super) due: tokio::time::Instant,
    /// Whose turn it is to be asked.
    pub(super) turn: usize,
}

/// A pipeline that is back.
pub(super) struct Flown {
    server: Server,
    line: u64,
    took: Duration,
    landed: Landed,
}

/// Something besides the calls that has ended.
pub(super) enum Chore {
    Closed(Server, u64),
    Dialed(Server, Result<Connection, String>),
    Mapped(Result<SlotMap, String>),
    /// Time to send these again.
    Again(Vec<Item>),
    /// A heartbeat is over.
    Beaten,
    /// Something about bans was told.
    Told(Health),
}

/// What one parcel says about its node.
#[derive(Default)]
struct Harm {
    failed: Option<Failure>,
    /// The connection is of no more use.
    fatal: bool,
}

impl<'a> Shards<'a> {
    pub(in super::super) fn new(link: &'a Link, members: Members) -> Self {
        let search = Search { wanted: false, running: false, due: tokio::time::Instant::now(), turn: 0 };
        let nodes = members.map.primaries().iter().map(|server| (server.clone(), Node::default())).collect();
        let mut shards = Self {
            link,
            map: members.map,
            nodes,
            desk: Desk::default(),
            todo: VecDeque::new(),
            flights: JoinSet::new(),
            chores: JoinSet::new(),
            lines: 0,
            search,
            pulse: tokio::time::Instant::now(),
            beats: 0,
        };
        link.shards_left(|server| !shards.nodes.contains_key(server));
        members.up.into_iter().for_each(|(server, connection)| shards.install(server, connection));
        shards
    }

    /// Sends calls and hands out answers until something ends it. Nothing is outstanding afterwards.
    pub(in super::super) async fn serve(mut self, inbox: &mut UnboundedReceiver<Waiting>) -> End {
        let (link, mut waiting, mut open) = (self.link, Vec::new(), true);
        let end = loop {
            self.flush();
            if !open && self.desk.is_empty() {
                break End::Closed;
            }
            if !self.nodes.values().any(|node| node.line().is_some()) {
                break End::Broken("no primary of the cluster is connected".to_owned());
            }
            let unsettled = self.search.wanted || self.incomplete();
            tokio::select! {
                biased;
                () = link.gate.opened() => break End::Opened,
                Some(flown) = self.flights.join_next() => {
                    if let Ok(flown) = flown {
                        self.land(flown);
                    }
                }
                Some(chore) = self.chores.join_next() => {
                    if let Ok(chore) = chore {
                        self.finish(chore);
                    }
                }
                () = sleep_until(self.search.due), if unsettled => self.search(),
                () = sleep_until(self.pulse) => self.beat(),
                Some(ask) = link.bans.next() => self.tell(ask),
                count = inbox.recv_many(&mut waiting, GULP), if open => {
                    open = count > 0;
                    self.take(&mut waiting);
                }
            }
        };
        self.wind_up().await;
        end
    }

    /// Gives up all that is queued or on its way.
    async fn wind_up(mut self) {
        self.chores.abort_all();
        for node in self.nodes.values_mut() {
            self.todo.extend(std::mem::take(&mut node.queue));
            node.state = State::Down;
        }
        while let Some(flown) = self.flights.join_next().await {
            if let Ok(flown) = flown {
                self.land(flown);
            }
        }
        // Answers may make more to send; nothing is sent any more.
        loop {
            let open = self.desk.open();
            if open.is_empty() {
                return;
            }
            open.into_iter().for_each(|ticket| self.settle(ticket, Err(Failure::Unavailable)));
        }
    }

    /// Calls from the worker.
    fn take(&mut self, waiting: &mut Vec<Waiting>) {
        for (at, call) in waiting.drain(..) {
            if call.is_valid() {
                self.desk.admit(at, call, &mut self.todo);
            } else {
                self.link.answer(call.ticket, Err(Failure::Invalid));
            }
        }
    }

    /// Queues what is to be sent at its owners, and sends what may be.
    fn flush(&mut self) {
        loop {
            while let Some(item) = self.todo.pop_front() {
                self.route(item);
            }
            let seated = |node: &Node| node.flying < seats(node.took);
            let ready = |node: &Node| node.line().is_some() && seated(node) && !node.queue.is_empty();
            let ready: Vec<_> =
                self.nodes.iter().filter(|(_, node)| ready(node)).map(|(server, _)| server.clone()).collect();
            if ready.is_empty() && self.todo.is_empty() {
                return;
            }
            ready.iter().for_each(|server| self.launch(server));
        }
    }

    /// Queues one call, or refuses it if its owner is away.
    fn route(&mut self, item: Item) {
        let owner = item.asking.as_ref().or_else(|| self.map.owner(item.slot)).cloned();
        let Some(server) = owner else {
            self.search.wanted = true;
            return self.settle(item.call.ticket, Err(Failure::Unavailable));
        };
        if !self.nodes.contains_key(&server) {
            self.dial(&server, true);
        }
        match self.nodes.get_mut(&server) {
            Some(node) if node.takes() => node.queue.push(item),
            _ => self.settle(item.call.ticket, Err(Failure::Unavailable)),
        }
    }

    /// Sends one pipeline of what waits for a node.
    fn launch(&mut self, server: &Server) {
        let Some(node) = self.nodes.get_mut(server) else { return };
        let Some(line) = node.line() else { return };
        let (redis, number, cancelled) = (line.redis.clone(), line.number, line.cancel.subscribe());
        let taken = node.take();
        let timeout = self.link.settings.timeout;
        let (stale, fresh): (Vec<_>, Vec<_>) =
            taken.into_iter().partition(|item| item.at.elapsed() > timeout);
        if !fresh.is_empty() {
            node.flying += 1;
            let (server, overdue) = (server.clone(), self.link.overdue());
            let parcels = pack(fresh, self.link.terms());
            self.flights.spawn(async move {
                let since = Instant::now();
                let landed = fly(redis, parcels, cancelled, overdue).await;
                Flown { server, line: number, took: since.elapsed(), landed }
            });
        }
        stale.into_iter().for_each(|item| self.settle(item.call.ticket, Err(Failure::Stale)));
    }

    /// Hands out the answers of one pipeline. However many calls it failed for, it is one failure of the node.
    fn land(&mut self, flown: Flown) {
        let Flown { server, line, took, landed } = flown;
        let current = |node: &&mut Node| node.line().is_some_and(|up| up.number == line);
        let current = self.nodes.get_mut(&server).filter(current).map(|node| node.landed(took)).is_some();
        let mut harm = Harm::default();
        for (parcel, result) in landed {
            self.unpack(&server, parcel, result, &mut harm);
        }
        if let Some(failure) = harm.failed {
            self.link.failed(&failure.to_string());
        }
        if harm.fatal && current {
            self.drop_line(&server);
        }
    }

    /// Hands out the answers of one script call, or sends its calls on.
    fn unpack(&mut self, server: &Server, parcel: Parcel, result: Result<Value, Trouble>, harm: &mut Harm) {
        let failure = match result {
            Ok(value) => match parcel.batch.decode(value) {
                Ok(decoded) => {
                    if parcel.batch.age() <= self.link.settings.timeout {
                        self.link.gate.answered();
                    }
                    self.link.report_foreign(decoded.foreign);
                    let tickets: Vec<_> = parcel.batch.tickets().collect();
                    let answers = tickets.into_iter().zip(decoded.rulings);
                    return answers.for_each(|(ticket, rulings)| self.settle(ticket, Ok(rulings)));
                }
                Err(reason) => Failure::Unexpected(reason.to_owned()),
            },
            Err(Trouble::Error(error)) => {
                let Some(fatal) = self.bounce(server, &parcel, &error) else {
                    return self.send_on(server, parcel, &error);
                };
                harm.fatal |= fatal;
                Failure::from_error(&error)
            }
            Err(Trouble::Overdue) => {
                harm.fatal = true;
                Failure::Lost("no answer in time".to_owned())
            }
            Err(Trouble::Cancelled) => {
                let failure = Failure::Lost("connection given up".to_owned());
                return self.refuse(&parcel, &failure);
            }
        };
        self.refuse(&parcel, &failure);
        harm.failed = Some(failure);
    }

    /// What an error means for the cluster. None if the calls are to be sent on; otherwise whether the
    /// connection is of no more use.
    fn bounce(&mut self, server: &Server, parcel: &Parcel, error: &RedisError) -> Option<bool> {
        let moving = matches!(failure::code(error), Some("MOVED" | "ASK" | "TRYAGAIN"));
        match failure::code(error) {
            Some("MOVED") => {
                self.search.wanted = true;
                if let Some((slot, owner)) = redirection(error, server) {
                    self.map.assign(slot, &owner);
                }
            }
            Some("CLUSTERDOWN") => self.search.wanted = true,
            _ => {}
        }
        // Whoever is told to try again is told so until its slot has moved, and takes a breath each time.
        let breath = if failure::code(error) == Some("TRYAGAIN") { BREATH } else { Duration::ZERO };
        let hops = parcel.hops < HOPS || !breath.is_zero();
        let waits = hops && parcel.batch.age() + breath <= self.link.settings.timeout;
        if moving && waits {
            return None;
        }
        Some(!moving && failure::is_fatal(error))
    }

    /// Sends the calls where the error says.
    fn send_on(&mut self, server: &Server, parcel: Parcel, error: &RedisError) {
        match failure::code(error) {
            Some("ASK") => {
                let to = redirection(error, server).map(|(_, to)| to);
                self.todo.extend(parcel.into_items(to));
            }
            Some("MOVED") => self.todo.extend(parcel.into_items(None)),
            _ => {
                // A slot on the move has some of the keys here and some there.
                let to = parcel.asking.then(|| server.clone());
                let mut items = parcel.into_items(to);
                items.iter_mut().for_each(|item| item.hops = 1);
                self.chores.spawn(async move {
                    sleep(BREATH).await;
                    Chore::Again(items)
                });
            }
        }
    }

    fn refuse(&mut self, parcel: &Parcel, failure: &Failure) {
        let tickets: Vec<_> = parcel.batch.tickets().collect();
        tickets.into_iter().for_each(|ticket| self.settle(ticket, Err(failure.clone())));
    }

    pub(super) fn settle(&mut self, ticket: u64, answer: Answer) {
        if let Some((ticket, answer)) = self.desk.settle(ticket, answer, &mut self.todo) {
            self.link.answer(ticket, answer);
        }
    }

    fn finish(&mut self, chore: Chore) {
        match chore {
            Chore::Again(items) => self.todo.extend(items),
            Chore::Beaten | Chore::Told(Health::Well) => {}
            Chore::Told(Health::Moved) => self.search.wanted = true,
            Chore::Closed(server, line) => {
                let current =
                    self.nodes.get(&server).and_then(Node::line).is_some_and(|up| up.number == line);
                if current {
                    self.drop_line(&server);
                }
            }
            Chore::Dialed(server, Ok(connection)) => {
                self.link.gate.learn();
                self.install(server, connection);
            }
            // A second attempt may have been quicker.
            Chore::Dialed(server, Err(_)) if self.nodes.get(&server).is_some_and(|n| n.line().is_some()) => {}
            Chore::Dialed(server, Err(reason)) => {
                self.drop_line(&server);
                self.link.shard_lost(&server, &reason);
            }
            Chore::Mapped(told) => {
                self.search.running = false;
                match told {
                    Ok(map) => self.adopt(map),
                    Err(_) => self.search.wanted = true,
                }
            }
        }
    }
}
