//! Connections kept from one probe to the next.
//!
//! Each waits in a task of its own, which notices when the server closes it, closes it when its time is over, and
//! gives it up to whoever asks. What the store holds is only the way to ask: dropping that closes the connection.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot::{self, Receiver, Sender};
use tokio::time::{Instant, sleep_until};

use super::Target;
use super::session::Session;

/// Connections that are kept; beyond that, each further server gets a new one for each probe.
const MOST: usize = 256;

/// Of one check, to one server.
pub(super) type Key = (u64, Target);

/// The kept connections of one I/O thread. Clones are the same store; dropping the last closes all.
#[derive(Clone, Default)]
pub struct Kept(Arc<Mutex<HashMap<Key, Sender<Sender<Session>>>>>);

impl Kept {
    /// The connection kept under `key`, if it is still open.
    pub(super) async fn take(&self, key: &Key) -> Option<Session> {
        let ask = self.store().remove(key)?;
        let (give, given) = oneshot::channel();
        ask.send(give).ok()?;
        given.await.ok()
    }

    /// Keeps a connection until it ends or `until` comes; one kept under the same key before is closed.
    pub(super) fn put(&self, key: Key, session: Session, until: Instant) {
        let mut store = self.store();
        if store.len() >= MOST {
            store.retain(|_, ask| !ask.is_closed());
        }
        if store.len() < MOST || store.contains_key(&key) {
            let (ask, asked) = oneshot::channel();
            store.insert(key, ask);
            tokio::spawn(keep(session, until, asked));
        }
    }

    /// How many are open.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.store().values().filter(|ask| !ask.is_closed()).count()
    }

    fn store(&self) -> MutexGuard<'_, HashMap<Key, Sender<Sender<Session>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn keep(mut session: Session, until: Instant, asked: Receiver<Sender<Session>>) {
    let taken = tokio::select! {
        // A connection that has ended is not given to anybody.
        biased;
        () = session.ended() => return,
        () = sleep_until(until) => return,
        taken = asked => taken,
    };
    if let Ok(give) = taken {
        // Refused if the probe has run out of time meanwhile: then nobody needs it.
        let _ = give.send(session);
    }
}
