//! The heartbeat: now and then each link tells its Redis that this gateway is alive, and learns how many are.
//!
//! Nothing depends on a single beat: one that fails is not missed, and the last count stays.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use ::redis::aio::MultiplexedConnection;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::{Gate, script};

/// So many beats on a connection follow each other quickly.
const QUICK: u32 = 5;

/// What a link needs for it.
#[derive(Debug, Clone)]
pub(super) struct Beat {
    /// Name of the list that all gateways share.
    pub(super) key: String,
    /// This gateway among them.
    id: String,
    /// How long an answer may take.
    patience: Duration,
}

impl Beat {
    pub(super) fn new(prefix: &str, gateway: u64, patience: Duration) -> Self {
        Self { key: format!("{prefix}:gateways"), id: format!("{gateway:016x}"), patience }
    }

    /// One beat: how many gateways are alive, at least this one; none if Redis would not say.
    pub(super) async fn once(&self, redis: &mut MultiplexedConnection) -> Option<u32> {
        let mut call = script::BEAT.key(&self.key);
        call.arg(&self.id);
        timeout(self.patience, call.invoke_async(redis)).await.ok()?.ok()
    }

    /// Beats on one connection until the guard is dropped.
    pub(super) fn keep(self, mut redis: MultiplexedConnection, gate: Arc<Gate>) -> Guard {
        let beats = tokio::spawn(async move {
            for beats in 1.. {
                if let Some(count) = self.once(&mut redis).await {
                    gate.counted(count);
                }
                sleep(pause(beats)).await;
            }
        });
        Guard(beats.abort_handle())
    }
}

/// From one beat to the next: a second at first, when gateways that have started together get to know each other, and
/// then three; an eighth more or less, so that they do not all beat together.
pub(super) fn pause(beats: u32) -> Duration {
    let length = if beats < QUICK { 1_000 } else { 3_000 };
    // The one source of randomness that the standard library has.
    Duration::from_millis(length * 7 / 8 + RandomState::new().hash_one(0) % (length / 4))
}

/// Ends the beats when dropped.
pub(super) struct Guard(AbortHandle);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.abort();
    }
}
