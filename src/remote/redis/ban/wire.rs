//! Commands to the script, its replies, and messages.

use ::redis::{Cmd, Value};

use super::{Ask, Banned, Heard, How, Said, What, Word};
use crate::policy::Millis;
use crate::policy::ban::{Cause, Terms};
use crate::policy::limit::KeyHash;

/// Bans read at once: Redis does nothing else for some 0.5 ms.
pub(super) const PAGE: usize = 500;

/// What all commands about one zone share.
pub(super) struct Place<'a> {
    pub(super) prefix: &'a str,
    pub(super) database: u32,
    pub(super) zone: &'a str,
    /// Who asks, and what he knows.
    pub(super) origin: u64,
    pub(super) known: u64,
    /// The time by Redis's clock, milliseconds; 0: nobody knows.
    pub(super) now: u64,
    pub(super) script: &'a str,
}

/// Name of the list of a zone; what else there is of it begins with that, and shares its slot in a cluster.
pub(in crate::remote::redis) fn list_key(prefix: &str, zone: &str) -> String {
    format!("{prefix}:{{ban:{zone}}}")
}

/// Name of the channel, which all databases share.
pub(super) fn channel(prefix: &str) -> String {
    format!("{prefix}:bans")
}

impl Place<'_> {
    /// The command for anything but a list. `passed`: milliseconds since its times were taken.
    pub(super) fn command(&self, what: &What, passed: Millis) -> Cmd {
        let mut numbers = Vec::new();
        let (name, key, counter) = match what {
            What::Hit { key, counter, terms, cause, .. } => {
                numbers.extend(rule(terms, *cause));
                numbers.push(passed);
                ("hit", key, counter)
            }
            What::Ban { ban, force, memory, seq } => {
                numbers.extend(times(ban, passed));
                numbers.extend([u64::from(*force), *memory, *seq, 0, 0]);
                ("ban", &ban.key, &ban.key)
            }
            What::Again { ban, memory, said: Said { ends, stamp } } => {
                numbers.extend(times(ban, passed));
                numbers.extend([1, *memory, 0, *ends, *stamp]);
                ("ban", &ban.key, &ban.key)
            }
            What::Lift { key, ago, left, seq, stamp } => {
                numbers.extend([ago.saturating_add(passed), left.saturating_sub(passed), *seq, *stamp]);
                ("lift", key, key)
            }
            What::List { known } => return self.page(*known, 0),
        };
        self.call(name, &key.to_string(), &counter.to_string(), &numbers)
    }

    /// One page of the list, from position `first` on.
    pub(super) fn page(&self, known: u64, first: usize) -> Cmd {
        let none = "-";
        self.call("list", none, none, &[known, first as u64, (first + PAGE - 1) as u64])
    }

    fn call(&self, what: &str, key: &str, counter: &str, numbers: &[u64]) -> Cmd {
        let list = list_key(self.prefix, self.zone);
        let mut command = Cmd::new();
        command.arg("EVALSHA").arg(self.script).arg(4);
        command.arg(&list).arg(format!("{list}:version"));
        command.arg(format!("{list}:{key}")).arg(format!("{list}:{counter}:hits"));
        let zone = format!("{}/{}", self.database, self.zone);
        command.arg(what).arg(channel(self.prefix)).arg(zone).arg(key).arg(format!("{:x}", self.origin));
        command.arg(self.now).arg(self.known);
        numbers.iter().for_each(|number| {
            command.arg(*number);
        });
        command
    }
}

/// The numbers of a ban that was told of so long ago.
fn times(ban: &Banned, passed: Millis) -> [u64; 4] {
    let (left, ago) = (ban.left.saturating_sub(passed).max(1), ban.ago.saturating_add(passed));
    [left, ago, ban.level.into(), ban.cause.code().into()]
}

/// The numbers of a rule, as the script wants them.
fn rule(terms: &Terms, cause: Cause) -> [u64; 7] {
    let Terms { count, window, duration, max_duration } = *terms;
    let numbers = [count.into(), window, terms.granule(), duration, max_duration, cause.code().into()];
    let [a, b, c, d, e, f] = numbers;
    [a, b, c, d, e, f, terms.highest().into()]
}

/// The reply to anything but a list: what is known of `key` now; `Ok(None)` if nothing is.
pub(super) fn read(ask: &Ask, reply: &Value) -> Result<Option<Heard>, &'static str> {
    let (key, seq, stamp, address) = match &ask.what {
        What::Hit { key, address, .. } => (*key, None, 0, *address),
        What::Ban { ban, seq, .. } => (ban.key, Some(*seq), 0, None),
        What::Again { ban, said, .. } => (ban.key, Some(0), said.stamp, None),
        What::Lift { key, seq, stamp, .. } => (*key, Some(*seq), *stamp, None),
        What::List { .. } => return Ok(None),
    };
    let how = seq.map_or(How::Told, How::Answer);
    let Value::Array(values) = reply else { return Err("not an array") };
    match values[..] {
        [Value::Int(0)] => Ok(seq.map(|seq| Heard::Over { key, seq, stamp })),
        [Value::Int(kind @ (1 | 3)), ref rest @ ..] => {
            let (ban, ends, word) = banned(key, rest)?;
            let how = if kind == 3 { How::Decided(address) } else { how };
            Ok(Some(Heard::Banned { ban, ends, word, how }))
        }
        [Value::Int(2), ref ago, ref rest @ ..] => {
            Ok(Some(Heard::Lifted { key, ago: number(ago)?, word: word(rest)?, how }))
        }
        _ => Err("not a reply of ours"),
    }
}

/// One page of a list: its version; and the bans in it with the number of its members, or none if the version was
/// known.
pub(super) type Page = (u64, Option<(Vec<(Banned, u64, Word)>, usize)>);

pub(super) fn read_page(reply: &Value) -> Result<Page, &'static str> {
    let Value::Array(values) = reply else { return Err("not an array") };
    let [version, Value::Int(changed), members, bans @ ..] = &values[..] else {
        return Err("too short");
    };
    let version = number(version)?;
    if *changed == 0 {
        return Ok((version, None));
    }
    // A member that is not ours is passed over.
    let read = bans.chunks(9).filter_map(|part| match part {
        [Value::BulkString(hash), rest @ ..] => {
            let key = std::str::from_utf8(hash).ok().and_then(KeyHash::parse)?;
            banned(key, rest).ok()
        }
        _ => None,
    });
    let members = usize::try_from(number(members)?).map_err(|_| "too many")?;
    Ok((version, Some((read.collect(), members))))
}

fn banned(key: KeyHash, values: &[Value]) -> Result<(Banned, u64, Word), &'static str> {
    let [left, ago, level, cause, ends, rest @ ..] = values else { return Err("not a ban") };
    let level = u32::try_from(number(level)?).map_err(|_| "no such level")?;
    let cause = Cause::from_code(number(cause)?).ok_or("no such cause")?;
    let ban = Banned { key, left: number(left)?, ago: number(ago)?, level, cause };
    Ok((ban, number(ends)?, word(rest)?))
}

fn word(values: &[Value]) -> Result<Word, &'static str> {
    let [stamp, Value::BulkString(origin), seq] = values else { return Err("not a word") };
    let origin = std::str::from_utf8(origin).ok().and_then(hexadecimal).ok_or("no such origin")?;
    Ok(Word { stamp: number(stamp)?, origin, seq: number(seq)? })
}

fn number(value: &Value) -> Result<u64, &'static str> {
    let Value::Int(value) = value else { return Err("not a number") };
    u64::try_from(*value).map_err(|_| "negative number")
}

fn hexadecimal(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}

/// Takes the time by Redis's clock, milliseconds, off the end of a reply.
pub(super) fn take_time(reply: &mut Value) -> Option<u64> {
    let Value::Array(values) = reply else { return None };
    let time = values.last().and_then(|last| number(last).ok())?;
    values.pop();
    Some(time)
}

/// A published message: database and zone, and what it says. None if it is not one of ours.
pub(super) fn message(text: &str) -> Option<((u32, &str), Heard)> {
    let words: Vec<_> = text.split(' ').collect();
    // What Lua counts exactly.
    let number = |word: &str| word.parse::<u64>().ok().filter(|number| *number < 1 << 53);
    let [what, place, hash, rest @ ..] = &words[..] else { return None };
    let (database, zone) = place.split_once('/')?;
    let (place, key) = ((database.parse().ok()?, zone), KeyHash::parse(hash)?);
    let word = |stamp: &str, origin: &str, seq: &str| {
        Some(Word { stamp: number(stamp)?, origin: hexadecimal(origin)?, seq: number(seq)? })
    };
    let how = How::Told;
    match (*what, rest) {
        ("ban", [left, ago, level, cause, ends, stamp, origin, seq]) => {
            let (left, ago) = (number(left)?, number(ago)?);
            let (level, cause) = (level.parse().ok()?, Cause::from_code(number(cause)?)?);
            let (ends, word) = (number(ends)?, word(stamp, origin, seq)?);
            Some((place, Heard::Banned { ban: Banned { key, left, ago, level, cause }, ends, word, how }))
        }
        ("lift", [ago, stamp, origin, seq]) => {
            Some((place, Heard::Lifted { key, ago: number(ago)?, word: word(stamp, origin, seq)?, how }))
        }
        _ => None,
    }
}
