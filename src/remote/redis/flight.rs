//! Script calls of one connection on their way, and their answers.

use std::future::{poll_fn, ready};
use std::pin::Pin;
use std::task::Poll;
use std::time::Instant;

use ::redis::aio::MultiplexedConnection;
use ::redis::{RedisResult, Value};

use super::batch::Batch;
use super::script;

/// Few at once, the oldest first. They are driven by whoever waits for [`next`](Self::next), so that one costs neither
/// a task nor a timer; dropping them gives up their answers.
#[derive(Default)]
pub(super) struct Flights(Vec<Flight>);

struct Flight {
    batch: Batch,
    since: Instant,
    answer: Pin<Box<dyn Future<Output = RedisResult<Value>> + Send>>,
}

impl Flights {
    /// Makes the call of a batch; it leaves with the next turn of [`next`](Self::next).
    pub(super) fn launch(&mut self, redis: &MultiplexedConnection, batch: Batch) {
        let (mut redis, command) = (redis.clone(), batch.command());
        let answer = Box::pin(async move { script::execute(&mut redis, &command).await });
        self.0.push(Flight { batch, since: Instant::now(), answer });
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// When the oldest of them was sent.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.0.first().map(|flight| flight.since)
    }

    /// The next that is back; none if none is on its way. Nothing is lost if this is dropped.
    pub(super) async fn next(&mut self) -> Option<(Batch, RedisResult<Value>)> {
        if self.0.is_empty() {
            return None;
        }
        let (place, result) = poll_fn(|context| {
            let mut polls = self.0.iter_mut().map(|flight| flight.answer.as_mut().poll(context)).enumerate();
            let back = polls.find_map(|(place, polled)| match polled {
                Poll::Ready(result) => Some((place, result)),
                Poll::Pending => None,
            });
            back.map_or(Poll::Pending, Poll::Ready)
        })
        .await;
        Some((self.0.remove(place).batch, result))
    }

    /// One that is back already.
    pub(super) async fn landed(&mut self) -> Option<(Batch, RedisResult<Value>)> {
        tokio::select! {
            biased;
            landed = self.next() => landed,
            () = ready(()) => None,
        }
    }

    /// The oldest, whose answer is not waited for any more.
    pub(super) fn give_up_oldest(&mut self) -> Option<Batch> {
        (!self.0.is_empty()).then(|| self.0.remove(0).batch)
    }
}
