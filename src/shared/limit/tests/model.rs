//! Leases against a plain model of what each key was granted, in zones that have room and in one that has not.

use std::collections::HashMap;

use proptest::prelude::*;

use super::super::lease::Want;
use super::lease::{LIFE, PATIENCE, hundred, leasing};
use super::*;

#[derive(Clone, Debug)]
enum Step {
    Wait(Millis),
    Spend(u64),
    Unspend,
    Want,
    /// The answer, for such a part of what was asked for, after so long.
    Grant(u64),
    Abandon,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => prop_oneof![0..30u64, 0..LIFE * 2].prop_map(Step::Wait),
        8 => prop_oneof![4 => Just(1), 1 => 0..5u64].prop_map(Step::Spend),
        2 => Just(Step::Unspend),
        4 => Just(Step::Want),
        4 => (0..=4u64).prop_map(Step::Grant),
        1 => Just(Step::Abandon),
    ]
}

/// One key as it ought to be.
#[derive(Default)]
struct Model {
    /// Requests in hand, until when, and their stamp if they have one.
    hand: Option<(u64, Millis, Option<u64>)>,
    granted: u64,
    mark: Millis,
    total: u64,
    /// Asks without an answer: when, how many, of which name.
    open: Vec<(Now, u64, u64)>,
    spent: Vec<u64>,
}

impl Model {
    fn spend(&mut self, now: Millis, cost: u64) -> bool {
        match &mut self.hand {
            Some((tokens, until, _)) if *until > now && *tokens >= cost => {
                *tokens -= cost;
                self.spent.push(cost);
                true
            }
            _ => false,
        }
    }

    fn unspend(&mut self, now: Millis, cost: u64) {
        if let Some((tokens, until, _)) = &mut self.hand
            && *until > now
            && *tokens + cost <= self.granted
        {
            *tokens += cost;
        }
    }

    fn want(&mut self, now: &Now) -> Want {
        if self.mark > now.mono {
            return Want::default();
        }
        self.total = self.total.max(1);
        let full = self.granted + 1 >= self.total.min(100);
        match self.hand {
            Some((_, until, _)) if until > now.mono && full => self.total = (self.total * 2).min(128),
            Some((left @ 1.., until, _))
                if until <= now.mono && self.granted - left < self.total.min(100) / 2 =>
            {
                self.total /= 2;
            }
            _ => {}
        }
        self.mark = now.mono + PATIENCE;
        let (unused, stamp) = match self.hand.take() {
            Some((unused @ 1.., _, Some(stamp))) => (unused, stamp),
            _ => (0, 0),
        };
        Want { more: self.total.min(100) - 1, unused, stamp, asker: true }
    }

    fn grant(&mut self, asked: &Now, granted: u64, stamp: u64) {
        let until = asked.mono + LIFE;
        self.hand = Some(match self.hand.take() {
            Some((left @ 1.., dies, _)) if dies > asked.mono => {
                ((left + granted).min(100), dies.min(until), None)
            }
            _ => (granted.min(100), until, Some(stamp)),
        });
        self.granted = self.hand.map_or(0, |(tokens, ..)| tokens);
        self.mark = 0;
    }
}

struct Play {
    zone: LimitZone,
    rule: Rule,
    keys: HashMap<u64, Model>,
    now: Now,
    stamps: u64,
}

impl Play {
    fn step(&mut self, name: u64, step: &Step) -> Result<(), TestCaseError> {
        let (zone, rule, now, key) = (self.zone, &self.rule, self.now, key(name));
        let model = self.keys.entry(name).or_default();
        match *step {
            Step::Wait(ms) => self.now = Now { mono: now.mono + ms, wall: now.wall + ms },
            Step::Spend(cost) => {
                let spent = zone.spend(&key, rule, &now, cost, 2).map(|told| told.admitted);
                let expected = model.spend(now.mono, cost).then_some(true);
                prop_assert_eq!(spent, expected);
            }
            Step::Unspend => {
                if let Some(cost) = model.spent.pop() {
                    zone.unspend(&key, rule, &now, cost);
                    model.unspend(now.mono, cost);
                }
            }
            Step::Want => {
                let want = zone.want(&key, rule, &now, LIFE, PATIENCE);
                let expected = model.want(&now);
                prop_assert_eq!(
                    (want.more, want.unused, want.asker),
                    (expected.more, expected.unused, expected.asker)
                );
                prop_assert!(want.unused == 0 || want.stamp == expected.stamp);
                if want.asker {
                    self.stamps += 1;
                    model.open.push((now, want.more, self.stamps));
                }
            }
            Step::Grant(part) => {
                if let Some((asked, more, stamp)) = model.open.pop() {
                    zone.grant(&key, rule, &asked, LIFE, more * part / 4, stamp);
                    model.grant(&asked, more * part / 4, stamp);
                }
            }
            Step::Abandon => {
                if model.open.pop().is_some() {
                    zone.abandon(&key);
                    model.mark = 0;
                }
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_zone_with_room_does_what_the_model_does(
        algorithm in prop::sample::select(&ALL[..]),
        steps in prop::collection::vec((0..3u64, any_step()), 1..300),
    ) {
        let (zone, rule) = (leasing(algorithm, 1 << 14), hundred(algorithm));
        let mut play = Play { zone, rule, keys: HashMap::new(), now: NOW, stamps: 0 };
        for (name, step) in &steps {
            play.step(*name, step)?;
        }
    }

    #[test]
    fn a_zone_without_room_spends_nothing_that_was_not_granted(
        algorithm in prop::sample::select(&ALL[..]),
        steps in prop::collection::vec((0..60u64, 0..4u64, 0..40u64), 1..600),
    ) {
        let (zone, rule) = (leasing(algorithm, LimitZone::MIN_SIZE), hundred(algorithm));
        let (mut now, mut in_hand, mut stamps) = (NOW, HashMap::<u64, u64>::new(), HashMap::new());
        for (n, (name, act, number)) in steps.iter().enumerate() {
            let (hand, key) = (in_hand.entry(*name).or_default(), key(*name));
            match act {
                0 => now = Now { mono: now.mono + number, wall: now.wall + number },
                1 => {
                    let want = zone.want(&key, &rule, &now, LIFE, PATIENCE);
                    prop_assert!(want.unused <= *hand);
                    prop_assert!(want.unused == 0 || stamps.get(&want.stamp) == Some(name));
                    *hand -= want.unused;
                    if want.asker {
                        zone.observe(&key, &rule, &now, &rule.fresh(&now, 1 + number), 1 + number);
                        zone.grant(&key, &rule, &now, LIFE, *number, 1 + n as u64);
                        stamps.insert(1 + n as u64, *name);
                        *hand += number;
                    }
                }
                _ => {
                    let cost = number % 4;
                    if zone.spend(&key, &rule, &now, cost, 1).is_some() {
                        prop_assert!(cost <= *hand, "{} of {}", cost, hand);
                        *hand -= cost;
                    }
                }
            }
        }
    }
}
