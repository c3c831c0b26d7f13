//! Which server a learnt session belongs to: a table of fixed size without locks.
//!
//! A session can only lie in the eight places of its bucket. Each place holds the session's hash mixed with its server,
//! so that a place half written by two workers at once, or by one that died, belongs to no session: it is read as
//! empty, never as another's (R. Hyatt and T. Mann, "A lockless transposition table", 2002). A full bucket forgets
//! the session that was not seen for the longest time.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use super::cell::{Region, shared_struct};
use super::seal::{Format, LayoutError, Seal};
use crate::policy::Millis;

const FORMAT: Format = Format::new(*b"sluiceSE", 1, "sessions");
const WAYS: usize = 8;

shared_struct! {
    #[derive(Debug)]
    #[repr(align(64))]
    struct Header {
        seal: Seal,
        buckets: AtomicU64,
        spare: [AtomicU64; 5],
    }
}

shared_struct! {
    #[derive(Debug, Default)]
    struct Place {
        /// The halves of the session's hash, each mixed with the server.
        mixed: [AtomicU64; 2],
        /// The server's hash; 0: the place is empty.
        server: AtomicU64,
        /// When the session was last seen, in milliseconds of the host's monotonic clock.
        seen: AtomicU64,
    }
}

const HEADER: usize = size_of::<Header>();
const BUCKET: usize = WAYS * size_of::<Place>();
const _: () = assert!(HEADER == 64 && BUCKET == 256);

/// A session's hash, which does not collide.
pub type Key = [u64; 2];

/// The table. A plain handle: copies view the same memory.
#[derive(Clone, Copy, Debug)]
pub struct Sessions {
    places: &'static [Place],
}

impl Sessions {
    /// Lays out fresh, zeroed memory.
    ///
    /// # Errors
    /// When not one bucket fits.
    pub fn create(region: Region) -> Result<Self, LayoutError> {
        let buckets = Self::buckets(region)?;
        let header: &Header = region.get(0)?;
        header.buckets.store(buckets as u64, Relaxed);
        header.seal.set(&FORMAT);
        Ok(Self { places: region.slice(HEADER, buckets * WAYS)? })
    }

    /// Takes over memory that an earlier cycle laid out.
    ///
    /// # Errors
    /// When it is not ours, or not of this layout or size; start with a fresh zone.
    pub fn adopt(region: Region) -> Result<Self, LayoutError> {
        let buckets = Self::buckets(region)?;
        let header: &Header = region.get(0)?;
        header.seal.check(&FORMAT)?;
        FORMAT.laid_out_so(header.buckets.load(Relaxed) == buckets as u64)?;
        Ok(Self { places: region.slice(HEADER, buckets * WAYS)? })
    }

    fn buckets(region: Region) -> Result<usize, LayoutError> {
        FORMAT.fits(region, HEADER + BUCKET)?;
        Ok((region.len() - HEADER) / BUCKET)
    }

    /// The server of a session, if it was seen within `timeout`; it is now.
    pub fn find(&self, key: Key, now: Millis, timeout: Millis) -> Option<u64> {
        let (place, server) = self.place(key)?;
        if now.saturating_sub(place.seen.load(Relaxed)) > timeout {
            return None;
        }
        place.seen.store(now, Relaxed);
        Some(server)
    }

    /// Binds a session to a server, whose hash is not 0.
    pub fn put(&self, key: Key, server: u64, now: Millis) {
        let bucket = self.bucket(key);
        let age = |place: &&Place| match place.server.load(Relaxed) {
            0 => 0,
            _ => place.seen.load(Relaxed).max(1),
        };
        let own = self.place(key).map(|(place, _)| place);
        let Some(place) = own.or_else(|| bucket.iter().min_by_key(age)) else { return };
        place.write(key, server, now);
    }

    /// Carries over what another table holds, as far as there is room.
    pub fn copy_from(&self, old: &Self) {
        for place in old.places {
            if let Some((key, server)) = place.read() {
                self.put(key, server, place.seen.load(Relaxed));
            }
        }
    }

    fn bucket(&self, key: Key) -> &'static [Place] {
        // There is at least one bucket. The second half chooses it, by the high bits of a product: no division.
        let buckets = self.places.len() / WAYS;
        let at = ((u128::from(key[1]) * buckets as u128) >> 64) as usize * WAYS;
        self.places.get(at..at + WAYS).unwrap_or_default()
    }

    fn place(&self, key: Key) -> Option<(&'static Place, u64)> {
        self.bucket(key).iter().find_map(|place| {
            let (its, server) = place.read()?;
            (its == key).then_some((place, server))
        })
    }
}

impl Place {
    fn read(&self) -> Option<(Key, u64)> {
        let server = self.server.load(Acquire);
        let [first, second] = [&self.mixed[0], &self.mixed[1]].map(|word| word.load(Acquire));
        (server != 0).then_some(([first ^ server, second ^ server.rotate_left(32)], server))
    }

    fn write(&self, key: Key, server: u64, now: Millis) {
        self.server.store(0, Release);
        self.mixed[0].store(key[0] ^ server, Release);
        self.mixed[1].store(key[1] ^ server.rotate_left(32), Release);
        self.seen.store(now, Release);
        self.server.store(server, Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(buckets: usize) -> Sessions {
        Sessions::create(Region::on_heap(HEADER + buckets * BUCKET)).unwrap()
    }

    fn key(n: u64) -> Key {
        [n.wrapping_mul(0x9E37_79B9_7F4A_7C15), n.wrapping_mul(0xD1B5_4A32_D192_ED03)]
    }

    #[test]
    fn a_session_is_found_until_it_times_out() {
        let table = table(4);
        assert_eq!(table.find(key(1), 0, 100), None);
        table.put(key(1), 7, 10);
        assert_eq!(table.find(key(1), 110, 100), Some(7));
        assert_eq!(table.find(key(1), 210, 100), Some(7));
        assert_eq!(table.find(key(1), 311, 100), None);
        table.put(key(1), 8, 400);
        assert_eq!(table.find(key(1), 400, 100), Some(8));
        assert_eq!(table.find(key(2), 400, 100), None);
    }

    #[test]
    fn a_full_bucket_forgets_the_oldest() {
        let table = table(1);
        for n in 0..8 {
            table.put(key(n + 1), n + 1, n + 1);
        }
        assert_eq!(table.find(key(1), 100, 1_000), Some(1));
        table.put(key(9), 9, 101);
        assert_eq!(table.find(key(2), 102, 1_000), None);
        assert_eq!(table.find(key(1), 102, 1_000), Some(1));
        assert_eq!(table.find(key(9), 102, 1_000), Some(9));
    }

    #[test]
    fn a_reload_adopts_and_another_size_carries_over() {
        let region = Region::on_heap(HEADER + 4 * BUCKET);
        assert_eq!(Sessions::adopt(region).unwrap_err(), LayoutError::Foreign("sessions"));
        Sessions::create(region).unwrap().put(key(3), 5, 1);
        let adopted = Sessions::adopt(region).unwrap();
        assert_eq!(adopted.find(key(3), 1, 1), Some(5));
        let larger = table(64);
        larger.copy_from(&adopted);
        assert_eq!(larger.find(key(3), 2, 1), Some(5));
        let small = Region::on_heap(64);
        assert_eq!(
            Sessions::create(small).unwrap_err(),
            LayoutError::TooSmall { what: "sessions", size: 64, needed: HEADER + BUCKET }
        );
    }

    #[test]
    fn threads_that_meet_in_a_place_never_find_another_s_server() {
        let table = table(1);
        std::thread::scope(|scope| {
            for thread in 1..=8u64 {
                let table = &table;
                scope.spawn(move || {
                    for round in 0..20_000 {
                        let n = round % 16 + 1;
                        if thread % 2 == 0 {
                            table.put(key(n), n, round);
                        } else if let Some(server) = table.find(key(n), round, u64::MAX) {
                            assert_eq!(server, n);
                        }
                    }
                });
            }
        });
    }
}
