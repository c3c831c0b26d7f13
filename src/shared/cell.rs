//! Typed views of a zone's raw memory. The one file of this folder with `unsafe` in it.
#![allow(unsafe_code)]

use std::mem::{align_of, size_of};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

/// The atomics of shared memory; under `cfg(sluice_loom)` those whose interleavings loom explores.
pub mod atomic {
    #[cfg(sluice_loom)]
    pub use loom::sync::atomic::*;
    #[cfg(not(sluice_loom))]
    pub use std::sync::atomic::*;
}

/// A type that may live in memory shared by processes.
///
/// # Safety
/// The type is `repr(C)` or `repr(transparent)` (or an atomic itself), consists of nothing but atomics and arrays
/// or structs of them, holds no pointer, has no `Drop`, is aligned to at most 64 bytes, and has a meaning for
/// every bit pattern.
pub unsafe trait Shared: Sync + 'static {}

// SAFETY: atomics of plain integers, valid for every bit pattern.
unsafe impl Shared for AtomicU8 {}
// SAFETY: as above.
unsafe impl Shared for AtomicU16 {}
// SAFETY: as above.
unsafe impl Shared for AtomicU32 {}
// SAFETY: as above.
unsafe impl Shared for AtomicU64 {}
// SAFETY: never in memory that is shared: loom's tests run in one process.
#[cfg(sluice_loom)]
unsafe impl Shared for atomic::AtomicU32 {}
// SAFETY: as above.
#[cfg(sluice_loom)]
unsafe impl Shared for atomic::AtomicU64 {}
// SAFETY: an array adds no bytes of its own to its elements.
unsafe impl<T: Shared, const N: usize> Shared for [T; N] {}

/// Declares a `#[repr(C)]` struct whose fields are all [`Shared`], which makes it so too.
///
/// The compiler checks what [`Shared`] asks for: each field's type, and that there is no `Drop`.
macro_rules! shared_struct {
    ($(#[$meta:meta])* $vis:vis struct $name:ident { $($(#[$fmeta:meta])* $fvis:vis $field:ident: $ty:ty,)* }) => {
        $(#[$meta])* #[repr(C)] $vis struct $name { $($(#[$fmeta])* $fvis $field: $ty,)* }
        const _: () = {
            const fn is_shared<T: $crate::shared::cell::Shared>() {}
            $(is_shared::<$ty>();)*
            assert!(cfg!(sluice_loom) || !std::mem::needs_drop::<$name>() && std::mem::align_of::<$name>() <= 64);
        };
        // SAFETY: repr(C), every field is Shared (checked above), no Drop (checked above).
        #[allow(unsafe_code)]
        unsafe impl $crate::shared::cell::Shared for $name {}
    };
}
pub(crate) use shared_struct;

/// The memory of one zone. A plain handle: copies view the same memory.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    base: NonNull<u8>,
    len: usize,
}

// SAFETY: a Region only hands out references to Shared types, which are Sync.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

/// The view asked for does not lie inside the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegionError {
    #[error("{len} bytes at offset {offset} do not fit a zone of {size} bytes")]
    OutOfBounds { offset: usize, len: usize, size: usize },
    #[error("offset {0} of the zone is not aligned")]
    Misaligned(usize),
}

impl Region {
    /// Alignment that the base must have, in bytes.
    pub const ALIGN: usize = 64;

    /// Takes charge of a zone's memory.
    ///
    /// # Safety
    /// `base` is aligned to [`Region::ALIGN`]; `len` bytes from it are mapped, readable and writable, and stay
    /// so for as long as this process uses any reference taken from the region (nginx unmaps a zone only when
    /// no cycle of the process needs it). The bytes were zero when the memory was created. From then on they
    /// are touched only through regions, by processes that lay out the same offsets as the same types: the
    /// layout version at the head of each zone is what tells.
    pub const unsafe fn new(base: NonNull<u8>, len: usize) -> Self {
        Self { base, len }
    }

    pub const fn len(&self) -> usize {
        self.len
    }

    /// One `T` at `offset` bytes.
    ///
    /// # Errors
    /// [`RegionError`] when it would not lie inside the region, aligned.
    pub fn get<T: Shared>(&self, offset: usize) -> Result<&'static T, RegionError> {
        let at = self.place::<T>(offset, 1)?;
        // SAFETY: `place` checked bounds and alignment; the memory is mapped, stays so and was zeroed
        // (contract of `new`); any bit pattern is a valid `T`, only changed through atomics (`Shared`).
        Ok(unsafe { at.as_ref() })
    }

    /// `n` of `T` in a row at `offset` bytes.
    ///
    /// # Errors
    /// [`RegionError`] when they would not lie inside the region, aligned.
    pub fn slice<T: Shared>(&self, offset: usize, n: usize) -> Result<&'static [T], RegionError> {
        let at = self.place::<T>(offset, n)?;
        // SAFETY: as in `get`, for `n` values: `place` checked that all of them lie inside.
        Ok(unsafe { std::slice::from_raw_parts(at.as_ptr(), n) })
    }

    fn place<T>(&self, offset: usize, n: usize) -> Result<NonNull<T>, RegionError> {
        let len = size_of::<T>().saturating_mul(n);
        if offset.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(RegionError::OutOfBounds { offset, len, size: self.len });
        }
        if align_of::<T>() > Self::ALIGN || !offset.is_multiple_of(align_of::<T>()) {
            return Err(RegionError::Misaligned(offset));
        }
        // SAFETY: offset <= len, checked above, so the result stays inside the zone or one past its end.
        Ok(unsafe { self.base.add(offset) }.cast())
    }

    /// The memory of a file, for the processes of a unit test to share; never unmapped.
    #[cfg(test)]
    pub fn of_file(file: &std::fs::File) -> Self {
        use std::os::fd::AsRawFd;
        let len = usize::try_from(file.metadata().unwrap().len()).unwrap();
        // SAFETY: a fresh mapping at an address of the system's choice, of a file that is open.
        let base = unsafe {
            let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
            libc::mmap(std::ptr::null_mut(), len, protection, flags, file.as_raw_fd(), 0)
        };
        assert_ne!(base, libc::MAP_FAILED);
        // SAFETY: mapped for the life of the process; pages are aligned to more than a line; a file that was made
        // by setting its length is zero, and only regions touch it.
        unsafe { Self::new(NonNull::new(base).unwrap().cast(), len) }
    }

    /// Zeroed memory of this process alone, never freed: for unit tests.
    #[cfg(test)]
    pub fn on_heap(len: usize) -> Self {
        #[repr(C, align(64))]
        struct Line([AtomicU8; Region::ALIGN]);
        let lines = (0..len.div_ceil(Self::ALIGN)).map(|_| Line([const { AtomicU8::new(0) }; Self::ALIGN]));
        let memory: &'static mut [Line] = Box::leak(lines.collect());
        // SAFETY: leaked, so mapped for ever; aligned by `Line`; zeroed; at least `len` bytes, reached only
        // through this region.
        unsafe { Self::new(NonNull::from(memory).cast(), len) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn views_are_checked() {
        let region = Region::on_heap(100);
        assert!(region.get::<AtomicU64>(88).is_ok());
        assert_eq!(region.get::<AtomicU64>(4).unwrap_err(), RegionError::Misaligned(4));
        let past = RegionError::OutOfBounds { offset: 96, len: 8, size: 100 };
        assert_eq!(region.get::<AtomicU64>(96).unwrap_err(), past);
        assert_eq!(region.slice::<AtomicU32>(0, 25).unwrap().len(), 25);
        assert!(region.slice::<AtomicU32>(0, 26).is_err());
        assert!(region.slice::<AtomicU64>(0, usize::MAX).is_err());
        assert!(region.get::<AtomicU64>(usize::MAX - 7).is_err());
    }

    #[test]
    fn copies_view_the_same_memory() {
        shared_struct! {
            struct Pair { first: AtomicU32, second: [AtomicU64; 2], }
        }
        let region = Region::on_heap(64);
        let other = region;
        region.get::<Pair>(0).unwrap().second[1].store(7, Ordering::Relaxed);
        let pair = other.get::<Pair>(0).unwrap();
        assert_eq!((pair.first.load(Ordering::Relaxed), pair.second[1].load(Ordering::Relaxed)), (0, 7));
        assert_eq!(region.get::<AtomicU64>(16).unwrap().load(Ordering::Relaxed), 7);
    }
}
