//! Bans over two hosts and one Redis.

use super::*;
use crate::policy::Millis;
use crate::policy::ban::{Cause, Terms};
use crate::policy::limit::KeyHash;
use crate::remote::redis::ban::{Ask, Banned, Heard, What};

const TERMS: Terms = Terms { count: 3, window: 10_000, duration: 60_000, max_duration: 150_000 };

pub(super) fn key(n: u32) -> KeyHash {
    KeyHash::new(&n.to_be_bytes())
}

/// Settings of a link that bans are shared through.
pub(super) fn sharing(mut settings: Settings) -> Settings {
    settings.bans = true;
    settings
}

pub(super) fn ban(n: u32, left: Millis, ago: Millis, level: u32) -> What {
    What::Ban {
        ban: Banned { key: key(n), left, ago, level, cause: Cause::Manual },
        force: false,
        memory: 1_000,
    }
}

fn hit(n: u32) -> What {
    hit_under(n, TERMS)
}

fn hit_under(n: u32, terms: Terms) -> What {
    let counter = key(n).with(&KeyHash::new(b"rule"));
    What::Hit { key: key(n), counter, terms, cause: Cause::Status }
}

impl Worker {
    pub(super) fn say(&self, what: What) {
        self.say_ago(what, Duration::ZERO);
    }

    /// Something that was to be told so long ago.
    fn say_ago(&self, what: What, ago: Duration) {
        let at = Instant::now().checked_sub(ago).unwrap();
        self.engine.submit(vec![Job::Ban(Ask { link: 0, zone: "z".to_owned(), at, what })]);
    }

    pub(super) fn hear<T>(&self, mut pick: impl FnMut(&Heard) -> Option<T>) -> T {
        self.wait(|done| match done {
            Done::Ban(news) if news.zone == "z" && news.link == 0 => pick(&news.what),
            _ => None,
        })
    }

    pub(super) fn hear_banned(&self, n: u32) -> Banned {
        self.hear(|heard| match heard {
            Heard::Banned(ban) if ban.key == key(n) => Some(*ban),
            _ => None,
        })
    }

    fn hear_lifted(&self, n: u32) -> Millis {
        self.hear(|heard| match heard {
            Heard::Lifted { key: its, ago } if *its == key(n) => Some(*ago),
            _ => None,
        })
    }

    fn list(&self, known: u64) -> (u64, Vec<Banned>) {
        self.say(What::List { known });
        self.hear(|heard| match heard {
            Heard::Listed { version, bans, whole } => {
                assert!(whole);
                Some((*version, bans.clone()))
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
        assert_eq!((heard.level, heard.cause), (2, Cause::Manual));
    }
    b.say(What::Lift { key: key(1), ago: 0, left: 60_000 });
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
    assert_eq!(a.list(1).1, []);
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
            Heard::Banned(ban) if ban.level >= level => Some(*ban),
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
    a.say(What::Lift { key: key(1), ago: 2_000, left: 60_000 });
    assert!((2_000..3_000).contains(&b.hear_lifted(1)));
    a.hear_lifted(1);
    b.say(ban(1, 57_000, 3_000, 1));
    assert!(b.hear_lifted(1) >= 2_000);
    assert_eq!(a.list(1).1, []);
    // Banned anew a second ago: an end before that does not end it.
    b.say(ban(1, 60_000, 1_000, 1));
    b.hear_banned(1);
    a.say(What::Lift { key: key(1), ago: 1_500, left: 60_000 });
    assert_eq!(a.list(1).1.len(), 1);
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
    a.say(What::Lift { key: key(3), ago: 0, left: 1 });
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
        assert_eq!(a.list(1).1, [], "{foreign:?}");
        (0..3).for_each(|_| a.say(hit(1)));
        b.hear_banned(1);
        redis.ask::<()>(&["ZADD", list, "99999999999999", "nobody's"]).unwrap();
        assert_eq!(a.list(1).1.len(), 1, "{foreign:?}");
        b.say(What::Lift { key: key(1), ago: 0, left: 1 });
        a.hear_lifted(1);
        b.hear_lifted(1);
    }
    for message in ["", "ban z x", "ban z", "lift z 00 1", "ban  1 2 3 4"] {
        redis.ask::<()>(&["PUBLISH", "sluice:bans", message]).unwrap();
    }
    a.say(ban(9, 60_000, 0, 1));
    b.hear_banned(9);
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
