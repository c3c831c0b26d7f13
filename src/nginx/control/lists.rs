//! The core's lists of peers, as far as operators change them.

use std::ffi::c_char;
use std::net::SocketAddr;

use nginx_sys as sys;

use super::super::health::Server;
use super::super::health::peers::{self, CONFIGURED, DRAINING, Peers, Role, mark};
use super::super::sys::peers as core;
use super::super::sys::{CORE_STICKY, PeersLock};
use super::super::upstream::{Group, conf_of};
use crate::policy::control::{Address, Params};

type Peer = *mut sys::ngx_http_upstream_rr_peer_t;

/// The list of a group that servers of this role are in; `None`: there is none.
fn list(group: &Group, role: Role) -> Option<Peers> {
    let mut lists = peers::lists(group.upstream)?.into_iter();
    lists.find(|(its, list)| *its == role && !list.is_null()).map(|(_, list)| list)
}

/// The `ordinal`th peer like `server`; null: there is none.
///
/// # Safety
/// `list` must be a live list that the caller has locked. Nothing here allocates.
unsafe fn find(list: Peers, server: &Server, ordinal: usize) -> Peer {
    let mut left = ordinal;
    // SAFETY: the caller vouches for the list; peers are linked by `next` and end with null, and so do we.
    unsafe {
        let mut peer = (*list).peer;
        while !peer.is_null() {
            let same = (*peer).name.as_bytes() == server.name.as_bytes()
                && (*peer).server.as_bytes() == server.text().as_bytes();
            if same && left == 0 {
                break;
            }
            left -= usize::from(same);
            peer = (*peer).next;
        }
        peer
    }
}

/// What the core knows of a server, and whether DNS found it. `None`: it has gone.
pub fn params(group: &Group, server: &Server, ordinal: usize) -> Option<(Params, bool)> {
    let list = list(group, server.role)?;
    // SAFETY: a live list of this process's cycle; nothing between lock and unlock allocates (an empty text does not),
    // logs or panics.
    unsafe {
        let _lock = PeersLock::write(list);
        let peer = find(list, server, ordinal);
        (!peer.is_null()).then(|| (core::params_of(peer), core::is_resolved(peer)))
    }
}

/// Sets what the core knows of a server. `false`: it has gone.
pub fn apply(group: &Group, (server, ordinal): (&Server, usize), params: &Params) -> bool {
    let Some(list) = list(group, server.role) else { return false };
    let cached = caches_weights(group);
    // SAFETY: as in `params`.
    unsafe {
        let _lock = PeersLock::write(list);
        let peer = find(list, server, ordinal);
        if peer.is_null() {
            return false;
        }
        if core::set_params(list, peer, params) && cached {
            core::bump(list);
        }
        mark(list, peer, CONFIGURED, if params.down { CONFIGURED } else { 0 });
        if CORE_STICKY {
            mark(list, peer, DRAINING, if params.drain { DRAINING } else { 0 });
        }
    }
    true
}

/// Takes a server out. `false`: it has gone already.
pub fn remove(group: &Group, server: &Server, ordinal: usize) -> bool {
    let (Some(list), Some(primary)) = (list(group, server.role), list(group, Role::Primary)) else {
        return false;
    };
    // SAFETY: as in `params`; the lists' locks are taken in the order in which the core's balancers take them, one inside
    // the other only from the first to the second.
    unsafe {
        let removed = {
            let _lock = PeersLock::write(list);
            let peer = find(list, server, ordinal);
            !peer.is_null() && core::remove_peer(list, peer)
        };
        let _lock = PeersLock::write(primary);
        core::set_single(primary);
        removed
    }
}

/// Why a server was not added.
pub enum NotAdded {
    /// The group's zone has no memory left.
    Memory,
    /// The balancer takes no backup servers.
    NoBackup,
}

/// Adds a server at the end of its list; `held`: bits of `down` that keep it back for the time being.
pub fn add(
    group: &Group,
    (address, backup): (&Address, bool),
    params: &Params,
    held: usize,
) -> Result<(), NotAdded> {
    let (bytes, name) = (bytes(address), address.to_string());
    let drain = if CORE_STICKY && params.drain { DRAINING } else { 0 };
    let down = held | drain | if params.down { CONFIGURED } else { 0 };
    let new = core::NewPeer { address: &bytes, name: name.as_bytes(), server: name.as_bytes(), params, down };
    let primary = list(group, Role::Primary).ok_or(NotAdded::Memory)?;
    if backup && !takes_backups(group) {
        return Err(NotAdded::NoBackup);
    }
    // SAFETY: a live list in shared memory (groups without a zone are refused before). Between lock and unlock nothing of
    // ours allocates, logs or panics; the core's allocator may log that a zone is full, as it does for the core.
    unsafe {
        let _lock = PeersLock::write(primary);
        let added = if backup {
            core::add_backups(primary) && {
                let list = (*primary).next;
                let _lock = PeersLock::write(list);
                core::add_peer(list, &new)
            }
        } else {
            core::add_peer(primary, &new)
        };
        core::set_single(primary);
        if added { Ok(()) } else { Err(NotAdded::Memory) }
    }
}

/// Whether the balancer works out from weights what it keeps.
pub fn caches_weights(group: &Group) -> bool {
    // SAFETY: an explicit group of a live cycle.
    unsafe { conf_of(group.upstream) }.is_some_and(|conf| conf.balance.caches_weights())
}

/// Whether the balancer can do with backup servers.
pub fn takes_backups(group: &Group) -> bool {
    // SAFETY: as above.
    unsafe { (*group.upstream).flags as u32 & sys::NGX_HTTP_UPSTREAM_BACKUP != 0 }
}

/// The address as the system lays it out.
fn bytes(address: &Address) -> Vec<u8> {
    match address {
        Address::Inet(SocketAddr::V4(v4)) => {
            let family = (libc::AF_INET as u16).to_ne_bytes();
            [&family[..], &v4.port().to_be_bytes(), &v4.ip().octets(), &[0; 8]].concat()
        }
        Address::Inet(SocketAddr::V6(v6)) => {
            let family = (libc::AF_INET6 as u16).to_ne_bytes();
            [&family[..], &v6.port().to_be_bytes(), &[0; 4], &v6.ip().octets(), &[0; 4]].concat()
        }
        Address::Unix(path) => {
            let mut bytes = (libc::AF_UNIX as u16).to_ne_bytes().to_vec();
            bytes.extend_from_slice(path.as_bytes());
            bytes.resize(size_of::<libc::sockaddr_un>(), 0);
            bytes
        }
    }
}

const _: () = assert!(size_of::<c_char>() == 1 && size_of::<libc::sockaddr_in>() == 16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_laid_out_as_the_system_has_them() {
        let laid = |text: &str| bytes(&Address::parse(text).unwrap());
        assert_eq!(laid("127.0.0.1:8080").len(), size_of::<libc::sockaddr_in>());
        assert_eq!(laid("127.0.0.1:8080")[2..8], [0x1f, 0x90, 127, 0, 0, 1]);
        let v6 = laid("[::1]:80");
        assert_eq!((v6.len(), v6[23]), (size_of::<libc::sockaddr_in6>(), 1));
        let unix = laid("unix:/run/a");
        assert_eq!((unix.len(), &unix[2..9]), (size_of::<libc::sockaddr_un>(), &b"/run/a\0"[..]));
    }
}
