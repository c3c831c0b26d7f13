//! The servers of a group, and the series of each.

use core::cell::{Cell, RefCell};
use core::ptr::addr_of;
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::collections::HashMap;
use std::rc::Rc;

use nginx_sys as sys;

use super::super::conf::MainConf;
use super::super::health::peers::{self as lists, Role};
use super::super::sys::PeersLock;
use super::super::upstream::Group;
use crate::shared::traffic::{Series, Store, cells};

/// What a process knows of the servers of one group.
#[derive(Default)]
pub struct GroupState {
    servers: RefCell<Vec<Rc<Server>>>,
    /// Where the core keeps their names, which is how it says whom it picked.
    names: RefCell<HashMap<usize, usize>>,
    /// The core's count of changes of the list, as of then.
    listed: Cell<usize>,
}

/// One server.
pub struct Server {
    pub server: lists::Server,
    pub series: Series<cells::Peer>,
    /// What the API calls it.
    pub id: u64,
    /// Of each check of the group.
    pub probes: Vec<Series<cells::Probes>>,
}

impl GroupState {
    /// Finds or claims the series of the group's servers. Nobody else may do so meanwhile: in `init_module`, or under
    /// the zone's mutex.
    pub fn adopt(&self, conf: &MainConf, group: &Group, store: &Store) {
        self.listed.set(lists::changes(group.upstream));
        let Some(copies) = copies(group) else { return };
        let Some(its) = super::claim::<cells::Group>(store, &format!("group\0{}", group.name)) else {
            return;
        };
        let mut seen: HashMap<String, usize> = HashMap::new();
        let (mut servers, mut names) = (Vec::with_capacity(copies.len()), HashMap::new());
        for copy in copies {
            let server = copy.server();
            let identity = server.identity();
            let ordinal = seen.entry(identity.clone()).or_default();
            let about = format!("server\0{}\0{identity}\0{ordinal}", group.name);
            let probes = probes(conf, group, store, &format!("{identity}\0{ordinal}"));
            *ordinal += 1;
            let Some(series) = super::claim::<cells::Peer>(store, &about) else { break };
            let id = id(&its, &series);
            names.insert(copy.at, servers.len());
            servers.push(Rc::new(Server { server, series, id, probes }));
        }
        *self.servers.borrow_mut() = servers;
        *self.names.borrow_mut() = names;
    }

    /// Looks again if the core has changed the list: servers found by DNS, or added by an operator.
    pub fn refresh(&self, conf: &MainConf, group: &Group) {
        if lists::changes(group.upstream) != self.listed.get() {
            conf.traffic.locked(|store| self.adopt(conf, group, store));
        }
    }

    /// The servers, in the order of the group's lists.
    pub fn servers(&self) -> Vec<Rc<Server>> {
        self.servers.borrow().clone()
    }

    /// The number of the server whose name is there.
    pub fn position(&self, name: *const sys::ngx_str_t) -> Option<usize> {
        self.names.borrow().get(&(name as usize)).copied()
    }
}

/// The series of each of the group's checks of one server.
fn probes(conf: &MainConf, group: &Group, store: &Store, server: &str) -> Vec<Series<cells::Probes>> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let checks = group.checks.iter().filter_map(|number| conf.health.check(*number));
    let series = checks.map(|check| {
        let identity = check.identity();
        let again = seen.entry(identity.clone()).or_default();
        let about = format!("probes\0{}\0{server}\0{identity}\0{again}", group.name);
        *again += 1;
        super::claim(store, &about)
    });
    // All or none: they are found by their position.
    series.collect::<Option<_>>().unwrap_or_default()
}

/// A server's number in its group: given to it when it is first seen, and never to another.
fn id(group: &Series<cells::Group>, server: &Series<cells::Peer>) -> u64 {
    let known = server.whole().id.load(Relaxed);
    if known != 0 {
        return known - 1;
    }
    let next = group.whole().next_id.fetch_add(1, SeqCst);
    server.whole().id.store(next + 1, Relaxed);
    next
}

/// A peer as copied under the lock of its list, where nothing allocates.
struct Copy {
    at: usize,
    role: Role,
    down: usize,
    text: Short<320>,
    name: Short<128>,
    address: Short<128>,
}

struct Short<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Short<N> {
    fn of(bytes: &[u8]) -> Self {
        let mut short = Self { bytes: [0; N], len: 0 };
        for (to, from) in short.bytes.iter_mut().zip(bytes) {
            *to = *from;
            short.len += 1;
        }
        short
    }

    fn get(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

impl Copy {
    fn server(&self) -> lists::Server {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (server, name) = (text(self.text.get()), text(self.name.get()));
        lists::Server::new(self.role, (server, name), self.address.get().to_vec(), self.down)
    }
}

/// The group's peers, in the order of its lists. `None`: its balancer keeps something else.
fn copies(group: &Group) -> Option<Vec<Copy>> {
    let mut found = Vec::new();
    for (role, list) in lists::lists(group.upstream)? {
        if list.is_null() {
            continue;
        }
        // SAFETY: a live list of this process's cycle; peers are linked by `next` and end with null, their texts and
        // addresses live as long as they do. There is room for those that may come until it is locked; nothing
        // between lock and unlock allocates, logs or panics.
        unsafe {
            found.reserve((*list).number + 16);
            let _lock = PeersLock::write(list);
            let mut peer = (*list).peer;
            while !peer.is_null() && found.len() < found.capacity() {
                let address = core::slice::from_raw_parts((*peer).sockaddr.cast(), (*peer).socklen as usize);
                found.push(Copy {
                    at: addr_of!((*peer).name) as usize,
                    role,
                    down: (*peer).down,
                    text: Short::of((*peer).server.as_bytes()),
                    name: Short::of((*peer).name.as_bytes()),
                    address: Short::of(address),
                });
                peer = (*peer).next;
            }
        }
    }
    Some(found)
}
