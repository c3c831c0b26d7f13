//! The records of the zone: whose each is, and where the two kinds lie.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Release, SeqCst};

use super::{HEADER, Header, Key};
use crate::shared::balance::Server;
use crate::shared::breaker::Breaker;
use crate::shared::cell::{Region, Shared, shared_struct};
use crate::shared::health::Check;

shared_struct! {
    /// Whose a record is.
    #[derive(Debug, Default)]
    pub struct Ident {
        key: [AtomicU64; 2],
        /// Bits 0 to 31: the last cycle that asked for it; 0: nobody's. Bits 32 to 63: since when, in seconds of the
        /// host's monotonic clock, it is of no use to that cycle; 0: it is.
        used: AtomicU64,
        /// Whose server it is about: a hash of the group's name; 0: no server's.
        owner: AtomicU64,
    }
}

shared_struct! {
    /// A record from the front: its key says whether of a check or of a server.
    #[derive(Debug, Default)]
    pub struct FrontSlot {
        pub ident: Ident,
        words: [AtomicU64; 8],
    }
}

shared_struct! {
    #[derive(Debug, Default)]
    #[repr(align(64))]
    pub struct BreakerSlot {
        pub ident: Ident,
        pub body: Breaker,
    }
}

pub const IDENT: usize = size_of::<Ident>();
pub const CHECK: usize = size_of::<FrontSlot>();
pub const BREAKER: usize = size_of::<BreakerSlot>();
const _: () = assert!(CHECK == 96 && (cfg!(sluice_loom) || BREAKER == 576));
const _: () = assert!(IDENT + size_of::<Check>() == CHECK && IDENT + size_of::<Server>() == CHECK);

/// What may be a record of the zone.
pub trait Slot: Shared {
    const WHAT: &'static str;
    fn ident(&self) -> &Ident;
    fn clear(&self);
    fn copy_from(&self, old: &Self);
    /// How many were ever claimed.
    fn count(header: &Header) -> &AtomicU64;
    fn offset(index: usize, size: usize) -> Option<usize>;
}

impl Slot for FrontSlot {
    const WHAT: &'static str = "health check";
    fn ident(&self) -> &Ident {
        &self.ident
    }
    fn clear(&self) {
        self.words.iter().for_each(|word| word.store(0, SeqCst));
    }
    fn copy_from(&self, old: &Self) {
        self.words.iter().zip(&old.words).for_each(|(to, from)| to.store(from.load(SeqCst), SeqCst));
    }
    fn count(header: &Header) -> &AtomicU64 {
        &header.checks
    }
    fn offset(index: usize, _: usize) -> Option<usize> {
        index.checked_mul(CHECK)?.checked_add(HEADER)
    }
}

impl Slot for BreakerSlot {
    const WHAT: &'static str = "circuit breaker";
    fn ident(&self) -> &Ident {
        &self.ident
    }
    fn clear(&self) {
        self.body.clear();
    }
    fn copy_from(&self, old: &Self) {
        self.body.copy_from(&old.body);
    }
    fn count(header: &Header) -> &AtomicU64 {
        &header.breakers
    }
    fn offset(index: usize, size: usize) -> Option<usize> {
        let end = size - size % Region::ALIGN;
        end.checked_sub(index.checked_add(1)?.checked_mul(BREAKER)?)
    }
}

/// What [`Ident`] says of its record's use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// The last cycle that asked for it; 0: it is nobody's.
    pub cycle: u32,
    /// Since when, in seconds, it is of no use to that cycle; 0: it is.
    pub released: u32,
}

impl Use {
    const fn pack(self) -> u64 {
        self.cycle as u64 | (self.released as u64) << 32
    }

    /// Cycles since somebody asked for it; a record that is nobody's is idle for ever.
    pub const fn idle(self, now: u32) -> u32 {
        match self.cycle {
            0 => u32::MAX,
            used => now.saturating_sub(used),
        }
    }

    /// Seconds since it was released; `None`: it is in use.
    pub const fn unused_for(self, now: u32) -> Option<u32> {
        match self.released {
            0 => None,
            since => Some(now.saturating_sub(since)),
        }
    }
}

impl Ident {
    pub fn key(&self) -> Key {
        [self.key[0].load(SeqCst), self.key[1].load(SeqCst)]
    }

    pub fn owner(&self) -> u64 {
        self.owner.load(SeqCst)
    }

    pub fn usage(&self) -> Use {
        let word = self.used.load(Acquire);
        Use { cycle: word as u32, released: (word >> 32) as u32 }
    }

    pub fn set_usage(&self, usage: Use) {
        self.used.store(usage.pack(), Release);
    }

    /// Makes it nobody's.
    pub fn vacate(&self) {
        self.used.store(0, SeqCst);
    }

    /// Gives a record that is nobody's to a key.
    pub fn take(&self, owner: u64, key: Key, usage: Use) {
        self.owner.store(owner, SeqCst);
        self.key[0].store(key[0], SeqCst);
        self.key[1].store(key[1], SeqCst);
        self.set_usage(usage);
    }
}
