//! What `circuit_breaker` configures, and which values are refused.

use super::super::Millis;
use super::{LOG, PERMITS};

/// `half_open_via`: what makes the tests of HALF_OPEN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Via {
    /// Any request of a client.
    #[default]
    Traffic,
    /// Requests that change nothing: a failed test costs a client nothing but a second try.
    Safe,
    /// The active health check; no client is the guinea pig.
    Probe,
}

/// One `circuit_breaker` directive. Lengths of time are milliseconds, percentages whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Trips at so many failures within `window`, 0 (off) to 32.
    pub failures: u32,
    /// The window of `failures`, `failure_rate` and `slow_rate`, 10 ms to 7 days.
    pub window: Millis,
    /// Trips at so many failures in a row, 0 (off) to 1000000.
    pub consecutive: u32,
    /// Trips at this share of failures in the window, percent, 0 (off) to 100.
    pub failure_rate: u32,
    /// The rate rules do not judge fewer results than this, 1 to 8191.
    pub min_calls: u32,
    /// An answer is slow when its header took longer than this; 0: none is.
    pub slow_call: Millis,
    /// Trips at this share of slow answers in the window, percent, 0 (off) to 100.
    pub slow_rate: u32,
    /// Stay in OPEN, 1 ms to 30 days.
    pub open: Millis,
    /// `open` grows by this factor per failed recovery; thousandths, 1000 to 10000.
    pub backoff: u32,
    /// What `backoff` may grow `open` to, at most 30 days. Never shortens `open` itself.
    pub max_open: Millis,
    /// Up to this share is added to the stay in OPEN at random, percent, 0 to 100.
    pub jitter: u32,
    /// Test requests in HALF_OPEN on the whole host, 1 to 8; all must succeed.
    pub half_open: u32,
    /// Who makes the tests.
    pub via: Via,
    /// Share of a group's servers that their breakers may take out at once, percent, 0 to 100; see [`may_eject`].
    pub max_ejected: u32,
    /// Life of a test permit whose result never comes, 1 ms to 1 day. `None`: as long as whoever has it waits for an answer.
    pub lease: Option<Millis>,
    /// Everything is counted and every transition reported, but all requests pass.
    pub dry_run: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            failures: 5,
            window: 30_000,
            consecutive: 0,
            failure_rate: 0,
            min_calls: 20,
            slow_call: 0,
            slow_rate: 0,
            open: 30_000,
            backoff: 1_000,
            max_open: 300_000,
            jitter: 0,
            half_open: 1,
            via: Via::Traffic,
            max_ejected: 50,
            lease: None,
            dry_run: false,
        }
    }
}

/// Why a `circuit_breaker` cannot be configured so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A number outside its range.
    #[error("invalid {name} \"{value}\", expected {low} to {high}")]
    Number { name: &'static str, value: u64, low: u64, high: u64 },
    /// A time outside its range.
    #[error("invalid {name} \"{value}ms\", expected {expected}")]
    Time { name: &'static str, value: Millis, expected: &'static str },
    /// A factor that is not one.
    #[error("invalid backoff \"{0}\", expected a number from 1 to 10 with at most three decimals")]
    Backoff(String),
    /// A rule that can never fire.
    #[error("\"slow_rate\" needs \"slow_call\": no answer is slow without it")]
    SlowRateAlone,
    /// A threshold that nothing reads.
    #[error("\"slow_call\" needs \"slow_rate\": nothing reads it")]
    SlowCallAlone,
    /// A breaker that can never open.
    #[error("no rule is left: \"failures\", \"consecutive\", \"failure_rate\" and \"slow_rate\" are all 0")]
    NoRule,
}

const DAY: Millis = 86_400_000;

impl Settings {
    /// Checks every field against its range, and that some rule can fire.
    ///
    /// # Errors
    /// The first field, in the order of the directive's text, that is out of its range.
    pub fn validate(&self) -> Result<(), SettingsError> {
        number("failures", self.failures, 0, LOG as u64)?;
        time("window", self.window, 10, 7 * DAY, "10ms to 7d")?;
        number("consecutive", self.consecutive, 0, 1_000_000)?;
        number("failure_rate", self.failure_rate, 0, 100)?;
        number("min_calls", self.min_calls, 1, 8_191)?;
        time("slow_call", self.slow_call, 0, DAY, "0 to 1d")?;
        number("slow_rate", self.slow_rate, 0, 100)?;
        time("open", self.open, 1, 30 * DAY, "1ms to 30d")?;
        if !(1_000..=10_000).contains(&self.backoff) {
            let text = format!("{}.{:03}", self.backoff / 1_000, self.backoff % 1_000);
            return Err(SettingsError::Backoff(text));
        }
        time("max_open", self.max_open, 1, 30 * DAY, "1ms to 30d")?;
        number("jitter", self.jitter, 0, 100)?;
        number("half_open", self.half_open, 1, PERMITS as u64)?;
        number("max_ejected", self.max_ejected, 0, 100)?;
        time("lease", self.lease.unwrap_or(1), 1, DAY, "1ms to 1d")?;
        self.rules()
    }

    fn rules(&self) -> Result<(), SettingsError> {
        match (self.slow_rate > 0, self.slow_call > 0) {
            (true, false) => return Err(SettingsError::SlowRateAlone),
            (false, true) => return Err(SettingsError::SlowCallAlone),
            _ => {}
        }
        if self.failures == 0 && self.consecutive == 0 && !self.rated() {
            return Err(SettingsError::NoRule);
        }
        Ok(())
    }

    /// Whether a rule looks at shares of results, so that results are worth counting by time.
    #[must_use]
    pub const fn rated(&self) -> bool {
        self.failure_rate > 0 || self.slow_rate > 0
    }

    /// Whether an answer whose header took `elapsed` counts as slow.
    #[must_use]
    pub const fn is_slow(&self, elapsed: Millis) -> bool {
        self.slow_call > 0 && elapsed > self.slow_call
    }

    /// Reads a `backoff=` value such as `2` or `1.5` as thousandths.
    ///
    /// # Errors
    /// Anything but 1 to 10 with at most three decimals.
    pub fn parse_backoff(text: &str) -> Result<u32, SettingsError> {
        let refuse = || SettingsError::Backoff(text.to_owned());
        let (whole, decimals) = match text.split_once('.') {
            Some((_, "")) => return Err(refuse()),
            Some(parts) => parts,
            None => (text, ""),
        };
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || whole.len() > 2 || decimals.len() > 3 || !digits(whole) || !digits(decimals) {
            return Err(refuse());
        }
        let thousandths = format!("{whole}{decimals:0<3}").parse().map_err(|_| refuse())?;
        if (1_000..=10_000).contains(&thousandths) { Ok(thousandths) } else { Err(refuse()) }
    }
}

fn number(name: &'static str, value: u32, low: u64, high: u64) -> Result<(), SettingsError> {
    let value = u64::from(value);
    if (low..=high).contains(&value) { Ok(()) } else { Err(SettingsError::Number { name, value, low, high }) }
}

fn time(
    name: &'static str,
    value: Millis,
    low: Millis,
    high: Millis,
    expected: &'static str,
) -> Result<(), SettingsError> {
    if (low..=high).contains(&value) { Ok(()) } else { Err(SettingsError::Time { name, value, expected }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut Settings)) -> String {
        let mut settings = Settings::default();
        change(&mut settings);
        settings.validate().unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_are_valid() {
        assert_eq!(Settings::default().validate(), Ok(()));
    }

    #[test]
    fn what_is_out_of_range_is_named() {
        assert_eq!(refused(|s| s.failures = 33), "invalid failures \"33\", expected 0 to 32");
        assert_eq!(refused(|s| s.half_open = 0), "invalid half_open \"0\", expected 1 to 8");
        assert_eq!(refused(|s| s.window = 0), "invalid window \"0ms\", expected 10ms to 7d");
        assert_eq!(refused(|s| s.failure_rate = 101), "invalid failure_rate \"101\", expected 0 to 100");
        assert!(refused(|s| s.backoff = 500).starts_with("invalid backoff \"0.500\""));
        assert!(refused(|s| s.slow_rate = 50).starts_with("\"slow_rate\" needs"));
        assert!(refused(|s| s.slow_call = 50).starts_with("\"slow_call\" needs"));
        assert!(refused(|s| s.failures = 0).starts_with("no rule is left"));
    }

    #[test]
    fn backoff_is_read_to_the_thousandth() {
        let good = [("1", 1_000), ("1.5", 1_500), ("2.05", 2_050), ("1.001", 1_001), ("10", 10_000)];
        for (text, thousandths) in good {
            assert_eq!(Settings::parse_backoff(text), Ok(thousandths), "{text}");
        }
        for text in
            ["", ".", "1.", ".5", "0.5", "0", "10.001", "11", "1.0001", "-1", "+1", "1e1", "1,5", "001"]
        {
            assert!(Settings::parse_backoff(text).is_err(), "{text}");
        }
    }
}
