//! Shares under nginx's own methods, the panic table, cookies, the order of states.

use proptest::prelude::*;

use super::*;

/// nginx's smooth weighted round robin over the servers that are not masked.
struct RoundRobin {
    weight: Vec<i64>,
    current: Vec<i64>,
}

impl RoundRobin {
    fn new(weight: &[i64]) -> Self {
        Self { weight: weight.to_vec(), current: vec![0; weight.len()] }
    }

    fn pick(&mut self, masked: &[bool]) -> usize {
        let open: Vec<_> = (0..masked.len()).filter(|n| !masked[*n]).collect();
        open.iter().for_each(|n| self.current[*n] += self.weight[*n]);
        let total: i64 = open.iter().map(|n| self.weight[*n]).sum();
        let best = open.iter().copied().reduce(|a, b| if self.current[b] > self.current[a] { b } else { a });
        let best = best.expect("one is never masked");
        self.current[best] -= total;
        best
    }
}

/// Shares of the servers after many picks, where each has a constant part of its share.
fn shares(weight: &[i64], part: &[u32], mut method: impl FnMut(&[bool]) -> usize) -> Vec<f64> {
    const PICKS: usize = 60_000;
    let total: i64 = weight.iter().sum();
    let reference = part.iter().copied().max().unwrap_or(FULL);
    let (mut credit, mut got) = (vec![0; weight.len()], vec![0usize; weight.len()]);
    for _ in 0..PICKS {
        let mut masked = vec![false; weight.len()];
        for n in 0..weight.len() {
            if part[n] < reference {
                let gain = earned(part[n], reference, weight[n] as u64, total as u64);
                credit[n] = deposit(credit[n], gain);
                masked[n] = credit[n] < PICK;
            }
        }
        let chosen = method(&masked);
        if part[chosen] < reference {
            credit[chosen] -= PICK;
        }
        got[chosen] += 1;
    }
    got.into_iter().map(|n| n as f64 / PICKS as f64).collect()
}

fn expected(weight: &[i64], part: &[u32], n: usize) -> f64 {
    let reference = f64::from(part.iter().copied().max().unwrap_or(FULL));
    f64::from(part[n]) / reference * weight[n] as f64 / weight.iter().sum::<i64>() as f64
}

#[test]
fn a_share_grows_linearly() {
    for tenth in 0..=10 {
        assert_eq!(share(1_000, 1_000 + tenth * 200, 2_000), (tenth * u64::from(FULL) / 10) as u32);
    }
    assert_eq!((share(5, 4, 10), share(5, u64::MAX, 10), share(5, 5, 0)), (0, FULL, FULL));
}

#[test]
fn round_robin_gives_each_its_part_at_ten_points() {
    for weight in [&[1, 1, 1][..], &[5, 1, 4], &[1, 9], &[1, 1, 1, 1, 1, 1, 1, 1]] {
        for tenth in 1..=10 {
            let mut part = vec![FULL; weight.len()];
            part[0] = FULL / 10 * tenth;
            let mut method = RoundRobin::new(weight);
            let got = shares(weight, &part, |masked| method.pick(masked))[0];
            let wanted = expected(weight, &part, 0);
            assert!((got - wanted).abs() <= 0.02 * wanted, "{weight:?} {tenth}: {got} not {wanted}");
        }
    }
}

#[test]
fn a_method_that_always_prefers_the_newcomer_gives_no_more() {
    for tenth in 1..10 {
        let part = [FULL / 10 * tenth, FULL, FULL];
        let mut turn = 0;
        let got = shares(&[1, 1, 1], &part, |masked| {
            turn += 1;
            if masked[0] { 1 + turn % 2 } else { 0 }
        });
        let wanted = expected(&[1, 1, 1], &part, 0);
        assert!((got[0] - wanted).abs() <= 0.01, "{tenth}: {} not {wanted}", got[0]);
    }
}

#[test]
fn when_all_ramp_the_foremost_counts_as_warm() {
    let part = [FULL / 2, FULL / 4, FULL / 2];
    let mut method = RoundRobin::new(&[1, 1, 1]);
    let got = shares(&[1, 1, 1], &part, |masked| method.pick(masked));
    assert!((got[1] - 1.0 / 6.0).abs() < 0.01, "{got:?}");
    assert!((got[0] - got[2]).abs() < 0.01, "{got:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn random_choice_gives_each_its_part(
        weight in prop::collection::vec(1i64..6, 2..6),
        tenth in 1u32..10,
        seed in any::<u64>(),
    ) {
        let mut part = vec![FULL; weight.len()];
        part[0] = FULL / 10 * tenth;
        let mut state = seed | 1;
        let got = shares(&weight, &part, |masked| loop {
            // xorshift
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let mut at = (state >> 20) as i64 % weight.iter().sum::<i64>();
            let n = weight.iter().position(|w| { at -= w; at < 0 }).expect("within the sum");
            if !masked[n] { break n }
        })[0];
        let wanted = expected(&weight, &part, 0);
        prop_assert!((got - wanted).abs() <= 0.05 * wanted + 0.005, "{got} not {wanted}");
    }
}

proptest! {
    #[test]
    fn arithmetic_never_overflows(
        times in prop::array::uniform3(any::<u64>()),
        part in any::<u32>(),
        reference in any::<u32>(),
        weight in any::<u64>(),
        total in any::<u64>(),
        credit in any::<i64>(),
    ) {
        prop_assert!(share(times[0], times[1], times[2]) <= FULL);
        let gain = earned(part, reference, weight, total);
        prop_assert!((0..=PICK).contains(&gain));
        let _ = deposit(credit, gain);
    }

    #[test]
    fn any_header_is_read(header in prop::collection::vec(any::<u8>(), 0..60)) {
        let _ = cookie(&header, b"sid");
    }

    #[test]
    fn a_cookie_that_was_set_is_found(value in "[0-9a-zA-Z._~-]{1,32}", other in "[a-r][a-z]{0,4}=[a-z]{0,5}") {
        let text = Attributes::default().set("sid", &value);
        let header = format!("{other}; {text}");
        prop_assert_eq!(cookie(header.as_bytes(), b"sid"), Some(value.as_bytes()));
    }
}

#[test]
fn cookies_are_told_apart() {
    let header = b"xsid=1; sid =2 ;sid=3; q=\"4\"; e=; sid";
    assert_eq!(cookie(header, b"sid"), Some(&b"2"[..]));
    assert_eq!(cookie(header, b"q"), Some(&b"4"[..]));
    assert_eq!(cookie(header, b"e"), Some(&b""[..]));
    assert_eq!((cookie(header, b"id"), cookie(b"", b"sid"), cookie(b"sid", b"sid")), (None, None, None));
}

#[test]
fn attributes_come_in_the_core_s_order() {
    let all = Attributes {
        expires: Some(("Thu, 01-Jan-70 01:00:00 GMT", 3600)),
        domain: ".example.com",
        httponly: true,
        secure: true,
        samesite: "lax",
        path: "/shop",
    };
    let text = "id=a; expires=Thu, 01-Jan-70 01:00:00 GMT; max-age=3600; domain=.example.com; httponly; secure; \
                samesite=lax; path=/shop";
    assert_eq!(all.set("id", "a"), text);
    let hostile = Attributes { domain: "a\r\nX: y", path: "/; secure", ..Attributes::default() };
    assert_eq!(hostile.set("id", "a"), "id=a");
    assert!(is_name("srv_id") && !is_name("") && !is_name("a b") && !is_name("a=b") && !is_name("a;b"));
}

fn outlook(servers: &[(bool, bool, bool)]) -> Outlook {
    let server = |&(backup, usable, degraded)| Standing { backup, usable, ejected: false, degraded };
    Outlook::of(servers.iter().map(server))
}

fn ejected(servers: &[(bool, bool, bool)], out: usize) -> Outlook {
    let server = |(at, &(backup, usable, degraded))| Standing { backup, usable, ejected: at < out, degraded };
    Outlook::of(servers.iter().enumerate().map(server))
}

#[test]
fn who_is_kept_out_by_a_breaker_is_not_usable_unless_nobody_else_is() {
    let half = Panic { threshold: 50, mode: Mode::All };
    let (good, bad, backup, degraded) =
        ((false, true, false), (false, false, false), (true, true, false), (false, true, true));
    assert_eq!(ejected(&[good, good, good, good], 2).panics(half), None);
    assert_eq!(ejected(&[good, good, good, bad], 2).panics(half), Some(Mode::All));
    assert_eq!(ejected(&[good, good, backup], 2).panics(half), None);
    // None would be left: breakers do not count, and half are usable.
    assert_eq!(ejected(&[good, bad], 1).panics(half), None);
    assert_eq!(ejected(&[good, bad], 1).primaries(), (1, 2));
    assert_eq!(ejected(&[good, bad, bad], 1).panics(half), Some(Mode::All));
    assert!(!ejected(&[good, degraded], 1).spares_degraded());
    assert!(ejected(&[good, good, degraded], 1).spares_degraded());
    assert!(ejected(&[good, degraded], 2).spares_degraded());
}

#[test]
fn panic_begins_below_the_threshold() {
    let half = Panic { threshold: 50, mode: Mode::All };
    let (good, bad, backup) = ((false, true, false), (false, false, false), (true, true, false));
    assert_eq!(outlook(&[good, good, bad, bad]).panics(half), None);
    assert_eq!(outlook(&[good, bad, bad]).panics(half), Some(Mode::All));
    assert_eq!(outlook(&[bad, bad, bad]).panics(half), Some(Mode::All));
    assert_eq!(outlook(&[good, bad, bad, backup]).panics(half), Some(Mode::All));
    assert_eq!(outlook(&[bad, bad, backup]).panics(half), None);
    assert_eq!(outlook(&[]).panics(half), None);
    assert_eq!(outlook(&[good, bad]).panics(Panic { threshold: 100, mode: Mode::None }), Some(Mode::None));
    assert_eq!(outlook(&[good, good]).panics(Panic { threshold: 100, mode: Mode::All }), None);
    // The default threshold: only when none is left.
    let none = Panic { threshold: 0, mode: Mode::All };
    assert_eq!(outlook(&[good, bad, bad]).panics(none), None);
    assert_eq!(outlook(&[bad, bad]).panics(none), Some(Mode::All));
    assert_eq!(outlook(&[good, bad]).primaries(), (1, 2));
}

#[test]
fn degraded_servers_wait_for_the_last_healthy_one() {
    let (healthy, degraded) = ((false, true, false), (false, true, true));
    assert!(outlook(&[healthy, degraded]).spares_degraded());
    assert!(outlook(&[degraded, (true, true, false)]).spares_degraded());
    assert!(!outlook(&[degraded, degraded, (true, false, false)]).spares_degraded());
}

#[test]
fn the_strongest_fact_names_the_state() {
    let all = Facts { down: true, draining: true, unhealthy: true, checking: true, unavail: true };
    let mut facts = all;
    let mut words = vec![State::of(facts).as_str()];
    facts.down = false;
    words.push(State::of(facts).as_str());
    facts.unhealthy = false;
    words.push(State::of(facts).as_str());
    facts.checking = false;
    words.push(State::of(facts).as_str());
    facts.unavail = false;
    words.push(State::of(facts).as_str());
    facts.draining = false;
    words.push(State::of(facts).as_str());
    assert_eq!(words, ["down", "unhealthy", "checking", "unavail", "draining", "up"]);
}
