//! What operators said, as it is kept: numbers, overrides, and what becomes of them.

use super::*;
use crate::policy::control::{Params, Patch};

fn table(records: usize) -> Table {
    Table::create(Region::on_heap(Table::size_for(records))).unwrap()
}

fn key(n: u64) -> Key {
    [n, n.wrapping_mul(0x9E37_79B9_7F4A_7C15)]
}

fn claim(table: &Table, n: u64) -> Option<&'static Record> {
    table.claim(Kind::Server, key(1), key(n))
}

fn seat() -> Seat {
    let base = Params { weight: 3, slow_start: 500, route: "r".to_owned(), down: true, ..Params::default() };
    Seat {
        patch: Patch {
            weight: Some(7),
            route: Some("new".to_owned()),
            down: Some(false),
            drain: Some(true),
            ..Patch::default()
        },
        base: seat::Base::of(&base),
        removed: false,
        added: Some(Added { address: "[2001:db8::1]:8080".to_owned(), backup: true }),
        at: 1_700_000_000_000,
    }
}

#[test]
fn what_was_said_comes_back() {
    let table = table(8);
    let record = claim(&table, 2).unwrap();
    assert_eq!(record.seat(), None);
    record.set_seat(&seat());
    assert_eq!(record.seat(), Some(seat()));
    let next = Seat { removed: true, added: None, ..Seat::default() };
    record.set_seat(&next);
    assert_eq!(record.seat(), Some(next));
    let note = Note { reason: "deploy 42".to_owned(), by: "ana".to_owned(), at: 5 };
    let breaker = table.claim(Kind::Breaker, key(1), key(2)).unwrap();
    breaker.set_note(&note);
    assert_eq!(breaker.note(), Some(note));
    let long = Note { reason: "é".repeat(100), by: "x".repeat(100), at: 5 };
    breaker.set_note(&long);
    let cut = breaker.note().unwrap();
    assert_eq!((cut.reason, cut.by), ("é".repeat(76), "x".repeat(48)));
}

#[test]
fn a_writer_that_dies_has_said_nothing() {
    let table = table(8);
    let record = claim(&table, 2).unwrap();
    record.set_seat(&seat());
    // Half of the other copy.
    let other = usize::from(record.live.load(SeqCst) & 3 == 1);
    record.copies[other][..9].iter().for_each(|word| word.store(!0, SeqCst));
    assert_eq!(record.seat(), Some(seat()));
}

#[test]
fn the_configuration_s_own_word_counts_once_it_changes() {
    let mut said = Seat { added: None, ..seat() };
    let same = said.base;
    assert_eq!(said.yield_to(same), Vec::<&str>::new());
    let now = Params { weight: 4, slow_start: 500, route: "r".to_owned(), down: true, ..Params::default() };
    assert_eq!(said.yield_to(seat::Base::of(&now)), ["weight"]);
    assert_eq!((said.patch.weight, said.patch.down), (None, Some(false)));
    assert_eq!(said.yield_to(seat::Base::of(&now)), Vec::<&str>::new());
    let mut gone = Seat { removed: true, base: same, ..Seat::default() };
    assert_eq!(gone.yield_to(seat::Base::of(&now)), ["its removal"]);
    assert!(gone.is_empty());
}

#[test]
fn what_no_configuration_asks_for_is_forgotten() {
    let table = table(8);
    table.begin_cycle();
    claim(&table, 2).unwrap();
    claim(&table, 3).unwrap().set_seat(&seat());
    table.begin_cycle();
    claim(&table, 2).unwrap();
    let lost = std::cell::RefCell::new(Vec::new());
    table.forget(|record| lost.borrow_mut().push(record.key()));
    assert_eq!(lost.into_inner(), [key(3)]);
    assert_eq!(claim(&table, 3).map(Record::seat), Some(None));
}

#[test]
fn a_full_table_says_so_and_a_larger_one_takes_all_over() {
    let small = table(2);
    for n in 1..3 {
        claim(&small, n).unwrap().set_seat(&seat());
    }
    assert!(claim(&small, 3).is_none());
    let large = table(8);
    assert_eq!(large.copy_from(&small), 0);
    let kept = large.find(Kind::Server, key(2)).unwrap();
    assert_eq!((kept.key(), kept.owner(), kept.seat()), (key(2), key(1), Some(seat())));
    assert_eq!(large.servers(key(1)).count(), 2);
    assert_eq!(table(1).copy_from(&small), 1);
}

#[test]
fn it_is_taken_over_as_it_is() {
    let region = Region::on_heap(Table::size_for(4));
    assert!(Table::adopt(region).is_err());
    claim(&Table::create(region).unwrap(), 2).unwrap().set_seat(&seat());
    let table = Table::adopt(region).unwrap();
    assert_eq!(table.find(Kind::Server, key(2)).unwrap().seat(), Some(seat()));
}
