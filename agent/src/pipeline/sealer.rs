//! Seals blobs into segments, data and metadata apart, and passes on those that are full.

use std::sync::mpsc::SyncSender;

use repository::content::IdKey;
use repository::cut::Compressor;
use repository::ids::BlobId;
use repository::pack::blob::{BlobKind, Class, Codec, blob_id};
use repository::pack::segment::{FULL_BODY, SegmentBuilder};
use repository::refs::Refs;

use super::known::Place;
use super::ledger::{Claim, Ledger, Needs};
use super::room::{Berth, OnItsWay, Share};
use super::{ArchiveJob, Stopped};

/// Smaller segments would cost more in requests and files than they are worth.
const LEAST_SEGMENT: usize = 1 << 20;

/// Fills segments.
pub(super) struct Sealer<'a> {
    job: &'a ArchiveJob,
    ledger: &'a Ledger,
    needs: Needs<'a>,
    share: Share,
    full: usize,
    open: [Option<OpenSegment>; 2],
    compressor: Compressor,
    segments: SyncSender<OnItsWay>,
}

struct OpenSegment {
    builder: SegmentBuilder,
    berth: Option<Berth>,
    index: u32,
    filled: usize,
}

impl<'a> Sealer<'a> {
    pub(super) fn new(job: &'a ArchiveJob, ledger: &'a Ledger, segments: SyncSender<OnItsWay>) -> Self {
        let full = match job.segment_bytes as usize {
            0 => FULL_BODY,
            asked => asked.clamp(LEAST_SEGMENT, FULL_BODY),
        };
        let (needs, compressor) = (Needs::new(ledger), Compressor::new());
        Self { job, ledger, needs, share: job.room.share(), full, open: [None, None], compressor, segments }
    }

    /// The key of the domain's ids.
    pub(super) fn id_key(&self) -> &IdKey {
        &self.job.id_key
    }

    /// The archive needs these blobs.
    pub(super) fn need<'b>(&mut self, ids: impl IntoIterator<Item = &'b BlobId>) {
        ids.into_iter().for_each(|id| self.needs.need(id));
    }

    /// How long the plaintext of a blob is that the domain held before this archive.
    pub(super) fn known_length(&self, id: &BlobId) -> Option<u32> {
        let known = self.ledger.known();
        known.find(id).map(|index| known.length(index))
    }

    /// Makes a metadata blob of `plain`, sealed only if it is new, and needed.
    pub(super) fn metadata(&mut self, kind: BlobKind, plain: &[u8]) -> Result<BlobId, Stopped> {
        let id = blob_id(self.id_key(), kind, plain);
        if self.ledger.claim(&id) == Claim::Ours {
            let length = u32::try_from(plain.len()).expect("pages and lists are far below 4 GiB");
            match self.compressor.compress(plain) {
                Some(compressed) => self.seal(id, kind, Codec::Zstd, length, &compressed)?,
                None => self.seal(id, kind, Codec::Raw, length, plain)?,
            }
        }
        self.needs.need(&id);
        Ok(id)
    }

    /// Seals a claimed blob.
    pub(super) fn seal(
        &mut self,
        id: BlobId,
        kind: BlobKind,
        codec: Codec,
        plain_length: u32,
        stored: &[u8],
    ) -> Result<(), Stopped> {
        let (job, needs, share) = (self.job, &mut self.needs, &self.share);
        let slot = &mut self.open[usize::from(kind.class().code())];
        let open = slot.get_or_insert_with(|| {
            let (berth, memory) = match kind.class() {
                Class::Data => {
                    let (berth, memory) = share.berth();
                    (Some(berth), memory)
                }
                Class::Metadata => (None, Vec::new()),
            };
            let builder =
                SegmentBuilder::in_memory(memory, kind.class(), job.repository, job.domain, &job.public_key);
            OpenSegment { index: needs.segment_begins(builder.id()), builder, berth, filled: 0 }
        });
        let ordinal = open.builder.add(id, kind, codec, plain_length, stored);
        open.filled += stored.len();
        self.needs.sealed(&id, Place { segment: open.index, ordinal });
        if open.builder.is_full() || open.filled >= self.full {
            self.send(kind.class())?;
        }
        Ok(())
    }

    fn send(&mut self, class: Class) -> Result<(), Stopped> {
        match self.open[usize::from(class.code())].take() {
            Some(OpenSegment { builder, berth, .. }) => {
                self.segments.send(OnItsWay { segment: builder.finish(), berth }).map_err(|_| Stopped)
            }
            None => Ok(()),
        }
    }

    /// Passes on what is left and gives the archive's refs.
    pub(super) fn finish(mut self) -> Result<Refs, Stopped> {
        self.send(Class::Data)?;
        self.send(Class::Metadata)?;
        Ok(self.needs.refs(self.job.domain))
    }
}
