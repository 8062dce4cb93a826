//! The decoders of what others write and only the agent reads, for those who throw bytes at them
//! (`tests/decoders`). Each returns whatever it is given.

use proto::v1;
use repository::content::IdKey;
use repository::ids::{DomainId, RepositoryId};

use crate::restore::{ArchiveKeys, BlobMapBuilder};

/// A block of the cache.
pub fn cache_block(bytes: &[u8]) {
    let _ = crate::cache::decode_block(bytes);
}

/// What the state folder keeps of who we are.
pub fn identity(bytes: &[u8]) {
    let _ = crate::state::Identity::read(bytes);
}

/// The journal of a restore.
pub fn journal(bytes: &[u8]) {
    crate::targets::files::read_journal(bytes);
}

/// What the controller says of a segment.
pub fn opened_segment(opened: &v1::OpenedSegment) {
    let (repository, domain) = (RepositoryId::new([1; 16]), DomainId::new([2; 16]));
    let mut map = BlobMapBuilder::new(ArchiveKeys { repository, domain, id_key: IdKey::new([3; 32]) });
    if map.add(opened).is_ok() {
        map.finish();
    }
}

/// What the controller orders to be restored.
pub fn restore_order(order: Option<&v1::RestoreOrder>, allowance: Option<&v1::Allowance>) {
    crate::tasks::check_restore(order, allowance);
}
