//! Which blobs there are and which of them the archive needs.
//!
//! Must stay true: of the blobs of one archive each is sealed once: whoever claims an id first seals it,
//! everybody else only refers to it. A claimed blob has its place only when it is sealed; the archive's
//! refs are made after the last one was.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use repository::ids::{BlobId, DomainId, SegmentId};
use repository::refs::{BlobAddress, Refs};

use super::known::{KnownBlobs, Place, SegmentSize};

/// What became of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// The domain holds it, or it is on its way.
    Exists,
    /// The claimer has to seal it.
    Ours,
}

/// A blob that is new in this archive.
#[derive(Debug, Clone, Copy)]
struct NewBlob {
    place: Option<Place>,
    needed: bool,
}

/// Shared by the workers, who claim, and the packer, who does all the rest.
#[derive(Debug)]
pub(super) struct Ledger {
    known: KnownBlobs,
    new: Mutex<HashMap<BlobId, NewBlob>>,
}

impl Ledger {
    pub(super) fn new(known: KnownBlobs) -> Self {
        Self { known, new: Mutex::new(HashMap::new()) }
    }

    /// What the domain held before this archive.
    pub(super) fn known(&self) -> &KnownBlobs {
        &self.known
    }

    pub(super) fn claim(&self, id: &BlobId) -> Claim {
        if self.known.contains(id) {
            return Claim::Exists;
        }
        match self.lock().entry(*id) {
            std::collections::hash_map::Entry::Occupied(_) => Claim::Exists,
            std::collections::hash_map::Entry::Vacant(vacant) => {
                vacant.insert(NewBlob { place: None, needed: false });
                Claim::Ours
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<BlobId, NewBlob>> {
        self.new.lock().expect("nobody panics while holding the ledger")
    }
}

/// The packer's view of the ledger.
#[derive(Debug)]
pub(super) struct Needs<'a> {
    ledger: &'a Ledger,
    known_needed: Vec<bool>,
    new_segments: Vec<SegmentSize>,
}

impl<'a> Needs<'a> {
    pub(super) fn new(ledger: &'a Ledger) -> Self {
        Self { ledger, known_needed: vec![false; ledger.known.len()], new_segments: Vec::new() }
    }

    /// A new segment is begun; its index for [`Self::sealed`].
    pub(super) fn segment_begins(&mut self, id: SegmentId) -> u32 {
        self.new_segments.push(SegmentSize { id, blobs: 0 });
        (self.new_segments.len() - 1) as u32
    }

    /// A claimed blob has its place.
    pub(super) fn sealed(&mut self, id: &BlobId, place: Place) {
        let mut new = self.ledger.lock();
        let blob = new.get_mut(id).expect("a blob is claimed before it is sealed");
        assert!(blob.place.is_none(), "a blob is sealed once");
        blob.place = Some(place);
        let size = &mut self.new_segments[place.segment as usize].blobs;
        *size = (*size).max(place.ordinal + 1);
    }

    /// The archive needs this blob, which is known or claimed.
    pub(super) fn need(&mut self, id: &BlobId) {
        if let Some(index) = self.ledger.known.find(id) {
            self.known_needed[index] = true;
            return;
        }
        self.ledger.lock().get_mut(id).expect("a needed blob is known or claimed").needed = true;
    }

    /// Everything that is needed; after the last blob was sealed.
    pub(super) fn refs(&self, domain: DomainId) -> Refs {
        let mut refs = Refs::new(domain);
        let mut add = |segment: SegmentSize, ordinal: u32| {
            refs.add(BlobAddress { segment: segment.id, ordinal }, segment.blobs);
        };
        for (index, _) in self.known_needed.iter().enumerate().filter(|(_, needed)| **needed) {
            let (segment, ordinal) = self.ledger.known.place(index);
            add(segment, ordinal);
        }
        for blob in self.ledger.lock().values().filter(|blob| blob.needed) {
            let place = blob.place.expect("every needed blob was sealed");
            add(self.new_segments[place.segment as usize], place.ordinal);
        }
        refs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::known::KnownBlobsBuilder;

    fn blob(byte: u8) -> BlobId {
        BlobId::new([byte; 32])
    }

    #[test]
    fn a_blob_is_claimed_by_one_and_refs_name_only_what_is_needed() {
        let mut builder = KnownBlobsBuilder::default();
        let old = SegmentId::new([1; 16]);
        builder.add(old, &[blob(1), blob(2)], &[9, 9], &[]).expect("valid");
        let ledger = Ledger::new(builder.finish(KnownBlobs::default()));
        assert_eq!(ledger.claim(&blob(2)), Claim::Exists);
        assert_eq!(ledger.claim(&blob(3)), Claim::Ours);
        assert_eq!(ledger.claim(&blob(3)), Claim::Exists);
        assert_eq!(ledger.claim(&blob(4)), Claim::Ours);

        let mut needs = Needs::new(&ledger);
        let fresh = SegmentId::new([2; 16]);
        let segment = needs.segment_begins(fresh);
        needs.need(&blob(2));
        needs.need(&blob(3));
        needs.sealed(&blob(4), Place { segment, ordinal: 0 });
        needs.sealed(&blob(3), Place { segment, ordinal: 1 });
        let refs = needs.refs(DomainId::new([7; 16]));
        assert_eq!(refs.segments().collect::<Vec<_>>(), [(old, 2), (fresh, 2)]);
        assert_eq!(refs.ordinals(&old).collect::<Vec<_>>(), [1]);
        assert_eq!(refs.ordinals(&fresh).collect::<Vec<_>>(), [1]);
    }
}
