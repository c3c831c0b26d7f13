//! Redis Cluster: one proven connection to every primary, and each script call to the owner of its slot.
//!
//! Why not the client library's own cluster client: it repeats a command whose answer did not come, which for a
//! charge must never happen, and for longer than any request lives.
//!
//! What was not executed for sure (MOVED, ASK, TRYAGAIN) is sent on while its request may still be waiting. While
//! a primary is away its slots are refused at once and the others serve; the map of slots is read again every
//! tenth of a second until every slot has a proven owner. The link as a whole is lost when no primary is left, or
//! when its gate opens.
//!
//! One script call holds the keys of one slot, and all of a client key's limits share one. A call over several
//! slots cannot be atomic. It is peeked at everywhere first and then charged slot by slot, the one with the least
//! room first; if one refuses after all, or fails, what was charged before is given back. In between others may
//! see the charge, so they may be refused, but never admitted, wrongly; a charge that could not be given back
//! errs on the same side. Such a call takes nothing in advance; what it gives back unspent goes with the peek.

mod desk;
mod node;
mod owners;
mod shards;
pub(super) mod slots;

use std::collections::HashMap;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use ::redis::{Value, cmd};
use tokio::task::JoinSet;
use tokio::time::timeout;

pub(super) use shards::Shards;
use slots::SlotMap;

use super::connect::{Connection, open};
use super::failure::describe;
use super::{Server, Settings};

/// How long the other primaries are waited for once one has proved itself.
const GRACE: Duration = Duration::from_millis(100);

/// Who owns which slots, and who of them can decide.
pub(super) struct Members {
    map: SlotMap,
    up: HashMap<Server, Connection>,
}

/// Reads the map of slots and proves a decision on every primary. Those that do not manage are left out, to be
/// tried again while the others serve.
///
/// # Errors
/// If no server tells the map, or no primary can decide; what was wrong with the last one, in one clean line.
pub(super) async fn gather(settings: &Settings) -> Result<Members, String> {
    let map = survey(settings).await?;
    let mut dials = JoinSet::new();
    for server in map.primaries() {
        let proof = map.probe_key(server, &settings.key_prefix, 0);
        dials.spawn(dial(settings.clone(), server.clone(), proof));
    }
    let (mut up, mut reason) = (HashMap::new(), String::new());
    loop {
        let patience = match (up.is_empty(), reason.is_empty()) {
            (true, true) => settings.connect_timeout * 2,
            // Somebody refuses: the next attempt should not wait for one that hangs.
            (true, false) => settings.connect_timeout / 4,
            _ => GRACE.max(settings.timeout),
        };
        match timeout(patience, dials.join_next()).await {
            Ok(Some(Ok((server, Ok(connection))))) => {
                up.insert(server, connection);
            }
            Ok(Some(Ok((server, Err(error))))) => reason = format!("{server}: {error}"),
            Ok(Some(Err(_))) => {}
            Ok(None) | Err(_) => break,
        }
    }
    if up.is_empty() { Err(reason) } else { Ok(Members { map, up }) }
}

/// Connects to one server and proves it on `proof`.
async fn dial(
    settings: Settings,
    server: Server,
    proof: Option<String>,
) -> (Server, Result<Connection, String>) {
    let result = open(&settings, &server, proof.as_deref()).await;
    (server, result)
}

/// Asks all configured servers for the map at once; the first answer will do.
async fn survey(settings: &Settings) -> Result<SlotMap, String> {
    let mut asks = JoinSet::new();
    for server in &settings.servers {
        let (settings, server) = (settings.clone(), server.clone());
        asks.spawn(async move {
            let told = match open(&settings, &server, None).await {
                Ok(mut connection) => {
                    read_map(&mut connection.redis, &server, settings.connect_timeout).await
                }
                Err(reason) => Err(reason),
            };
            told.map_err(|reason| format!("{server}: {reason}"))
        });
    }
    let mut last = "no server".to_owned();
    while let Some(told) = asks.join_next().await {
        match told {
            Ok(Ok(map)) => return Ok(map),
            Ok(Err(reason)) => last = reason,
            Err(_) => {}
        }
    }
    Err(last)
}

/// Asks the server behind one connection for the map.
async fn read_map(
    redis: &mut MultiplexedConnection,
    server: &Server,
    limit: Duration,
) -> Result<SlotMap, String> {
    // Not CLUSTER SHARDS, which needs Redis 7.
    let mut command = cmd("CLUSTER");
    command.arg("SLOTS");
    match timeout(limit, command.query_async::<Value>(redis)).await {
        Ok(Ok(reply)) => SlotMap::read(&reply, server).map_err(str::to_owned),
        Ok(Err(error)) => Err(describe(&error)),
        Err(_) => Err("no map of slots in time".to_owned()),
    }
}
