//! Requests taken in advance: what is granted and given back, and what all gateways together may exceed.

use ::redis::Value;

use super::model::{Dice, Model};
use super::{Act, Limit, Redis, Worker, gcra, limit, rule};
use crate::policy::limit::{Algorithm, Rule, Tat};
use crate::remote::redis::Unused;

fn take(cost: u64, more: u64) -> Act {
    Act::Take { cost, more, unused: None }
}

#[test]
fn live_grants_are_half_of_what_is_left_and_the_last_come_one_by_one() {
    let redis = Redis::start(&[]);
    let worker = Worker::new(redis.settings());
    let rules = [
        rule(Algorithm::Gcra, "1r/h", Some(9)),
        rule(Algorithm::SlidingWindow, "10r/h", None),
        rule(Algorithm::SlidingWindow, "20r/d", Some(9)),
        rule(Algorithm::FixedWindow, "10r/d", None),
    ];
    for (n, rule) in rules.into_iter().enumerate() {
        let key = limit(&format!("k{n}"), rule, take(1, 0));
        let seen = |more| {
            let ruled = worker.act(&key, take(1, more));
            assert_eq!(ruled.stamp > 0, ruled.granted > 0);
            (ruled.decision.remaining, ruled.granted, ruled.after.remaining)
        };
        assert_eq!(seen(100), (9, 4, 5));
        assert_eq!(seen(2), (4, 2, 2));
        assert_eq!(seen(0), (1, 0, 1));
        let last = worker.act(&key, take(0, 5));
        assert_eq!((last.granted, last.after.remaining), (1, 0));
        let refused = worker.act(&key, take(1, 5));
        assert_eq!((refused.decision.admitted, refused.granted, refused.stamp), (false, 0, 0));
        let unused = Some(Unused { tokens: 1, stamp: last.stamp });
        let again = worker.act(&key, Act::Take { cost: 0, more: 0, unused });
        // A window's burst stays charged.
        assert_eq!(again.after.remaining, u64::from(n != 2));
    }
}

#[test]
fn live_who_is_refused_gets_nothing_in_advance_but_gives_back() {
    let redis = Redis::start(&[]);
    let worker = Worker::new(redis.settings());
    let wide = gcra("wide", "1r/h", 9, 1);
    let lease = worker.act(&wide, take(1, 4));
    assert_eq!((lease.granted, lease.after.remaining), (4, 5));
    let unused = Some(Unused { tokens: 3, stamp: lease.stamp });
    let both = vec![
        Limit { act: Act::Take { cost: 1, more: 4, unused }, ..wide.clone() },
        gcra("narrow", "1r/h", 0, 2),
    ];
    let told = worker.ruled(worker.submit(vec![both])[0]).unwrap();
    assert_eq!((told[0].granted, told[0].after.remaining), (0, 8));
    assert!(!told[1].decision.admitted);
    let twice = vec![Limit { act: take(1, 4), ..wide.clone() }; 2];
    let told = worker.ruled(worker.submit(vec![twice])[0]).unwrap();
    assert_eq!((told[0].granted, told[1].granted), (0, 0));
    assert_eq!(worker.act(&wide, take(0, 0)).after.remaining, 6);
}

#[test]
fn live_what_has_drained_or_gone_is_not_given_back() {
    let redis = Redis::start(&[]);
    let worker = Worker::new(redis.settings());
    let (now, _): (u64, u64) = redis.ask(&["TIME"]).unwrap();
    let set = |key: &str, value: String| redis.ask::<Value>(&["SET", key, &value]).unwrap();
    let after = |key: &Limit, tokens, stamp| {
        let unused = Some(Unused { tokens, stamp });
        worker.act(key, Act::Take { cost: 0, more: 0, unused }).after
    };
    // Of a grant whose charge will have drained in half an hour, half a request's worth is still there.
    let (hour, key) = (3_600_000, gcra("g", "1r/h", 9, 1));
    set("g", format!("{} 0", now * 1000 + 5 * hour));
    let stamp = |ms| Tat::new(ms, 0).to_bits();
    assert_eq!(after(&key, 2, stamp(now * 1000 - 1)).remaining, 5);
    let left = after(&key, 2, stamp(now * 1000 + hour / 2)).reset_after;
    assert!(left > 4 * hour + hour / 2 - 10_000 && left <= 4 * hour + hour / 2 + 1_000, "{left}");
    let (bucket, key) = (now / 225, limit("s", rule(Algorithm::SlidingWindow, "10r/h", None), take(1, 0)));
    set("s", format!("225000 {bucket} 0 0 6"));
    assert_eq!(after(&key, 4, (bucket - 16) * 225_000 - 1).remaining, 4);
    assert_eq!(after(&key, 4, (bucket - 16) * 225_000).remaining, 8);
    let (window, key) = (now / 3600, limit("f", rule(Algorithm::FixedWindow, "10r/h", None), take(1, 0)));
    set("f", format!("3600000 {window} 6"));
    assert_eq!(after(&key, 4, window * hour - 1).remaining, 4);
    assert_eq!(after(&key, 4, window * hour).remaining, 8);
}

#[test]
fn live_debts_are_charged_whatever_the_state_says() {
    let redis = Redis::start(&[]);
    let worker = Worker::new(redis.settings());
    let key = gcra("k", "1r/h", 9, 1);
    let posted = worker.act(&key, Act::Post { cost: 4 });
    assert_eq!((posted.decision.admitted, posted.after.remaining), (true, 6));
    let posted = worker.act(&key, Act::Post { cost: 1_000_000_000 });
    assert_eq!((posted.after.remaining, posted.after.reset_after), (0, 36_001_000));
    let refused = worker.act(&key, take(1, 0)).decision;
    assert!(!refused.admitted && (3_600_900..=3_601_000).contains(&refused.retry_after), "{refused:?}");
    for (n, rule) in [Algorithm::SlidingWindow, Algorithm::FixedWindow]
        .map(|algorithm| rule(algorithm, "10r/d", None))
        .into_iter()
        .enumerate()
    {
        let key = limit(&format!("w{n}"), rule, take(1, 0));
        assert!(worker.act(&key, Act::Post { cost: 12 }).decision.admitted);
        assert!(!worker.act(&key, take(1, 0)).decision.admitted);
        assert_eq!(worker.act(&key, Act::GiveBack { cost: 5 }).after.remaining, 3);
    }
}

/// A gateway that spends what it was granted, for so long.
#[derive(Clone, Default)]
struct Gateway {
    lease: Option<(Unused, u64)>,
}

/// Admissions, by time.
struct Traffic {
    rule: Rule,
    gateways: u64,
    most: u64,
    life: u64,
    times: Vec<u64>,
}

impl Traffic {
    /// Some hundred requests to several gateways. What is left of a grant goes back, or is lost.
    fn run(dice: &mut Dice, rule: Rule) -> Self {
        let (gateways, most, life) = (1 + dice.below(5), 1 + dice.below(40), 1 + dice.below(200));
        let mut traffic = Self { rule, gateways, most, life, times: Vec::new() };
        let mut hosts = vec![Gateway::default(); gateways as usize];
        let (mut model, mut now) = (Model::default(), 1_700_000_000_000 + dice.below(10_000));
        for _ in 0..400 {
            let step = [1, 1, 1, 2, 3, 10, life + 1, 3 * life, 700][dice.below(9) as usize];
            now += dice.below(step);
            let host = dice.below(gateways) as usize;
            traffic.request(dice, &mut hosts[host], &mut model, now);
        }
        traffic
    }

    fn request(&mut self, dice: &mut Dice, host: &mut Gateway, model: &mut Model, now: u64) {
        if let Some((lease, until)) = &mut host.lease
            && lease.tokens > 0
            && now < *until
        {
            lease.tokens -= 1;
            self.times.push(now);
            return;
        }
        if let Some((unused, _)) = host.lease.take().filter(|_| !dice.one_in(4)) {
            model.take_unused(&self.rule, now, unused);
        }
        let decision = model.decide(&self.rule, now, 1);
        if !decision.admitted {
            return;
        }
        self.times.push(now);
        model.charge(&self.rule, now, 1);
        // A gateway may be wrong about how many there are.
        let share = (decision.remaining / (2 * (1 + dice.below(self.gateways)))).max(1);
        let tokens = dice.below(self.most + 1).min(share).min(decision.remaining);
        model.charge(&self.rule, now, tokens);
        let lease = Unused { tokens, stamp: model.stamp(&self.rule, now) };
        host.lease = (tokens > 0).then_some((lease, now + self.life));
    }

    /// Whether every span of time keeps to `bound`, a number of requests in so many milliseconds.
    fn keeps_to(&self, bound: impl Fn(u64) -> bool, count: impl Fn(u64, u64) -> bool) -> bool {
        let spans = (0..self.times.len()).flat_map(|from| (from..self.times.len()).map(move |to| (from, to)));
        spans.into_iter().all(|(from, to)| {
            let span = self.times[to] - self.times[from];
            !bound(span) || count(span, (to - from + 1) as u64)
        })
    }
}

#[test]
fn gateways_together_exceed_a_bucket_by_no_more_than_is_outstanding() {
    let mut dice = Dice(0xB0CCE7);
    let mut admitted = 0;
    for round in 0..120 {
        let rate = ["1000r/s", "100r/m", "977r/7s", "40r/s", "333r/s"][round % 5];
        let rule = rule(Algorithm::Gcra, rate, Some([0, 3, 20, 200][dice.below(4) as usize]));
        let traffic = Traffic::run(&mut dice, rule);
        let Rule::Gcra(gcra) = rule else { unreachable!() };
        let over = (traffic.gateways * traffic.most * gcra.p()).min(gcra.n() * traffic.life);
        let fits = |span: u64, count: u64| count * gcra.p() <= gcra.capacity() + gcra.n() * span + over;
        assert!(traffic.keeps_to(|_| true, fits), "round {round}");
        admitted += traffic.times.len();
    }
    assert!(admitted > 10_000, "{admitted}");
}

#[test]
fn gateways_together_exceed_a_window_by_no_more_than_is_outstanding() {
    let mut dice = Dice(0x111D0);
    for round in 0..60 {
        let algorithm = [Algorithm::SlidingWindow, Algorithm::FixedWindow][round % 2];
        let rule = rule(algorithm, ["40r/s", "100r/2s", "7r/s"][round % 3], None);
        let traffic = Traffic::run(&mut dice, rule);
        let (count, period) = (rule.rate().count, rule.rate().period);
        let most = count + traffic.gateways * traffic.most;
        if algorithm == Algorithm::SlidingWindow {
            assert!(traffic.keeps_to(|span| span < period, |_, count| count <= most), "round {round}");
        } else {
            let windows = traffic.times.chunk_by(|a, b| a / period == b / period);
            assert!(windows.into_iter().all(|window| window.len() as u64 <= most), "round {round}");
        }
    }
}
