//! Script calls of one connection on their way, and their answers.

use std::future::{poll_fn, ready};
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use ::redis::aio::MultiplexedConnection;
use ::redis::{RedisResult, Value};

use super::batch::Batch;
use super::link::seats;
use super::script;

/// Few at once, the oldest first. They are driven by whoever waits for [`next`](Self::next), so that one costs neither
/// a task nor a timer; dropping them gives up their answers.
#[derive(Default)]
pub(super) struct Flights {
    flying: Vec<Flight>,
    /// What the last answer took.
    took: Duration,
}

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
        self.flying.push(Flight { batch, since: Instant::now(), answer });
    }

    /// Whether one more may leave.
    pub(super) fn have_seat(&self) -> bool {
        self.flying.len() < seats(self.took)
    }

    /// When the oldest of them was sent.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.flying.first().map(|flight| flight.since)
    }

    /// The next that is back; none if none is on its way. Nothing is lost if this is dropped.
    pub(super) async fn next(&mut self) -> Option<(Batch, RedisResult<Value>)> {
        if self.flying.is_empty() {
            return None;
        }
        let (place, result) = poll_fn(|context| {
            let mut polls =
                self.flying.iter_mut().map(|flight| flight.answer.as_mut().poll(context)).enumerate();
            let back = polls.find_map(|(place, polled)| match polled {
                Poll::Ready(result) => Some((place, result)),
                Poll::Pending => None,
            });
            back.map_or(Poll::Pending, Poll::Ready)
        })
        .await;
        let Flight { batch, since, .. } = self.flying.remove(place);
        self.took = since.elapsed();
        Some((batch, result))
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
        (!self.flying.is_empty()).then(|| self.flying.remove(0).batch)
    }
}
