//! The first words of a zone: whose memory it is, and how it is laid out.

use std::sync::atomic::{
    AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release, Ordering::SeqCst,
};

use super::cell::{Region, RegionError, shared_struct};

shared_struct! {
    /// Stands first in the header of each zone.
    #[derive(Debug)]
    pub struct Seal {
        /// Written last on creation.
        magic: AtomicU64,
        layout: AtomicU64,
    }
}

/// How a kind of zone is laid out.
pub struct Format {
    /// For messages: what it holds.
    what: &'static str,
    magic: u64,
    layout: u64,
}

/// Why memory is not of a format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    #[error("a zone of {size} bytes is too small for {what}, {needed} are needed")]
    TooSmall { what: &'static str, size: usize, needed: usize },
    #[error("not a zone of {0}")]
    Foreign(&'static str),
    #[error("{what} of layout {found}, expected {expected}")]
    Version { what: &'static str, found: u64, expected: u64 },
    /// Of another size, or another configuration.
    #[error("{0} laid out otherwise")]
    Otherwise(&'static str),
    #[error(transparent)]
    Region(#[from] RegionError),
}

impl Format {
    /// `layout` is one more whenever a struct of the zone, or what its words mean, changes.
    pub const fn new(magic: [u8; 8], layout: u64, what: &'static str) -> Self {
        Self { what, magic: u64::from_be_bytes(magic), layout }
    }

    /// # Errors
    /// [`LayoutError::TooSmall`] if the region has fewer than `needed` bytes.
    pub const fn fits(&self, region: Region, needed: usize) -> Result<(), LayoutError> {
        let (what, size) = (self.what, region.len());
        if size < needed { Err(LayoutError::TooSmall { what, size, needed }) } else { Ok(()) }
    }

    /// # Errors
    /// [`LayoutError::Otherwise`] if not.
    pub const fn laid_out_so(&self, so: bool) -> Result<(), LayoutError> {
        if so { Ok(()) } else { Err(LayoutError::Otherwise(self.what)) }
    }
}

impl Seal {
    /// The memory is of this format from now on.
    pub fn set(&self, format: &Format) {
        self.layout.store(format.layout, Relaxed);
        self.magic.store(format.magic, Release);
    }

    /// The memory is of no format until it is set again.
    pub fn lift(&self) {
        self.magic.store(0, SeqCst);
    }

    /// Whether the memory is of this format.
    ///
    /// # Errors
    /// It is not; nothing has been touched.
    pub fn check(&self, format: &Format) -> Result<(), LayoutError> {
        let (what, expected) = (format.what, format.layout);
        if self.magic.load(Acquire) != format.magic {
            return Err(LayoutError::Foreign(what));
        }
        let found = self.layout.load(Relaxed);
        if found == expected { Ok(()) } else { Err(LayoutError::Version { what, found, expected }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_of_a_format_is_refused() {
        const OURS: Format = Format::new(*b"sluiceXX", 2, "tests");
        let region = Region::on_heap(128);
        let seal: &Seal = region.get(0).unwrap();
        assert_eq!(seal.check(&OURS), Err(LayoutError::Foreign("tests")));
        seal.set(&OURS);
        assert_eq!(seal.check(&OURS), Ok(()));
        let next = Format::new(*b"sluiceXX", 3, "tests");
        assert_eq!(seal.check(&next).unwrap_err().to_string(), "tests of layout 2, expected 3");
        seal.lift();
        assert_eq!(seal.check(&OURS), Err(LayoutError::Foreign("tests")));
        assert_eq!(OURS.fits(region, 128), Ok(()));
        let said = "a zone of 128 bytes is too small for tests, 129 are needed";
        assert_eq!(OURS.fits(region, 129).unwrap_err().to_string(), said);
        assert_eq!(OURS.laid_out_so(false).unwrap_err().to_string(), "tests laid out otherwise");
    }
}
