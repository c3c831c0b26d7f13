//! What is counted of one subject: one block of cells per shard, each kind of subject its own.

use std::sync::atomic::AtomicU64;

use crate::policy::health::{CHANGES, FINDINGS};
use crate::policy::traffic::{CLASSES, DURATION, KNOWN, RESPONSE};
use crate::shared::cell::{Shared, shared_struct};

/// Codes without a cell of their own that one series tells apart.
pub const NAMED: usize = 8;

/// The cells of one kind of subject.
pub trait Cells: Shared + Sized {
    /// Tells the kinds apart in the zone.
    const KIND: u64;
    /// How many words from the front are counters, which a reset takes back to 0; the others are states.
    const COUNTERS: usize;
    /// How many words in all.
    const WORDS: usize = size_of::<Self>() / 8;
}

macro_rules! cells {
    ($name:ident, $kind:literal, $states:literal) => {
        impl Cells for $name {
            const KIND: u64 = $kind;
            const COUNTERS: usize = size_of::<Self>() / 8 - $states;
        }
    };
}

shared_struct! {
    /// Responses by status.
    #[derive(Debug)]
    pub struct Codes {
        pub known: [AtomicU64; KNOWN],
        /// Codes the series has met and given a name.
        pub named: [AtomicU64; NAMED],
        /// All others, by class.
        pub other: [AtomicU64; CLASSES],
    }
}

shared_struct! {
    /// A `status_zone` of servers or of locations.
    #[derive(Debug)]
    pub struct Zone {
        pub codes: Codes,
        pub requests: AtomicU64,
        /// Ended without a response.
        pub discarded: AtomicU64,
        /// Bytes from clients, and to them.
        pub received: AtomicU64,
        pub sent: AtomicU64,
        /// TLS handshakes of connections whose first request came here.
        pub handshakes: AtomicU64,
        pub session_reuses: AtomicU64,
        pub spare: AtomicU64,
    }
}
cells!(Zone, 1, 0);

shared_struct! {
    /// All requests together.
    #[derive(Debug)]
    pub struct Http {
        pub codes: Codes,
        pub requests: AtomicU64,
        pub discarded: AtomicU64,
        pub received: AtomicU64,
        pub sent: AtomicU64,
        /// Requests by duration, and the milliseconds they took together.
        pub durations: [AtomicU64; DURATION.len() + 1],
        pub duration_sum: AtomicU64,
        pub spare: [AtomicU64; 5],
    }
}
cells!(Http, 2, 0);

shared_struct! {
    /// One server of an upstream group.
    #[derive(Debug)]
    pub struct Peer {
        pub codes: Codes,
        pub requests: AtomicU64,
        pub received: AtomicU64,
        pub sent: AtomicU64,
        /// Attempts that came to nothing.
        pub fails: AtomicU64,
        /// How often `max_fails` made it unavailable.
        pub unavail: AtomicU64,
        /// Answers by response time, and the milliseconds they took together.
        pub times: [AtomicU64; RESPONSE.len() + 1],
        pub time_sum: AtomicU64,
        pub spare: [AtomicU64; 4],
        /// Milliseconds out of service, periods that have ended; of the series, not of a shard.
        pub downtime: AtomicU64,
        /// Moving averages, `policy::traffic::moved`.
        pub header_time: AtomicU64,
        pub response_time: AtomicU64,
        /// When it was last chosen, wall clock.
        pub selected: AtomicU64,
        /// Since when it is out of service, wall clock, 0: it is not; and when it last went out. Of the series.
        pub down_since: AtomicU64,
        pub down_start: AtomicU64,
        /// What the API calls it, and one more; 0: nothing yet.
        pub id: AtomicU64,
    }
}
cells!(Peer, 3, 7);

shared_struct! {
    /// One cache. Bytes are of responses.
    #[derive(Debug)]
    pub struct Cache {
        /// By `policy` of the order in `$upstream_cache_status`: responses, bytes, and of those that went to the cache.
        pub responses: [AtomicU64; 8],
        pub bytes: [AtomicU64; 8],
        pub responses_written: [AtomicU64; 8],
        pub bytes_written: [AtomicU64; 8],
    }
}
cells!(Cache, 4, 0);

shared_struct! {
    /// One limit of the core's: outcomes by its own status.
    #[derive(Debug)]
    pub struct CoreLimit {
        pub outcomes: [AtomicU64; 8],
    }
}
cells!(CoreLimit, 5, 0);

shared_struct! {
    /// One `rate_limit_zone`.
    #[derive(Debug)]
    pub struct RateLimit {
        pub outcomes: [AtomicU64; 8],
        pub sources: [AtomicU64; 8],
    }
}
cells!(RateLimit, 6, 0);

shared_struct! {
    /// What no request tells: connections, TLS, processes.
    #[derive(Debug)]
    pub struct Host {
        pub accepted: AtomicU64,
        pub respawned: AtomicU64,
        pub handshakes: AtomicU64,
        pub handshakes_failed: AtomicU64,
        pub session_reuses: AtomicU64,
        pub spare: [AtomicU64; 8],
        /// What nginx itself had counted at the last reset: connections accepted and handled, requests. Of the series, not of a
        /// shard.
        pub accepted_before: AtomicU64,
        pub handled_before: AtomicU64,
        pub requests_before: AtomicU64,
    }
}
cells!(Host, 7, 3);

shared_struct! {
    /// One upstream group.
    #[derive(Debug)]
    pub struct Group {
        /// The number of the next server that is first seen; of the series, not of a shard.
        pub next_id: AtomicU64,
        pub spare: [AtomicU64; 7],
    }
}
cells!(Group, 8, 8);

shared_struct! {
    /// One check of one server.
    #[derive(Debug)]
    pub struct Probes {
        /// By `policy::health::found`.
        pub found: [AtomicU64; FINDINGS.len()],
        /// By `policy::health::CHANGES`.
        pub changes: [AtomicU64; CHANGES.len()],
        /// Probes by the time they took, and the milliseconds of all together.
        pub times: [AtomicU64; RESPONSE.len() + 1],
        pub time_sum: AtomicU64,
        pub spare: [AtomicU64; 4],
    }
}
cells!(Probes, 16, 0);
