//! Why a breaker was overruled.

use super::{Record, Words, put, text};
use crate::policy::Millis;

/// What an operator said when he overruled a breaker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// At most 152 bytes.
    pub reason: String,
    /// Who: a name, or an address; at most 48 bytes.
    pub by: String,
    /// Wall clock, milliseconds.
    pub at: Millis,
}

const REASON: usize = 2;
const BY: usize = REASON + 19;

impl Record {
    /// What it says of a breaker.
    pub fn note(&self) -> Option<Note> {
        let words = self.read()?;
        Some(Note {
            reason: text(&words[REASON..BY], words[0] & 0xFF),
            by: text(&words[BY..BY + 6], words[0] >> 8 & 0xFF),
            at: words[1],
        })
    }

    /// Says this of its breaker.
    pub fn set_note(&self, note: &Note) {
        let mut words = Words::default();
        words[0] = put(&mut words[REASON..BY], &note.reason) | put(&mut words[BY..BY + 6], &note.by) << 8;
        words[1] = note.at;
        self.write(&words);
    }
}
