//! How many verdicts in a row it takes, as one word of shared memory.
//!
//! NGINX Plus's rules: `fails` bad ones in a row take a server out, `passes` good ones in a row bring it back,
//! and either kind ends a run of the other. A server whose first check is mandatory begins as checking, and
//! that first check decides alone.

/// What one probe said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    Pass,
    /// Counts as a pass, and marks the server as last choice until a plain pass.
    Degraded,
    Fail,
}

/// Verdicts in a row that change the condition. Zero is taken for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    pub fails: u32,
    pub passes: u32,
}

/// What the verdicts so far make of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    Up,
    /// Up, but last choice.
    Degraded,
    Down,
    /// Not probed yet, and no traffic before it is.
    Checking,
}

impl Condition {
    /// Of several checks of a server the worse one holds.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let rank = |condition| match condition {
            Self::Up => 0,
            Self::Degraded => 1,
            Self::Checking => 2,
            Self::Down => 3,
        };
        if rank(self) >= rank(other) { self } else { other }
    }

    /// NGINX Plus's words, and `degraded`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Degraded => "degraded",
            Self::Down => "unhealthy",
            Self::Checking => "checking",
        }
    }
}

/// Verdicts of one kind in a row. One of the two is always zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    pub fails: u32,
    pub passes: u32,
}

impl Tally {
    fn and(self, passed: bool) -> Self {
        match passed {
            true => Self { fails: 0, passes: self.passes.saturating_add(1) },
            false => Self { fails: self.fails.saturating_add(1), passes: 0 },
        }
    }
}

/// A change of condition, for the log and the event list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Change {
    pub from: Condition,
    pub to: Condition,
}

impl Change {
    /// What this change of one check is to a server whose other checks are, at worst, so; `None`: nothing.
    #[must_use]
    pub fn beside(self, others: Condition) -> Option<Self> {
        let (from, to) = (self.from.and(others), self.to.and(others));
        (from != to).then_some(Self { from, to })
    }
}

/// One check of one server. Packs into 64 bits, of which all zero is a server that is up and was never probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    condition: Condition,
    tally: Tally,
    /// The check is mandatory, and has not passed yet.
    unproven: bool,
}

// Bits 0 and 1: the condition. Bit 2: the run below is of passes. Bit 3: unproven. Bits 32 to 63: its length, 0 = never probed.
const CONDITION: u64 = 0b11;
const PASSING: u64 = 0b100;
const UNPROVEN: u64 = 0b1000;
const RUN: u32 = 32;

impl Default for State {
    /// A server before its first probe when that is not mandatory: up.
    fn default() -> Self {
        Self { condition: Condition::Up, tally: Tally::default(), unproven: false }
    }
}

impl State {
    /// A server before its first probe when that is mandatory.
    #[must_use]
    pub fn checking() -> Self {
        Self { condition: Condition::Checking, tally: Tally::default(), unproven: true }
    }

    /// The same server where a mandatory check has to pass anew: what is known to be bad stays so.
    #[must_use]
    pub fn anew(self) -> Self {
        if self.condition == Condition::Down { Self { unproven: true, ..self } } else { Self::checking() }
    }

    #[must_use]
    pub fn condition(self) -> Condition {
        self.condition
    }

    /// Whether a mandatory check has yet to pass for the first time.
    #[must_use]
    pub fn is_unproven(self) -> bool {
        self.unproven
    }

    #[cfg(test)]
    pub fn tally(self) -> Tally {
        self.tally
    }

    /// The state as a word for shared memory.
    #[must_use]
    pub fn to_bits(self) -> u64 {
        let condition = match self.condition {
            Condition::Up => 0,
            Condition::Degraded => 1,
            Condition::Down => 2,
            Condition::Checking => 3,
        };
        let (run, kind) = match self.tally.passes {
            0 => (self.tally.fails, 0),
            passes => (passes, PASSING),
        };
        let unproven = if self.unproven { UNPROVEN } else { 0 };
        condition | kind | unproven | u64::from(run) << RUN
    }

    /// The state in a word. Every word is one; bits that mean nothing yet are ignored.
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        let condition = match bits & CONDITION {
            0 => Condition::Up,
            1 => Condition::Degraded,
            2 => Condition::Down,
            _ => Condition::Checking,
        };
        let run = u32::try_from(bits >> RUN).unwrap_or(u32::MAX);
        let tally = match bits & PASSING {
            0 => Tally { fails: run, passes: 0 },
            _ => Tally { fails: 0, passes: run },
        };
        Self { condition, tally, unproven: bits & UNPROVEN != 0 }
    }
}

/// The state after one more verdict, and the change of condition if it made one.
///
/// A probe that could not be made says nothing and is not applied.
#[must_use]
pub fn apply(state: State, probe: Probe, thresholds: Thresholds) -> (State, Option<Change>) {
    let tally = state.tally.and(probe != Probe::Fail);
    let (fails, passes) = (thresholds.fails.max(1), thresholds.passes.max(1));
    let good = if probe == Probe::Degraded { Condition::Degraded } else { Condition::Up };
    let condition = match (state.condition, probe) {
        (Condition::Checking, Probe::Fail) => Condition::Down,
        (Condition::Checking, _) => good,
        (Condition::Down, Probe::Pass | Probe::Degraded) if tally.passes >= passes => good,
        (Condition::Down, _) => Condition::Down,
        (_, Probe::Fail) if tally.fails >= fails => Condition::Down,
        (before, Probe::Fail) => before,
        (_, _) => good,
    };
    let change = (condition != state.condition).then_some(Change { from: state.condition, to: condition });
    (State { condition, tally, unproven: state.unproven && probe == Probe::Fail }, change)
}
