//! The last 256 events of this host, in a ring that any worker writes to and any worker reads, without a lock.
//!
//! A writer draws the next id, takes the place of that id with one compare-and-swap, writes and signs it off. It takes
//! the place over from whoever has an older id there, finished or not: one that was killed while it wrote holds up
//! nobody. What an event consists of is covered by a check sum, so that one that was slow rather than dead, and goes on
//! writing after it has lost its place, makes an event unreadable at worst, never wrong. An id without a readable event
//! is a gap, which readers see in the numbers.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};

use super::cell::{Region, shared_struct};
use super::seal::{Format, LayoutError, Seal};
use crate::policy::Millis;
use crate::policy::events::{Event, Recorded, SIZE, pack, unpack};

const FORMAT: Format = Format::new(*b"sluiceEV", 1, "events");
/// Events that are kept.
pub const EVENTS: usize = 256;
/// What has not been signed off this much later will not be.
const GIVEN_UP: Millis = 1_000;
const WORDS: usize = SIZE / 8;
const _: () = assert!(WORDS * 8 == SIZE);

shared_struct! {
    #[repr(align(64))]
    struct Header {
        seal: Seal,
        /// The id drawn last.
        last: AtomicU64,
        spare: [AtomicU64; 5],
    }
}

shared_struct! {
    #[repr(align(64))]
    struct Slot {
        /// Twice the id of what stands here, one more while it is being written.
        stamp: AtomicU64,
        /// Over all below, and the id.
        sum: AtomicU64,
        /// Wall clock, milliseconds.
        time: AtomicU64,
        /// Monotonic clock, milliseconds.
        mono: AtomicU64,
        words: [AtomicU64; WORDS],
        spare: [AtomicU64; 2],
    }
}

const _: () = assert!(size_of::<Slot>() == 512 && size_of::<Header>() == 64);

/// The ring. A plain handle: copies view the same memory.
#[derive(Clone, Copy)]
pub struct Ring {
    header: &'static Header,
    slots: &'static [Slot],
}

/// The event log as one reader finds it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// Ask for what comes after this next time.
    pub last: u64,
    /// In the order of their ids.
    pub events: Vec<Recorded>,
}

/// What one place holds for a reader who looks for one id.
enum Found {
    Event(Recorded, Millis),
    /// Overwritten, or garbled: it will not come.
    Gone,
    /// Drawn, and not written yet.
    Pending,
}

impl Ring {
    /// Bytes of the ring.
    pub const BYTES: usize = size_of::<Header>() + EVENTS * size_of::<Slot>();

    /// Lays out fresh, zeroed memory.
    ///
    /// # Errors
    /// [`LayoutError`] if the region is too small.
    pub fn create(region: Region) -> Result<Self, LayoutError> {
        let ring = Self::view(region)?;
        ring.header.seal.set(&FORMAT);
        Ok(ring)
    }

    /// Takes over what an earlier cycle laid out.
    ///
    /// # Errors
    /// When it is not of this layout; start with a fresh zone.
    pub fn adopt(region: Region) -> Result<Self, LayoutError> {
        let ring = Self::view(region)?;
        ring.header.seal.check(&FORMAT)?;
        Ok(ring)
    }

    fn view(region: Region) -> Result<Self, LayoutError> {
        FORMAT.fits(region, Self::BYTES)?;
        Ok(Self { header: region.get(0)?, slots: region.slice(size_of::<Header>(), EVENTS)? })
    }

    /// Id of the newest event, 0: there was none. It may not be readable yet.
    pub fn last(&self) -> u64 {
        self.header.last.load(Acquire)
    }

    /// Writes an event down; returns its id. Never waits.
    pub fn write(&self, event: &Event<'_>, wall: Millis, mono: Millis) -> u64 {
        let id = self.header.last.fetch_add(1, SeqCst) + 1;
        let Some(slot) = self.slot(id) else { return id };
        if !slot.take(id) {
            return id;
        }
        let words = words(&pack(event));
        slot.sum.store(sum(id, wall, mono, &words), Relaxed);
        slot.time.store(wall, Relaxed);
        slot.mono.store(mono, Relaxed);
        slot.words.iter().zip(words).for_each(|(to, word)| to.store(word, Relaxed));
        // Unless somebody has taken the place over, 256 events later.
        let _ = slot.stamp.compare_exchange(id << 1 | 1, id << 1, Release, Relaxed);
        id
    }

    /// What came after the event `since`, as far as it is still there. An event that is being written ends the page,
    /// so that nobody who asks for what comes after the page misses it.
    pub fn read(&self, since: u64, mono: Millis) -> Page {
        let newest = self.last();
        // Ids begin anew with the memory: whoever asks for more than there was has another ring in mind.
        let since = if since > newest { 0 } else { since };
        let oldest = newest.saturating_sub(EVENTS as u64);
        let mut page = Page { last: since.max(oldest), events: Vec::new() };
        let mut pending = Vec::new();
        for id in page.last + 1..=newest {
            match self.find(id) {
                Found::Event(event, at) => {
                    let given_up = mono.saturating_sub(at) > GIVEN_UP;
                    if !pending.is_empty() && !given_up {
                        return page;
                    }
                    pending.clear();
                    page.last = id;
                    page.events.push(event);
                }
                Found::Gone => {
                    if pending.is_empty() {
                        page.last = id;
                    }
                }
                Found::Pending => pending.push(id),
            }
        }
        page
    }

    fn slot(&self, id: u64) -> Option<&'static Slot> {
        self.slots.get((id % EVENTS as u64) as usize)
    }

    fn find(&self, id: u64) -> Found {
        let Some(slot) = self.slot(id) else { return Found::Gone };
        let stamp = slot.stamp.load(Acquire);
        if stamp >> 1 > id {
            return Found::Gone;
        }
        if stamp != id << 1 {
            return Found::Pending;
        }
        let (sum_then, wall, mono) =
            (slot.sum.load(Relaxed), slot.time.load(Relaxed), slot.mono.load(Relaxed));
        let mut read = [0; WORDS];
        read.iter_mut().zip(&slot.words).for_each(|(to, from)| *to = from.load(Relaxed));
        // Whatever was read is whole if it adds up: no need to look at the stamp again.
        if sum(id, wall, mono, &read) != sum_then {
            return Found::Gone;
        }
        unpack(id, wall, &bytes(&read)).map_or(Found::Gone, |event| Found::Event(event, mono))
    }
}

impl Slot {
    /// Takes the place for `id` from an older one.
    fn take(&self, id: u64) -> bool {
        let newer = |stamp: u64| (stamp >> 1 < id).then_some(id << 1 | 1);
        self.stamp.fetch_update(SeqCst, SeqCst, newer).is_ok()
    }
}

fn words(bytes: &[u8; SIZE]) -> [u64; WORDS] {
    let mut words = [0; WORDS];
    for (word, chunk) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*chunk);
    }
    words
}

fn bytes(words: &[u64; WORDS]) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    for (chunk, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        *chunk = word.to_le_bytes();
    }
    bytes
}

/// A check sum in which each bit of each word, and its place, counts (multiplication as in FNV, and a rotation so that
/// high bits come down).
fn sum(id: u64, wall: Millis, mono: Millis, words: &[u64; WORDS]) -> u64 {
    let all = [id, wall, mono].into_iter().chain(words.iter().copied());
    all.fold(0xCBF2_9CE4_8422_2325, |sum, word| {
        (sum ^ word).wrapping_mul(0x0000_0100_0000_01B3).rotate_left(29)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::events::Kind;

    fn ring() -> Ring {
        Ring::create(Region::on_heap(Ring::BYTES)).unwrap()
    }

    fn write(ring: &Ring, text: &str, at: Millis) -> u64 {
        let event = Event { kind: Kind::Control, upstream: "u", peer: "", from: "a", to: "b", text };
        ring.write(&event, 1_000_000 + at, at)
    }

    fn ids(page: &Page) -> Vec<u64> {
        page.events.iter().map(|event| event.id).collect()
    }

    #[test]
    fn events_are_read_in_order_and_once() {
        let ring = ring();
        assert_eq!(ring.read(0, 0), Page::default());
        for n in 1..=3 {
            assert_eq!(write(&ring, &n.to_string(), n), n);
        }
        let page = ring.read(0, 5);
        assert_eq!((page.last, ids(&page)), (3, vec![1, 2, 3]));
        assert_eq!((page.events[1].text.as_str(), page.events[1].time), ("2", 1_000_002));
        assert_eq!(ids(&ring.read(2, 5)), [3]);
        assert_eq!(ring.read(3, 5), Page { last: 3, events: vec![] });
        // From another life.
        assert_eq!(ids(&ring.read(99, 5)), [1, 2, 3]);
    }

    #[test]
    fn the_last_256_stay() {
        let ring = ring();
        (0..300).for_each(|n| {
            write(&ring, "x", n);
        });
        let page = ring.read(10, 300);
        assert_eq!((page.last, page.events.len(), page.events[0].id), (300, 256, 45));
    }

    #[test]
    fn a_writer_that_dies_holds_nobody_up() {
        let ring = ring();
        write(&ring, "before", 10);
        // One dies after it has drawn an id, another while it writes.
        ring.header.last.fetch_add(2, SeqCst);
        assert!(ring.slot(3).unwrap().take(3));
        ring.slot(3).unwrap().words[0].store(99, Relaxed);
        // What comes after has to wait for them, a moment.
        assert_eq!(ids(&ring.read(0, 20)), [1]);
        assert_eq!(write(&ring, "after", 20), 4);
        assert_eq!((ids(&ring.read(0, 30)), ring.read(0, 30).last), (vec![1], 1));
        let page = ring.read(0, 20 + GIVEN_UP + 1);
        assert_eq!((ids(&page), page.last), (vec![1, 4], 4));
        // Their places are taken when their turn comes.
        (0..256).for_each(|n| {
            write(&ring, "later", 2_000 + n);
        });
        let page = ring.read(0, 5_000);
        assert_eq!((page.events.len(), page.events[0].id, page.last), (256, 5, 260));
    }

    #[test]
    fn a_late_writer_spoils_an_event_and_no_more() {
        let ring = ring();
        (0..257).for_each(|n| {
            write(&ring, "x", n);
        });
        ring.slot(257).unwrap().words[3].store(7, Relaxed);
        let page = ring.read(254, 300);
        assert_eq!((ids(&page), page.last), (vec![255, 256], 257));
        // One with an older id leaves the place alone.
        assert!(!ring.slot(1).unwrap().take(1));
    }

    #[test]
    fn it_is_taken_over_as_it_is() {
        let region = Region::on_heap(Ring::BYTES);
        assert!(Ring::adopt(region).is_err());
        write(&Ring::create(region).unwrap(), "kept", 1);
        let ring = Ring::adopt(region).unwrap();
        assert_eq!((ring.last(), ring.read(0, 9).events[0].text.as_str()), (1, "kept"));
        assert!(Ring::create(Region::on_heap(Ring::BYTES - 1)).is_err());
    }

    #[test]
    fn eight_writers_and_a_reader() {
        let ring = ring();
        std::thread::scope(|scope| {
            for writer in 0..8u64 {
                scope.spawn(move || {
                    for n in 0..500 {
                        let text = format!("{writer} {n} {}", "x".repeat((n % 150) as usize));
                        write(&ring, &text, n);
                    }
                });
            }
            scope.spawn(move || {
                let mut since = 0;
                while since < 4_000 {
                    let page = ring.read(since, 0);
                    assert!(page.last >= since && page.events.is_sorted_by_key(|event| event.id));
                    for event in &page.events {
                        let mut words = event.text.split(' ');
                        let n: usize = words.nth(1).unwrap().parse().unwrap();
                        assert_eq!(words.next().unwrap().len(), n % 150);
                    }
                    since = page.last;
                }
            });
        });
        assert_eq!(ring.last(), 4_000);
    }
}
