//! What the controller listed for the last archive of each domain, so that the next one asks for what is new.
//!
//! Must stay true: the controller alone says whether what was listed before still counts; and what is kept
//! has a limit, beyond which the whole list is asked for again.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use repository::ids::DomainId;

use super::known::KnownBlobs;

/// The most blobs that are kept of all domains together: some 50 MiB.
const MAX_BLOBS: usize = 1 << 20;

/// The lists of this process, by domain.
#[derive(Debug, Default)]
pub(crate) struct RememberedBlobs {
    lists: Mutex<HashMap<DomainId, Remembered>>,
}

/// A list, and the controller's mark of how far it goes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Remembered {
    pub(crate) mark: Bytes,
    pub(crate) blobs: KnownBlobs,
}

impl RememberedBlobs {
    /// The last list of a domain; empty if there is none.
    pub(crate) fn of(&self, domain: &DomainId) -> Remembered {
        self.lock().get(domain).cloned().unwrap_or_default()
    }

    /// Keeps a list, as long as there is room.
    pub(crate) fn keep(&self, domain: DomainId, list: Remembered) {
        let mut lists = self.lock();
        lists.remove(&domain);
        let kept: usize = lists.values().map(|list| list.blobs.len()).sum();
        if kept + list.blobs.len() <= MAX_BLOBS {
            lists.insert(domain, list);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<DomainId, Remembered>> {
        self.lists.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
