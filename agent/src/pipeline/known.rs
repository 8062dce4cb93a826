//! The blobs that the domain holds already, exactly, as the controller listed them for this archive.
//!
//! Exactly, because a false positive would be a lost blob; compactly, because there is one for each MiB
//! of history: 48 bytes a blob in sorted vectors, no allocation for each. What was listed for the archive
//! before is kept (`remembered.rs`) and only what is new is listed and sorted: an archive after ten thousand
//! others costs what it costs after a hundred.

use std::sync::Arc;

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

    /// These and what was known before, which they go on from. A blob that is in several segments counts
    /// as one, in the segment listed first.
    pub(crate) fn finish(self, before: KnownBlobs) -> KnownBlobs {
        let KnownBlobs { old, recent } = before;
        let recent = match self.lines.is_empty() {
            true => recent,
            false => Arc::new(Part::joined(Arc::unwrap_or_clone(recent), self)),
        };
        if recent.lines.len() <= RECENT + old.lines.len() / 8 {
            return KnownBlobs { old, recent };
        }
        let Part { segments, lines } = Arc::unwrap_or_clone(recent);
        let all = Part::joined(Arc::unwrap_or_clone(old), Self { segments, lines });
        KnownBlobs { old: Arc::new(all), recent: Arc::default() }
    }
}

/// So many lines may be added one listing after the other before they are sorted in among all others.
const RECENT: usize = 1_024;

/// Lines in order of their ids, and the segments that they count into.
#[derive(Debug, Clone, Default)]
struct Part {
    segments: Vec<SegmentSize>,
    lines: Vec<Line>,
}

impl Part {
    fn joined(self, more: KnownBlobsBuilder) -> Self {
        let Self { mut segments, mut lines } = self;
        let first = segments.len() as u32;
        segments.extend(more.segments);
        let place = |at: Place| Place { segment: first + at.segment, ..at };
        lines.extend(more.lines.into_iter().map(|line| Line { place: place(line.place), ..line }));
        lines.sort_unstable_by_key(|line| (line.id, line.place.segment, line.place.ordinal));
        lines.dedup_by_key(|line| line.id);
        lines.shrink_to_fit();
        Self { segments, lines }
    }

    fn find(&self, id: &BlobId) -> Option<usize> {
        self.lines.binary_search_by_key(id, |line| line.id).ok()
    }
}

/// The domain's blobs. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct KnownBlobs {
    old: Arc<Part>,
    recent: Arc<Part>,
}

impl KnownBlobs {
    /// True if the domain holds it.
    pub(crate) fn contains(&self, id: &BlobId) -> bool {
        self.find(id).is_some()
    }

    /// Its index, for [`Self::place`] and [`Self::length`]; below [`Self::len`].
    pub(crate) fn find(&self, id: &BlobId) -> Option<usize> {
        let recent = || self.recent.find(id).map(|index| self.old.lines.len() + index);
        self.old.find(id).or_else(recent)
    }

    /// How many blobs; one may be counted twice.
    pub(crate) fn len(&self) -> usize {
        self.old.lines.len() + self.recent.lines.len()
    }

    /// The segment of the blob with this index, and its ordinal in it.
    pub(crate) fn place(&self, index: usize) -> (SegmentSize, u32) {
        let (part, line) = self.line(index);
        (part.segments[line.place.segment as usize], line.place.ordinal)
    }

    /// Bytes of the plaintext of the blob with this index.
    pub(crate) fn length(&self, index: usize) -> u32 {
        self.line(index).1.length
    }

    fn line(&self, index: usize) -> (&Part, &Line) {
        match index.checked_sub(self.old.lines.len()) {
            None => (&self.old, &self.old.lines[index]),
            Some(index) => (&self.recent, &self.recent.lines[index]),
        }
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
        let known = builder.finish(KnownBlobs::default());
        assert_eq!(known.len(), 3);
        let at = |id| known.place(known.find(&id).expect("known"));
        let (one, two) = (SegmentSize { id: segment(1), blobs: 3 }, SegmentSize { id: segment(2), blobs: 2 });
        assert_eq!((at(blob(4)), at(blob(3)), at(blob(5))), ((one, 2), (two, 0), (one, 0)));
        assert_eq!(known.length(known.find(&blob(4)).expect("known")), 40);
        assert!(!known.contains(&blob(9)));
    }

    #[test]
    fn what_is_listed_bit_by_bit_is_known_like_what_is_listed_at_once() {
        let id = |nth: u32| {
            let mut bytes = [0; 32];
            bytes[..4].copy_from_slice(&nth.wrapping_mul(2_654_435_761).to_be_bytes());
            BlobId::new(bytes)
        };
        let (mut known, mut at_once) = (KnownBlobs::default(), KnownBlobsBuilder::default());
        for nth in 0..200u32 {
            let blobs: Vec<BlobId> = (0..30).map(|of| id(nth * 29 + of)).collect();
            let of = |builder: &mut KnownBlobsBuilder| {
                builder.add(segment(nth as u8), &blobs, &[nth; 30], &[]).expect("valid");
            };
            let mut builder = KnownBlobsBuilder::default();
            of(&mut builder);
            of(&mut at_once);
            known = builder.finish(known);
        }
        let at_once = at_once.finish(KnownBlobs::default());
        for nth in 0..200 * 29 {
            let place = |known: &KnownBlobs| known.place(known.find(&id(nth)).expect("known"));
            assert_eq!(place(&known), place(&at_once), "blob {nth}");
        }
        assert!(!known.contains(&id(1 << 20)));
    }

    #[test]
    fn a_listing_that_does_not_add_up_is_refused() {
        let mut builder = KnownBlobsBuilder::default();
        assert!(builder.add(segment(1), &[blob(1)], &[], &[]).is_err());
        assert!(builder.add(segment(1), &[], &[], &[]).is_err());
        assert!(builder.add(segment(1), &[blob(1)], &[1], &[1]).is_err());
    }
}
