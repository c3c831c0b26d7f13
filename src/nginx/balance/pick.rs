//! One pick among the core's peers: who may be chosen, and choosing without the balancer.
//!
//! Every balancer of nginx keeps the core's round-robin data at the head of its own, and leaves out the peers whose
//! bit is set in `tried`. What it would test of a peer is tested here in the same way and under the same lock.

use core::cell::Cell;
use std::rc::Rc;

use nginx_sys as sys;

use super::super::health::{DEGRADED, DRAINING, Member, Peers, Role, each};
use super::super::sys::{PeersLock, hold, now, outdated};
use super::super::upstream::Group;
use crate::policy::Millis;
use crate::policy::balance::{FULL, earned, share};

type Peer = *mut sys::ngx_http_upstream_rr_peer_t;
type Data = *mut sys::ngx_http_upstream_rr_peer_data_t;

const BITS: usize = usize::BITS as usize;

/// The data of one request's balancer, and the group it chooses from.
#[derive(Clone, Copy)]
pub struct Picker<'c> {
    pub data: Data,
    pub primaries: Peers,
    pub group: &'c Group,
    /// `tried` of the primary servers before the balancer looked at it, and the servers that warm up and had to
    /// stand back: a bit each, as many words as `tried` has.
    pub saved: &'c [Cell<usize>],
    pub mask: &'c [Cell<usize>],
}

/// What came of [`Picker::mask`].
#[derive(Clone, Copy)]
pub struct Masked {
    /// The servers it was about.
    list: Peers,
    /// The largest share of one of them.
    warmest: u32,
}

/// The servers that could be chosen.
#[derive(Default)]
struct Crowd {
    servers: usize,
    weight: u64,
    /// The largest share of one of them, and whether there is a smaller one.
    warmest: u32,
    differ: bool,
}

impl Crowd {
    fn add(&mut self, weight: u64, warmth: u32) {
        self.differ |= self.servers > 0 && warmth != self.warmest;
        self.servers += 1;
        self.weight += weight;
        self.warmest = self.warmest.max(warmth);
    }
}

/// What time it is, on both of the clocks that peers know.
#[derive(Clone, Copy)]
struct Moment {
    mono: Millis,
    seconds: sys::time_t,
}

impl Moment {
    fn now() -> Self {
        let now = now();
        Self { mono: now.mono, seconds: (now.wall / 1000).cast_signed() }
    }
}

/// # Safety
/// All of these need a live request whose balancer has set up `data`, inside its `peer.get`.
impl<'c> Picker<'c> {
    /// Remembers what has been tried of the primary servers.
    pub unsafe fn remember(&self) {
        // SAFETY: the caller vouches for `data`, whose `tried` has as many words as `saved` (see `inner`).
        unsafe {
            if core::ptr::eq((*self.data).peers, self.primaries) {
                for (at, word) in self.saved.iter().enumerate() {
                    word.set(*(*self.data).tried.add(at));
                }
            }
        }
    }

    /// Keeps those servers out of this pick that warm up and have not earned one. `None`: it makes no difference.
    pub unsafe fn mask(&self) -> Option<Masked> {
        let moment = Moment::now();
        // SAFETY: the caller vouches for `data`.
        unsafe {
            loop {
                let list = (*self.data).peers;
                if outdated(self.data) || (*list).single() != 0 {
                    return None;
                }
                let crowd = self.weigh(list, moment);
                if crowd.servers > 0 && !crowd.differ {
                    return None;
                }
                if crowd.servers > 0 {
                    for (at, word) in self.mask.iter().enumerate() {
                        *(*self.data).tried.add(at) |= word.get();
                    }
                    return Some(Masked { list, warmest: crowd.warmest });
                }
                if !self.turn_to_backups() {
                    return None;
                }
            }
        }
    }

    /// Lets the masked servers be chosen again. Whether there were any.
    pub unsafe fn unmask(&self, masked: Masked) -> bool {
        let mut any = false;
        for (at, word) in self.mask.iter().enumerate() {
            // SAFETY: as in `remember`. If the balancer has turned to the backup servers, `tried` is about those.
            unsafe {
                if core::ptr::eq((*self.data).peers, masked.list) {
                    *(*self.data).tried.add(at) &= !word.get();
                }
            }
            any |= word.take() != 0;
        }
        any
    }

    /// Puts the balancer back to where [`Self::remember`] found it.
    pub unsafe fn rewind(&self) {
        // SAFETY: as in `remember`.
        unsafe {
            (*self.data).peers = self.primaries;
            for (at, word) in self.saved.iter().enumerate() {
                *(*self.data).tried.add(at) = word.get();
            }
        }
    }

    unsafe fn weigh(&self, list: Peers, moment: Moment) -> Crowd {
        let mut crowd = Crowd::default();
        let members = self.group.health.members();
        self.mask.iter().for_each(|word| word.set(0));
        // SAFETY: the caller vouches for `list`. Nothing between lock and unlock allocates, logs or panics.
        unsafe {
            let _lock = PeersLock::write(list);
            each(list, self.role(list), &members, |peer, at, member| {
                notice(list, peer, member, moment);
                if self.may_take(peer, at, moment) {
                    crowd.add((*peer).weight.unsigned_abs() as u64, warmth(list, peer, member, moment));
                }
            });
            if !crowd.differ {
                return crowd;
            }
            each(list, self.role(list), &members, |peer, at, member| {
                let its = warmth(list, peer, member, moment);
                let (Some(words), Some(word)) =
                    (member.and_then(|member| member.tuning.words), self.mask.get(at / BITS))
                else {
                    return;
                };
                if its < crowd.warmest && self.may_take(peer, at, moment) {
                    let weight = (*peer).weight.unsigned_abs() as u64;
                    if !words.earn(earned(its, crowd.warmest, weight, crowd.weight)) {
                        word.set(word.get() | 1 << (at % BITS));
                    }
                }
            });
        }
        crowd
    }

    /// The server that the balancer has chosen has to pay, if it is not among the warmest.
    pub unsafe fn spend(&self, masked: Masked) {
        // SAFETY: after a successful pick `current` is a peer of `peers`.
        unsafe {
            let (list, peer) = ((*self.data).peers, (*self.data).current);
            let Some(member) = self.current() else { return };
            if warmth(list, peer, Some(&member), Moment::now()) < masked.warmest
                && let Some(words) = member.tuning.words
            {
                words.spend();
            }
        }
    }

    /// The server chosen last.
    pub unsafe fn current(&self) -> Option<Rc<Member>> {
        let members = self.group.health.members();
        let mut found = None;
        // SAFETY: as in `spend`; the list is only walked under its lock.
        unsafe {
            let (list, current) = ((*self.data).peers, (*self.data).current);
            let _lock = PeersLock::write(list);
            each(list, self.role(list), &members, |peer, _, member| {
                if core::ptr::eq(peer, current) {
                    found = member.cloned();
                }
            });
        }
        found
    }

    /// Takes the server that a session is bound to, if it can have another request. One of several with the same
    /// route: that with the fewest connections. A backup server only while no primary one can be chosen.
    pub unsafe fn bound(&self, pc: *mut sys::ngx_peer_connection_t, hash: u64) -> bool {
        // SAFETY: the caller vouches for `data` and passes the connection that `get` is about.
        unsafe {
            loop {
                let is =
                    |member: &Member, down| member.tuning.hash == hash && down & !(DRAINING | DEGRADED) == 0;
                if outdated(self.data) {
                    return false;
                }
                let (taken, others) = self.take(pc, is);
                if taken || others || !self.turn_to_backups() {
                    return taken;
                }
            }
        }
    }

    /// The balancer found nobody: takes a degraded server, a primary one before a backup.
    pub unsafe fn last_resort(&self, pc: *mut sys::ngx_peer_connection_t) -> bool {
        // SAFETY: as in `bound`.
        unsafe {
            if outdated(self.data) {
                return false;
            }
            self.rewind();
            loop {
                if self.take(pc, |_, down| down == DEGRADED).0 {
                    return true;
                }
                if !self.turn_to_backups() {
                    return false;
                }
            }
        }
    }

    /// Takes the peer with the fewest connections for its weight of those that are acceptable. Whether there was one,
    /// and whether the balancer could choose any.
    unsafe fn take(
        &self,
        pc: *mut sys::ngx_peer_connection_t,
        accept: impl Fn(&Member, usize) -> bool,
    ) -> (bool, bool) {
        let moment = Moment::now();
        let members = self.group.health.members();
        let mut best: Option<(Peer, usize)> = None;
        let mut others = false;
        // SAFETY: the caller vouches for `data`; under the list's lock its peers stay.
        unsafe {
            let list = (*self.data).peers;
            let _lock = PeersLock::write(list);
            each(list, self.role(list), &members, |peer, at, member| {
                others |= self.may_take(peer, at, moment);
                let right = member.is_some_and(|member| accept(member, (*peer).down));
                if right && self.is_free(peer, at, moment) {
                    let load =
                        |peer: Peer, by: Peer| (*peer).conns as u128 * (*by).weight.unsigned_abs() as u128;
                    if best.is_none_or(|(best, _)| load(peer, best) < load(best, peer)) {
                        best = Some((peer, at));
                    }
                }
            });
            if let Some((peer, at)) = best {
                self.occupy(pc, (peer, at), moment);
            }
        }
        (best.is_some(), others)
    }

    /// Chooses a peer as the core's balancers do.
    unsafe fn occupy(&self, pc: *mut sys::ngx_peer_connection_t, (peer, at): (Peer, usize), moment: Moment) {
        // SAFETY: the caller holds the lock of the peer's list and passes the connection that `get` is about; `at` is
        // within `tried` (`is_free`).
        unsafe {
            (*pc).set_cached(0);
            (*pc).connection = core::ptr::null_mut();
            (*pc).sockaddr = (*peer).sockaddr;
            (*pc).socklen = (*peer).socklen;
            (*pc).name = &raw mut (*peer).name;
            (*self.data).current = peer;
            *(*self.data).tried.add(at / BITS) |= 1 << (at % BITS);
            (*peer).conns += 1;
            hold(peer);
            if (*peer).down & DRAINING != 0 {
                // The core gave it no try, and takes one when the attempt is over.
                (*pc).tries += 1;
            }
            if moment.seconds - (*peer).checked > (*peer).fail_timeout {
                (*peer).checked = moment.seconds;
            }
        }
    }

    /// Goes on with the backup servers, as the core does when no primary one is left.
    unsafe fn turn_to_backups(&self) -> bool {
        // SAFETY: the caller vouches for `data`.
        unsafe {
            let next = (*(*self.data).peers).next;
            if next.is_null() || !core::ptr::eq((*self.data).peers, self.primaries) {
                return false;
            }
            (*self.data).peers = next;
            for at in 0..self.saved.len() {
                *(*self.data).tried.add(at) = 0;
            }
            true
        }
    }

    fn role(&self, list: Peers) -> Role {
        if core::ptr::eq(list, self.primaries) { Role::Primary } else { Role::Backup }
    }

    /// Whether a balancer could choose this peer now.
    unsafe fn may_take(&self, peer: Peer, at: usize, moment: Moment) -> bool {
        // SAFETY: the caller holds the lock of the peer's list.
        unsafe { (*peer).down == 0 && self.is_free(peer, at, moment) }
    }

    /// The same, whatever `down` says.
    unsafe fn is_free(&self, peer: Peer, at: usize, moment: Moment) -> bool {
        // SAFETY: as above; `tried` has as many words as `saved`.
        unsafe {
            let list = (*self.data).peers;
            at / BITS < self.saved.len()
                && *(*self.data).tried.add(at / BITS) & 1 << (at % BITS) == 0
                && ((*peer).max_conns == 0 || (*peer).conns < (*peer).max_conns)
                && ((*list).single() != 0 || !is_aside(peer, moment))
        }
    }
}

/// Whether the core leaves a peer alone for a while because it failed `max_fails` times.
unsafe fn is_aside(peer: Peer, moment: Moment) -> bool {
    // SAFETY: the caller holds the lock of the peer's list.
    unsafe {
        (*peer).max_fails != 0
            && (*peer).fails >= (*peer).max_fails
            && moment.seconds - (*peer).checked <= (*peer).fail_timeout
    }
}

/// Sees a peer become available again that the core had put aside. The core has two fields for slow start that it does
/// not use: the first says here that the peer was aside; the second, in a group without a zone, whose workers each have
/// their own view, since when it is back.
unsafe fn notice(list: Peers, peer: Peer, member: Option<&Rc<Member>>, moment: Moment) {
    let Some(tuning) = member.map(|member| &member.tuning).filter(|tuning| tuning.slow_start > 0) else {
        return;
    };
    // SAFETY: the caller holds the lock of `list`, which has `peer`.
    unsafe {
        if is_aside(peer, moment) {
            (*peer).slow_start = 1;
        } else if (*peer).slow_start != 0 {
            (*peer).slow_start = 0;
            if (*list).shpool.is_null() {
                (*peer).start_time = (moment.mono as sys::ngx_msec_t).max(1);
            } else {
                tuning.recover(moment.mono);
            }
        }
    }
}

/// The part of its share that a peer gets now.
unsafe fn warmth(list: Peers, peer: Peer, member: Option<&Rc<Member>>, moment: Moment) -> u32 {
    let Some(tuning) = member.map(|member| &member.tuning).filter(|tuning| tuning.slow_start > 0) else {
        return FULL;
    };
    let began = tuning.words.and_then(|words| words.began());
    // SAFETY: the caller passes a peer of `list` that it may look at.
    let own = unsafe { if (*list).shpool.is_null() { (*peer).start_time as Millis } else { 0 } };
    let Some(last) = began.into_iter().chain(Some(own).filter(|own| *own != 0)).max() else { return FULL };
    let its = share(last, moment.mono, tuning.slow_start);
    if its == FULL
        && let (Some(words), Some(began)) = (tuning.words, began)
    {
        words.settle(began);
    }
    its
}
