//! Commands to the script, its replies, and messages.

use ::redis::{Cmd, Value};

use super::{Banned, Heard, What};
use crate::policy::Millis;
use crate::policy::ban::{Cause, Terms};
use crate::policy::limit::KeyHash;

/// Bans read at once: Redis does nothing else for some 0.5 ms.
pub(super) const PAGE: usize = 500;

/// What all commands about one zone share.
pub(super) struct Place<'a> {
    pub(super) prefix: &'a str,
    pub(super) zone: &'a str,
    pub(super) script: &'a str,
}

/// Name of the list of a zone; what else there is of it begins with that, and shares its slot in a cluster.
pub(in crate::remote::redis) fn list_key(prefix: &str, zone: &str) -> String {
    format!("{prefix}:{{ban:{zone}}}")
}

/// Name of the channel.
pub(super) fn channel(prefix: &str) -> String {
    format!("{prefix}:bans")
}

impl Place<'_> {
    /// The command for anything but a list. `passed`: milliseconds since its times were taken.
    pub(super) fn command(&self, what: &What, passed: Millis) -> Cmd {
        let mut numbers = Vec::new();
        let (name, key, counter) = match what {
            What::Hit { key, counter, terms, cause } => {
                numbers.extend(rule(terms, *cause));
                numbers.push(passed);
                ("hit", key, counter)
            }
            What::Ban { ban, force, memory } => {
                let (left, ago) = (ban.left.saturating_sub(passed), ban.ago.saturating_add(passed));
                numbers.extend([left.max(1), ago, ban.level.into(), ban.cause.code().into()]);
                numbers.extend([u64::from(*force), *memory]);
                ("ban", &ban.key, &ban.key)
            }
            What::Lift { key, ago, left } => {
                numbers.extend([ago.saturating_add(passed), left.saturating_sub(passed)]);
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
        command.arg(what).arg(channel(self.prefix)).arg(self.zone).arg(key);
        numbers.iter().for_each(|number| {
            command.arg(*number);
        });
        command
    }
}

/// The numbers of a rule, as the script wants them.
fn rule(terms: &Terms, cause: Cause) -> [u64; 7] {
    let Terms { count, window, duration, max_duration } = *terms;
    let numbers = [count.into(), window, terms.granule(), duration, max_duration, cause.code().into()];
    let [a, b, c, d, e, f] = numbers;
    [a, b, c, d, e, f, terms.highest().into()]
}

/// The reply to anything but a list: what is known of `key` now; `Ok(None)` if nothing is.
pub(super) fn read(key: KeyHash, reply: &Value) -> Result<Option<Heard>, &'static str> {
    let Value::Array(values) = reply else { return Err("not an array") };
    match values[..] {
        [Value::Int(0)] => Ok(None),
        [Value::Int(1), ref rest @ ..] => banned(key, rest).map(|ban| Some(Heard::Banned(ban))),
        [Value::Int(2), Value::Int(ago)] => {
            Ok(Some(Heard::Lifted { key, ago: u64::try_from(ago).map_err(|_| "negative number")? }))
        }
        _ => Err("not a reply of ours"),
    }
}

/// One page of a list: its version; and the bans in it with the number of its members, or none if the version was
/// known.
pub(super) type Page = (u64, Option<(Vec<Banned>, usize)>);

pub(super) fn read_page(reply: &Value) -> Result<Page, &'static str> {
    let Value::Array(values) = reply else { return Err("not an array") };
    let [Value::Int(version), Value::Int(changed), Value::Int(members), bans @ ..] = &values[..] else {
        return Err("too short");
    };
    let version = u64::try_from(*version).map_err(|_| "negative number")?;
    if *changed == 0 {
        return Ok((version, None));
    }
    let read = bans.chunks(5).map(|part| match part {
        [Value::BulkString(hash), rest @ ..] => {
            let key = std::str::from_utf8(hash).ok().and_then(KeyHash::parse);
            // A member that is not ours is passed over.
            key.map(|key| banned(key, rest)).transpose()
        }
        _ => Err("not a ban"),
    });
    let read: Vec<_> = read.collect::<Result<_, _>>()?;
    let members = usize::try_from(*members).map_err(|_| "negative number")?;
    Ok((version, Some((read.into_iter().flatten().collect(), members))))
}

fn banned(key: KeyHash, values: &[Value]) -> Result<Banned, &'static str> {
    let [Value::Int(left), Value::Int(ago), Value::Int(level), Value::Int(cause)] = values else {
        return Err("not a ban");
    };
    let number = |value: &i64| u64::try_from(*value).map_err(|_| "negative number");
    Ok(Banned {
        key,
        left: number(left)?,
        ago: number(ago)?,
        level: u32::try_from(number(level)?).map_err(|_| "no such level")?,
        cause: Cause::from_code(number(cause)?).ok_or("no such cause")?,
    })
}

/// A published message: the zone, and what it says. None if it is not one of ours.
pub(super) fn message(text: &str) -> Option<(&str, Heard)> {
    let words: Vec<_> = text.split(' ').collect();
    let number = |word: &str| word.parse::<u64>().ok();
    match words[..] {
        ["ban", zone, hash, left, ago, level, cause] => {
            let ban = Banned {
                key: KeyHash::parse(hash)?,
                left: number(left)?,
                ago: number(ago)?,
                level: level.parse().ok()?,
                cause: Cause::from_code(number(cause)?)?,
            };
            Some((zone, Heard::Banned(ban)))
        }
        ["lift", zone, hash, ago] => {
            Some((zone, Heard::Lifted { key: KeyHash::parse(hash)?, ago: number(ago)? }))
        }
        _ => None,
    }
}
