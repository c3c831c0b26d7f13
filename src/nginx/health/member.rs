//! A server of a group, its records, and what they come to.

use core::cell::Cell;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::rc::Rc;

use nginx_sys as sys;

use super::super::balance::Tuning;
use super::peers::{CHECKING, DEGRADED, DRAINING, REFUSED, Role, UNHEALTHY, address_of};
use crate::nginx::sys::CORE_STICKY;
use crate::policy::Millis;
use crate::policy::balance::{Facts, Mode, Outlook, Panic, Standing, State};
use crate::policy::health::{Change, Condition};
use crate::remote::probe::Target;
use crate::shared::health::Check as SharedCheck;

/// A peer as it was found.
pub struct Server {
    pub role: Role,
    /// What the core knows it by: the text in the configuration, or the name that DNS has for it.
    pub(super) server: String,
    /// The text of the `server` line it comes from.
    pub(super) line: String,
    /// The address as nginx prints it.
    pub name: String,
    pub(super) address: Vec<u8>,
    /// `down`, by the configuration or an operator.
    pub(super) down: bool,
    /// Where the core keeps the name, which is how it says whom it picked: only to compare.
    pub at: usize,
}

impl Server {
    /// Whether both are the same server of a group.
    pub fn same(&self, other: &Self) -> bool {
        self.role == other.role && self.server == other.server && self.address == other.address
    }

    /// What the core knows it by.
    pub fn text(&self) -> &str {
        &self.server
    }

    /// The text of the `server` line it comes from.
    pub fn line(&self) -> &str {
        &self.line
    }

    /// Whether it was `down`, by the configuration or an operator, when it was found.
    pub fn was_down(&self) -> bool {
        self.down
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

/// The servers of a group, in the order of its lists. Requests keep those they have met: a list is never changed, another
/// one takes its place.
pub type Members = Rc<[Rc<Member>]>;

/// A server and its records.
pub struct Member {
    pub server: Rc<Server>,
    pub records: Vec<Record>,
    pub tuning: Tuning,
    /// A check that has to pass first has no record: the zone is full.
    pub unchecked: bool,
    /// Whether it is still among the group's peers: servers come and go.
    present: Cell<bool>,
    /// `down`, by the configuration or an operator.
    down: Cell<bool>,
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
    pub fn new(server: Rc<Server>, records: Vec<Record>, tuning: Tuning, unchecked: bool) -> Self {
        let down = Cell::new(server.was_down());
        Self { server, records, tuning, unchecked, present: Cell::new(true), down }
    }

    /// What the list of peers says of it now; `None`: it is not there.
    pub(super) fn seen(&self, down: Option<bool>) {
        self.present.set(down.is_some());
        if let Some(down) = down {
            self.down.set(down);
        }
    }

    /// Whether there is a point in probing it.
    pub fn is_probed(&self) -> bool {
        self.present.get() && !self.down.get()
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
    pub(super) fn standing(&self, ejected: bool) -> Option<Standing> {
        let counts = self.is_probed() && !self.tuning.drains();
        counts.then(|| Standing {
            backup: self.server.role == Role::Backup,
            usable: self.verdict() == 0,
            ejected,
            degraded: self.is_degraded(),
        })
    }

    /// All that keeps it from getting requests, as bits of `down`.
    pub(super) fn bits(&self, outlook: &Outlook, panic: Option<Panic>) -> usize {
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
    pub fn state(&self, unavail: bool) -> State {
        let verdict = self.verdict();
        State::of(Facts {
            down: self.down.get(),
            draining: self.tuning.drains(),
            unhealthy: verdict & UNHEALTHY != 0,
            checking: verdict & CHECKING != 0,
            unavail,
        })
    }

    /// What its checks say, as bits of `down`: one that fails is enough.
    fn verdict(&self) -> usize {
        let unchecked = if self.unchecked { CHECKING } else { 0 };
        self.records.iter().fold(unchecked, |bits, record| {
            bits | match super::condition(record.shared) {
                Condition::Up | Condition::Degraded => 0,
                // The one keeps it out until panic, the other also then.
                Condition::Down if super::is_unproven(record.shared) => UNHEALTHY | CHECKING,
                Condition::Down => UNHEALTHY,
                Condition::Checking => CHECKING,
            }
        })
    }
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
