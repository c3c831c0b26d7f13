//! What happened and why: one event, and its shape in a fixed number of bytes.
//!
//! Texts come from configurations, servers and operators. Each is cut at a character's end when it is too long, and
//! control characters become blanks: an event is one line, whoever reads it.

use super::Millis;

/// Bytes of a packed event.
pub const SIZE: usize = 464;
/// Most bytes of each text: upstream, peer, from, to, text.
const MOST: [usize; TEXTS] = [96, 112, 24, 24, 192];
const TEXTS: usize = 5;
/// The kind, and the length of each text.
const HEAD: usize = 1 + TEXTS;
const _: () = assert!(HEAD + MOST[0] + MOST[1] + MOST[2] + MOST[3] + MOST[4] <= SIZE);

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A verdict of an active check.
    Health,
    /// A circuit breaker changed its state.
    Breaker,
    /// Somebody was put away, or let in again.
    Ban,
    /// An operator changed something.
    Control,
    /// A group of servers began or ceased to panic.
    Panic,
    /// A Redis was lost, or is back.
    Redis,
}

impl Kind {
    const ALL: [Self; 6] = [Self::Health, Self::Breaker, Self::Ban, Self::Control, Self::Panic, Self::Redis];

    /// Its name in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Health => "health",
            Self::Breaker => "breaker",
            Self::Ban => "ban",
            Self::Control => "control",
            Self::Panic => "panic",
            Self::Redis => "redis",
        }
    }
}

/// One event before it is written down.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
    pub kind: Kind,
    /// The group, zone or Redis it is about.
    pub upstream: &'a str,
    /// The server; empty: the whole group.
    pub peer: &'a str,
    pub from: &'a str,
    pub to: &'a str,
    /// Why, in words.
    pub text: &'a str,
}

/// One event as it was read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// One more with each event of this host; an id that is missing was lost.
    pub id: u64,
    /// Wall clock, milliseconds since 1970.
    pub time: Millis,
    pub kind: Kind,
    pub upstream: String,
    pub peer: String,
    pub from: String,
    pub to: String,
    pub text: String,
}

/// The event in `SIZE` bytes.
#[must_use]
pub fn pack(event: &Event<'_>) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    let kind = Kind::ALL.iter().position(|kind| *kind == event.kind).unwrap_or_default();
    bytes[0] = kind as u8;
    let mut at = HEAD;
    let texts = [event.upstream, event.peer, event.from, event.to, event.text];
    for (number, (text, most)) in texts.into_iter().zip(MOST).enumerate() {
        let text = cut(text, most);
        bytes[1 + number] = text.len() as u8;
        for (to, from) in bytes[at..].iter_mut().zip(text.bytes()) {
            *to = if from.is_ascii_control() { b' ' } else { from };
        }
        at += text.len();
    }
    bytes
}

/// What [`pack`] packed; `None` if the bytes are not of its making.
#[must_use]
pub fn unpack(id: u64, time: Millis, bytes: &[u8; SIZE]) -> Option<Recorded> {
    let kind = *Kind::ALL.get(usize::from(bytes[0]))?;
    let mut at = HEAD;
    let mut texts = [const { String::new() }; TEXTS];
    for (number, text) in texts.iter_mut().enumerate() {
        let end = at + usize::from(bytes[1 + number]);
        str::from_utf8(bytes.get(at..end)?).ok()?.clone_into(text);
        at = end;
    }
    let [upstream, peer, from, to, text] = texts;
    Some(Recorded { id, time, kind, upstream, peer, from, to, text })
}

/// The first `most` bytes, less what would be half a character.
fn cut(text: &str, most: usize) -> &str {
    let mut end = text.len().min(most);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event<'a>(texts: [&'a str; 5]) -> Event<'a> {
        let [upstream, peer, from, to, text] = texts;
        Event { kind: Kind::Panic, upstream, peer, from, to, text }
    }

    #[test]
    fn an_event_comes_back_whole() {
        let packed = pack(&event(["api", "10.0.0.1:80", "closed", "open", "5 failures in 28.0 s"]));
        let back = unpack(7, 1_000, &packed).unwrap();
        assert_eq!((back.id, back.time, back.kind), (7, 1_000, Kind::Panic));
        assert_eq!((back.upstream.as_str(), back.peer.as_str()), ("api", "10.0.0.1:80"));
        assert_eq!((back.from.as_str(), back.to.as_str()), ("closed", "open"));
        assert_eq!(back.text, "5 failures in 28.0 s");
    }

    #[test]
    fn every_kind_has_a_name_and_comes_back() {
        for kind in Kind::ALL {
            let packed = pack(&Event { kind, ..event([""; 5]) });
            assert_eq!(unpack(1, 1, &packed).unwrap().kind, kind);
            assert!(!kind.name().is_empty());
        }
        assert_eq!(unpack(1, 1, &[9; SIZE]), None);
    }

    #[test]
    fn a_long_text_ends_with_a_whole_character() {
        let long = "é".repeat(100);
        let back = unpack(1, 1, &pack(&event([&long; 5]))).unwrap();
        assert_eq!((back.upstream, back.from), ("é".repeat(48), "é".repeat(12)));
        assert_eq!(back.text, "é".repeat(96));
        let odd = format!("x{}", "é".repeat(100));
        assert_eq!(unpack(1, 1, &pack(&event([&odd; 5]))).unwrap().text, format!("x{}", "é".repeat(95)));
    }

    proptest! {
        #[test]
        fn whatever_it_is_told_it_is_one_line(text in ".*\n.*", bytes in prop::array::uniform32(0u8..)) {
            let back = unpack(1, 1, &pack(&event([&text; 5]))).unwrap();
            prop_assert!(back.text.len() <= 192 && !back.text.contains(|c: char| c.is_ascii_control()));
            let mut garbage = [0; SIZE];
            garbage.iter_mut().zip(bytes.iter().cycle()).for_each(|(to, from)| *to = *from);
            let _ = unpack(1, 1, &garbage);
        }
    }
}
