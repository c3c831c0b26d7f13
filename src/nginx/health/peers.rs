//! The core's round-robin peers, which every balancer of nginx builds on: reading them, and writing the bits of
//! `down` that are ours.

use core::ptr::addr_of;
use std::rc::Rc;

use nginx_sys as sys;

use super::super::sys::{CORE_STICKY, PEERS_CHANGE, PeersLock, peers_config, peers_templates, zone_of};
use super::copy;
use super::member::{Member, Server};
use crate::policy::Millis;
use crate::policy::balance::{Outlook, Panic};

pub type Upstream = *mut sys::ngx_http_upstream_srv_conf_t;
pub type Peers = *mut sys::ngx_http_upstream_rr_peers_t;
type Peer = *mut sys::ngx_http_upstream_rr_peer_t;

/// Bits of `down`. 1 is the configuration's (`down`), and 8 where the core knows `drain`; 64 is that of the
/// breakers of servers.
pub const CONFIGURED: usize = 1;
pub(super) const UNHEALTHY: usize = 2;
pub const CHECKING: usize = 4;
/// Only for sessions that are bound to it.
pub const DRAINING: usize = 8;
/// Waits until no healthy server is left.
pub const DEGRADED: usize = 16;
/// The group is in panic and sends to nobody.
pub(super) const REFUSED: usize = 32;
/// All that we write.
const OURS: usize = UNHEALTHY | CHECKING | DEGRADED | REFUSED | if CORE_STICKY { 0 } else { DRAINING };

/// Primary servers and backup servers are two lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Primary,
    Backup,
}

/// The two lists of a group's peers; the second may be null. `None` if the group's balancer keeps something
/// else.
pub fn lists(us: Upstream) -> Option<[(Role, Peers); 2]> {
    // SAFETY: `us` is an explicit group of this process's cycle, whose peers the core has initialised. Whatever
    // a balancer of a third party keeps there, two words of it are compared before any pointer is followed: a
    // list of the core's lies in the group's own zone, or, without one, names the group.
    unsafe {
        let peers = (*us).peer.data.cast::<sys::ngx_http_upstream_rr_peers_t>();
        if peers.is_null() {
            return None;
        }
        let zone = zone_of(us);
        let ours = match zone.is_null() {
            false => !(*peers).shpool.is_null() && core::ptr::eq((*peers).shpool.cast(), (*zone).shm.addr),
            true => core::ptr::eq((*peers).name, addr_of!((*us).host)),
        };
        ours.then(|| [(Role::Primary, peers), (Role::Backup, (*peers).next)])
    }
}

/// The primary servers of a group, if its balancer keeps the core's lists.
pub fn primaries(us: Upstream) -> Option<Peers> {
    lists(us).map(|[(_, primary), _]| primary)
}

/// Shows `see` each peer of both lists, which are locked meanwhile: it may not allocate, log or panic.
fn look(lists: [(Role, Peers); 2], mut see: impl FnMut(&sys::ngx_http_upstream_rr_peer_t)) {
    for (_, list) in lists.into_iter().filter(|(_, list)| !list.is_null()) {
        // SAFETY: a live list.
        unsafe {
            let _lock = PeersLock::read(list);
            let mut next = (*list).peer;
            while let Some(peer) = next.as_ref() {
                see(peer);
                next = peer.next;
            }
        }
    }
}

/// Whether it is for their failures (`max_fails`) that no server of a group can be had: not because they are full (`max_conns`),
/// and not by a decision of an operator or a check. A balancer of a third party is taken at its word.
pub fn have_failed(us: Upstream) -> bool {
    let Some(lists) = lists(us) else { return true };
    let now = sys::ngx_timeofday().sec;
    let (mut failed, mut full) = (false, false);
    look(lists, |peer| {
        let set_aside =
            peer.max_fails > 0 && peer.fails >= peer.max_fails && now - peer.checked <= peer.fail_timeout;
        failed |= peer.down == 0 && set_aside;
        full |= peer.down == 0 && !set_aside && peer.max_conns > 0 && peer.conns >= peer.max_conns;
    });
    failed && !full
}

/// The least number of failures within so many milliseconds at which `max_fails` takes a server of the group out of use: one
/// after the other there are no more. `None`: it takes out none.
pub fn most_failures(us: Upstream, window: Millis) -> Option<Millis> {
    let mut least = None;
    look(lists(us)?, |peer| {
        let periods = window.checked_div((peer.fail_timeout.max(0) as Millis).saturating_mul(1_000));
        let most = periods.map(|periods| (peer.max_fails as Millis).saturating_mul(periods + 1));
        least = [least, most.filter(|most| *most > 0)].into_iter().flatten().min();
    });
    least
}

/// The core's count of changes of the group's primary list (servers found by DNS).
pub fn changes(us: Upstream) -> usize {
    if !PEERS_CHANGE {
        return 0;
    }
    // SAFETY: `lists` gives live lists.
    lists(us).map_or(0, |[(_, primary), _]| unsafe { peers_config(primary) })
}

/// Whether servers may come and go while nginx runs.
pub fn may_change(us: Upstream) -> bool {
    // SAFETY: `us` is an explicit group of this process's cycle.
    PEERS_CHANGE && unsafe { !zone_of(us).is_null() } && lists(us).is_some()
}

/// Whether DNS adds servers to a group.
pub fn resolves(us: Upstream) -> bool {
    // SAFETY: `lists` gives live lists, or null for the second.
    let resolves =
        |(_, list): &(Role, Peers)| !list.is_null() && unsafe { !peers_templates(*list).is_null() };
    lists(us).is_some_and(|lists| lists.iter().any(resolves))
}

/// Has servers that DNS adds to a group begin as those of a check that must pass first.
pub fn hold_newcomers_back(us: Upstream) {
    for (_, list) in lists(us).into_iter().flatten() {
        if list.is_null() {
            continue;
        }
        // SAFETY: a live list; the core makes its new peers like the template of their line.
        unsafe {
            let _lock = PeersLock::write(list);
            let mut template = peers_templates(list);
            while !template.is_null() {
                (*template).down |= CHECKING;
                template = (*template).next;
            }
        }
    }
}

/// The servers of a group in the order of its lists.
pub fn servers(us: Upstream) -> Option<Vec<Server>> {
    let mut found = Vec::new();
    for (role, list) in lists(us)? {
        if !list.is_null() {
            // SAFETY: a live list.
            found.extend(unsafe { copy::of(list) }.servers(role));
        }
    }
    Some(found)
}

/// Calls `see` with each peer of `list`, its position, and the member of `members` that it is. As a rule the list is
/// as it was when the members were found; servers found by DNS may have moved it.
///
/// # Safety
/// `list` must be a live list of this process's cycle, locked by the caller, of servers of `role`.
pub unsafe fn each<'m>(
    list: Peers,
    role: Role,
    members: &'m [Rc<Member>],
    mut see: impl FnMut(Peer, usize, Option<&'m Rc<Member>>),
) {
    let of_role = || members.iter().filter(move |member| member.server.role == role);
    let mut expected = of_role();
    // SAFETY: the caller vouches for the list; peers are linked by `next` and end with null.
    unsafe {
        let (mut peer, mut at) = ((*list).peer, 0);
        while !peer.is_null() {
            let member = expected.next().filter(|member| member.server.is(peer));
            see(peer, at, member.or_else(|| of_role().find(|member| member.server.is(peer))));
            (peer, at) = ((*peer).next, at + 1);
        }
    }
}

/// Whether its breaker keeps the server of a number, in the order of the lists, out.
pub type Ejected<'e> = &'e dyn Fn(usize) -> bool;

fn outlook(members: &[Rc<Member>], ejected: Ejected<'_>) -> Outlook {
    Outlook::of(members.iter().enumerate().filter_map(|(number, member)| member.standing(ejected(number))))
}

/// Writes what keeps `members` from getting requests into the peers, and returns what their verdicts come to. The
/// records are read under the list's lock: of two workers that do this at once, the later one writes what is true.
pub fn apply(
    us: Upstream,
    members: &[Rc<Member>],
    panic: Option<Panic>,
    (ejected, behind): (Ejected<'_>, bool),
) -> Outlook {
    let mask = if behind { OURS & !DRAINING } else { OURS };
    for (role, list) in lists(us).into_iter().flatten() {
        if list.is_null() {
            continue;
        }
        // SAFETY: a live list of this process's cycle. Nothing between lock and unlock allocates, logs or panics.
        unsafe {
            let _lock = PeersLock::write(list);
            let of_role = members.iter().filter(|member| member.server.role == role);
            of_role.for_each(|member| member.seen(None));
            each(list, role, members, |peer, _, member| {
                if let Some(member) = member {
                    member.seen(Some((*peer).down & CONFIGURED != 0));
                }
            });
            let outlook = outlook(members, ejected);
            each(list, role, members, |peer, _, member| {
                if let Some(member) = member {
                    mark(list, peer, mask, member.bits(&outlook, panic) & mask);
                }
            });
        }
    }
    outlook(members, ejected)
}

/// Writes the bits of `mask` in a peer's `down`.
///
/// # Safety
/// `peer` must be in `list`, which the caller has locked for writing.
pub unsafe fn mark(list: Peers, peer: *mut sys::ngx_http_upstream_rr_peer_t, mask: usize, bits: usize) {
    // SAFETY: the caller vouches for both.
    unsafe {
        let before = (*peer).down;
        let after = (before & !mask) | bits;
        if before == after {
            return;
        }
        (*peer).down = after;
        // The core counts the peers that are not down as a request's tries.
        if before == 0 {
            (*list).tries = (*list).tries.saturating_sub(1);
        } else if after == 0 {
            (*list).tries += 1;
        }
    }
}

/// # Safety
/// `peer` must be a live peer; the bytes live as long as it does.
pub(super) unsafe fn address_of<'p>(peer: *const sys::ngx_http_upstream_rr_peer_t) -> &'p [u8] {
    // SAFETY: the caller vouches for the peer; `sockaddr` points to `socklen` bytes.
    unsafe { core::slice::from_raw_parts((*peer).sockaddr.cast(), (*peer).socklen as usize) }
}
