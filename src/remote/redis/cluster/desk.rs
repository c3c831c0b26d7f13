//! Who waits for which answer. Calls within one slot pass through; calls over several slots are taken apart,
//! peeked at, charged slot by slot, and given back if that fails half-way.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use super::super::{Act, Call, Failure, Limit, Ruled};
use super::node::Item;
use super::slots::slot;

/// What a call, or a part of one, was answered.
pub(super) type Answer = Result<Vec<Ruled>, Failure>;

/// All calls that have no answer yet. The tickets within are the desk's own.
#[derive(Default)]
pub(super) struct Desk {
    last: u64,
    origins: HashMap<u64, Origin>,
    splits: HashMap<u64, Split>,
}

/// Whose ticket it is.
enum Origin {
    /// The worker's, by its own number.
    Worker(u64),
    /// A part of a call over several slots.
    Part { split: u64, part: usize },
    /// Nobody's: something is given back.
    Refund,
}

/// A call over several slots.
struct Split {
    ticket: u64,
    at: Instant,
    limits: Vec<Limit>,
    parts: Vec<Part>,
    /// Peeks on their way.
    peeks: usize,
    /// Parts charged so far; they are the first ones, once all were peeked at.
    charged: usize,
    failure: Option<Failure>,
}

/// The limits of one slot.
struct Part {
    slot: u16,
    /// Places in the call.
    places: Vec<usize>,
    /// As peeked at.
    seen: Vec<Ruled>,
    /// As charged.
    made: Vec<Ruled>,
}

impl Desk {
    /// Takes a valid call; what is to be sent for it goes to `todo`.
    pub(super) fn admit(&mut self, at: Instant, mut call: Call, todo: &mut VecDeque<Item>) {
        let first = call.limits.first().map(|limit| slot(&limit.key)).unwrap_or_default();
        if call.limits.iter().skip(1).all(|limit| slot(&limit.key) == first) {
            call.ticket = self.issue(Origin::Worker(call.ticket));
            todo.push_back(Item::new(at, call, first));
            return;
        }
        self.last += 1;
        let id = self.last;
        let split = Split::new(at, call);
        for part in 0..split.parts.len() {
            self.send(&split, id, part, Purpose::Peek, todo);
        }
        self.splits.insert(id, split);
    }

    /// An answer has come. The worker's ticket and answer, if that makes one; what is to be sent next goes to
    /// `todo`.
    pub(super) fn settle(
        &mut self,
        ticket: u64,
        answer: Answer,
        todo: &mut VecDeque<Item>,
    ) -> Option<(u64, Answer)> {
        let (id, part) = match self.origins.remove(&ticket)? {
            Origin::Worker(ticket) => return Some((ticket, answer)),
            Origin::Refund => return None,
            Origin::Part { split, part } => (split, part),
        };
        let mut split = self.splits.remove(&id)?;
        let done = if split.peeks > 0 { split.peeked(part, answer) } else { split.charge(part, answer) };
        match done {
            Next::Wait => {}
            Next::Charge(part) => self.send(&split, id, part, Purpose::Charge, todo),
            Next::Done(answer) => {
                if answer.is_err() || split.charged < split.parts.len() {
                    for part in 0..split.charged {
                        self.send(&split, id, part, Purpose::Refund, todo);
                    }
                }
                return Some((split.ticket, answer));
            }
        }
        self.splits.insert(id, split);
        None
    }

    /// Whether nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.origins.is_empty()
    }

    /// Tickets that have no answer.
    pub(super) fn open(&self) -> Vec<u64> {
        self.origins.keys().copied().collect()
    }

    fn issue(&mut self, origin: Origin) -> u64 {
        self.last += 1;
        self.origins.insert(self.last, origin);
        self.last
    }

    /// Sends one part of a split call.
    fn send(&mut self, split: &Split, id: u64, part: usize, purpose: Purpose, todo: &mut VecDeque<Item>) {
        let Some(Part { slot, places, .. }) = split.parts.get(part) else { return };
        let limits = places.iter().filter_map(|&place| split.limits.get(place));
        let limits: Vec<_> = limits.filter_map(|limit| purpose.apply(limit)).collect();
        if limits.is_empty() {
            return;
        }
        let (origin, at) = match purpose {
            Purpose::Refund => (Origin::Refund, Instant::now()),
            Purpose::Peek | Purpose::Charge => (Origin::Part { split: id, part }, split.at),
        };
        let ticket = self.issue(origin);
        todo.push_back(Item::new(at, Call { ticket, link: 0, limits }, *slot));
    }
}

/// What a part is sent for.
#[derive(Clone, Copy)]
enum Purpose {
    Peek,
    Charge,
    Refund,
}

impl Purpose {
    /// What is not spent goes back with the peek, once; nothing is taken in advance.
    fn apply(self, limit: &Limit) -> Option<Limit> {
        let act = match (self, limit.act) {
            (Self::Peek, Act::Take { unused, .. }) => Act::Take { cost: 0, more: 0, unused },
            (Self::Peek, _) => Act::take(0),
            (Self::Charge, Act::Take { cost, .. }) => Act::take(cost),
            (Self::Charge, act) => act,
            (Self::Refund, Act::Take { cost: cost @ 1.., .. } | Act::Post { cost: cost @ 1.. }) => {
                Act::GiveBack { cost }
            }
            // What the call itself gave back stays given back.
            (Self::Refund, _) => return None,
        };
        Some(Limit { act, ..limit.clone() })
    }
}

/// How a split call goes on.
enum Next {
    Wait,
    Charge(usize),
    Done(Answer),
}

impl Split {
    fn new(at: Instant, call: Call) -> Self {
        let mut parts: Vec<Part> = Vec::new();
        for (place, limit) in call.limits.iter().enumerate() {
            let slot = slot(&limit.key);
            match parts.iter_mut().find(|part| part.slot == slot) {
                Some(part) => part.places.push(place),
                None => parts.push(Part { slot, places: vec![place], seen: Vec::new(), made: Vec::new() }),
            }
        }
        let (ticket, limits, peeks) = (call.ticket, call.limits, parts.len());
        Self { ticket, at, limits, parts, peeks, charged: 0, failure: None }
    }

    /// One part was peeked at. After the last one the part with the least room is charged first: it is the one
    /// to refuse, while nothing is charged yet, and then says when to come back.
    fn peeked(&mut self, part: usize, answer: Answer) -> Next {
        self.peeks -= 1;
        match (answer, self.parts.get_mut(part)) {
            (Ok(rulings), Some(part)) => part.seen = rulings,
            (Err(failure), _) => self.failure = Some(failure),
            (Ok(_), None) => {}
        }
        if self.peeks > 0 {
            return Next::Wait;
        }
        if let Some(failure) = self.failure.take() {
            return Next::Done(Err(failure));
        }
        let limits = &self.limits;
        self.parts.sort_by_cached_key(|part| part.room(limits));
        Next::Charge(0)
    }

    /// One part was charged, or not.
    fn charge(&mut self, part: usize, answer: Answer) -> Next {
        let rulings = match answer {
            Ok(rulings) => rulings,
            Err(failure) => return Next::Done(Err(failure)),
        };
        let admitted = rulings.iter().all(|ruled| ruled.decision.admitted);
        if let Some(part) = self.parts.get_mut(part) {
            part.made = rulings;
        }
        if admitted {
            self.charged += 1;
            if self.charged < self.parts.len() {
                return Next::Charge(self.charged);
            }
        }
        Next::Done(Ok(self.rulings(admitted, part)))
    }

    /// One for each limit, in the call's order. If the call was not `admitted`, all but those of the `last` part
    /// say where they stood.
    fn rulings(&self, admitted: bool, last: usize) -> Vec<Ruled> {
        let told = |(number, part): (usize, &Part)| {
            let known = if admitted || number == last { &part.made } else { &part.seen };
            part.places.iter().copied().zip(known.iter().copied()).collect::<Vec<_>>()
        };
        let mut rulings: Vec<_> = self.parts.iter().enumerate().flat_map(told).collect();
        rulings.sort_by_key(|(place, _)| *place);
        rulings.into_iter().map(|(_, ruled)| ruled).collect()
    }
}

impl Part {
    /// Requests that would be left if it were charged, of the limit that has the fewest.
    fn room(&self, limits: &[Limit]) -> i64 {
        let rooms = self.places.iter().zip(&self.seen).filter_map(|(&place, seen)| {
            let left = i64::try_from(seen.after.remaining).unwrap_or(i64::MAX);
            let Act::Take { cost, .. } = limits.get(place)?.act else { return Some(left) };
            Some(left.saturating_sub_unsigned(cost))
        });
        rooms.min().unwrap_or(i64::MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::limit::{Algorithm, Decision, Delay, Rate, Rule};
    use crate::remote::redis::Unused;

    fn decision(admitted: bool, remaining: u64) -> Answer {
        let after = Decision { admitted: true, remaining, ..Decision::default() };
        let decision = Decision { admitted, ..after };
        Ok(vec![Ruled { decision, after, granted: 0, stamp: 0 }])
    }

    /// A call over the slots of a, b and c, peeked at: there is room for 5, 0 and 9 more. Ends with the next to
    /// be sent.
    fn peeked(desk: &mut Desk, todo: &mut VecDeque<Item>) -> Item {
        let rule = Rule::new(Algorithm::Gcra, Rate::parse("1r/s").unwrap(), Some(9), Delay::None).unwrap();
        let act = Act::Take { cost: 1, more: 9, unused: Some(Unused { tokens: 2, stamp: 1 }) };
        let limits = ["a", "b", "c"].map(|key| Limit { key: key.to_owned(), rule, act, known: 3 }).to_vec();
        desk.admit(Instant::now(), Call { ticket: 7, link: 0, limits }, todo);
        assert_eq!(todo.len(), 3);
        for remaining in [6, 1, 10] {
            let peek = todo.pop_front().unwrap();
            let unused = Some(Unused { tokens: 2, stamp: 1 });
            assert_eq!(peek.call.limits[0].act, Act::Take { cost: 0, more: 0, unused });
            assert_eq!(desk.settle(peek.call.ticket, decision(true, remaining), todo), None);
        }
        todo.pop_front().unwrap()
    }

    fn is(item: &Item, key: &str, act: Act) -> bool {
        item.call.limits.len() == 1 && item.call.limits[0].key == key && item.call.limits[0].act == act
    }

    #[test]
    fn charges_the_narrowest_first_and_gives_back_after_a_refusal_or_failure() {
        for last in [decision(false, 0), Err(Failure::Stale)] {
            let (mut desk, mut todo) = (Desk::default(), VecDeque::new());
            let first = peeked(&mut desk, &mut todo);
            assert!(is(&first, "b", Act::take(1)) && todo.is_empty());
            assert_eq!(desk.settle(first.call.ticket, decision(true, 0), &mut todo), None);
            let second = todo.pop_front().unwrap();
            assert!(is(&second, "a", Act::take(1)));
            let (ticket, answer) = desk.settle(second.call.ticket, last.clone(), &mut todo).unwrap();
            assert_eq!((ticket, answer.is_ok()), (7, last.is_ok()));
            if let Ok(rulings) = answer {
                let told = rulings.iter().map(|ruled| (ruled.decision.admitted, ruled.decision.remaining));
                let told: Vec<_> = told.collect();
                assert_eq!(told, [(false, 0), (true, 1), (true, 10)]);
            }
            let refund = todo.pop_front().unwrap();
            assert!(is(&refund, "b", Act::GiveBack { cost: 1 }) && todo.is_empty() && !desk.is_empty());
            assert_eq!(desk.settle(refund.call.ticket, decision(true, 1), &mut todo), None);
            assert!(desk.is_empty());
        }
    }
}
