//! What is counted of probes: what they found, and what they made of a verdict.

use super::{Change, Condition};

/// The closed set of what a probe may find, as metrics name it: the result, and why.
pub const FINDINGS: [(&str, &str); 19] = [
    ("pass", ""),
    ("pass", "degraded"),
    ("fail", "connect"),
    ("fail", "timeout"),
    ("fail", "reset"),
    ("fail", "tls"),
    ("fail", "protocol"),
    ("fail", "header_too_large"),
    ("fail", "grpc"),
    ("fail", "status"),
    ("fail", "header"),
    ("fail", "body"),
    ("fail", "json"),
    ("fail", "json_invalid"),
    ("fail", "json_too_complex"),
    ("fail", "body_too_large"),
    ("fail", "encoded_body"),
    ("fail", "require"),
    ("fail", "other"),
];

/// The number of a finding; of a reason that is not among them, the last.
#[must_use]
pub fn finding(result: &str, reason: &str) -> usize {
    FINDINGS.iter().position(|found| *found == (result, reason)).unwrap_or(FINDINGS.len() - 1)
}

/// Changes of a verdict, each counted for itself.
pub const CHANGES: [(Condition, Condition); 9] = [
    (Condition::Up, Condition::Degraded),
    (Condition::Up, Condition::Down),
    (Condition::Degraded, Condition::Up),
    (Condition::Degraded, Condition::Down),
    (Condition::Down, Condition::Up),
    (Condition::Down, Condition::Degraded),
    (Condition::Checking, Condition::Up),
    (Condition::Checking, Condition::Degraded),
    (Condition::Checking, Condition::Down),
];

/// The number of a change.
#[must_use]
pub fn change(change: Change) -> Option<usize> {
    CHANGES.iter().position(|counted| *counted == (change.from, change.to))
}

#[cfg(test)]
mod tests {
    use super::super::{Probe, ReasonKind, State, Thresholds, apply};
    use super::*;

    #[test]
    fn every_change_that_a_probe_can_make_is_counted() {
        for bits in [State::default().to_bits(), State::checking().to_bits(), 1, 2] {
            for probe in [Probe::Pass, Probe::Degraded, Probe::Fail] {
                let made = apply(State::from_bits(bits), probe, Thresholds { fails: 1, passes: 1 }).1;
                made.into_iter().for_each(|made| assert!(change(made).is_some(), "{made:?}"));
            }
        }
    }

    #[test]
    fn every_reason_of_a_match_is_told_apart() {
        let kinds = [
            ReasonKind::Status,
            ReasonKind::Header,
            ReasonKind::Body,
            ReasonKind::Json,
            ReasonKind::JsonInvalid,
            ReasonKind::JsonTooComplex,
            ReasonKind::BodyTooLarge,
            ReasonKind::EncodedBody,
            ReasonKind::Require,
        ];
        for kind in kinds {
            assert_eq!(FINDINGS[finding("fail", kind.as_str())], ("fail", kind.as_str()));
        }
        assert_eq!(finding("fail", "of another kind"), FINDINGS.len() - 1);
        assert_eq!(finding("pass", ""), 0);
    }
}
