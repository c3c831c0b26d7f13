//! Adding servers to and taking them out of the core's lists of peers, as its own zone module does when DNS changes its
//! mind: possible since peers are counted (1.27.3).

use nginx_sys as sys;

use crate::policy::control::Params;

type Peers = sys::ngx_http_upstream_rr_peers_t;
type Peer = sys::ngx_http_upstream_rr_peer_t;

/// A server to be added.
#[cfg_attr(not(nginx1_27_3), allow(dead_code))]
pub struct NewPeer<'a> {
    /// As the system lays it out, at most as long as any.
    pub address: &'a [u8],
    /// As nginx prints it.
    pub name: &'a [u8],
    /// As `server` lines have it.
    pub server: &'a [u8],
    pub params: &'a Params,
    pub down: usize,
}

/// Says that a list is not what it was: whoever remembers positions in it forgets them.
///
/// # Safety
/// `peers` must be a live list in shared memory, which the caller has locked for writing.
pub unsafe fn bump(peers: *mut Peers) {
    #[cfg(nginx1_27_3)]
    // SAFETY: the caller vouches for `peers`; `config` is null or a word of the list's zone.
    unsafe {
        if !(*peers).config.is_null() {
            *(*peers).config += 1;
        }
    }
    #[cfg(not(nginx1_27_3))]
    let _ = peers;
}

/// Whether DNS found a peer.
///
/// # Safety
/// `peer` must be a live peer.
pub unsafe fn is_resolved(peer: *const Peer) -> bool {
    #[cfg(nginx1_27_3)]
    // SAFETY: the caller vouches for `peer`.
    unsafe {
        !(*peer).host.is_null()
    }
    #[cfg(not(nginx1_27_3))]
    {
        let _ = peer;
        false
    }
}

/// Adds a server at the end of a list. `false`: the zone's memory is used up.
///
/// # Safety
/// `peers` must be a live list in shared memory, which the caller has locked for writing.
#[cfg(nginx1_27_3)]
pub unsafe fn add_peer(peers: *mut Peers, new: &NewPeer<'_>) -> bool {
    // SAFETY: the caller vouches for `peers`, whose pool is its zone's; the mutex is taken inside the lock, as the core
    // does it.
    unsafe {
        let pool = (*peers).shpool;
        sys::ngx_shmtx_lock(&raw mut (*pool).mutex);
        let peer = make(pool, new);
        sys::ngx_shmtx_unlock(&raw mut (*pool).mutex);
        if peer.is_null() {
            return false;
        }
        let params = new.params;
        (*peer).socklen = new.address.len() as sys::socklen_t;
        (*peer).weight = params.weight as sys::ngx_int_t;
        (*peer).effective_weight = (*peer).weight;
        (*peer).max_conns = params.max_conns as usize;
        (*peer).max_fails = params.max_fails as usize;
        (*peer).fail_timeout = params.fail_timeout.into();
        (*peer).down = new.down;
        let mut last = &raw mut (*peers).peer;
        while !(*last).is_null() {
            last = &raw mut (**last).next;
        }
        *last = peer;
        (*peers).number += 1;
        (*peers).tries += usize::from(new.down == 0);
        (*peers).total_weight += params.weight as usize;
        (*peers).set_weighted(u32::from((*peers).total_weight != (*peers).number));
        bump(peers);
        true
    }
}

#[cfg(not(nginx1_27_3))]
pub unsafe fn add_peer(_: *mut Peers, _: &NewPeer<'_>) -> bool {
    false
}

/// A peer in blocks of their own, as the core's `free` expects them; null without memory.
#[cfg(nginx1_27_3)]
unsafe fn make(pool: *mut sys::ngx_slab_pool_t, new: &NewPeer<'_>) -> *mut Peer {
    // SAFETY: the caller holds the pool's mutex; blocks are zeroed and at least as large as what is written to them:
    // `address` is no longer than any socket address, `name` no longer than the text of one.
    unsafe {
        let block = |size: usize| sys::ngx_slab_calloc_locked(pool, size.max(1)).cast::<u8>();
        let peer = block(size_of::<Peer>()).cast::<Peer>();
        if peer.is_null() {
            return core::ptr::null_mut();
        }
        let parts = [
            block(size_of::<sys::ngx_sockaddr_t>()),
            block(NAME.max(new.name.len())),
            block(new.server.len()),
            #[cfg(nginx1_29_6)]
            block(SID),
        ];
        if parts.iter().any(|part| part.is_null()) {
            for part in parts.into_iter().filter(|part| !part.is_null()) {
                sys::ngx_slab_free_locked(pool, part.cast());
            }
            sys::ngx_slab_free_locked(pool, peer.cast());
            return core::ptr::null_mut();
        }
        let fill = |to: *mut u8, from: &[u8]| core::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len());
        fill(parts[0], new.address);
        fill(parts[1], new.name);
        fill(parts[2], new.server);
        (*peer).sockaddr = parts[0].cast();
        (*peer).name = sys::ngx_str_t { len: new.name.len(), data: parts[1] };
        (*peer).server = sys::ngx_str_t { len: new.server.len(), data: parts[2] };
        #[cfg(nginx1_29_6)]
        {
            let route = new.params.route.as_bytes();
            let route = route.get(..SID).unwrap_or(route);
            fill(parts[3], route);
            (*peer).sid = sys::ngx_str_t { len: route.len(), data: parts[3] };
        }
        peer
    }
}

/// `NGX_SOCKADDR_STRLEN`: the longest text of an address, a socket's path.
#[cfg(nginx1_27_3)]
const NAME: usize = "unix:".len() + 108;
/// The longest session id of a server.
#[cfg(nginx1_29_6)]
const SID: usize = 32;

/// Takes a server out of a list. Requests that have it keep it: the last of them frees it. `false`: it is not there.
///
/// # Safety
/// `peers` must be a live list in shared memory, which the caller has locked for writing.
#[cfg(nginx1_27_3)]
pub unsafe fn remove_peer(peers: *mut Peers, peer: *const Peer) -> bool {
    // SAFETY: the caller vouches for `peers`; the mutex is taken inside the lock, as the core does it.
    unsafe {
        let mut at = &raw mut (*peers).peer;
        while !(*at).is_null() && !core::ptr::eq(*at, peer) {
            at = &raw mut (**at).next;
        }
        let peer = *at;
        if peer.is_null() {
            return false;
        }
        *at = (*peer).next;
        (*peers).total_weight = (*peers).total_weight.saturating_sub((*peer).weight.unsigned_abs());
        (*peers).number -= 1;
        (*peers).tries = (*peers).tries.saturating_sub(usize::from((*peer).down == 0));
        (*peers).set_weighted(u32::from((*peers).total_weight != (*peers).number));
        bump(peers);
        let pool = (*peers).shpool;
        sys::ngx_shmtx_lock(&raw mut (*pool).mutex);
        free(pool, peer);
        sys::ngx_shmtx_unlock(&raw mut (*pool).mutex);
        true
    }
}

#[cfg(not(nginx1_27_3))]
pub unsafe fn remove_peer(_: *mut Peers, _: *const Peer) -> bool {
    false
}

/// As the core frees one.
#[cfg(nginx1_27_3)]
unsafe fn free(pool: *mut sys::ngx_slab_pool_t, peer: *mut Peer) {
    // SAFETY: the caller holds the pool's mutex and has taken the peer out of its list; its parts are blocks of their own.
    unsafe {
        if (*peer).refs != 0 {
            (*peer).set_zombie(1);
            return;
        }
        let release = |part: *mut core::ffi::c_void| {
            if !part.is_null() {
                sys::ngx_slab_free_locked(pool, part);
            }
        };
        release((*peer).sockaddr.cast());
        release((*peer).name.data.cast());
        release((*peer).server.data.cast());
        #[cfg(nginx1_29_6)]
        release((*peer).sid.data.cast());
        release((*peer).ssl_session);
        release(peer.cast());
    }
}

/// Gives a group that has none a list of backup servers. `false`: no memory, or not in this version.
///
/// # Safety
/// `peers` must be a live list of primary servers in shared memory, which the caller has locked for writing.
#[cfg(nginx1_27_3)]
pub unsafe fn add_backups(peers: *mut Peers) -> bool {
    // SAFETY: the caller vouches for `peers`; the block is zeroed, which is an empty list that nobody has locked.
    unsafe {
        if !(*peers).next.is_null() {
            return true;
        }
        let backup = sys::ngx_slab_calloc((*peers).shpool, size_of::<Peers>()).cast::<Peers>();
        if backup.is_null() {
            return false;
        }
        (*backup).shpool = (*peers).shpool;
        (*backup).config = (*peers).config;
        (*backup).name = (*peers).name;
        (*peers).next = backup;
        true
    }
}

#[cfg(not(nginx1_27_3))]
pub unsafe fn add_backups(_: *mut Peers) -> bool {
    false
}

/// Whether one server is all there is, which the core's balancers take a short way for.
///
/// # Safety
/// `peers` must be a live list of primary servers, which the caller has locked for writing.
pub unsafe fn set_single(peers: *mut Peers) {
    // SAFETY: the caller vouches for `peers`; the number of backup servers is read whole.
    unsafe {
        let backups = (*peers).next;
        let alone = (*peers).number == 1 && (backups.is_null() || (*backups).number == 0);
        (*peers).set_single(u32::from(alone));
    }
}

/// Sets what the core knows of a server's parameters but for `down` and its route. `false`: nothing was different.
///
/// # Safety
/// `peer` must be in `peers`, which the caller has locked for writing.
pub unsafe fn set_params(peers: *mut Peers, peer: *mut Peer, params: &Params) -> bool {
    // SAFETY: the caller vouches for both.
    unsafe {
        let (old, weight) = ((*peer).weight, params.weight as sys::ngx_int_t);
        if old != weight {
            (*peer).weight = weight;
            (*peer).effective_weight = weight;
            (*peer).current_weight = (*peer).current_weight.clamp(-weight, weight);
            (*peers).total_weight = (*peers)
                .total_weight
                .saturating_sub(old.unsigned_abs())
                .saturating_add(weight.unsigned_abs());
            (*peers).set_weighted(u32::from((*peers).total_weight != (*peers).number));
        }
        (*peer).max_conns = params.max_conns as usize;
        (*peer).max_fails = params.max_fails as usize;
        (*peer).fail_timeout = params.fail_timeout.into();
        old != weight
    }
}

/// What the core knows of a server's parameters; the others as `Params::default`.
///
/// # Safety
/// `peer` must be a live peer whose list the caller has locked.
pub unsafe fn params_of(peer: *const Peer) -> Params {
    let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    // SAFETY: the caller vouches for `peer`.
    unsafe {
        Params {
            weight: number((*peer).weight.unsigned_abs()),
            max_conns: number((*peer).max_conns),
            max_fails: number((*peer).max_fails),
            fail_timeout: number((*peer).fail_timeout.unsigned_abs() as usize),
            down: (*peer).down & 1 != 0,
            ..Params::default()
        }
    }
}
