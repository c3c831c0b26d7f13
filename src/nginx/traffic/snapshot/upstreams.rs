//! Upstream groups and their servers: the core's lists, and what is known of each server beside them.

use core::cell::OnceCell;
use core::ptr::addr_of;
use core::sync::atomic::Ordering::Relaxed;
use std::collections::HashMap;
use std::rc::Rc;

use nginx_sys as sys;

use super::super::peers::{self as peers_of, Server};
use super::super::process::alive;
use super::web::responses;
use super::{Group, HealthChecks, Histogram, Peer, breakers, probes};
use crate::nginx::conf::MainConf;
use crate::nginx::health::{self, Member, Role, peers};
use crate::nginx::sys::{PeersLock, now, zone_of};
use crate::nginx::{events, membership, upstream};
use crate::policy::balance::{Barred, FULL, Facts, Reasons, State, because, share};
use crate::policy::breaker::{Forced, State as BreakerState};
use crate::policy::health::Condition;
use crate::policy::traffic::shown;
use crate::shared::traffic::Series;
use crate::shared::traffic::cells;

/// All explicit groups.
pub fn upstreams(conf: &MainConf) -> Vec<Group> {
    let groups = conf.upstreams.groups.iter();
    // SAFETY: groups are of this process's cycle.
    let explicit = groups.filter(|group| unsafe { !(*group.upstream).srv_conf.is_null() });
    let said = Said::default();
    explicit.map(|group| of(conf, group, &said)).collect()
}

/// The explicit group of this name.
pub fn upstream(conf: &MainConf, name: &str) -> Option<Group> {
    let mut groups = conf.upstreams.groups.iter();
    // SAFETY: as in `upstreams`.
    groups
        .find(|group| group.name == name && unsafe { !(*group.upstream).srv_conf.is_null() })
        .map(|group| of(conf, group, &Said::default()))
}

/// What the core keeps of one peer, copied while its list is locked.
struct Raw {
    at: usize,
    role: Role,
    name: usize,
    weight: u64,
    conns: u64,
    max_conns: u64,
    max_fails: u64,
    fail_timeout: u64,
    down: usize,
    /// Failed attempts, and milliseconds until the core tries again, if it has put the server aside.
    unavail: Option<(u64, u64)>,
}

/// What the event log has of the last verdict on each server: what it became, and why. Read once it is needed.
#[derive(Default)]
struct Said(OnceCell<HashMap<(String, String), (String, String)>>);

impl Said {
    /// Why a server became what it is, if the log still knows.
    fn why(&self, upstream: &str, server: &str, is: Condition) -> Option<&str> {
        let verdicts = || {
            let events =
                events::page(0).events.into_iter().filter(|event| event.kind == events::Kind::Health);
            // Of several the last one stays.
            events.map(|event| ((event.upstream, event.peer), (event.to, event.text))).collect()
        };
        let all: &HashMap<_, _> = self.0.get_or_init(verdicts);
        let (became, why) = all.get(&(upstream.to_owned(), server.to_owned()))?;
        (became == is.as_str()).then_some(why.as_str())
    }
}

fn of(conf: &MainConf, group: &upstream::Group, said: &Said) -> Group {
    membership::catch_up(conf, group);
    group.traffic.refresh(conf, group);
    health::refresh(conf, group);
    peers_of::observe(conf, group);
    // SAFETY: a group of this process's cycle.
    let zone = unsafe { zone_of(group.upstream).as_ref() };
    let servers = group.traffic.servers();
    let found = raw(group, servers.len());
    let members = group.health.members();
    let store = conf.traffic.store();
    let peers = found.iter().enumerate().filter_map(|(number, raw)| {
        let its = servers.get(raw.at)?;
        let mut peer = peer((conf, group, said), its, member_of(&members, number, its), raw);
        // The core's own count never loses the requests of a worker that was killed.
        if let Some(store) = store {
            peer.active = store.gauge(its.series.number, alive);
        }
        Some(peer)
    });
    Group {
        name: group.name.clone(),
        zone: zone.map(|zone| zone.shm.name.to_string()),
        peers: peers.collect(),
        keepalive: store.map(|store| group.traffic.keepalive(store)),
        zombies: store.map_or(0, |store| group.traffic.zombies(store) as u64),
        panic: group.health.panics(),
        breaker: group.breaker.gate().map(breakers::of),
    }
}

/// Copies the peers; `room` is how many there may be at most, so that nothing allocates under the lock.
fn raw(group: &upstream::Group, room: usize) -> Vec<Raw> {
    let mut found: Vec<Raw> = Vec::with_capacity(room);
    let second = i64::try_from(now().wall / 1_000).unwrap_or(0);
    for (role, list) in peers::lists(group.upstream).into_iter().flatten() {
        if list.is_null() {
            continue;
        }
        // SAFETY: a live list of this process's cycle. Nothing between lock and unlock allocates, logs or panics.
        unsafe {
            let _lock = PeersLock::write(list);
            let mut peer = (*list).peer;
            while !peer.is_null() && found.len() < room {
                let name = addr_of!((*peer).name);
                let left = (*peer).fail_timeout.saturating_sub(second.saturating_sub((*peer).checked));
                let aside = (*peer).max_fails != 0 && (*peer).fails >= (*peer).max_fails && left >= 0;
                found.push(Raw {
                    at: group.traffic.position(name).unwrap_or(usize::MAX),
                    role,
                    name: name as usize,
                    weight: (*peer).weight.unsigned_abs() as u64,
                    conns: (*peer).conns as u64,
                    max_conns: (*peer).max_conns as u64,
                    max_fails: (*peer).max_fails as u64,
                    fail_timeout: (*peer).fail_timeout.unsigned_abs(),
                    down: (*peer).down,
                    unavail: aside.then(|| ((*peer).fails as u64, left.unsigned_abs() * 1_000)),
                });
                peer = (*peer).next;
            }
        }
    }
    found
}

fn peer(
    (conf, group, said): (&MainConf, &upstream::Group, &Said),
    its: &Server,
    member: Option<&Member>,
    raw: &Raw,
) -> Peer {
    let why = |is| said.why(&group.name, &its.server.name, is);
    let series = its.series;
    let breaker = group.breaker.servers().and_then(|servers| {
        servers.named(raw.name as *const sys::ngx_str_t).map(|member| breakers::of(&member.gate))
    });
    Peer {
        id: its.id,
        server: its.server.name.clone(),
        name: its.server.text().to_owned(),
        backup: raw.role == Role::Backup,
        weight: raw.weight,
        state: state(member, raw),
        active: raw.conns,
        max_conns: raw.max_conns,
        max_fails: raw.max_fails,
        fail_timeout: raw.fail_timeout,
        slow_start: member.map_or(0, |member| member.tuning.slow_start),
        route: member.map_or(String::new(), |member| member.tuning.route().to_owned()),
        down: raw.down & 1 != 0,
        drain: raw.down & health::DRAINING != 0 || member.is_some_and(|member| member.tuning.drains()),
        requests: series.sum(|peer| &peer.requests),
        responses: responses(series, |peer| &peer.codes),
        header_time: average(series, |peer| &peer.header_time),
        response_time: average(series, |peer| &peer.response_time),
        times: times(series),
        sent: series.sum(|peer| &peer.sent),
        received: series.sum(|peer| &peer.received),
        fails: series.sum(|peer| &peer.fails),
        unavail: series.sum(|peer| &peer.unavail),
        health_checks: member.and_then(checks),
        probes: member.map_or_else(Vec::new, |member| probes::of(conf, member, &its.probes)),
        share: member.map_or(1.0, |member| member.tuning.share()),
        downtime: downtime(series),
        downstart: Some(series.whole().down_start.load(Relaxed)).filter(|at| *at != 0),
        selected: series.all().map(|peer| peer.selected.load(Relaxed)).max().filter(|at| *at != 0),
        degraded: member.is_some_and(Member::is_degraded),
        because: because(reasons(member, breaker.as_ref(), raw, why)),
        breaker,
    }
}

/// What keeps a server from traffic.
fn reasons<'s>(
    member: Option<&Member>,
    breaker: Option<&super::Breaker>,
    raw: &Raw,
    why: impl Fn(Condition) -> Option<&'s str>,
) -> Reasons<'s> {
    let (now, down) = (now().mono, state(member, raw) == State::Down);
    let records = || member.into_iter().flat_map(|member| &member.records);
    let conditions = || records().map(|record| (health::condition(record.shared), record.shared.view()));
    let failing = conditions().filter(|(condition, _)| *condition == Condition::Down);
    let part = member.and_then(|member| {
        let tuning = &member.tuning;
        Some(share(tuning.words?.began()?, now, tuning.slow_start))
    });
    let unhealthy = failing.map(|(_, view)| now.saturating_sub(view.last_change)).max();
    let degraded = member.is_some_and(Member::is_degraded);
    let is =
        if unhealthy.is_some() { Some(Condition::Down) } else { degraded.then_some(Condition::Degraded) };
    Reasons {
        down,
        draining: state(member, raw) == State::Draining,
        unhealthy,
        finding: is.and_then(why),
        checking: conditions().any(|(condition, _)| condition == Condition::Checking),
        unavail: raw.unavail,
        breaker: breaker.and_then(barred),
        degraded,
        full: Some(raw.conns).filter(|conns| raw.max_conns != 0 && *conns >= raw.max_conns),
        warming: part.filter(|part| *part < FULL).map(|part| part * 100 / FULL),
    }
}

/// How a circuit breaker keeps a server; one in dry run does not.
fn barred(breaker: &super::Breaker) -> Option<Barred> {
    let view = &breaker.view;
    match (view.forced, view.state) {
        (Some(Forced::Open), _) => Some(Barred::Forced(view.forced_until.saturating_sub(now().mono))),
        (None, BreakerState::Open) if !breaker.settings.dry_run => {
            Some(Barred::Open(view.why, view.last, breaker.retry_after))
        }
        (None, BreakerState::HalfOpen) if !breaker.settings.dry_run => Some(Barred::HalfOpen),
        _ => None,
    }
}

/// The member that a server is: as a rule that of its own number, as both are in the order of the lists.
fn member_of<'m>(members: &'m [Rc<Member>], number: usize, its: &Server) -> Option<&'m Member> {
    let is = |member: &&Rc<Member>| member.server.same(&its.server);
    members.get(number).filter(is).or_else(|| members.iter().find(is)).map(Rc::as_ref)
}

/// The state of each server of a group.
pub fn states(conf: &MainConf, group: &upstream::Group) -> Vec<(&'static Series<cells::Peer>, State)> {
    membership::catch_up(conf, group);
    group.traffic.refresh(conf, group);
    let servers = group.traffic.servers();
    let members = group.health.members();
    let found = raw(group, servers.len()).into_iter().enumerate().filter_map(|(number, raw)| {
        let its = servers.get(raw.at)?;
        Some((its.series, state(member_of(&members, number, its), &raw)))
    });
    found.collect()
}

/// The word for how a server stands.
fn state(member: Option<&Member>, raw: &Raw) -> State {
    if let Some(member) = member {
        return member.state(raw.unavail.is_some());
    }
    State::of(Facts {
        down: raw.down & 1 != 0,
        draining: raw.down & health::DRAINING != 0,
        unavail: raw.unavail.is_some(),
        ..Facts::default()
    })
}

/// The averages of those workers that chose the server last, weighted by what they saw of it.
fn average(
    series: &Series<cells::Peer>,
    of: impl Fn(&'static cells::Peer) -> &'static core::sync::atomic::AtomicU64,
) -> Option<u64> {
    /// Milliseconds within which workers are taken to see the same.
    const FRESH: u64 = 10_000;
    let last = series.all().map(|peer| peer.selected.load(Relaxed)).max()?;
    let (mut sum, mut weight) = (0u128, 0u128);
    for peer in series.all() {
        let average = of(peer).load(Relaxed);
        if average == 0 || peer.selected.load(Relaxed) + FRESH < last {
            continue;
        }
        let seen: u64 = peer.times.iter().map(|cell| cell.load(Relaxed)).sum();
        sum += u128::from(average) * u128::from(seen.max(1));
        weight += u128::from(seen.max(1));
    }
    shown(u64::try_from(sum.checked_div(weight)?).ok()?)
}

fn times(series: &Series<cells::Peer>) -> Histogram {
    let buckets = series.sums(|peer| &peer.times);
    Histogram { buckets, count: buckets.iter().sum(), sum: series.sum(|peer| &peer.time_sum) }
}

fn downtime(series: &Series<cells::Peer>) -> u64 {
    let whole = series.whole();
    let since = whole.down_since.load(Relaxed);
    let running = if since == 0 { 0 } else { now().wall.saturating_sub(since) };
    whole.downtime.load(Relaxed) + running
}

fn checks(member: &Member) -> Option<HealthChecks> {
    let views = member.records.iter().map(|record| record.shared.view());
    views.fold(None, |sum: Option<HealthChecks>, view| {
        let sum = sum.unwrap_or_default();
        Some(HealthChecks {
            checks: sum.checks + view.checks,
            fails: sum.fails + view.fails,
            unhealthy: sum.unhealthy + view.unhealthy,
            // One that failed is enough.
            last_passed: match (sum.last_passed, view.last_passed) {
                (Some(one), Some(other)) => Some(one && other),
                (one, other) => one.or(other),
            },
        })
    })
}
