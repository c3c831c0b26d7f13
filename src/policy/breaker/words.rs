//! The breaker's 64-bit words. All-zero is a closed breaker, a free permit, an empty bucket.
//!
//! | word | from the low bit up |
//! | --- | --- |
//! | state | state 2, spare 2, attempts 5, deadline 35, generation 20 |
//! | override | forced 2, end 62 |
//! | permit | state 2, worker 7, expiry 35, generation 20 |
//! | bucket | total 14, fail 14, slow 14, tick 22 |
//! | consecutive (32 bits) | generation 12, count 20 |
//!
//! Times are the low 35 bits of milliseconds (397 days), compared by signed difference: right as long as
//! the two are less than 198 days apart. The end of an override is a whole time.

use super::super::Millis;

const TIME_BITS: u32 = 35;
const GENERATION: u64 = (1 << 20) - 1;
const FIELD: u64 = (1 << 14) - 1;
const TICK: u64 = (1 << 22) - 1;
const TIME: u64 = (1 << TIME_BITS) - 1;

/// The low bits of `now` that words keep.
#[must_use]
pub const fn stamp(now: Millis) -> u64 {
    now & TIME
}

/// How far `stamp` lies ahead of `now`, negative when it has passed.
#[must_use]
pub const fn ahead(stamp: u64, now: Millis) -> i64 {
    let spare = 64 - TIME_BITS;
    (stamp.wrapping_sub(now) << spare).cast_signed() >> spare
}

/// Where the machine stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Closed,
    Open,
    HalfOpen,
}

/// What the operator decided over the machine's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forced {
    /// Nothing passes.
    Open,
    /// Everything passes; results are counted, no rule trips.
    Closed,
    /// The machine goes on as if `dry_run` were configured: it says what it would do, and everything passes.
    DryRun,
}

/// The state word, unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateWord {
    pub state: State,
    /// Failed recoveries since the breaker was calm, 0 to 31.
    pub attempts: u8,
    /// End of OPEN, a [`stamp`].
    pub deadline: u64,
    /// One more at every transition; 20 bits, wraps.
    pub generation: u32,
}

impl StateWord {
    #[must_use]
    pub const fn unpack(word: u64) -> Self {
        Self {
            // 3 is never written; read as closed it can at least not lock anybody out.
            state: match word & 3 {
                1 => State::Open,
                2 => State::HalfOpen,
                _ => State::Closed,
            },
            attempts: (word >> 4 & 31) as u8,
            deadline: word >> 9 & TIME,
            generation: (word >> 44) as u32,
        }
    }

    #[must_use]
    pub const fn pack(self) -> u64 {
        let state = match self.state {
            State::Closed => 0,
            State::Open => 1,
            State::HalfOpen => 2,
        };
        state
            | (self.attempts as u64 & 31) << 4
            | (self.deadline & TIME) << 9
            | (self.generation as u64 & GENERATION) << 44
    }

    /// The same machine one transition later.
    #[must_use]
    pub const fn next(self, state: State) -> Self {
        Self { state, generation: next_generation(self.generation), ..self }
    }
}

/// The operator's override, unpacked. One word, so that nobody ever sees one's kind with another's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Override {
    pub forced: Option<Forced>,
    /// Its end; 0: none.
    pub until: Millis,
}

impl Override {
    const END: u64 = (1 << 62) - 1;

    #[must_use]
    pub const fn unpack(word: u64) -> Self {
        Self {
            forced: match word & 3 {
                1 => Some(Forced::Open),
                2 => Some(Forced::Closed),
                3 => Some(Forced::DryRun),
                _ => None,
            },
            until: word >> 2,
        }
    }

    #[must_use]
    pub const fn pack(self) -> u64 {
        let forced = match self.forced {
            None => return 0,
            Some(Forced::Open) => 1,
            Some(Forced::Closed) => 2,
            Some(Forced::DryRun) => 3,
        };
        let until = if self.until > Self::END { Self::END } else { self.until };
        forced | until << 2
    }

    /// What is in force at `now`.
    #[must_use]
    pub const fn at(self, now: Millis) -> Option<Forced> {
        if self.until == 0 || now < self.until { self.forced } else { None }
    }
}

/// The generation after this one, wrapping at 20 bits.
#[must_use]
pub const fn next_generation(generation: u32) -> u32 {
    generation.wrapping_add(1) & GENERATION as u32
}

/// Whether `a` is of an earlier generation than `b`, over the wrap.
#[must_use]
pub const fn earlier(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) << 12).cast_signed() < 0
}

/// What became of a permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PermitState {
    Free,
    Leased,
    Good,
    Bad,
}

/// The tag of all workers from this index on: none of them can be told from the others.
pub const CROWD: u8 = 127;

/// What a permit remembers of its worker's index.
#[must_use]
pub const fn tag(worker: u16) -> u8 {
    if worker < CROWD as u16 { worker as u8 } else { CROWD }
}

/// A permit word, unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permit {
    pub state: PermitState,
    /// Whose it is, a [`tag`].
    pub worker: u8,
    /// When the lease ends, a [`stamp`].
    pub expiry: u64,
    pub generation: u32,
}

impl Permit {
    #[must_use]
    pub const fn unpack(word: u64) -> Self {
        Self {
            state: match word & 3 {
                0 => PermitState::Free,
                1 => PermitState::Leased,
                2 => PermitState::Good,
                _ => PermitState::Bad,
            },
            worker: (word >> 2 & 127) as u8,
            expiry: word >> 9 & TIME,
            generation: (word >> 44) as u32,
        }
    }

    #[must_use]
    pub const fn pack(self) -> u64 {
        let state = match self.state {
            PermitState::Free => 0,
            PermitState::Leased => 1,
            PermitState::Good => 2,
            PermitState::Bad => 3,
        };
        state
            | (self.worker as u64 & 127) << 2
            | (self.expiry & TIME) << 9
            | (self.generation as u64 & GENERATION) << 44
    }

    /// Whether this permit may be granted anew in `generation`: free, of an earlier one, or its lease over.
    #[must_use]
    pub const fn grantable(self, generation: u32, now: Millis) -> bool {
        match self.state {
            PermitState::Free => true,
            _ if self.generation != generation => earlier(self.generation, generation),
            PermitState::Leased => ahead(self.expiry, now) <= 0,
            PermitState::Good | PermitState::Bad => false,
        }
    }
}

/// A bucket word, unpacked: results of one tenth of the window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    pub total: u32,
    pub fail: u32,
    pub slow: u32,
    /// See [`tick`].
    pub tick: u32,
}

impl Bucket {
    #[must_use]
    pub const fn unpack(word: u64) -> Self {
        Self {
            total: (word & FIELD) as u32,
            fail: (word >> 14 & FIELD) as u32,
            slow: (word >> 28 & FIELD) as u32,
            tick: (word >> 42) as u32,
        }
    }

    #[must_use]
    pub const fn pack(self) -> u64 {
        self.total as u64 & FIELD
            | (self.fail as u64 & FIELD) << 14
            | (self.slow as u64 & FIELD) << 28
            | (self.tick as u64 & TICK) << 42
    }

    /// This bucket with one more result in it, or a fresh one if it belongs to another tick. A full bucket
    /// is halved: the shares stay.
    #[must_use]
    pub const fn with(self, tick: u32, fail: bool, slow: bool) -> Self {
        let mut bucket = if self.tick == tick { self } else { Self { total: 0, fail: 0, slow: 0, tick } };
        if bucket.total as u64 == FIELD {
            bucket.total /= 2;
            bucket.fail /= 2;
            bucket.slow /= 2;
        }
        bucket.total += 1;
        bucket.fail += fail as u32;
        bucket.slow += slow as u32;
        bucket
    }
}

/// The tick of a bucket: which `length` of time since the clock began, mixed with the generation and the
/// length, so that results of another era, or of another window before a reload, are never taken for ours.
#[must_use]
pub const fn tick(index: u64, length: Millis, generation: u32) -> u32 {
    // Odd factors keep each of the three one-to-one below 2^22.
    let mixed = index ^ (generation as u64).wrapping_mul(0x0009_E377_9B1B) ^ length.wrapping_mul(0x85EB_CA6B);
    (mixed & TICK) as u32
}

/// Failures in a row of one generation. The generation is part of the word, so no transition clears it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    pub generation: u32,
    pub count: u32,
}

impl Run {
    const COUNT: u32 = (1 << 20) - 1;

    #[must_use]
    pub const fn unpack(word: u32) -> Self {
        Self { generation: word & 0xFFF, count: word >> 12 }
    }

    #[must_use]
    pub const fn pack(self) -> u32 {
        let count = if self.count > Self::COUNT { Self::COUNT } else { self.count };
        self.generation & 0xFFF | count << 12
    }

    /// The run after one more failure in `generation`.
    #[must_use]
    pub const fn with(self, generation: u32) -> Self {
        let generation = generation & 0xFFF;
        let count = if self.generation == generation { self.count.saturating_add(1) } else { 1 };
        Self { generation, count }
    }
}

/// Logged times are turned by this much, so that the one that would read as empty is far from the clock's 0.
const TURN: u32 = 1 << 31;

/// A failure time for the log: milliseconds modulo 2^32, turned; 0 means empty, so the one instant in 49 days
/// that would be 0 is logged a millisecond late.
#[must_use]
pub const fn log_stamp(now: Millis) -> u32 {
    match now as u32 ^ TURN {
        0 => 1,
        stamp => stamp,
    }
}

/// Age of a logged failure, if it can be one of the last `window`. Workers read cached clocks, so an entry
/// may lie a little in the future.
#[must_use]
pub const fn log_age(entry: u32, now: Millis, window: Millis) -> Option<i64> {
    const SKEW: i64 = 60_000;
    let age = (now as u32).wrapping_sub(entry ^ TURN).cast_signed() as i64;
    if entry != 0 && age >= -SKEW && age <= window.cast_signed() { Some(age) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_word_survives_unpacking(word: u64, run: u32) {
            // State 3 and the spare bits are never written.
            let state = word & !0xF | ((word & 3) % 3);
            prop_assert_eq!(StateWord::unpack(state).pack(), state);
            let over = if word & 3 == 0 { 0 } else { word };
            prop_assert_eq!(Override::unpack(word).pack(), over);
            prop_assert_eq!(Permit::unpack(word).pack(), word);
            prop_assert_eq!(Bucket::unpack(word).pack(), word);
            prop_assert_eq!(Run::unpack(run).pack(), run);
        }

        #[test]
        fn times_compare_over_the_wrap(now: u64, far in -(1i64 << 33)..1 << 33) {
            prop_assert_eq!(ahead(stamp(now.wrapping_add_signed(far)), now), far);
        }

        #[test]
        fn generations_compare_over_the_wrap(generation in 0u32..1 << 20) {
            prop_assert!(earlier(generation, next_generation(generation)));
            prop_assert!(!earlier(next_generation(generation), generation));
            prop_assert!(!earlier(generation, generation));
        }

        #[test]
        fn log_ages_are_exact_over_49_days(at: u64, age in 0u64..604_800_000) {
            let at = at >> 8;
            let seen = age as i64 - i64::from(at as u32 == TURN);
            prop_assert_eq!(log_age(log_stamp(at), at + age, 604_800_001), Some(seen));
            prop_assert_eq!(log_age(log_stamp(at), at + age, (seen - 1).max(0) as u64).is_some(), seen <= 0);
        }
    }

    #[test]
    fn a_full_bucket_keeps_its_shares() {
        let full = Bucket { total: 16_383, fail: 8_000, slow: 4_000, tick: 7 };
        assert_eq!(full.with(7, true, false), Bucket { total: 8_192, fail: 4_001, slow: 2_000, tick: 7 });
        assert_eq!(full.with(8, true, true), Bucket { total: 1, fail: 1, slow: 1, tick: 8 });
    }

    #[test]
    fn a_tick_belongs_to_one_era_and_one_length() {
        assert_ne!(tick(9, 3_000, 4), tick(9, 3_000, 5));
        assert_ne!(tick(9, 3_000, 4), tick(9, 100, 4));
        assert_ne!(tick(9, 3_000, 4), tick(9 + 16, 3_000, 4));
    }

    #[test]
    fn zero_is_closed_free_and_empty() {
        let closed = StateWord::unpack(0);
        assert_eq!((closed.state, closed.attempts, closed.generation), (State::Closed, 0, 0));
        assert_eq!(Override::unpack(0).at(5), None);
        assert_eq!(Permit::unpack(0).state, PermitState::Free);
        assert_eq!(log_age(0, 5, 10), None);
    }
}
