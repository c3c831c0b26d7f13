//! Reading the body of a PATCH or POST of a server.

use serde_json::Value;

use super::super::Millis;
use super::super::balance::is_value;
use super::{Fault, MAX_ROUTE, MAX_TIME, MAX_WEIGHT, Patch};

/// What a body says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Draft {
    pub server: Option<String>,
    pub backup: Option<bool>,
    pub service: Option<String>,
    pub patch: Patch,
}

/// Reads a body. `time` reads nginx's time syntax in milliseconds; without a unit it means seconds.
///
/// # Errors
/// [`Fault`] with the parameter at fault. `id` is unknown: it is nobody's to choose.
pub fn read(body: &Value, time: impl Fn(&str) -> Option<Millis>) -> Result<Draft, Fault> {
    let mut draft = Draft::default();
    for (name, value) in body.as_object().ok_or(Fault::Body)? {
        if value.is_object() || value.is_array() || value.is_null() {
            return Err(Fault::Value(name.clone()));
        }
        match name.as_str() {
            "server" => draft.server = Some(text(value).ok_or_else(|| Fault::Address(value.to_string()))?),
            "backup" => draft.backup = Some(flag(name, value)?),
            "service" => draft.service = Some(text(value).ok_or(Fault::Service("invalid \"service\""))?),
            _ if !parameter(&mut draft.patch, name, value, &time)? => {
                return Err(Fault::Unknown(name.clone()));
            }
            _ => {}
        }
    }
    Ok(draft)
}

fn parameter(
    patch: &mut Patch,
    name: &str,
    value: &Value,
    time: impl Fn(&str) -> Option<Millis>,
) -> Result<bool, Fault> {
    let limited = |value: &Value| length(value, &time).filter(|time| *time <= MAX_TIME);
    match name {
        "weight" => {
            let weight = number(value).filter(|weight| (1..=MAX_WEIGHT).contains(weight));
            patch.weight = Some(weight.ok_or(Fault::Weight)?);
        }
        "max_conns" => patch.max_conns = Some(number(value).ok_or(Fault::MaxConns)?),
        "max_fails" => patch.max_fails = Some(number(value).ok_or(Fault::MaxFails)?),
        "fail_timeout" => {
            let time = limited(value).filter(|time| time.is_multiple_of(1000)).ok_or(Fault::FailTimeout)?;
            patch.fail_timeout = Some((time / 1000) as u32);
        }
        "slow_start" => patch.slow_start = Some(limited(value).ok_or(Fault::SlowStart)?),
        "route" => {
            let is_route = |route: &String| route.is_empty() || route.len() <= MAX_ROUTE && is_value(route);
            patch.route = Some(text(value).filter(is_route).ok_or(Fault::Route)?);
        }
        "down" => patch.down = Some(flag(name, value)?),
        "drain" => patch.drain = Some(flag(name, value)?),
        _ => return Ok(false),
    }
    Ok(true)
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn number(value: &Value) -> Option<u32> {
    u32::try_from(value.as_u64()?).ok().filter(|number| *number <= i32::MAX as u32)
}

fn flag(name: &str, value: &Value) -> Result<bool, Fault> {
    value.as_bool().ok_or_else(|| Fault::Value(name.to_owned()))
}

/// A time as text, or a number of seconds.
fn length(value: &Value, time: impl Fn(&str) -> Option<Millis>) -> Option<Millis> {
    match value {
        Value::String(text) => time(text),
        _ => value.as_u64()?.checked_mul(1000),
    }
}
