//! Bans over two hosts and one Redis.

use super::*;
use crate::policy::Millis;
use crate::policy::ban::{Cause, Terms};
use crate::policy::limit::KeyHash;
use crate::remote::redis::ban::{Ask, Banned, Heard, How, Said, What, Word};

const TERMS: Terms = Terms { count: 3, window: 10_000, duration: 60_000, max_duration: 150_000 };

pub(super) fn key(n: u32) -> KeyHash {
    KeyHash::new(&n.to_be_bytes())
}

/// Settings of a link that bans are shared through.
pub(super) fn sharing(mut settings: Settings) -> Settings {
    settings.bans = true;
    settings
}

/// One that misbehaviour led to, or Redis would not add it to another.
pub(super) fn ban(n: u32, left: Millis, ago: Millis, level: u32) -> What {
    let ban = Banned { key: key(n), left, ago, level, cause: Cause::Status };
    What::Ban { ban, force: false, memory: 1_000, seq: 0 }
}

/// The `seq`th word of an operator.
fn by_hand(n: u32, left: Millis, ago: Millis, seq: u64) -> What {
    let ban = Banned { key: key(n), left, ago, level: 1, cause: Cause::Manual };
    What::Ban { ban, force: true, memory: 1_000, seq }
}

fn lift(n: u32, ago: Millis, seq: u64) -> What {
    What::Lift { key: key(n), ago, left: 60_000, seq, stamp: 0 }
}

fn hit(n: u32) -> What {
    hit_under(n, TERMS)
}

fn hit_under(n: u32, terms: Terms) -> What {
    let counter = key(n).with(&KeyHash::new(b"rule"));
    What::Hit { key: key(n), counter, terms, cause: Cause::Status, address: None }
}

impl Worker {
    pub(super) fn say(&self, what: What) {
        self.say_ago(what, Duration::ZERO);
    }

    /// Something that was to be told so long ago.
    fn say_ago(&self, what: What, ago: Duration) {
        let at = Instant::now().checked_sub(ago).unwrap();
        let (link, zone, origin) = (0, "z".to_owned(), self.origin());
        self.engine.submit(vec![Job::Ban(Ask { link, zone, origin, known: 0, at, what })]);
    }

    /// A name that no other has.
    fn origin(&self) -> u64 {
        std::ptr::from_ref(self) as u64
    }

    pub(super) fn hear<T>(&self, mut pick: impl FnMut(&Heard) -> Option<T>) -> T {
        self.wait(|done| match done {
            Done::Ban(news) if news.zone == "z" && news.link == 0 => pick(&news.what),
            _ => None,
        })
    }

    pub(super) fn hear_banned(&self, n: u32) -> Banned {
        self.hear(|heard| match heard {
            Heard::Banned { ban, .. } if ban.key == key(n) => Some(*ban),
            _ => None,
        })
    }

    /// The same with all that is said of it.
    fn hear_word(&self, n: u32) -> (Banned, Said, Word, How) {
        self.hear(|heard| match heard {
            Heard::Banned { ban, ends, word, how } if ban.key == key(n) => {
                Some((*ban, Said { ends: *ends, stamp: word.stamp }, *word, *how))
            }
            _ => None,
        })
    }

    fn hear_lifted(&self, n: u32) -> Millis {
        self.hear(|heard| match heard {
            Heard::Lifted { key: its, ago, .. } if *its == key(n) => Some(*ago),
            _ => None,
        })
    }

    fn list(&self, known: u64) -> (u64, Vec<Banned>) {
        self.say(What::List { known });
        self.hear(|heard| match heard {
            Heard::Listed { version, bans, whole } => {
                assert!(whole);
                Some((*version, bans.iter().map(|(ban, ..)| *ban).collect()))
            }
            _ => None,
        })
    }
}

impl Redis {
    /// Waits until so many connections have subscribed.
    pub(super) fn subscribed(&self, count: u64) {
        let until = Instant::now() + PATIENCE;
        let subscribed = || self.ask::<(String, u64)>(&["PUBSUB", "NUMSUB", "sluice:bans"]).map(|(_, n)| n);
        while subscribed().ok() != Some(count) {
            assert!(Instant::now() < until, "nobody has subscribed");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn two_hosts(redis: &Redis) -> (Worker, Worker) {
    let hosts = [1, 2].map(|n| Worker::on_host(sharing(redis.settings()), n));
    redis.subscribed(2);
    hosts.into()
}

#[test]
fn what_one_host_tells_the_other_hears() {
    let redis = Redis::start(&[]);
    let (a, b) = two_hosts(&redis);
    a.say(ban(1, 60_000, 500, 2));
    for host in [&a, &b] {
        let heard = host.hear_banned(1);
        assert!((59_000..=60_000).contains(&heard.left) && (500..1_500).contains(&heard.ago), "{heard:?}");
        assert_eq!((heard.level, heard.cause), (2, Cause::Status));
    }
    b.say(lift(1, 0, 0));
    assert!(a.hear_lifted(1) < 1_000);
}

#[test]
fn hits_of_all_hosts_are_counted_together() {
    let redis = Redis::start(&[]);
    let (a, b) = two_hosts(&redis);
    // Too long ago, and so without effect.
    (0..5).for_each(|_| a.say_ago(hit(1), Duration::from_millis(10_100)));
    a.say_ago(hit(1), Duration::from_secs(2));
    b.say(hit(1));
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(a.list(0).1, []);
    b.say_ago(hit(1), Duration::from_secs(1));
    for host in [&a, &b] {
        let heard = host.hear_banned(1);
        assert!((59_000..=60_000).contains(&heard.left), "{heard:?}");
        assert_eq!((heard.level, heard.cause), (1, Cause::Status));
    }
    // A hit of somebody who has not heard yet is answered with the ban, and does not prolong it.
    b.hear_banned(1);
    b.say(hit(1));
    assert!(b.hear_banned(1).left <= 60_000);
}

#[test]
fn lengths_double_as_the_policy_says() {
    let redis = Redis::start(&[]);
    let (a, b) = two_hosts(&redis);
    let terms = Terms { count: 2, window: 1_000, duration: 40, max_duration: 1_000_000 };
    for level in 1..=5 {
        [&a, &b].into_iter().for_each(|host| host.say(hit_under(1, terms)));
        let heard = a.hear(|heard| match heard {
            Heard::Banned { ban, .. } if ban.level >= level => Some(*ban),
            _ => None,
        });
        let length = terms.sentence(Some(crate::policy::ban::Past { level: level - 1, ended: 0 }), 0).length;
        assert!(
            heard.level == level && heard.left <= length && heard.left + 40 > length,
            "{heard:?} {length}"
        );
        std::thread::sleep(Duration::from_millis(heard.left + 5));
    }
}

#[test]
fn many_hits_at_once_are_one_ban() {
    let redis = Redis::start(&[]);
    let (a, b) = two_hosts(&redis);
    let terms = Terms { count: 100, window: 60_000, duration: 60_000, max_duration: 600_000 };
    (0..120).for_each(|n| [&a, &b][n % 2].say(hit_under(1, terms)));
    assert_eq!(a.hear_banned(1).level, 1);
    let (_, bans) = a.list(0);
    assert_eq!(bans.iter().map(|ban| (ban.key, ban.level)).collect::<Vec<_>>(), [(key(1), 1)]);
}

#[test]
fn the_later_word_holds_however_late_it_comes() {
    let redis = Redis::start(&[]);
    let (a, b) = two_hosts(&redis);
    a.say(ban(1, 60_000, 3_000, 1));
    b.hear_banned(1);
    // Lifted two seconds ago, by a host that Redis was away for; banned three seconds ago.
    a.say(lift(1, 2_000, 0));
    assert!((2_000..3_000).contains(&b.hear_lifted(1)));
    a.hear_lifted(1);
    b.say(ban(1, 57_000, 3_000, 1));
    assert!(b.hear_lifted(1) >= 2_000);
    assert_eq!(a.list(0).1, []);
    // Banned anew a second ago: an end before that does not end it.
    b.say(ban(1, 60_000, 1_000, 1));
    b.hear_banned(1);
    a.say(lift(1, 1_500, 0));
    assert_eq!(a.list(0).1.len(), 1);
}

#[test]
fn the_words_of_one_host_hold_in_the_order_in_which_they_were_said() {
    let redis = Redis::start(&[]);
    let (a, b) = two_hosts(&redis);
    // Lifted and banned anew at once, which Redis hears in the other order.
    a.say(by_hand(1, 60_000, 0, 12));
    let (_, said, word, _) = b.hear_word(1);
    assert_eq!(word.seq, 12);
    a.say(lift(1, 0, 11));
    let (ban, again, _, how) = a.hear(|heard| match heard {
        Heard::Banned { ban, ends, word, how: how @ How::Answer(11) } => {
            Some((*ban, Said { ends: *ends, stamp: word.stamp }, *word, *how))
        }
        _ => None,
    });
    assert!(
        ban.left > 59_000 && again == said && how == How::Answer(11),
        "it is not ended by what was said before"
    );
    // Said once, heard twice.
    a.say(by_hand(1, 50_000, 0, 12));
    assert_eq!(a.list(0).1.len(), 1);
    a.say(lift(1, 0, 13));
    b.hear_lifted(1);
    a.say(by_hand(1, 50_000, 1, 13));
    assert_eq!(a.list(0).1, []);
}

#[test]
fn a_word_by_hand_replaces_what_is_in_force() {
    let redis = Redis::start(&[]);
    let (a, b) = two_hosts(&redis);
    a.say(ban(1, 3_600_000, 0, 3));
    let (_, first, ..) = b.hear_word(1);
    b.say(by_hand(1, 3_000, 0, 1));
    let shorter = a.hear(|heard| match heard {
        Heard::Banned { ban, word, .. } if ban.cause == Cause::Manual => Some((*ban, *word)),
        _ => None,
    });
    assert!(shorter.0.left <= 3_000 && shorter.0.level == 1 && shorter.1.stamp > first.stamp);
    // An outage later: said before that, and so set aside.
    a.say(by_hand(1, 60_000, 2_000, 1));
    assert!(a.list(0).1[0].left <= 3_000);
}

#[test]
fn what_redis_has_lost_it_is_told_and_what_is_over_stays_so() {
    let redis = Redis::start(&[]);
    let (a, b) = two_hosts(&redis);
    a.say(ban(1, 400, 0, 1));
    let (its, said, ..) = b.hear_word(1);
    let again = |said: Said| What::Again { ban: Banned { left: 60_000, ..its }, memory: 1_000, said };
    let over =
        |heard: &Heard| matches!(heard, Heard::Over { stamp, .. } if *stamp == said.stamp).then_some(());
    redis.ask::<()>(&["FLUSHALL"]).unwrap();
    b.say(again(said));
    let (back, anew, ..) = a.hear(|heard| match heard {
        Heard::Banned { ban, ends, word, how } if word.origin == b.origin() => {
            Some((*ban, Said { ends: *ends, stamp: word.stamp }, *word, *how))
        }
        _ => None,
    });
    assert!(
        back.left <= 400 && anew.ends <= said.ends && anew.stamp == said.stamp,
        "to the end that it had: {back:?}"
    );
    std::thread::sleep(Duration::from_millis(410));
    b.say(again(said));
    b.hear(over);
    redis.ask::<()>(&["FLUSHALL"]).unwrap();
    b.say(again(said));
    b.hear(over);
    assert_eq!(a.list(0), (1, vec![]), "an empty one is read too");
}

#[test]
fn the_hit_that_was_one_too_many_is_told_so() {
    let redis = Redis::start(&[]);
    let (a, b) = two_hosts(&redis);
    a.say(hit(1));
    a.say(hit(1));
    a.list(0);
    let address = Some("192.0.2.1".parse().unwrap());
    let What::Hit { key, counter, terms, cause, .. } = hit(1) else { unreachable!() };
    b.say(What::Hit { key, counter, terms, cause, address });
    let decided = |heard: &Heard| {
        matches!(heard, Heard::Banned { how: How::Decided(its), .. } if *its == address).then_some(())
    };
    b.hear(decided);
    assert_eq!(a.hear_word(1).3, How::Told);
}

#[test]
fn bans_of_another_database_are_not_heard() {
    let redis = Redis::start(&[]);
    let a = Worker::on_host(sharing(redis.settings()), 1);
    let other = Worker::on_host(sharing(Settings { database: 3, ..redis.settings() }), 2);
    redis.subscribed(2);
    other.say(ban(1, 60_000, 0, 1));
    other.hear_banned(1);
    a.say(ban(2, 60_000, 0, 1));
    let first = a.hear(|heard| match heard {
        Heard::Banned { ban, .. } => Some(ban.key),
        _ => None,
    });
    assert_eq!(first, key(2));
}

#[test]
fn doublings_are_remembered_for_as_long_as_it_takes_to_forget_them() {
    let redis = Redis::start(&[]);
    let (a, _b) = two_hosts(&redis);
    let terms = Terms { count: 1, window: 1_000, duration: 50, max_duration: 200 };
    let length = |level| {
        a.say(hit_under(1, terms));
        let ban = a.hear(|heard| match heard {
            Heard::Banned { ban, how: How::Decided(_), .. } => Some(*ban),
            _ => None,
        });
        assert_eq!(ban.level, level);
        ban.left
    };
    (1..=3).for_each(|level| std::thread::sleep(Duration::from_millis(length(level) + 5)));
    // One of three is forgotten.
    std::thread::sleep(Duration::from_millis(250));
    length(3);
}

#[test]
fn a_list_is_read_whole_and_only_when_it_has_changed() {
    let redis = Redis::start(&[]);
    let (a, _b) = two_hosts(&redis);
    for n in 0..1_234 {
        a.say(ban(n, 60_000 + u64::from(n), 0, 1));
        a.hear_banned(n);
    }
    a.say(ban(5_000, 30, 0, 1));
    a.hear_banned(5_000);
    std::thread::sleep(Duration::from_millis(40));
    let (version, bans) = a.list(0);
    let mut keys: Vec<_> = bans.iter().map(|ban| ban.key.to_string()).collect();
    keys.sort();
    keys.dedup();
    assert_eq!((bans.len(), keys.len()), (1_234, 1_234));
    a.say(What::List { known: version });
    a.say(ban(7_000, 60_000, 0, 1));
    a.hear_banned(7_000);
    assert!(a.list(version).0 > version);
}

#[test]
fn what_there_is_no_room_for_is_to_be_said_again() {
    let redis = Redis::start(&[]);
    // Nothing fails by taking too long.
    let a = Worker::new(Settings { connect_timeout: PATIENCE * 10, ..sharing(redis.settings()) });
    redis.subscribed(1);
    redis.signal("-STOP");
    for n in 0..6_000 {
        a.say(ban(n, 60_000, 0, 1));
    }
    a.hear(|heard| matches!(heard, Heard::Failed).then_some(()));
    redis.signal("-CONT");
}

#[test]
fn names_are_hashed_and_all_expires() {
    let redis = Redis::start(&[]);
    let (a, _b) = two_hosts(&redis);
    a.say(ban(1, 60_000, 0, 1));
    a.hear_banned(1);
    a.say(hit(2));
    a.say(lift(3, 0, 0));
    a.hear_lifted(3);
    a.list(0);
    let keys: Vec<String> = redis.ask(&["KEYS", "*ban*"]).unwrap();
    assert!(keys.len() >= 5, "{keys:?}");
    for key in keys {
        assert!(key.starts_with("sluice:{ban:z}"), "{key}");
        assert!(redis.ask::<i64>(&["PTTL", &key]).unwrap() > 0, "{key}");
    }
}

#[test]
fn values_that_are_not_ours_are_taken_for_absent() {
    let redis = Redis::start(&[]);
    let (a, b) = two_hosts(&redis);
    let list = "sluice:{ban:z}";
    let (state, hits) =
        (format!("{list}:{}", key(1)), format!("{list}:{}:hits", key(1).with(&KeyHash::new(b"rule"))));
    for foreign in
        [&["SET", "x"][..], &["LPUSH", "x"], &["HSET", "a", "b"], &["SET", "9 9 9"], &["SET", "1:x"]]
    {
        for name in [list, &state, &hits, &format!("{list}:version")] {
            redis.ask::<()>(&["DEL", name]).unwrap();
            let command: Vec<_> = [&foreign[..1], &[name], &foreign[1..]].concat();
            redis.ask::<()>(&command).unwrap();
        }
        assert_eq!(a.list(0).1, [], "{foreign:?}");
        (0..3).for_each(|_| a.say(hit(1)));
        b.hear_banned(1);
        redis.ask::<()>(&["ZADD", list, "99999999999999", "nobody's"]).unwrap();
        assert_eq!(a.list(0).1.len(), 1, "{foreign:?}");
        b.say(lift(1, 0, 0));
        a.hear_lifted(1);
        b.hear_lifted(1);
    }
    for message in
        ["", "ban 0/z x", "ban z", "lift 0/z 00 1", "ban  1 2 3 4", "ban x/z 1", "lift 0/z 0 0 0 x 0"]
    {
        redis.ask::<()>(&["PUBLISH", "sluice:bans", message]).unwrap();
    }
    a.say(ban(9, 60_000, 0, 1));
    b.hear_banned(9);
}

#[test]
fn rows_that_are_not_ours_stop_nobody() {
    let redis = Redis::start(&[]);
    let (a, b) = two_hosts(&redis);
    a.say(ban(1, 60_000, 0, 1));
    b.hear_banned(1);
    let (list, state) = ("sluice:{ban:z}", |n| format!("sluice:{{ban:z}}:{}", key(n)));
    let far = redis.ask::<Vec<u64>>(&["TIME"]).unwrap()[0] * 1_000 + 600_000;
    for (n, score) in [(2, "1e300"), (3, "inf"), (4, "9300000000000000000"), (5, "-inf")] {
        redis.ask::<()>(&["ZADD", list, score, &key(n).to_string()]).unwrap();
    }
    for (n, text) in
        [(6, "9 1 1 9 0 1 a 1"), (7, "9 1 1099511627776 1 0 1 a 1"), (8, "9 1 1 1 0 1 aaaaaaaaaaaaaaaaa 1")]
    {
        redis.ask::<()>(&["SET", &state(n), &text.replacen('9', &far.to_string(), 1)]).unwrap();
        redis.ask::<()>(&["ZADD", list, &far.to_string(), &key(n).to_string()]).unwrap();
    }
    redis.ask::<()>(&["SET", &format!("{list}:version"), "1e30"]).unwrap();
    assert!(a.list(0).1.iter().any(|ban| ban.key == key(1)));
    b.say(ban(9, 60_000, 0, 1));
    a.hear_banned(9);
    assert_eq!(redis.ask::<Option<String>>(&["ZSCORE", list, &key(3).to_string()]).unwrap(), None, "swept");
}

#[test]
fn a_redis_that_stood_still_knows_when_things_were_said() {
    let redis = Redis::start(&[]);
    let settings = Settings { connect_timeout: PATIENCE, ..sharing(redis.settings()) };
    let a = Worker::on_host(settings, 1);
    redis.subscribed(1);
    a.list(0);
    redis.signal("-STOP");
    a.say(ban(1, 20_000, 0, 1));
    std::thread::sleep(Duration::from_millis(1_500));
    redis.signal("-CONT");
    let heard = a.hear_banned(1);
    assert!(heard.left <= 18_600 && heard.ago >= 1_400, "{heard:?}");
}

#[test]
fn a_redis_that_comes_back_is_listened_to_again() {
    let mut redis = Redis::start(&[]);
    let (a, b) = two_hosts(&redis);
    redis.kill();
    redis.restart();
    redis.subscribed(2);
    a.say(ban(1, 60_000, 0, 1));
    b.hear_banned(1);
}

#[test]
fn a_redis_that_stalls_is_given_up() {
    let redis = Redis::start(&[]);
    let mut settings = sharing(redis.settings());
    settings.connect_timeout = Duration::from_millis(200);
    settings.timeout = Duration::from_millis(50);
    let a = Worker::new(settings);
    redis.subscribed(1);
    redis.signal("-STOP");
    a.say(What::List { known: 1 });
    a.hear(|heard| matches!(heard, Heard::Failed).then_some(()));
    assert!(matches!(a.event(), LinkEvent::Lost { .. }));
    redis.signal("-CONT");
    assert!(matches!(a.event(), LinkEvent::Back { .. }));
}

#[test]
fn rights_that_are_missing_are_said_once() {
    let redis = Redis::start(&[]);
    let rights = ["+evalsha", "+script|load", "+time", "+mget", "+set", "+del", "+hello"];
    let user = |name: &str, more: &[&str]| {
        let words = [
            &["ACL", "SETUSER", name, "on", ">pw", "~sluice:*", "resetchannels", "-@all"],
            &rights[..],
            more,
        ];
        redis.ask::<()>(&words.concat()).unwrap();
        let (username, password) = (Some(name.to_owned()), secret("pw"));
        Worker::new(Settings { username, password, ..sharing(redis.settings()) })
    };
    let zset = ["+zadd", "+zrem", "+zrange", "+zremrangebyscore", "+pexpireat", "+publish", "&sluice:*"];
    // All but the right to subscribe: bans are shared, but others are not heard at once.
    let deaf = user("deaf", &zset);
    assert!(matches!(deaf.event(), LinkEvent::Deaf { reason, .. } if reason.contains("NOPERM")));
    deaf.say(ban(1, 60_000, 0, 1));
    deaf.hear_banned(1);
    let mute = user("mute", &["+subscribe", "&sluice:*"]);
    for _ in 0..2 {
        mute.say(ban(2, 60_000, 0, 1));
        mute.hear(|heard| matches!(heard, Heard::Failed).then_some(()));
    }
    assert!(matches!(mute.event(), LinkEvent::Bans { .. }));
    assert_eq!(mute.other_events(), 0);
}
