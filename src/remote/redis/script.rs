//! The scripts on their way: loading them, sending batches, and proving that a server decides.

use std::sync::LazyLock;

use ::redis::aio::ConnectionLike;
use ::redis::{Cmd, RedisError, RedisResult, Script, Value};

use super::batch::Batch;
use super::failure::is_no_script;

/// Decides any batch. Its head is the contract between it and what makes its arguments and reads its reply.
static LIMIT: LazyLock<Script> = LazyLock::new(|| Script::new(LIMIT_SOURCE));
const LIMIT_SOURCE: &str = include_str!("limit.lua");
/// Decides the same, in half the time, where all there is are calls of one limit, gcra.
static GCRA: LazyLock<Script> = LazyLock::new(|| Script::new(GCRA_SOURCE));
const GCRA_SOURCE: &str = include_str!("gcra.lua");
/// Counts gateways.
pub(super) static BEAT: LazyLock<Script> = LazyLock::new(|| Script::new(BEAT_SOURCE));
const BEAT_SOURCE: &str = include_str!("beat.lua");

/// Counts hits, and keeps the list of bans.
pub(super) static BAN: LazyLock<Script> = LazyLock::new(|| Script::new(BAN_SOURCE));
const BAN_SOURCE: &str = include_str!("ban/ban.lua");

const SOURCES: [&str; 4] = [GCRA_SOURCE, LIMIT_SOURCE, BEAT_SOURCE, BAN_SOURCE];

/// EVALSHA and the name of the script for batches that are `plain`, or for all.
pub(super) fn call(command: &mut Cmd, plain: bool) -> &mut Cmd {
    command.arg("EVALSHA").arg(if plain { &GCRA } else { &LIMIT }.get_hash())
}

/// Sends the command of a batch and waits for its reply. A script that the server has forgotten (restart, failover,
/// SCRIPT FLUSH) is loaded again and the batch sent once more, for it was not executed: both in one write, so that
/// whoever flushes scripts in a loop hardly gets in between.
pub(super) async fn execute(redis: &mut impl ConnectionLike, command: &Cmd) -> RedisResult<Value> {
    let mut result = answer(redis, command).await;
    for _ in 0..RELOADS {
        if !result.as_ref().is_err_and(is_no_script) {
            break;
        }
        result = load_and_answer(redis, command).await;
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

/// One write, with the scripts before if they are to be loaded; one result for each batch.
async fn pipe(
    redis: &mut impl ConnectionLike,
    batches: &[(&Batch, bool)],
    load: bool,
) -> RedisResult<Vec<RedisResult<Value>>> {
    let mut pipeline = if load { loading() } else { ::redis::Pipeline::with_capacity(batches.len()) };
    let first = pipeline.len();
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

/// What puts the scripts into a server's cache.
fn loading() -> ::redis::Pipeline {
    let mut pipeline = ::redis::pipe();
    for source in SOURCES {
        pipeline.cmd("SCRIPT").arg("LOAD").arg(source);
    }
    pipeline
}

/// The scripts and the batch in one write.
async fn load_and_answer(redis: &mut impl ConnectionLike, command: &Cmd) -> RedisResult<Value> {
    let mut both = loading();
    both.add_command(command.clone());
    let mut answers = redis.req_packed_commands(&both, SOURCES.len(), 1).await?;
    let last = answers.pop().ok_or_else(|| {
        RedisError::from((::redis::ErrorKind::UnexpectedReturnType, "no answer in a pipeline"))
    })?;
    last.extract_error()
}

/// Server errors arrive as values.
async fn answer(redis: &mut impl ConnectionLike, command: &Cmd) -> RedisResult<Value> {
    redis.req_packed_command(command).await?.extract_error()
}

/// Puts the scripts into the server's cache.
pub(super) async fn load(redis: &mut impl ConnectionLike) -> RedisResult<()> {
    for answer in redis.req_packed_commands(&loading(), 0, SOURCES.len()).await? {
        answer.extract_error()?;
    }
    Ok(())
}

/// Name of the key for [`prove`]; in a cluster `tag` decides on its slot.
pub(super) fn probe_key(prefix: &str, tag: Option<u32>) -> String {
    tag.map_or_else(|| format!("{prefix}:probe"), |tag| format!("{prefix}:{{{tag}}}:probe"))
}

/// Decides once on a key of our own, which lives for a millisecond: what fails here would fail every request.
pub(super) async fn prove(redis: &mut impl ConnectionLike, key: &str) -> RedisResult<()> {
    let mut command = Cmd::new();
    call(&mut command, true).arg(1).arg(key);
    // One gateway; one call of one limit: the first key, gcra, cost 1, one request per millisecond, a burst of a
    // thousand.
    for number in [1, 1, 1, 1, 1, 1, 1, 1000] {
        command.arg(number);
    }
    match answer(redis, &command).await? {
        Value::Array(_) => Ok(()),
        _ => {
            Err(RedisError::from((::redis::ErrorKind::UnexpectedReturnType, "the script was not understood")))
        }
    }
}
