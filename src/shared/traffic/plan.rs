//! How the zone of counters is laid out: header, processes, directory, and then the shards, all of one size.

use super::{HEADER, LINE, Process, RECORD};

/// How a zone is to be laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    pub shards: usize,
    pub processes: usize,
    pub records: usize,
    /// Words of one shard, for all series together.
    pub words: usize,
}

impl Plan {
    pub(super) fn gauges(&self) -> usize {
        self.records.next_multiple_of(LINE)
    }

    pub(super) fn process_size(&self) -> usize {
        size_of::<Process>().saturating_add(self.gauges().saturating_mul(8))
    }

    pub(super) fn records_at(&self) -> usize {
        HEADER.saturating_add(self.processes.saturating_mul(self.process_size()))
    }

    pub(super) fn cells_at(&self) -> usize {
        self.records_at().saturating_add(self.records.saturating_mul(RECORD))
    }

    pub(super) fn shard_size(&self) -> usize {
        self.words.next_multiple_of(LINE).saturating_mul(8)
    }

    /// Bytes of a zone that is laid out so.
    #[must_use]
    pub fn size(&self) -> usize {
        self.cells_at().saturating_add(self.shard_size().saturating_mul(self.shards.saturating_add(1)))
    }
}
