//! The core's round-robin peers, which every balancer of nginx builds on: reading them, and writing the bits of
//! `down` that are ours.

use core::cell::Cell;
use core::ptr::addr_of;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nginx_sys as sys;

use super::super::balance::Tuning;
use super::super::sys::{CORE_STICKY, PEERS_CHANGE, PeersLock, peers_config, peers_resolve, zone_of};
use crate::policy::Millis;
use crate::policy::balance::{Facts, Mode, Outlook, Panic, Standing, State};
use crate::policy::health::{Change, Condition};
use crate::remote::probe::Target;
use crate::shared::health::Check as SharedCheck;

pub type Upstream = *mut sys::ngx_http_upstream_srv_conf_t;
pub type Peers = *mut sys::ngx_http_upstream_rr_peers_t;
type Peer = *mut sys::ngx_http_upstream_rr_peer_t;

/// Bits of `down`. 1 is the configuration's (`down`), and 8 where the core knows `drain`; 64 is that of the
/// breakers of servers.
const CONFIGURED: usize = 1;
const UNHEALTHY: usize = 2;
const CHECKING: usize = 4;
/// Only for sessions that are bound to it.
pub const DRAINING: usize = 8;
/// Waits until no healthy server is left.
pub const DEGRADED: usize = 16;
/// The group is in panic and sends to nobody.
const REFUSED: usize = 32;
/// All that we write.
const OURS: usize = UNHEALTHY | CHECKING | DEGRADED | REFUSED | if CORE_STICKY { 0 } else { DRAINING };

/// Primary servers and backup servers are two lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Primary,
    Backup,
}

/// A peer as the configuration made it.
pub struct Server {
    pub role: Role,
    /// The text in the configuration.
    server: String,
    /// The address as nginx prints it.
    pub name: String,
    address: Vec<u8>,
    /// `down` in the configuration.
    pub configured_down: bool,
}

impl Server {
    /// `server` and `name` as in the fields, `down` as in the peer.
    pub fn new(role: Role, (server, name): (String, String), address: Vec<u8>, down: usize) -> Self {
        Self { role, server, name, address, configured_down: down & CONFIGURED != 0 }
    }

    /// Whether both are the same server of a group.
    pub fn same(&self, other: &Self) -> bool {
        self.role == other.role && self.server == other.server && self.address == other.address
    }

    /// The text in the configuration.
    pub fn text(&self) -> &str {
        &self.server
    }

    /// What tells it from the group's other servers.
    pub fn identity(&self) -> String {
        format!("{}\0{}\0{:?}", self.server, self.name, self.role)
    }

    /// # Safety
    /// `peer` must be a live peer.
    pub unsafe fn is(&self, peer: *const sys::ngx_http_upstream_rr_peer_t) -> bool {
        // SAFETY: the caller vouches for the peer.
        unsafe { self.address == address_of(peer) }
    }
}

/// A server and its records.
pub struct Member {
    pub server: Server,
    pub records: Vec<Record>,
    pub tuning: Tuning,
    /// Whether it is still among the group's peers: servers found by DNS come and go.
    present: Cell<bool>,
}

/// One check of one server.
pub struct Record {
    /// The number of the check in the configuration.
    pub check: usize,
    /// The number of the record in the zone.
    pub index: usize,
    pub shared: &'static SharedCheck,
}

impl Member {
    pub fn new(server: Server, records: Vec<Record>, tuning: Tuning) -> Self {
        Self { server, records, tuning, present: Cell::new(true) }
    }

    /// Whether there is a point in probing it.
    pub fn is_probed(&self) -> bool {
        self.present.get() && !self.server.configured_down
    }

    /// Where to probe.
    pub fn target(&self, port: Option<u16>) -> Option<Target> {
        target(&self.server.address, port)
    }

    /// Whether its checks let traffic through.
    pub fn is_usable(&self) -> bool {
        self.verdict() == 0
    }

    /// The last of its checks to fail has passed: it begins to warm up.
    pub fn recover(&self, change: Change, now: Millis) {
        let fell = |condition| matches!(condition, Condition::Down | Condition::Checking);
        if fell(change.from) && !fell(change.to) && self.verdict() == 0 {
            self.tuning.recover(now);
        }
    }

    /// One of its checks calls it degraded.
    pub fn is_degraded(&self) -> bool {
        self.records.iter().any(|record| super::condition(record.shared) == Condition::Degraded)
    }

    /// What it counts for in its group; `None`: people took it out.
    fn standing(&self, ejected: bool) -> Option<Standing> {
        let counts = self.present.get() && !self.server.configured_down && !self.tuning.drains();
        counts.then(|| Standing {
            backup: self.server.role == Role::Backup,
            usable: self.verdict() == 0,
            ejected,
            degraded: self.is_degraded(),
        })
    }

    /// All that keeps it from getting requests, as bits of `down`.
    fn bits(&self, outlook: &Outlook, panic: Option<Panic>) -> usize {
        let mut bits = self.verdict();
        let panics =
            panic.and_then(|panic| outlook.panics(panic)).filter(|_| self.server.role == Role::Primary);
        match panics {
            Some(Mode::All) => bits &= !UNHEALTHY,
            Some(Mode::None) => bits |= REFUSED,
            None if self.is_degraded() && outlook.spares_degraded() => bits |= DEGRADED,
            None => {}
        }
        if self.tuning.drains() && !CORE_STICKY { bits | DRAINING } else { bits }
    }

    /// Whether it could have requests, and waits because healthy servers are left.
    pub fn waits(&self, outlook: &Outlook, panic: Option<Panic>) -> bool {
        self.standing(false).is_some() && self.bits(outlook, panic) == DEGRADED
    }

    /// Its state in one word; `unavail`: the core has put it aside after `max_fails`.
    #[allow(dead_code, reason = "for the API, which is to come")]
    pub fn state(&self, unavail: bool) -> State {
        let verdict = self.verdict();
        State::of(Facts {
            down: self.server.configured_down,
            draining: self.tuning.drains(),
            unhealthy: verdict & UNHEALTHY != 0,
            checking: verdict & CHECKING != 0,
            unavail,
        })
    }

    /// What its checks say, as bits of `down`: one that fails is enough.
    fn verdict(&self) -> usize {
        self.records.iter().fold(0, |bits, record| {
            bits | match super::condition(record.shared) {
                Condition::Up | Condition::Degraded => 0,
                Condition::Down => UNHEALTHY,
                Condition::Checking => CHECKING,
            }
        })
    }
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

/// The core's count of changes of the group's primary list (servers found by DNS).
pub fn changes(us: Upstream) -> usize {
    if !PEERS_CHANGE {
        return 0;
    }
    // SAFETY: `lists` gives live lists.
    lists(us).map_or(0, |[(_, primary), _]| unsafe { peers_config(primary) })
}

/// Whether DNS may add servers to a group.
pub fn may_grow(us: Upstream) -> bool {
    let resolves = |(_, list): &(Role, Peers)| {
        // SAFETY: `lists` gives live lists, or null for the second.
        !list.is_null() && unsafe { peers_resolve(*list) }
    };
    lists(us).is_some_and(|lists| lists.iter().any(resolves))
}

/// The servers of a group in the order of its lists. Only while nobody else changes them: in `init_module`.
pub fn servers(us: Upstream) -> Option<Vec<Server>> {
    let mut found = Vec::new();
    for (role, list) in lists(us)? {
        if list.is_null() {
            continue;
        }
        // SAFETY: a live list; peers are linked by `next` and end with null; their texts and addresses live as
        // long as they do.
        unsafe {
            let mut peer = (*list).peer;
            while !peer.is_null() {
                found.push(Server {
                    role,
                    server: (*peer).server.to_string(),
                    name: (*peer).name.to_string(),
                    address: address_of(peer).to_vec(),
                    configured_down: (*peer).down & CONFIGURED != 0,
                });
                peer = (*peer).next;
            }
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
    members: &'m [Member],
    mut see: impl FnMut(Peer, usize, Option<&'m Member>),
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

fn outlook(members: &[Member], ejected: Ejected<'_>) -> Outlook {
    Outlook::of(members.iter().enumerate().filter_map(|(number, member)| member.standing(ejected(number))))
}

/// Writes what keeps `members` from getting requests into the peers, and returns what their verdicts come to. The
/// records are read under the list's lock: of two workers that do this at once, the later one writes what is true.
pub fn apply(us: Upstream, members: &[Member], panic: Option<Panic>, ejected: Ejected<'_>) -> Outlook {
    for (role, list) in lists(us).into_iter().flatten() {
        if list.is_null() {
            continue;
        }
        // SAFETY: a live list of this process's cycle. Nothing between lock and unlock allocates, logs or panics.
        unsafe {
            let _lock = PeersLock::write(list);
            let outlook = outlook(members, ejected);
            let of_role = members.iter().filter(|member| member.server.role == role);
            of_role.for_each(|member| member.present.set(false));
            each(list, role, members, |peer, _, member| {
                if let Some(member) = member {
                    member.present.set(true);
                    mark(list, peer, OURS, member.bits(&outlook, panic));
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
unsafe fn address_of<'p>(peer: *const sys::ngx_http_upstream_rr_peer_t) -> &'p [u8] {
    // SAFETY: the caller vouches for the peer; `sockaddr` points to `socklen` bytes.
    unsafe { core::slice::from_raw_parts((*peer).sockaddr.cast(), (*peer).socklen as usize) }
}

/// A socket address as the system lays it out, as a target; `port` overrides its own.
fn target(address: &[u8], port: Option<u16>) -> Option<Target> {
    let (family, rest) = address.split_first_chunk::<2>()?;
    let family = i32::from(u16::from_ne_bytes(*family));
    if family == libc::AF_UNIX {
        let path = rest.split(|byte| *byte == 0).next().filter(|path| !path.is_empty())?;
        return Some(Target::Unix(PathBuf::from(std::ffi::OsStr::from_bytes(path))));
    }
    let (own, rest) = rest.split_first_chunk::<2>()?;
    let port = port.unwrap_or(u16::from_be_bytes(*own));
    match family {
        libc::AF_INET => {
            let ip = Ipv4Addr::from(*rest.first_chunk::<4>()?);
            Some(Target::Tcp(SocketAddr::V4(SocketAddrV4::new(ip, port))))
        }
        libc::AF_INET6 => {
            let (flow, rest) = rest.split_first_chunk::<4>()?;
            let (ip, rest) = rest.split_first_chunk::<16>()?;
            let (flow, scope) = (u32::from_ne_bytes(*flow), u32::from_ne_bytes(*rest.first_chunk::<4>()?));
            Some(Target::Tcp(SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::from(*ip), port, flow, scope))))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn family(family: i32) -> Vec<u8> {
        (family as u16).to_ne_bytes().to_vec()
    }

    #[test]
    fn addresses_become_targets() {
        let v4 = [family(libc::AF_INET), vec![0x1f, 0x90, 127, 0, 0, 1], vec![0; 8]].concat();
        assert_eq!(target(&v4, None), Some(Target::Tcp(([127, 0, 0, 1], 8080).into())));
        assert_eq!(target(&v4, Some(9)), Some(Target::Tcp(([127, 0, 0, 1], 9).into())));
        let mut v6 = [family(libc::AF_INET6), vec![0x1f, 0x90], vec![0; 4], vec![0; 15], vec![1]].concat();
        v6.extend(7u32.to_ne_bytes());
        let expected = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 8080, 0, 7);
        assert_eq!(target(&v6, None), Some(Target::Tcp(expected.into())));
        let unix = [family(libc::AF_UNIX), b"/run/app.sock\0junk".to_vec()].concat();
        assert_eq!(target(&unix, Some(9)), Some(Target::Unix("/run/app.sock".into())));
    }

    #[test]
    fn what_is_no_address_is_none() {
        let unnamed = [family(libc::AF_UNIX), vec![0; 4]].concat();
        let cut = [family(libc::AF_INET6), vec![0; 20]].concat();
        for bytes in [&[][..], &[1], &unnamed, &cut, &family(libc::AF_INET), &family(99)] {
            assert_eq!(target(bytes, None), None, "{bytes:?}");
        }
    }
}
