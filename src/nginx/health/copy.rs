//! A copy of a list of peers, taken while nobody changes it.
//!
//! Nothing may be allocated while the list is locked: room is made before, and made again, larger, if it was too small.

use core::ptr::addr_of;

use nginx_sys as sys;

use super::super::sys::{PeersLock, line_of};
use super::member::Server;
use super::peers::{CONFIGURED, Peers, Role, address_of};

/// Bytes of a peer's texts and address, as a rule.
const USUAL: usize = 256;

/// The peers of one list.
pub struct Copy {
    /// The bytes of all, one after the other.
    bytes: Vec<u8>,
    peers: Vec<Peer>,
}

/// How many of the bytes are one peer's, and what they are.
struct Peer {
    server: usize,
    line: usize,
    name: usize,
    address: usize,
    down: bool,
    at: usize,
}

/// # Safety
/// `list` must be a live list of this process's cycle.
pub unsafe fn of(list: Peers) -> Copy {
    // SAFETY: the caller vouches for the list; the number is only a guess until the list is locked.
    let mut room = unsafe { (*list).number } + 8;
    loop {
        let mut copy = Copy { bytes: Vec::with_capacity(room * USUAL), peers: Vec::with_capacity(room) };
        // SAFETY: as above.
        if unsafe { copy.fill(list) } {
            return copy;
        }
        room *= 2;
    }
}

impl Copy {
    /// Whether there was room for all.
    unsafe fn fill(&mut self, list: Peers) -> bool {
        // SAFETY: the caller vouches for the list; peers are linked by `next` and end with null. Nothing between lock
        // and unlock allocates, logs or panics.
        unsafe {
            let _lock = PeersLock::write(list);
            let mut peer = (*list).peer;
            while !peer.is_null() {
                if !self.add(peer) {
                    return false;
                }
                peer = (*peer).next;
            }
        }
        true
    }

    unsafe fn add(&mut self, peer: *const sys::ngx_http_upstream_rr_peer_t) -> bool {
        // SAFETY: the caller holds the lock of the list of `peer`, whose texts and address live as long as it does.
        unsafe {
            let texts = [(*peer).server.as_bytes(), (*line_of(peer)).as_bytes(), (*peer).name.as_bytes()];
            let [server, line, name] = texts.map(<[u8]>::len);
            let address = address_of(peer);
            let needed = server + line + name + address.len();
            let fits = self.bytes.capacity() - self.bytes.len() >= needed;
            if !fits || self.peers.len() == self.peers.capacity() {
                return false;
            }
            texts.into_iter().chain([address]).for_each(|bytes| self.bytes.extend_from_slice(bytes));
            let down = (*peer).down & CONFIGURED != 0;
            let at = addr_of!((*peer).name) as usize;
            self.peers.push(Peer { server, line, name, address: address.len(), down, at });
        }
        true
    }

    /// What was copied.
    pub fn servers(&self, role: Role) -> Vec<Server> {
        let mut rest = self.bytes.as_slice();
        let mut cut = |length| {
            let (bytes, after) = rest.split_at_checked(length).unwrap_or((rest, &[]));
            rest = after;
            bytes
        };
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let server = |peer: &Peer| Server {
            role,
            server: text(cut(peer.server)),
            line: text(cut(peer.line)),
            name: text(cut(peer.name)),
            address: cut(peer.address).to_vec(),
            down: peer.down,
            at: peer.at,
        };
        self.peers.iter().map(server).collect()
    }
}
