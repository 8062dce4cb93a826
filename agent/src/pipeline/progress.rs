//! How far an archive is: counters that the pipeline's threads raise and its task reports.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one archive. Only ever rising.
#[derive(Debug, Default)]
pub(crate) struct ArchiveProgress {
    done_bytes: AtomicU64,
    done_entries: AtomicU64,
    sent_bytes: AtomicU64,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ArchiveProgressNow {
    /// Bytes of files read, or found to be known.
    pub(crate) done_bytes: u64,
    /// Entries met.
    pub(crate) done_entries: u64,
    /// Bytes of segments that the controller holds durably.
    pub(crate) sent_bytes: u64,
}

impl ArchiveProgress {
    pub(super) fn add_bytes(&self, count: u64) {
        self.done_bytes.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn add_entry(&self) {
        self.done_entries.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_sent(&self, count: u64) {
        self.sent_bytes.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn now(&self) -> ArchiveProgressNow {
        ArchiveProgressNow {
            done_bytes: self.done_bytes.load(Ordering::Relaxed),
            done_entries: self.done_entries.load(Ordering::Relaxed),
            sent_bytes: self.sent_bytes.load(Ordering::Relaxed),
        }
    }
}
