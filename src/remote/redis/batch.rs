//! The script: how calls become its arguments and its reply becomes decisions.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use ::redis::aio::ConnectionLike;
use ::redis::{Cmd, RedisError, RedisResult, Script, Value};

use super::failure::is_no_script;
use super::{Call, Limit, MAX_COST};
use crate::policy::Millis;
use crate::policy::limit::{Bucket, Decision, Gcra, LIVE_BUCKETS, Rule};

/// Its text is the contract between the two halves of this file's work; see there.
const SOURCE: &str = include_str!("limit.lua");
static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(SOURCE));

/// Calls that one script run decides.
#[derive(Debug)]
pub(super) struct Batch {
    calls: Vec<Call>,
    /// When the oldest call was handed over.
    since: Instant,
    limits: usize,
}

/// What one script run said.
#[derive(Debug)]
pub(super) struct Decoded {
    /// For each call, for each limit.
    pub(super) decisions: Vec<Vec<Decision>>,
    /// Values under our keys that were not ours.
    pub(super) foreign: u64,
    /// Redis's clock.
    #[cfg_attr(not(test), expect(dead_code, reason = "the tests replay a run at its own time"))]
    pub(super) now: Millis,
}

impl Batch {
    pub(super) fn new() -> Self {
        Self { calls: Vec::new(), since: Instant::now(), limits: 0 }
    }

    /// Adds a call that the worker handed over at `at`.
    pub(super) fn push(&mut self, at: Instant, call: Call) {
        self.since = self.since.min(at);
        self.limits += call.limits.len();
        self.calls.push(call);
    }

    /// Limits in all calls together.
    pub(super) fn limits(&self) -> usize {
        self.limits
    }

    /// Time since the oldest call was handed over.
    pub(super) fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// The calls again, for whoever sends them elsewhere.
    pub(super) fn into_calls(self) -> (Instant, Vec<Call>) {
        (self.since, self.calls)
    }

    pub(super) fn tickets(&self) -> impl Iterator<Item = u64> {
        self.calls.iter().map(|call| call.ticket)
    }

    /// The EVALSHA. A key that several limits name is sent, read and written once.
    pub(super) fn command(&self) -> Cmd {
        let limits = || self.calls.iter().flat_map(|call| &call.limits);
        // By kind too: a caller's mistake must not let one kind of state be read as another within a run.
        let mut places: HashMap<(&str, u8), usize> = HashMap::with_capacity(self.limits);
        let mut keys = Vec::with_capacity(self.limits);
        for limit in limits() {
            places.entry(name(limit)).or_insert_with(|| {
                keys.push(&limit.key);
                keys.len()
            });
        }
        let bytes = keys.iter().map(|key| key.len() + 16).sum::<usize>() + self.limits * 64;
        let mut command = Cmd::with_capacity(3 + keys.len() + self.limits * 8 + self.calls.len(), bytes);
        command.arg("EVALSHA").arg(SCRIPT.get_hash()).arg(keys.len()).arg(keys);
        for call in &self.calls {
            command.arg(call.limits.len());
            for limit in &call.limits {
                let place = places.get(&name(limit)).copied().unwrap_or_default();
                encode(&mut command, place, limit);
            }
        }
        command
    }

    /// Reads the reply to [`command`](Self::command).
    ///
    /// # Errors
    /// If it is not what our script says, or the script judged otherwise than the policy does.
    pub(super) fn decode(&self, reply: Value) -> Result<Decoded, &'static str> {
        let Value::Array(values) = reply else { return Err("not an array") };
        let mut numbers = Numbers(values.into_iter());
        let (now, foreign) = (numbers.take()?, numbers.take()?);
        let mut decisions = Vec::with_capacity(self.calls.len());
        for call in &self.calls {
            let admitted = numbers.take()? == 1;
            let states: Vec<State> =
                call.limits.iter().map(|limit| numbers.state(&limit.rule)).collect::<Result<_, _>>()?;
            let judged = call.limits.iter().zip(&states);
            if judged.clone().all(|(limit, state)| fits(limit, state, now)) != admitted {
                return Err("script and policy disagree");
            }
            decisions.push(judged.map(|(limit, state)| judge(limit, state, now, admitted)).collect());
        }
        match numbers.0.next() {
            None => Ok(Decoded { decisions, foreign, now }),
            Some(_) => Err("too long"),
        }
    }
}

/// What makes two limits share a state.
fn name(limit: &Limit) -> (&str, u8) {
    let kind = match limit.rule {
        Rule::Gcra(_) => 1,
        Rule::Sliding { .. } => 2,
        Rule::Fixed(_) => 3,
    };
    (&limit.key, kind)
}

/// Appends one limit as the script expects it.
fn encode(command: &mut Cmd, place: usize, limit: &Limit) {
    let ticks = |command: &mut Cmd, gcra: &Gcra| {
        command.arg(gcra.n()).arg(gcra.p()).arg(gcra.burst());
    };
    command.arg(place).arg(name(limit).1).arg(limit.cost);
    match &limit.rule {
        Rule::Gcra(gcra) => ticks(command, gcra),
        Rule::Sliding { window, burst } => {
            command.arg(window.tick()).arg(window.rate().count);
            match burst {
                Some(gcra) => ticks(command, gcra),
                None => {
                    command.arg(0).arg(0).arg(0);
                }
            }
        }
        Rule::Fixed(window) => {
            let rate = window.rate();
            command.arg(rate.period).arg(rate.count);
        }
    }
}

/// The state that a limit met.
#[derive(Debug)]
enum State {
    Level(u64),
    Window { level: u64, buckets: Vec<Bucket> },
    Fixed(Bucket),
}

/// Walks over the reply.
struct Numbers(std::vec::IntoIter<Value>);

impl Numbers {
    fn take(&mut self) -> Result<u64, &'static str> {
        match self.0.next() {
            Some(Value::Int(number)) => u64::try_from(number).map_err(|_| "negative number"),
            Some(_) => Err("not a number"),
            None => Err("too short"),
        }
    }

    fn state(&mut self, rule: &Rule) -> Result<State, &'static str> {
        match rule {
            Rule::Gcra(_) => Ok(State::Level(self.take()?)),
            Rule::Sliding { .. } => {
                let (newest, level, count) = (self.take()?, self.take()?, self.take()?);
                let mut buckets = Vec::with_capacity(LIVE_BUCKETS);
                for age in 0..count {
                    let tick = newest.checked_sub(age).ok_or("bucket before the epoch")?;
                    buckets.push(Bucket { tick, count: self.take()? });
                }
                Ok(State::Window { level, buckets })
            }
            Rule::Fixed(_) => Ok(State::Fixed(Bucket { tick: self.take()?, count: self.take()? })),
        }
    }
}

/// The policy's decision on what the script met.
fn decide(rule: &Rule, state: &State, now: Millis, cost: u64) -> Decision {
    match (rule, state) {
        (Rule::Gcra(gcra), State::Level(level)) => gcra.decide(*level, cost),
        (Rule::Sliding { window, burst }, State::Window { level, buckets }) => {
            let usage = window.usage(buckets.iter().copied(), now);
            window.decide_with(burst.as_ref(), &usage, *level, now, cost)
        }
        (Rule::Fixed(window), State::Fixed(bucket)) => window.decide(*bucket, now, cost),
        // `Numbers::state` made the state for this very rule.
        _ => Decision::default(),
    }
}

/// Whether this limit alone admits; one that gives back always does.
fn fits(limit: &Limit, state: &State, now: Millis) -> bool {
    decide(&limit.rule, state, now, charge(limit)).admitted
}

/// The decision of one limit in a call that was `admitted` or not. A limit that would have admitted in a call
/// that was refused has not been charged, and says where it stands.
fn judge(limit: &Limit, state: &State, now: Millis, admitted: bool) -> Decision {
    let decision = decide(&limit.rule, state, now, charge(limit));
    if admitted || !decision.admitted { decision } else { decide(&limit.rule, state, now, 0) }
}

/// The cost as the policy knows it: one that gives back decides nothing.
fn charge(limit: &Limit) -> u64 {
    u64::try_from(limit.cost).unwrap_or(0).min(MAX_COST.unsigned_abs())
}

/// Sends a batch and waits for its reply. A script that the server has forgotten (restart, failover, SCRIPT
/// FLUSH) is loaded again and the batch sent once more, for it was not executed: both in one write, so that whoever
/// flushes scripts in a loop hardly gets in between.
pub(super) async fn execute(redis: &mut impl ConnectionLike, batch: &Batch) -> RedisResult<Value> {
    let command = batch.command();
    let mut result = answer(redis, &command).await;
    for _ in 0..RELOADS {
        if !result.as_ref().is_err_and(is_no_script) {
            break;
        }
        result = load_and_answer(redis, &command).await;
    }
    result
}

/// Sends several batches in one write, each as a script call of its own, behind an ASKING where that is set.
/// Server errors are in the results; an error of the whole leaves all of them unanswered.
pub(super) async fn execute_all(
    redis: &mut impl ConnectionLike,
    batches: &[(&Batch, bool)],
) -> RedisResult<Vec<RedisResult<Value>>> {
    let mut results = pipe(redis, batches, false).await?;
    for _ in 0..RELOADS {
        let forgotten = |result: &RedisResult<Value>| result.as_ref().is_err_and(is_no_script);
        let places: Vec<usize> = (0..results.len()).filter(|&i| forgotten(&results[i])).collect();
        if places.is_empty() {
            break;
        }
        let again: Vec<_> = places.iter().map(|&i| batches[i]).collect();
        match pipe(redis, &again, true).await {
            Ok(answers) => places.into_iter().zip(answers).for_each(|(i, answer)| results[i] = answer),
            Err(error) => places.into_iter().for_each(|i| results[i] = Err(error.clone())),
        }
    }
    Ok(results)
}

/// One write, with the script before if it is to be loaded; one result for each batch.
async fn pipe(
    redis: &mut impl ConnectionLike,
    batches: &[(&Batch, bool)],
    load: bool,
) -> RedisResult<Vec<RedisResult<Value>>> {
    let mut pipeline = ::redis::Pipeline::with_capacity(batches.len());
    let first = usize::from(load);
    if load {
        pipeline.cmd("SCRIPT").arg("LOAD").arg(SOURCE);
    }
    let mut count = 0;
    for (batch, asking) in batches {
        if *asking {
            pipeline.cmd("ASKING");
        }
        pipeline.add_command(batch.command());
        count += 1 + usize::from(*asking);
    }
    let mut values = redis.req_packed_commands(&pipeline, first, count).await?.into_iter();
    let missing = || RedisError::from((::redis::ErrorKind::UnexpectedReturnType, "too few answers"));
    let answers = batches.iter().map(|(_, asking)| {
        if *asking {
            values.next();
        }
        values.next().ok_or_else(missing)?.extract_error()
    });
    Ok(answers.collect())
}

/// How often one batch has a forgotten script loaded again.
const RELOADS: usize = 4;

/// The script and the batch in one write.
async fn load_and_answer(redis: &mut impl ConnectionLike, command: &Cmd) -> RedisResult<Value> {
    let mut both = ::redis::pipe();
    both.cmd("SCRIPT").arg("LOAD").arg(SOURCE).add_command(command.clone());
    let mut answers = redis.req_packed_commands(&both, 1, 1).await?;
    let last = answers.pop().ok_or_else(|| {
        RedisError::from((::redis::ErrorKind::UnexpectedReturnType, "no answer in a pipeline"))
    })?;
    last.extract_error()
}

/// Server errors arrive as values.
async fn answer(redis: &mut impl ConnectionLike, command: &Cmd) -> RedisResult<Value> {
    redis.req_packed_command(command).await?.extract_error()
}

/// Puts the script into the server's cache.
pub(super) async fn load(redis: &mut impl ConnectionLike) -> RedisResult<()> {
    SCRIPT.load_async(redis).await.map(drop)
}

/// Name of the key for [`prove`]; in a cluster `tag` decides on its slot.
pub(super) fn probe_key(prefix: &str, tag: Option<u32>) -> String {
    tag.map_or_else(|| format!("{prefix}:probe"), |tag| format!("{prefix}:{{{tag}}}:probe"))
}

/// Decides once on a key of our own, which lives for a millisecond: what fails here would fail every request.
pub(super) async fn prove(redis: &mut impl ConnectionLike, key: &str) -> RedisResult<()> {
    let mut command = Cmd::new();
    command.arg("EVALSHA").arg(SCRIPT.get_hash()).arg(1).arg(key);
    // One call of one limit: the first key, gcra, cost 1, one request per millisecond, a burst of a thousand.
    for number in [1, 1, 1, 1, 1, 1, 1000] {
        command.arg(number);
    }
    match answer(redis, &command).await? {
        Value::Array(_) => Ok(()),
        _ => {
            Err(RedisError::from((::redis::ErrorKind::UnexpectedReturnType, "the script was not understood")))
        }
    }
}
