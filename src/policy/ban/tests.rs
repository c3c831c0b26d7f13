//! The arithmetic against a plain list of all hits.

use proptest::prelude::*;

use super::*;

fn terms(count: u32, window: Millis, duration: Millis, max_duration: Millis) -> Terms {
    Terms { count, window, duration, max_duration }
}

/// A log as shared memory keeps it.
#[derive(Default)]
struct Log {
    ring: [Hits; RING],
    next: usize,
}

impl Log {
    fn add(&mut self, terms: &Terms, now: Millis) {
        let newest = &mut self.ring[(self.next + RING - 1) % RING];
        if terms.joins(*newest, now) {
            newest.count += 1;
        } else {
            self.ring[self.next] = Hits { at: now, count: 1 };
            self.next = (self.next + 1) % RING;
        }
    }
}

proptest! {
    #[test]
    fn a_log_counts_what_a_list_of_all_hits_counts(
        count in 1..100u32, window in 1..5_000u64, steps in prop::collection::vec(0..300u64, 1..300)
    ) {
        let (terms, mut log, mut all, mut now) = (terms(count, window, 1, 1), Log::default(), Vec::new(), 10_000);
        for step in steps {
            now += step;
            log.add(&terms, now);
            all.push(now);
            let within = |length: Millis| all.iter().filter(|at| now - **at < length).count() as u64;
            let counted = terms.counted(log.ring, 0, now);
            // What does not fit the ring any more was enough before.
            let truth = within(window);
            prop_assert!(counted <= truth);
            let least = within(window.saturating_sub(terms.granule()));
            prop_assert!(counted >= least.min(u64::from(count)), "{counted} of {least} to {truth}");
            if count as usize <= RING {
                prop_assert_eq!(terms.reached(counted), terms.reached(truth));
            }
        }
    }

    #[test]
    fn no_ban_is_longer_than_the_longest_nor_shorter_than_the_first(
        duration in 1..MAX_TIME, more in 0..MAX_TIME, level in 0..200u32, quiet in 0..MAX_TIME
    ) {
        let max_duration = duration.saturating_add(more).min(MAX_TIME);
        let terms = terms(1, 1, duration, max_duration);
        let sentence = terms.sentence(Some(Past { level, ended: 5 }), 5 + quiet);
        prop_assert!((duration..=max_duration).contains(&sentence.length));
        prop_assert!((1..=MAX_LEVEL).contains(&sentence.level));
    }
}

#[test]
fn hits_before_the_last_ban_do_not_count() {
    let terms = terms(3, 1_000, 1, 1);
    let log = [1, 2, 3, 4].map(|at| Hits { at, count: 1 });
    assert_eq!([0, 1, 4, 9].map(|since| terms.counted(log, since, 5)), [4, 3, 0, 0]);
    assert_eq!([1_000, 1_001, 1_003, 1_004].map(|now| terms.counted(log, 0, now)), [4, 3, 1, 0]);
}

#[test]
fn lengths_double_and_are_forgotten_one_by_one() {
    let terms = terms(1, 1, 10, 70);
    let next = |level, quiet: Millis| terms.sentence(Some(Past { level, ended: 100 }), 100 + quiet);
    assert_eq!(terms.sentence(None, 0), Sentence { level: 1, length: 10 });
    assert_eq!(next(1, 0), Sentence { level: 2, length: 20 });
    assert_eq!(next(3, 69), Sentence { level: 4, length: 70 });
    assert_eq!(next(4, 0), Sentence { level: 4, length: 70 });
    assert_eq!([70, 140, 210, 280, 9_999].map(|quiet| next(4, quiet).length), [70, 40, 20, 10, 10]);
    let flat = self::terms(1, 1, 10, 10);
    assert_eq!(flat.sentence(Some(Past { level: 1, ended: 0 }), 1), Sentence { level: 1, length: 10 });
}

#[test]
fn statuses_are_codes_and_ranges() {
    let statuses = Statuses::parse("401,403,500-502").unwrap();
    assert_eq!(
        [400, 401, 403, 500, 501, 502, 503].map(|s| statuses.holds(s)),
        [false, true, true, true, true, true, false]
    );
    for text in
        ["", "401,", ",401", "40", "4xx", "600", "199", "404-400", "+40", "401 403", "400-", "400-500-600"]
    {
        assert_eq!(Statuses::parse(text), None, "{text}");
    }
}

#[test]
fn an_address_has_one_name_and_a_secret_none() {
    let four = Name::new(&[203, 0, 113, 9], true);
    let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 203, 0, 113, 9];
    for same in
        [Name::new(&mapped, true), Name::new(b"203.0.113.9", false), Name::new(b"::ffff:203.0.113.9", false)]
    {
        assert_eq!(same, four);
    }
    assert_eq!(Name::typed(b"203.0.113.9", true), Some(four));
    assert_eq!(four.address.map(|a| a.to_string()).as_deref(), Some("203.0.113.9"));
    assert_eq!(Name::new(b"2001:DB8::1", false), Name::new(b"2001:db8:0::1", false));
    // Four bytes of a token are not an address, and are not shown.
    assert_eq!(Name::new(b"abcd", false).address, None);
    assert_ne!(Name::new(b"abcd", false).hash, Name::new(b"abcd", true).hash);
    assert_eq!(Name::typed(b"abcd", true), None);
    assert_eq!(Name::new(b"Bearer 203.0.113.9", false).address, None);
}

#[test]
fn causes_have_codes() {
    for cause in Cause::ALL {
        assert_eq!(Cause::from_code(cause.code().into()), Some(cause));
    }
    assert_eq!([0, 4, u64::MAX].map(Cause::from_code), [None; 3]);
}
