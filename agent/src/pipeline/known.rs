//! The blobs that the domain holds already, exactly, as the controller listed them for this archive.
//!
//! Exactly, because a false positive would be a lost blob; compactly, because there is one for each MiB
//! of history: 48 bytes a blob in one sorted vector, no allocation for each.

use repository::ids::{BlobId, SegmentId};
use repository::pack::segment::MAX_BLOBS;

/// Where a blob lies: an index into the list of segments, and the ordinal within the segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) segment: u32,
    pub(crate) ordinal: u32,
}

/// A segment and how many lines its table has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SegmentSize {
    pub(crate) id: SegmentId,
    pub(crate) blobs: u32,
}

#[derive(Debug, Clone, Copy)]
struct Line {
    id: BlobId,
    place: Place,
    length: u32,
}

/// Collects the segments as they are listed.
#[derive(Debug, Default)]
pub(crate) struct KnownBlobsBuilder {
    segments: Vec<SegmentSize>,
    lines: Vec<Line>,
}

/// A listed segment is not what a segment can be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the list of segment {segment} {why}")]
pub(crate) struct WrongListing {
    segment: SegmentId,
    why: &'static str,
}

impl KnownBlobsBuilder {
    /// Adds a segment's blobs in order of their ordinals, with the lengths of their plaintexts; those of
    /// the ordinals in `absent` must not be used.
    pub(crate) fn add(
        &mut self,
        id: SegmentId,
        blobs: &[BlobId],
        lengths: &[u32],
        absent: &[u32],
    ) -> Result<(), WrongListing> {
        let wrong = |why| Err(WrongListing { segment: id, why });
        if blobs.len() != lengths.len() || absent.len() > blobs.len() {
            return wrong("has not one length for each blob");
        }
        if blobs.is_empty() || blobs.len() > MAX_BLOBS {
            return wrong("has no blobs or too many");
        }
        let mut usable = vec![true; blobs.len()];
        for ordinal in absent {
            match usable.get_mut(*ordinal as usize) {
                Some(usable) => *usable = false,
                None => return wrong("marks a blob that it does not have"),
            }
        }
        let segment = self.segments.len() as u32;
        self.segments.push(SegmentSize { id, blobs: blobs.len() as u32 });
        let lines = blobs.iter().zip(lengths).enumerate().filter(|(ordinal, _)| usable[*ordinal]);
        self.lines.extend(lines.map(|(ordinal, (id, length))| Line {
            id: *id,
            place: Place { segment, ordinal: ordinal as u32 },
            length: *length,
        }));
        Ok(())
    }

    /// All of them. A blob that is in several segments counts as one, in the segment listed first.
    pub(crate) fn finish(self) -> KnownBlobs {
        let Self { segments, mut lines } = self;
        lines.sort_unstable_by_key(|line| (line.id, line.place.segment, line.place.ordinal));
        lines.dedup_by_key(|line| line.id);
        lines.shrink_to_fit();
        KnownBlobs { segments, lines }
    }
}

/// The domain's blobs.
#[derive(Debug, Default)]
pub(crate) struct KnownBlobs {
    segments: Vec<SegmentSize>,
    lines: Vec<Line>,
}

impl KnownBlobs {
    /// True if the domain holds it.
    pub(crate) fn contains(&self, id: &BlobId) -> bool {
        self.find(id).is_some()
    }

    /// Its index, for [`Self::place`] and [`Self::length`]; below [`Self::len`].
    pub(crate) fn find(&self, id: &BlobId) -> Option<usize> {
        self.lines.binary_search_by_key(id, |line| line.id).ok()
    }

    /// How many different blobs.
    pub(crate) fn len(&self) -> usize {
        self.lines.len()
    }

    /// Where the blob with this index lies.
    pub(crate) fn place(&self, index: usize) -> Place {
        self.lines[index].place
    }

    /// Bytes of the plaintext of the blob with this index.
    pub(crate) fn length(&self, index: usize) -> u32 {
        self.lines[index].length
    }

    /// The segments that places count into.
    pub(crate) fn segments(&self) -> &[SegmentSize] {
        &self.segments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob(byte: u8) -> BlobId {
        BlobId::new([byte; 32])
    }

    fn segment(byte: u8) -> SegmentId {
        SegmentId::new([byte; 16])
    }

    #[test]
    fn what_is_marked_absent_is_not_known_and_keeps_its_ordinal() {
        let mut builder = KnownBlobsBuilder::default();
        builder.add(segment(1), &[blob(5), blob(3), blob(4)], &[50, 30, 40], &[1]).expect("valid");
        builder.add(segment(2), &[blob(3), blob(5)], &[30, 50], &[]).expect("valid");
        let known = builder.finish();
        assert_eq!(known.len(), 3);
        let at = |id| known.place(known.find(&id).expect("known"));
        assert_eq!(at(blob(4)), Place { segment: 0, ordinal: 2 });
        assert_eq!(at(blob(3)), Place { segment: 1, ordinal: 0 });
        assert_eq!(at(blob(5)), Place { segment: 0, ordinal: 0 });
        assert_eq!(known.length(known.find(&blob(4)).expect("known")), 40);
        assert!(!known.contains(&blob(9)));
    }

    #[test]
    fn a_listing_that_does_not_add_up_is_refused() {
        let mut builder = KnownBlobsBuilder::default();
        assert!(builder.add(segment(1), &[blob(1)], &[], &[]).is_err());
        assert!(builder.add(segment(1), &[], &[], &[]).is_err());
        assert!(builder.add(segment(1), &[blob(1)], &[1], &[1]).is_err());
    }
}
