//! Shared memory that survives reload: one block per zone, taken once, adopted by each later cycle.

use core::ffi::c_void;
use std::cell::{Cell, OnceCell};

use nginx_sys as sys;

use super::cf::{ConfError, Result};
use super::entry::entry;
use super::log::{self, Level};
use super::module::main_module;
use super::sys::{ERROR, OK};
use crate::shared::cell::Region;

/// What a zone holds, and how it came to be.
pub trait Contents: Sized + 'static {
    /// What the configuration says of the zone; kept per cycle.
    type Spec;

    /// Lays out fresh, zeroed memory.
    fn create(spec: &Self::Spec, region: Region) -> core::result::Result<Self, String>;

    /// Takes over the memory a former cycle laid out. An error means: start clean.
    fn adopt(spec: &Self::Spec, region: Region) -> core::result::Result<Self, String>;

    /// Whether the zone may keep its memory though `old` said otherwise; an error refuses the configuration.
    fn compatible(_spec: &Self::Spec, _old: &Self::Spec) -> core::result::Result<(), String> {
        Ok(())
    }

    /// The zone has fresh memory though it had some before: carry over what is worth it from the memory of the former cycle.
    fn carry(&self, _old: &Self) {}
}

/// What a `…_zone` line says, by its name.
pub trait Named {
    fn zone_name(&self) -> &str;
}

/// All zones of one directive, in the order of the file: a zone's number is its position.
pub struct Zones<C>(pub Vec<C>);

impl<C> Default for Zones<C> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<C: Named> Zones<C> {
    pub fn find(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|zone| zone.zone_name() == name)
    }

    pub fn get(&self, number: usize) -> Option<&C> {
        self.0.get(number)
    }
}

/// One zone of one cycle. The allocation is stable: nginx keeps a pointer to it in the zone's `data`.
pub struct Zone<C: Contents>(Box<Inner<C>>);

struct Inner<C: Contents> {
    name: String,
    spec: C::Spec,
    contents: OnceCell<C>,
    pool: Cell<*mut sys::ngx_slab_pool_t>,
}

/// The mutex of a zone, held. Should this process die, the master lets go of it.
struct Held(*mut sys::ngx_slab_pool_t);

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: whoever made it holds the mutex of a pool that is mapped as long as its zone is.
        unsafe { sys::ngx_shmtx_unlock(&raw mut (*self.0).mutex) }
    }
}

/// nginx's own minimum for zones that hold a slab pool: eight pages.
pub fn min_size() -> usize {
    // SAFETY: a plain integer nginx sets at start.
    8 * unsafe { sys::ngx_pagesize }
}

impl<C: Contents> Zone<C> {
    /// Announces a zone. `shm_name` is what nginx knows it by: unique in the configuration, and another one when
    /// the memory cannot be laid out as a former cycle's was (nginx's own `noreuse` must not change from cycle
    /// to cycle: it is looked at in the new zone for keeping memory and in the old one for freeing it). `name`
    /// is for messages.
    pub fn add(
        cf: *mut sys::ngx_conf_t,
        (shm_name, name): (&str, &str),
        size: usize,
        spec: C::Spec,
    ) -> Result<Self> {
        let (contents, pool) = (OnceCell::new(), Cell::new(core::ptr::null_mut()));
        let zone = Self(Box::new(Inner { name: name.to_owned(), spec, contents, pool }));
        // SAFETY: `cf` is the parser state nginx passed us; the name is copied into its pool, which lives as
        // long as the cycle; `data` points into a box that the main configuration owns for the same time.
        unsafe {
            let mut shm_name =
                sys::ngx_str_t::from_bytes((*cf).pool, shm_name.as_bytes()).ok_or(ConfError::Logged)?;
            let shm =
                sys::ngx_shared_memory_add(cf, &raw mut shm_name, size, main_module().cast_mut().cast());
            if shm.is_null() {
                return Err(ConfError::Logged);
            }
            if !(*shm).data.is_null() {
                return Err(ConfError::Duplicate);
            }
            (*shm).init = Some(init::<C>);
            (*shm).data = core::ptr::from_ref(&*zone.0).cast_mut().cast();
        }
        Ok(zone)
    }

    /// What the configuration says of it.
    pub fn spec(&self) -> &C::Spec {
        &self.0.spec
    }

    /// The zone's contents, once nginx has mapped it. `None` while the configuration is being read.
    pub fn get(&self) -> Option<&C> {
        self.0.contents.get()
    }

    /// Calls `f` while no other process of the host is in here. `None`: nginx has not mapped the zone. Never on a
    /// request's way.
    pub fn locked<T>(&self, f: impl FnOnce(&C) -> T) -> Option<T> {
        let contents = self.get()?;
        // SAFETY: a zone with contents has its pool, whose mutex nginx set up.
        unsafe { sys::ngx_shmtx_lock(&raw mut (*self.0.pool.get()).mutex) };
        let _held = Held(self.0.pool.get());
        Some(f(contents))
    }

    /// As [`Self::locked`], but `None` also when another process is: one that is stopped stops nobody else.
    pub fn locked_now<T>(&self, f: impl FnOnce(&C) -> T) -> Option<T> {
        let contents = self.get()?;
        // SAFETY: as in `locked`.
        if unsafe { sys::ngx_shmtx_trylock(&raw mut (*self.0.pool.get()).mutex) } == 0 {
            return None;
        }
        let _held = Held(self.0.pool.get());
        Some(f(contents))
    }
}

impl<C: Contents> Inner<C> {
    /// `kept`: the former cycle's zone, when its memory is this one's. `former`: the same, whosever the memory.
    fn settle(
        &self,
        shm: &sys::ngx_shm_zone_t,
        kept: Option<&Self>,
        former: Option<&Self>,
    ) -> core::result::Result<(), String> {
        if let Some(kept) = kept {
            C::compatible(&self.spec, &kept.spec)?;
        }
        let pool = shm.shm.addr.cast::<sys::ngx_slab_pool_t>();
        self.pool.set(pool);
        // SAFETY: nginx laid a slab pool at the head of the mapping before it calls us.
        let (root, fresh) = unsafe { block(pool) }.ok_or("not enough memory in the zone")?;
        let contents = if fresh {
            C::create(&self.spec, root)?
        } else {
            C::adopt(&self.spec, root).or_else(|reason| {
                log::cycle(Level::Warn, format_args!("zone \"{}\" starts clean: {reason}", self.name));
                // SAFETY: as above.
                let (root, _) = unsafe { wipe(pool) }.ok_or("not enough memory in the zone")?;
                C::create(&self.spec, root)
            })?
        };
        if let Some(old) = former.and_then(|old| old.contents.get()).filter(|_| fresh) {
            contents.carry(old);
        }
        self.contents.set(contents).map_err(|_| "initialised twice".to_owned())
    }
}

/// The one block of our zones: where it is, and whether it was taken just now.
unsafe fn block(pool: *mut sys::ngx_slab_pool_t) -> Option<(Region, bool)> {
    // SAFETY: the caller vouches for the pool; `data` is its user's root, NULL until we set it. The block
    // begins with its own length, in a cache line of its own.
    unsafe {
        if !(*pool).data.is_null() {
            let base = (*pool).data.cast::<u8>();
            return Some((region(base, *base.cast::<usize>()), false));
        }
        let mut pages = (*pool).pfree;
        while pages > 0 {
            let size = pages * sys::ngx_pagesize;
            let base = sys::ngx_slab_calloc(pool, size).cast::<u8>();
            if !base.is_null() {
                *base.cast::<usize>() = size;
                (*pool).data = base.cast();
                return Some((region(base, size), true));
            }
            pages -= 1;
        }
    }
    None
}

/// Zeroes the block, for a layout this build does not know.
unsafe fn wipe(pool: *mut sys::ngx_slab_pool_t) -> Option<(Region, bool)> {
    // SAFETY: `block` set `data` and the length at its head; nobody of this layout uses the block yet.
    unsafe {
        let base = (*pool).data.cast::<u8>();
        let size = *base.cast::<usize>();
        core::ptr::write_bytes(base, 0, size);
        *base.cast::<usize>() = size;
        Some((region(base, size), true))
    }
}

/// The part of the block behind its length.
unsafe fn region(base: *mut u8, size: usize) -> Region {
    const HEAD: usize = 64;
    // SAFETY: `base` is page-aligned memory of `size` bytes from the zone's slab, zeroed when taken, and
    // mapped for as long as the cycle that holds the zone.
    unsafe { Region::new(core::ptr::NonNull::new_unchecked(base.add(HEAD)), size - HEAD) }
}

/// A former cycle's zone of this name, when its memory could not be kept (another size): found in the cycle
/// that is still running.
unsafe fn former<C: Contents>(shm: *const sys::ngx_shm_zone_t) -> Option<&'static Inner<C>> {
    // SAFETY: ngx_cycle is the running cycle while a new one is being made; its list of zones and what their
    // `data` points to live until after the new cycle took over. The tag tells our zones from others'.
    unsafe {
        let cycle = sys::ngx_cycle;
        if cycle.is_null() || (*cycle).conf_ctx.is_null() {
            return None;
        }
        let mut part: *const sys::ngx_list_part_t = &raw const (*cycle).shared_memory.part;
        while !part.is_null() {
            for i in 0..(*part).nelts {
                let zone = (*part).elts.cast::<sys::ngx_shm_zone_t>().add(i);
                if (*zone).tag == (*shm).tag && (*zone).shm.name == (*shm).shm.name && !(*zone).data.is_null()
                {
                    return (*zone).data.cast::<Inner<C>>().as_ref();
                }
            }
            part = (*part).next;
        }
    }
    None
}

extern "C" fn init<C: Contents>(shm: *mut sys::ngx_shm_zone_t, data: *mut c_void) -> sys::ngx_int_t {
    entry!("a zone's set-up", ERROR, {
        // SAFETY: nginx passes the zone we announced, whose `data` is our `Inner`; `data` is the same of the
        // former cycle when the memory was kept, NULL otherwise.
        let (zone, inner, kept, former) = unsafe {
            let kept = data.cast::<Inner<C>>().as_ref();
            (&*shm, &*(*shm).data.cast::<Inner<C>>(), kept, kept.or_else(|| former::<C>(shm)))
        };
        // A cycle that failed half way may have set the zone up already.
        if inner.contents.get().is_some() {
            return OK;
        }
        match inner.settle(zone, kept, former) {
            Ok(()) => OK,
            Err(reason) => {
                log::cycle(Level::Emerg, format_args!("zone \"{}\" {reason}", inner.name));
                ERROR
            }
        }
    })
}
