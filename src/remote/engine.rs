//! The I/O thread of one worker: a tokio current-thread runtime, a queue in, a queue out, one wake-up per batch.
//!
//! The hop costs two context switches when the machine is idle and nothing measurable under load, because both
//! queues batch by themselves: what arrives while one batch is on its way forms the next.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::{JoinError, JoinSet};

use super::probe::{self, Kept};
use super::redis::ban::{Heard, News};
use super::redis::{self, Feed, Gate, Link, LinkEvent};

/// How long an exit waits for calls that are still on their way.
const FAREWELL: Duration = Duration::from_millis(200);
/// Pause before code that panicked is started again.
const RESTART: Duration = Duration::from_secs(1);

/// What the worker asks for.
#[derive(Debug)]
pub enum Job {
    Limit(redis::Call),
    Ban(redis::ban::Ask),
    Probe(Box<probe::Request>, probe::Manner),
}

/// What the worker gets back.
#[derive(Debug)]
pub enum Done {
    Limit(redis::Reply),
    Ban(redis::ban::News),
    Probe(probe::Report),
    Link(LinkEvent),
}

/// Jobs of one turn of the event loop, and when they were handed over.
type Parcel = (Instant, Vec<Job>);

/// The way back to the worker. Wakes it once for all that it finds when it looks.
pub(super) struct Outbox {
    sender: Sender<Done>,
    signaled: AtomicBool,
    wake: Box<dyn Fn() + Send + Sync>,
}

impl Outbox {
    /// Never blocks. A worker that has gone is not an error.
    pub(super) fn put(&self, done: Done) {
        // A closed channel means that the engine was dropped: nobody is left to tell.
        let _ = self.sender.send(done);
        if !self.signaled.swap(true, Ordering::AcqRel) {
            (self.wake)();
        }
    }
}

/// The worker's handle on its I/O thread. To be used from one thread.
pub struct Engine {
    jobs: UnboundedSender<Parcel>,
    done: Receiver<Done>,
    outbox: Arc<Outbox>,
    gates: Vec<Arc<Gate>>,
    thread: JoinHandle<()>,
}

impl Engine {
    /// Starts the thread, which connects to every Redis of `links` at once.
    ///
    /// `gateway` names this host among those that share a Redis: a random number, the same for all its workers.
    ///
    /// `wake` is called from the thread, at most once for each [`drain`](Self::drain); it must not block. The
    /// thread inherits the signal mask of the caller, who should have blocked all signals.
    ///
    /// # Errors
    /// If the thread or its reactor cannot be had.
    pub fn start(
        links: Vec<redis::Settings>,
        gateway: u64,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let (sender, done) = channel();
        let outbox = Arc::new(Outbox { sender, signaled: AtomicBool::new(false), wake: Box::new(wake) });
        let (jobs, inbox) = unbounded_channel();
        let (feeds, links): (Vec<_>, Vec<_>) = links
            .into_iter()
            .enumerate()
            .map(|(n, settings)| Link::new(settings, (n, gateway), outbox.clone()))
            .unzip();
        let gates = links.iter().map(Link::gate).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let post = outbox.clone();
        let thread = std::thread::Builder::new().name("sluice-io".into()).spawn(move || {
            let work = AssertUnwindSafe(|| runtime.block_on(serve(inbox, feeds, links, post.clone())));
            if let Err(panic) = catch_unwind(work) {
                let reason = panic_text(panic.as_ref());
                post.put(Done::Link(LinkEvent::Fault { name: "sluice-io".into(), reason }));
            }
            // Name resolution runs on a thread that cannot be interrupted: leave it behind.
            runtime.shutdown_background();
        })?;
        Ok(Self { jobs, done, outbox, gates, thread })
    }

    /// Hands over the jobs of one turn of the event loop. Never blocks.
    pub fn submit(&self, jobs: Vec<Job>) {
        // Refused only if the thread has died; the worker's own deadlines answer for that.
        let _ = self.jobs.send((Instant::now(), jobs));
    }

    /// Takes all that is ready.
    pub fn drain(&self, mut take: impl FnMut(Done)) {
        // Cleared first: what arrives from here on wakes the worker again, or is seen below, or both.
        self.outbox.signaled.swap(false, Ordering::AcqRel);
        while let Ok(done) = self.done.try_recv() {
            take(done);
        }
    }

    /// The gate of the Redis at `index` in the `links` given to [`start`](Self::start).
    ///
    /// # Panics
    /// If there are not so many links; the caller made the list.
    pub fn link(&self, index: usize) -> &Gate {
        &self.gates[index]
    }

    /// Ends the thread, within a fraction of a second: calls on their way are waited for shortly, probes not.
    pub fn shutdown(self) {
        drop(self.jobs);
        // An error here is a panic that was caught and reported already.
        let _ = self.thread.join();
    }
}

/// The life of the thread: hands jobs on until the worker closes the queue, then lets the links finish.
async fn serve(
    mut inbox: UnboundedReceiver<Parcel>,
    feeds: Vec<Feed>,
    links: Vec<Link>,
    outbox: Arc<Outbox>,
) {
    let mut keepers = JoinSet::new();
    for link in links {
        keepers.spawn(keep(Arc::new(link), outbox.clone()));
    }
    let (mut probes, kept) = (JoinSet::new(), Kept::default());
    loop {
        tokio::select! {
            biased;
            Some(ended) = probes.join_next() => report_panic("probe", &ended, &outbox),
            parcel = inbox.recv() => match parcel {
                Some((at, jobs)) => deliver(at, jobs, &feeds, (&mut probes, &kept), &outbox),
                None => break,
            },
        }
    }
    drop(feeds);
    let all = async { while keepers.join_next().await.is_some() {} };
    // Beyond the farewell nobody waits for the answers.
    let _ = tokio::time::timeout(FAREWELL, all).await;
}

/// Sorts one parcel to the links and probes.
fn deliver(
    at: Instant,
    jobs: Vec<Job>,
    feeds: &[Feed],
    (probes, kept): (&mut JoinSet<()>, &Kept),
    outbox: &Arc<Outbox>,
) {
    for job in jobs {
        match job {
            Job::Limit(call) => match feeds.get(call.link) {
                Some(feed) => feed.push(at, call),
                None => {
                    let result = Err(redis::Failure::Invalid);
                    outbox.put(Done::Limit(redis::Reply { ticket: call.ticket, result }));
                }
            },
            Job::Ban(ask) => {
                // Whoever must be heard is to say it again.
                let failed = News { link: ask.link, zone: ask.zone.clone(), at: ask.at, what: Heard::Failed };
                if !feeds.get(ask.link).is_some_and(|feed| feed.ban(ask)) {
                    outbox.put(Done::Ban(failed));
                }
            }
            Job::Probe(request, manner) => {
                let (outbox, kept) = (outbox.clone(), kept.clone());
                probes.spawn(async move {
                    let report = probe::run_as(*request, &manner, &kept).await;
                    outbox.put(Done::Probe(report));
                });
            }
        }
    }
}

/// Keeps one link running whatever happens in it.
async fn keep(link: Arc<Link>, outbox: Arc<Outbox>) {
    loop {
        let running = link.clone();
        match tokio::spawn(async move { running.run().await }).await {
            Ok(()) => return,
            Err(error) => {
                link.fault();
                report_panic(link.name(), &Err(error), &outbox);
                tokio::time::sleep(RESTART).await;
            }
        }
    }
}

/// Tells the worker about a task that panicked.
fn report_panic(name: &str, ended: &Result<(), JoinError>, outbox: &Outbox) {
    if let Err(error) = ended
        && error.is_panic()
    {
        let event = LinkEvent::Fault { name: name.into(), reason: error.to_string() };
        outbox.put(Done::Link(event));
    }
}

/// The message of a caught panic.
fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("unknown").to_owned()
}
