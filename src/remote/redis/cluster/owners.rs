//! The owners of the slots: reaching them, losing them, and looking for them while any is missing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::super::ban::{Ask, Clock};
use super::super::beat::pause;
use super::super::connect::Connection;
use super::super::failure::{Failure, clean};
use super::super::link::Link;
use super::super::{LinkEvent, Server};
use super::node::{Line, Node, State};
use super::shards::{Chore, Shards};
use super::slots::{SlotMap, slot};
use super::{dial, read_map, survey};
use crate::remote::engine::Done;

/// From one look for missing owners to the next.
const PULSE: Duration = Duration::from_millis(100);

impl Shards<'_> {
    /// A proven connection. Ours no more if its server has left the cluster meanwhile.
    pub(super) fn install(&mut self, server: Server, connection: Connection) {
        let Some(node) = self.nodes.get_mut(&server) else { return };
        self.lines += 1;
        let (number, mut guarded, at) = (self.lines, connection, server.clone());
        let redis = guarded.redis.clone();
        let bans = self.link.bans.clone();
        let guard = self.chores.spawn(async move {
            // Each node passes on what is published at any: one of them lives.
            bans.subscribe(&mut guarded.redis).await;
            guarded.ended(&bans).await;
            Chore::Closed(at, number)
        });
        let (cancel, _) = watch::channel(());
        node.state = State::Up(Line { redis, number, cancel, guard });
        node.flying = 0;
        self.link.shard_back(&server);
    }

    /// One heartbeat, to whoever owns the list of gateways.
    pub(super) fn beat(&mut self) {
        self.beats = self.beats.saturating_add(1);
        self.pulse = tokio::time::Instant::now() + pause(self.beats);
        let owner = self.map.owner(slot(&self.link.beat.key)).and_then(|server| self.nodes.get(server));
        let Some(line) = owner.and_then(Node::line) else { return };
        let (beat, gate, mut redis) = (self.link.beat.clone(), self.link.gate.clone(), line.redis.clone());
        self.chores.spawn(async move {
            if let Some(count) = beat.once(&mut redis).await {
                gate.counted(count);
            }
            Chore::Beaten
        });
    }

    /// Something about bans, to whoever owns the zone's list.
    pub(super) fn tell(&mut self, ask: Ask) {
        let bans = self.link.bans.clone();
        let owner = self.map.owner(slot(&bans.key(&ask))).and_then(|server| self.nodes.get(server));
        let Some(line) = owner.and_then(Node::line) else { return bans.refuse(&ask) };
        let redis = line.redis.clone();
        self.chores.spawn(async move { Chore::Told(bans.ask(redis, &Clock::default(), &ask).await) });
    }

    /// A node is away: what waits for it is refused, the others go on.
    pub(super) fn drop_line(&mut self, server: &Server) {
        let Some(node) = self.nodes.get_mut(server) else { return };
        node.state = State::Down;
        node.flying = 0;
        self.search.wanted = true;
        let queue = std::mem::take(&mut node.queue);
        queue.into_iter().for_each(|item| self.settle(item.call.ticket, Err(Failure::Unavailable)));
    }

    /// Whether a slot's owner is not connected.
    pub(super) fn incomplete(&self) -> bool {
        let up = |server| self.nodes.get(server).and_then(Node::line).is_some();
        !self.map.primaries().iter().all(up)
    }

    /// Asks for the map, and tries the owners that are away.
    pub(super) fn search(&mut self) {
        self.search.due = tokio::time::Instant::now() + PULSE.min(self.link.settings.breaker.open);
        if !self.search.running {
            self.search.wanted = false;
            self.search.running = true;
            self.search.turn += 1;
            let settings = self.link.settings.clone();
            let up = || self.nodes.iter().filter_map(|(server, node)| Some((server, node.line()?)));
            let count = up().count().max(1);
            let asked = up().nth(self.search.turn % count);
            let asked = asked.map(|(server, line)| (server.clone(), line.redis.clone()));
            self.chores.spawn(async move {
                if let Some((server, mut redis)) = asked
                    && let Ok(map) = read_map(&mut redis, &server, PULSE.max(settings.timeout)).await
                {
                    return Chore::Mapped(Ok(map));
                }
                Chore::Mapped(survey(&settings).await)
            });
        }
        for server in self.map.primaries().to_vec() {
            if self.nodes.get(&server).is_none_or(|node| matches!(node.state, State::Down)) {
                let hold = !self.nodes.contains_key(&server);
                self.dial(&server, hold);
            }
        }
    }

    /// Starts to connect to a node, known or not.
    pub(super) fn dial(&mut self, server: &Server, hold: bool) {
        let node = self.nodes.entry(server.clone()).or_default();
        node.state = State::Dialing { hold };
        // Another slot each time, and than the first attempt's: one that is just moving proves nothing.
        node.dials = node.dials.wrapping_add(1);
        let proof = self.map.probe_key(server, &self.link.settings.key_prefix, node.dials);
        let (settings, server) = (self.link.settings.clone(), server.clone());
        self.chores.spawn(async move {
            let (server, result) = dial(settings, server, proof).await;
            Chore::Dialed(server, result)
        });
    }

    /// A new map: new owners are connected to, servers that own nothing any more are left.
    pub(super) fn adopt(&mut self, map: SlotMap) {
        self.map = map;
        for server in self.map.primaries().to_vec() {
            if !self.nodes.contains_key(&server) {
                self.dial(&server, true);
            }
        }
        let map = &self.map;
        let left: Vec<_> = self.nodes.extract_if(|server, node| node.idle() && !map.owns(server)).collect();
        left.into_iter().for_each(|(server, _)| self.link.shard_back(&server));
    }
}

impl Link {
    /// Tells the operator that one primary of the cluster is away, once.
    pub(super) fn shard_lost(&self, server: &Server, reason: &str) {
        let mut log = self.log();
        if !log.shards.contains_key(server) {
            log.shards.insert(server.clone(), Instant::now());
            let (name, reason) = (self.shard(server), clean(reason));
            self.outbox.put(Done::Link(LinkEvent::Lost { name, reason }));
        }
    }

    /// Tells the operator that it is back, or that its slots have another owner.
    pub(super) fn shard_back(&self, server: &Server) {
        self.shards_left(|lost| lost == server);
    }

    /// The same for all that are away and `left`.
    pub(super) fn shards_left(&self, mut left: impl FnMut(&Server) -> bool) {
        for (server, since) in self.log().shards.extract_if(|server, _| left(server)) {
            let event = LinkEvent::Back { name: self.shard(&server), after: since.elapsed() };
            self.outbox.put(Done::Link(event));
        }
    }

    /// What the operator knows one primary by.
    fn shard(&self, server: &Server) -> Arc<str> {
        format!("{}/{server}", self.name).into()
    }
}
