//! The servers of a group, and the series of each.

use core::cell::{Cell, RefCell};
use core::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::collections::HashMap;
use std::rc::Rc;

use nginx_sys as sys;

use super::super::conf::MainConf;
use super::super::health::{self, peers as lists};
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
    pub server: health::Server,
    pub series: Series<cells::Peer>,
    /// What the API calls it.
    pub id: u64,
}

impl GroupState {
    /// Finds or claims the series of the group's servers. Nobody else may do so meanwhile: in `init_module`, or under
    /// the zone's mutex.
    pub fn adopt(&self, group: &Group, store: &Store) {
        self.listed.set(lists::changes(group.upstream));
        let Some(found) = lists::servers(group.upstream) else { return };
        let Some(its) = super::claim::<cells::Group>(store, &format!("group\0{}", group.name)) else {
            return;
        };
        let mut seen: HashMap<String, usize> = HashMap::new();
        let (mut servers, mut names) = (Vec::with_capacity(found.len()), HashMap::new());
        for server in found {
            let identity = server.identity();
            let ordinal = seen.entry(identity.clone()).or_default();
            let about = format!("server\0{}\0{identity}\0{ordinal}", group.name);
            *ordinal += 1;
            let Some(series) = super::claim::<cells::Peer>(store, &about) else { break };
            let id = id(&its, &series);
            names.insert(server.at, servers.len());
            servers.push(Rc::new(Server { server, series, id }));
        }
        *self.servers.borrow_mut() = servers;
        *self.names.borrow_mut() = names;
    }

    /// Looks again if the core has changed the list: servers found by DNS, or added by an operator.
    pub fn refresh(&self, conf: &MainConf, group: &Group) {
        if lists::changes(group.upstream) != self.listed.get() {
            conf.traffic.locked(|store| self.adopt(group, store));
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
