//! Reading the body of a PATCH of a circuit breaker.

use serde_json::Value;

use super::super::Millis;
use super::super::breaker::Forced;
use super::{Fault, MAX_TIME};

/// What an operator wants of a breaker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrule {
    /// `None`: it is to go by itself.
    pub forced: Option<Forced>,
    /// Milliseconds; 0: until somebody ends it.
    pub ttl: Millis,
    pub reason: String,
}

impl Overrule {
    /// `{"override":"open|closed|dry_run|none","ttl":"10m","reason":"..."}`. `time` as in [`read`](super::read).
    ///
    /// # Errors
    /// [`Fault`] with the parameter at fault.
    pub fn read(body: &Value, time: impl Fn(&str) -> Option<Millis>) -> Result<Self, Fault> {
        let mut said = None;
        let mut overrule = Self::default();
        for (name, value) in body.as_object().ok_or(Fault::Body)? {
            let wrong = || Fault::Value(name.clone());
            match name.as_str() {
                "override" => {
                    said = Some(match value.as_str() {
                        Some("open") => Some(Forced::Open),
                        Some("closed") => Some(Forced::Closed),
                        Some("dry_run") => Some(Forced::DryRun),
                        Some("none") => None,
                        _ => return Err(wrong()),
                    });
                }
                "ttl" => {
                    let ttl = value.as_str().map_or_else(|| value.as_u64()?.checked_mul(1000), &time);
                    overrule.ttl = ttl.filter(|ttl| (1..=MAX_TIME).contains(ttl)).ok_or_else(wrong)?;
                }
                "reason" => value.as_str().ok_or_else(wrong)?.clone_into(&mut overrule.reason),
                _ => return Err(Fault::Unknown(name.clone())),
            }
        }
        overrule.forced = said.ok_or(Fault::Missing("override"))?;
        if overrule.forced.is_none() {
            overrule.ttl = 0;
        }
        Ok(overrule)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(body: &Value) -> Result<Overrule, Fault> {
        Overrule::read(body, |text| text.strip_suffix('m')?.parse::<u64>().ok()?.checked_mul(60_000))
    }

    #[test]
    fn what_is_asked_is_read() {
        let body = json!({"override": "open", "ttl": "10m", "reason": "deploy 42"});
        let expected = Overrule { forced: Some(Forced::Open), ttl: 600_000, reason: "deploy 42".to_owned() };
        assert_eq!(read(&body), Ok(expected));
        let closed = Overrule { forced: Some(Forced::Closed), ttl: 5_000, ..Overrule::default() };
        assert_eq!(read(&json!({"override": "closed", "ttl": 5})), Ok(closed));
        assert_eq!(read(&json!({"override": "none", "ttl": 5})), Ok(Overrule::default()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (body, text) in [
            (json!(["open"]), "the body must be an object"),
            (json!({}), "missing \"override\" argument"),
            (json!({"override": "half"}), "invalid value of \"override\""),
            (json!({"override": null}), "invalid value of \"override\""),
            (json!({"override": "open", "ttl": "soon"}), "invalid value of \"ttl\""),
            (json!({"override": "open", "ttl": 0}), "invalid value of \"ttl\""),
            (json!({"override": "open", "ttl": -1}), "invalid value of \"ttl\""),
            (json!({"override": "open", "ttl": u64::MAX}), "invalid value of \"ttl\""),
            (json!({"override": "open", "reason": 1}), "invalid value of \"reason\""),
            (json!({"override": "open", "why": "x"}), "unknown parameter \"why\""),
        ] {
            assert_eq!(read(&body).unwrap_err().to_string(), text, "{body}");
        }
    }
}
