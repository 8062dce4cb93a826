//! Where each blob of an archive lies, and what opens it.

use bytes::Bytes;
use proto::convert::{self, Invalid};
use proto::v1;
use repository::content::IdKey;
use repository::ids::{BlobId, DomainId, RepositoryId, SegmentId};
use repository::pack::blob::{BlobKind, BlobLine, Codec, MAX_PLAIN};
use repository::pack::seal::{BlobCipher, SegmentContext, SegmentKey};
use repository::read::{OpenError, Proven, open_blob};
use repository::refs::BlobAddress;

/// What the archive belongs to.
#[derive(Debug, Clone)]
pub(crate) struct ArchiveKeys {
    pub(crate) repository: RepositoryId,
    pub(crate) domain: DomainId,
    pub(crate) id_key: IdKey,
}

/// Collects segments as they are opened.
#[derive(Debug)]
pub(crate) struct BlobMapBuilder {
    keys: ArchiveKeys,
    segments: Vec<(SegmentContext, BlobCipher)>,
    lines: Vec<Located>,
}

/// The blobs of an archive, sorted by id: 56 bytes for each.
#[derive(Debug)]
pub(crate) struct BlobMap {
    keys: ArchiveKeys,
    segments: Vec<(SegmentContext, BlobCipher)>,
    lines: Vec<Located>,
}

#[derive(Debug, Clone, Copy)]
struct Located {
    line: BlobLine,
    segment: u32,
    ordinal: u32,
}

impl BlobMapBuilder {
    /// For an archive with these keys.
    pub(crate) fn new(keys: ArchiveKeys) -> Self {
        Self { keys, segments: Vec::new(), lines: Vec::new() }
    }

    /// Adds what the controller says of a segment; one segment may come in several messages.
    pub(crate) fn add(&mut self, opened: &v1::OpenedSegment) -> Result<(), Invalid> {
        let id: SegmentId = convert::id("segment_id", &opened.segment_id)?;
        let key = SegmentKey::new(convert::array("key", &opened.key)?);
        let segment = u32::try_from(self.segments.len())
            .map_err(|_| Invalid::new("segment_id", "is one of too many"))?;
        let ArchiveKeys { repository, domain, .. } = self.keys;
        let context = SegmentContext { repository, domain, segment: id };
        self.segments.push((context, BlobCipher::new(&key)));
        for blob in &opened.blobs {
            self.lines.push(Located { line: line(blob)?, segment, ordinal: blob.ordinal });
        }
        Ok(())
    }

    /// All of them; a blob that is in several segments is taken from the first.
    pub(crate) fn finish(self) -> BlobMap {
        let Self { keys, segments, mut lines } = self;
        lines.sort_by_key(|located| located.line.id);
        lines.dedup_by_key(|located| located.line.id);
        BlobMap { keys, segments, lines }
    }
}

fn line(blob: &v1::BlobLine) -> Result<BlobLine, Invalid> {
    let small = |field, code: u32| u8::try_from(code).map_err(|_| Invalid::new(field, "is not known"));
    let kind = BlobKind::from_code(small("kind", blob.kind)?);
    let codec = Codec::from_code(small("codec", blob.codec)?);
    if blob.plain_length > MAX_PLAIN {
        return Err(Invalid::new("plain_length", "is out of bounds"));
    }
    Ok(BlobLine {
        id: convert::id("blob_id", &blob.blob_id)?,
        kind: convert::required("kind", kind)?,
        codec: convert::required("codec", codec)?,
        absent: false,
        plain_length: blob.plain_length,
        stored_length: blob.stored_length,
    })
}

impl BlobMap {
    /// The blob's index in this map; `None`: the archive does not list it.
    pub(crate) fn find(&self, id: &BlobId) -> Option<usize> {
        self.lines.binary_search_by_key(id, |located| located.line.id).ok()
    }

    /// The id of the blob with this index.
    pub(crate) fn id(&self, index: usize) -> BlobId {
        self.lines[index].line.id
    }

    /// Bytes of the plaintext of the blob with this index.
    pub(crate) fn plain_length(&self, index: usize) -> usize {
        self.lines[index].line.plain_length as usize
    }

    /// Where the blob with this index lies.
    pub(crate) fn address(&self, index: usize) -> BlobAddress {
        let Located { segment, ordinal, .. } = self.lines[index];
        BlobAddress { segment: self.segments[segment as usize].0.segment, ordinal }
    }

    /// The plaintext of the blob with this index.
    pub(crate) fn open(&self, index: usize, sealed: Bytes, proven: Proven) -> Result<Vec<u8>, OpenError> {
        let Located { line, segment, ordinal } = &self.lines[index];
        let (context, cipher) = &self.segments[*segment as usize];
        open_blob(context, cipher, *ordinal, line, sealed.into(), &self.keys.id_key, proven)
    }
}
