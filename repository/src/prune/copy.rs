//! Copying what lives out of packs that are small or mostly dead, without any key.
//!
//! Must stay true: a pack's SHA-256 is checked before anything is copied from it, so that rot never gets a
//! right name; the copy and its place in the index are durable before the old pack is even marked.

use aws_lc_rs::digest;

use super::plan::{Copying, Source};
use super::{Amount, Phase, PruneStep, Watch};
use crate::codec::{Encoder, Malformed};
use crate::error::RepositoryError;
use crate::ids::{DomainId, PackId};
use crate::index::IndexedPack;
use crate::ingest::{PackVerdict, lock};
use crate::layout;
use crate::pack::file::{self, MAX_PACK, PlacedSegment};
use crate::pack::segment::SegmentTable;
use crate::repo::Repository;
use crate::store::{StoreError, Upload};
use crate::verify::read_again;

/// A segment on its way: its table as it will be, and its body.
struct Moving {
    table: SegmentTable,
    body: Vec<u8>,
}

/// What one domain's copying brought.
#[derive(Debug, Default)]
pub(super) struct Copied {
    /// The new packs.
    pub(super) made: Amount,
    /// The packs that they stand for.
    pub(super) sources: Vec<(PackId, u64)>,
    /// No space was left for more.
    pub(super) is_full: bool,
}

impl Repository {
    /// Carries out `copies`, at most `budget` bytes of them. A full disk ends it, and is no error.
    pub(super) fn copy(
        &self,
        domain: DomainId,
        copies: &[Copying],
        budget: &mut u64,
        reserve: u64,
        watch: &dyn Watch,
    ) -> Result<Copied, RepositoryError> {
        let mut copied = Copied::default();
        for (copying, done) in copies.iter().zip(1..) {
            if watch.is_cancelled() {
                return Err(RepositoryError::Cancelled);
            }
            if copying.length > *budget {
                break;
            }
            if self.store.free_space()?.is_some_and(|free| free < copying.length + reserve) {
                copied.is_full = true;
                break;
            }
            watch.may_write().map_err(RepositoryError::Fenced)?;
            match self.copy_one(domain, copying, watch) {
                Ok(Some(pack)) => {
                    *budget -= copying.length;
                    copied.made.add(pack.length);
                    copied.sources.extend(copying.sources.iter().map(|source| (source.pack, source.length)));
                }
                Ok(None) => {}
                Err(RepositoryError::Store(StoreError::Full { .. })) => {
                    copied.is_full = true;
                    break;
                }
                Err(error) => return Err(error),
            }
            watch.progress(Phase::Copying, done, copies.len() as u64);
        }
        Ok(copied)
    }

    /// Makes one new pack and indexes it; `None` if a source turned out to be damaged: then nothing is made,
    /// and the next run plans without it.
    fn copy_one(
        &self,
        domain: DomainId,
        copying: &Copying,
        watch: &dyn Watch,
    ) -> Result<Option<IndexedPack>, RepositoryError> {
        let segments: usize = copying.sources.iter().map(|source| source.survivors.len()).sum();
        let count = u32::try_from(segments).expect("packs of a few MiB hold few segments");
        let mut pack = NewPack::begin(self.store.upload()?, count)?;
        for source in &copying.sources {
            let Some(moving) = self.survivors(source)? else { return Ok(None) };
            moving.into_iter().try_for_each(|segment| pack.add(segment))?;
        }
        let Some(pack) = pack.finish(self)? else { return Ok(None) };
        self.make_parity(&pack.id)?;
        watch.done(PruneStep::Rewritten);
        let state = self.domain(&domain)?;
        let mut state = lock(&state);
        if !state.index.knows(&pack.id) {
            state.index.add(pack.clone());
            state.unindexed.push(pack.clone());
        }
        self.index_what_is_not(domain, &mut state)?;
        watch.done(PruneStep::RewrittenIndexed);
        Ok(Some(pack))
    }

    /// What is to be copied from one pack; `None` if the pack is not what its name says, or cannot be read.
    fn survivors(&self, source: &Source) -> Result<Option<Vec<Moving>>, RepositoryError> {
        let path = layout::pack(&source.pack);
        let bytes = match read_again(|| self.store.read(&path, MAX_PACK)) {
            Err(error) if error.is_unreadable() => {
                tracing::error!(pack = %source.pack, %error, "a pack that was to be copied is left alone");
                return Ok(None);
            }
            read => read?,
        };
        if digest::digest(&digest::SHA256, &bytes).as_ref() != source.pack.as_bytes() {
            tracing::error!(pack = %source.pack, "a pack that was to be copied is damaged; it is left alone");
            self.keep_verdicts(&[PackVerdict { pack: source.pack, is_sound: false }])?;
            return Ok(None);
        }
        let range = |at: u64, length: u64| {
            let start = usize::try_from(at).ok();
            let end = at.checked_add(length).and_then(|end| usize::try_from(end).ok());
            start.zip(end).and_then(|(start, end)| bytes.get(start..end))
        };
        let read = |at, length| {
            range(at, length).map(<[u8]>::to_vec).ok_or(Malformed::new("pack", "it ends too early"))
        };
        let damaged = |error| RepositoryError::Damaged { path: path.clone(), source: error };
        // By the pack itself, not by the index, which might say something else.
        let placed = file::survey::<Malformed>(bytes.len() as u64, read).map_err(damaged)?;
        let mut moving = Vec::with_capacity(source.survivors.len());
        for (nth, table) in &source.survivors {
            let old = placed.get(*nth).filter(|old| is_same_segment(&old.table, table));
            let old =
                old.ok_or_else(|| damaged(Malformed::new("pack", "the index says other things of it")))?;
            let mut body = Vec::with_capacity(table.header.body_length as usize);
            let mut at = old.body_offset();
            for (was, is) in old.table.lines.iter().zip(&table.lines).filter(|(was, _)| !was.absent) {
                let length = u64::from(was.stored_length);
                if !is.absent {
                    let sealed = range(at, length).expect("the survey found the segments to fill the pack");
                    body.extend_from_slice(sealed);
                }
                at += length;
            }
            moving.push(Moving { table: table.clone(), body });
        }
        Ok(Some(moving))
    }
}

/// The same but for what is taken out.
fn is_same_segment(old: &SegmentTable, new: &SegmentTable) -> bool {
    let lines = old.lines.iter().zip(&new.lines);
    old.header.context == new.header.context
        && old.header.key == new.header.key
        && old.lines.len() == new.lines.len()
        && lines.clone().all(|(was, is)| was.id == is.id && (!was.absent || is.absent))
}

/// A pack as it is written.
struct NewPack {
    upload: Box<dyn Upload>,
    hash: digest::Context,
    length: u64,
    segments: Vec<PlacedSegment>,
}

impl NewPack {
    fn begin(upload: Box<dyn Upload>, segments: u32) -> Result<Self, StoreError> {
        let hash = digest::Context::new(&digest::SHA256);
        let mut pack = Self { upload, hash, length: 0, segments: Vec::new() };
        pack.write(&file::header(segments))?;
        Ok(pack)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
        self.upload.write(bytes)
    }

    fn add(&mut self, segment: Moving) -> Result<(), RepositoryError> {
        let Moving { table, body } = segment;
        assert_eq!(table.header.body_length, body.len() as u64, "a table adds up to its body");
        let offset = self.length;
        let mut head = Encoder::new();
        table.encode(&mut head);
        self.write(&head.finish())?;
        self.write(&body)?;
        self.segments.push(PlacedSegment { offset, table });
        Ok(())
    }

    /// Makes it durable. `None` if half of it lay there from an earlier run: then that goes, and the next run
    /// makes it anew.
    fn finish(self, repository: &Repository) -> Result<Option<IndexedPack>, RepositoryError> {
        let id = PackId::try_from(self.hash.finish().as_ref()).expect("SHA-256 has 32 bytes");
        let path = layout::pack(&id);
        match self.upload.finish(&path) {
            Ok(()) => {}
            Err(StoreError::AlreadyExists { .. }) => {
                let there = repository.store.read(&path, MAX_PACK)?;
                if digest::digest(&digest::SHA256, &there).as_ref() != id.as_bytes() {
                    repository.store.delete(&path)?;
                    return Ok(None);
                }
            }
            Err(error) => return Err(error.into()),
        }
        Ok(Some(IndexedPack { id, length: self.length, segments: self.segments }))
    }
}
