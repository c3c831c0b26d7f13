//! Locks of the core that a worker held when it died.
//!
//! A list of peers in shared memory has a lock that spins, and unlike its own mutexes nginx does not take it from a
//! process that dies: killed at the wrong moment, a worker would stop all others for good, and at the next reload the
//! master. So whoever starts looks first, before the core's own modules take such a lock: one that stays taken for a whole
//! second, though nobody holds it for longer than some microseconds, is a dead worker's.

use core::ptr::addr_of_mut;
use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use nginx_sys as sys;

use super::health::{Peers, peers};
use super::log::{self, Level};
use super::sys::{slot, upstream_module};

/// `NGX_RWLOCK_WLOCK`: taken by a writer. Any other number is that of the readers.
const WRITER: usize = usize::MAX;
const PATIENCE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_micros(500);

/// Frees the locks of all groups that dead workers have left taken.
///
/// # Safety
/// `cycle` must be the cycle this process serves.
pub unsafe fn look(cycle: *mut sys::ngx_cycle_t) {
    // SAFETY: the caller vouches for the cycle; the upstream module's main configuration holds pointers to all groups,
    // whose lists are set up.
    unsafe {
        let http = (*(*cycle).conf_ctx.add(sys::ngx_http_module.index)).cast::<sys::ngx_http_conf_ctx_t>();
        let Some(ctx) = http.as_ref() else { return };
        let conf = (*slot(ctx.main_conf, upstream_module())).cast::<sys::ngx_http_upstream_main_conf_t>();
        let groups = (*conf).upstreams.as_slice::<*mut sys::ngx_http_upstream_srv_conf_t>();
        let lists = groups.iter().filter_map(|us| Some((*us, peers::lists(*us)?)));
        let lists: Vec<_> = lists
            .flat_map(|(us, lists)| lists.into_iter().map(move |(_, list)| (us, list)))
            .filter(|(_, list)| !list.is_null() && !(**list).shpool.is_null())
            .collect();
        let locks: Vec<_> = lists.iter().map(|(_, list)| word(addr_of_mut!((**list).rwlock))).collect();
        for (at, held) in stuck(&locks, PATIENCE) {
            let Some(((us, list), lock)) = lists.get(at).zip(locks.get(at)) else { continue };
            if held != WRITER {
                // Readers keep the list as it is, and lock its peers one by one.
                free_peers(*list);
            }
            free(lock, held);
            let name = (**us).host.to_string();
            log::cycle(
                Level::Alert,
                format_args!(
                    "a worker died with the servers of upstream \"{name}\" locked, which are free again"
                ),
            );
        }
    }
}

/// # Safety
/// `list` must be a live list that does not change.
unsafe fn free_peers(list: Peers) {
    let mut locks = Vec::new();
    // SAFETY: the caller vouches for the list; peers are linked by `next` and end with null.
    unsafe {
        let mut peer = (*list).peer;
        while !peer.is_null() {
            locks.push(word(addr_of_mut!((*peer).lock)));
            peer = (*peer).next;
        }
    }
    for (at, held) in stuck(&locks, PATIENCE) {
        locks.get(at).into_iter().for_each(|lock| free(lock, held));
    }
}

/// # Safety
/// `lock` must be one of the core's, in memory that stays mapped.
unsafe fn word<'l>(lock: *mut sys::ngx_atomic_t) -> &'l AtomicUsize {
    // SAFETY: the caller vouches for the lock: an aligned word that all processes change by atomic operations only.
    unsafe { AtomicUsize::from_ptr(lock.cast()) }
}

/// The numbers of those locks that stay taken as they are for all of `patience`, and by whom: a writer, or at least so many
/// readers. Returns at once if all are free.
fn stuck(locks: &[&AtomicUsize], patience: Duration) -> Vec<(usize, usize)> {
    let began = Instant::now();
    let mut suspects: Vec<(usize, usize)> = locks.iter().map(|lock| lock.load(SeqCst)).enumerate().collect();
    loop {
        suspects.retain_mut(|(at, held)| {
            let now = locks.get(*at).map_or(0, |lock| lock.load(SeqCst));
            // One that changes hands is nobody's who is dead.
            let same = now != 0 && (now == WRITER) == (*held == WRITER);
            *held = now.min(*held);
            same
        });
        if suspects.is_empty() || began.elapsed() >= patience {
            return suspects;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Lets go of a lock in the place of those who are dead.
fn free(lock: &AtomicUsize, held: usize) {
    if held == WRITER {
        // Otherwise somebody else has freed it.
        let _ = lock.compare_exchange(WRITER, 0, SeqCst, SeqCst);
    } else {
        let less = |now: usize| if now == WRITER { None } else { Some(now.saturating_sub(held)) };
        let _ = lock.fetch_update(SeqCst, SeqCst, less);
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::AtomicBool;

    use super::*;

    const SOON: Duration = Duration::from_millis(60);

    #[test]
    fn free_locks_take_no_time() {
        let lock = AtomicUsize::new(0);
        assert_eq!(stuck(&[&lock, &lock], Duration::from_secs(3600)), []);
    }

    #[test]
    fn what_stays_taken_is_freed() {
        let locks = [AtomicUsize::new(0), AtomicUsize::new(WRITER), AtomicUsize::new(3)];
        let found = stuck(&locks.each_ref(), SOON);
        assert_eq!(found, [(1, WRITER), (2, 3)]);
        // A reader has come meanwhile.
        locks[2].fetch_add(1, SeqCst);
        found.into_iter().for_each(|(at, held)| free(&locks[at], held));
        assert_eq!(locks.each_ref().map(|lock| lock.load(SeqCst)), [0, 0, 1]);
    }

    #[test]
    fn a_lock_in_use_is_left_alone() {
        let (lock, over) = (AtomicUsize::new(WRITER), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(SeqCst) {
                    for held in [1, WRITER, 0, 2] {
                        lock.store(held, SeqCst);
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
            });
            assert_eq!(stuck(&[&lock], 10 * SOON), []);
            over.store(true, SeqCst);
        });
    }

    #[test]
    fn the_dead_among_readers_are_counted_by_those_who_leave() {
        let (lock, over) = (AtomicUsize::new(2), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(SeqCst) {
                    lock.fetch_add(1, SeqCst);
                    std::thread::sleep(Duration::from_millis(1));
                    lock.fetch_sub(1, SeqCst);
                    std::thread::sleep(Duration::from_millis(1));
                }
            });
            assert_eq!(stuck(&[&lock], 5 * SOON), [(0, 2)]);
            over.store(true, SeqCst);
        });
    }
}
