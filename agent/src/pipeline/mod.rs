//! The pipeline: from a source's items to sealed segments, pages and refs.
//!
//! ```text
//! reader ─jobs─▶ workers (id, exists?, compress) ─▶ packer (pages, segments) ─▶ uploaders ─▶ wire
//!    └────────────orders, in path order───────────────┘
//! ```
//! The reader walks, decides what has to be read, reads, cuts and hashes; a worker makes a blob of a
//! piece of plaintext; the packer brings everything back into path order, builds pages and seals
//! segments. All of it is blocking code on threads of its own.
//!
//! Must stay true: memory is bounded whatever the data's size. The plaintext in flight lives in a fixed
//! number of buffers that go round, and segments in a room that all archives share; every channel has a limit; what grows is 40 bytes for each new blob
//! and for each piece of the largest file. A stage that fails drops its ends of the channels, which ends
//! its neighbours; the first error that is not such an end is the pipeline's.

mod bundle;
mod contents;
mod known;
mod ledger;
mod orders;
mod packer;
mod problems;
mod progress;
mod reader;
mod remembered;
mod room;
mod sealer;
mod uploader;
mod worker;

#[cfg(test)]
mod tests;

pub(crate) use known::{KnownBlobs, KnownBlobsBuilder, WrongListing};
pub(crate) use problems::{Problems, code as problem_code};
pub(crate) use progress::ArchiveProgress;
pub(crate) use remembered::{Remembered, RememberedBlobs};
pub(crate) use room::Room;
pub(crate) use uploader::Uplink;

use std::num::NonZeroUsize;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::thread;

use proto::Failure;
use repository::backup::manifest::Quiesce;
use repository::check::ContentCheck;
use repository::content::IdKey;
use repository::cut::GearKey;
use repository::ids::{BlobId, DomainId, RepositoryId};
use repository::pack::seal::SealingPublicKey;
use repository::refs::Refs;
use tokio_util::sync::CancellationToken;

use crate::cache::{CacheReader, CacheWriter, Day, PendingCache};
use crate::signed::Signed;
use crate::sources::{Source, SourceError};

use ledger::Ledger;

/// Orders that may wait for the packer.
const ORDERS: usize = 256;
/// Buffers for plaintext beside those that the workers are busy with: the open bundle, the one that is
/// being filled, and some that wait for a worker or for the packer.
const SPARE_BUFFERS: usize = 4;

/// What an archive is made with.
#[derive(Debug, Clone)]
pub(crate) struct ArchiveJob {
    pub(crate) repository: RepositoryId,
    pub(crate) domain: DomainId,
    pub(crate) id_key: IdKey,
    pub(crate) gear_key: GearKey,
    pub(crate) public_key: SealingPublicKey,
    /// Where segments are filled.
    pub(crate) room: Arc<Room>,
    /// How long a segment gets, in bytes; 0: as the format has it.
    pub(crate) segment_bytes: u32,
    pub(crate) today: Day,
    /// When the reading begins, in seconds since 1970.
    pub(crate) read_start: i64,
    /// Threads that compress; none: one for each core.
    pub(crate) threads: Option<NonZeroUsize>,
    /// It is of what a restore is about to replace.
    pub(crate) is_before_restore: bool,
}

/// The caches that an archive reads and writes.
pub(crate) struct Caches {
    pub(crate) old: CacheReader,
    /// `None`: none is written.
    pub(crate) new: Option<CacheWriter>,
}

/// An archive whose segments are all durable.
#[derive(Debug)]
pub(crate) struct Archived {
    pub(crate) root: BlobId,
    pub(crate) counts: Counts,
    pub(crate) problems: Problems,
    pub(crate) problems_blob: Option<BlobId>,
    pub(crate) refs: Refs,
    pub(crate) told: Told,
    /// To be committed when the controller has accepted the archive.
    pub(crate) cache: Option<PendingCache>,
}

/// What a source says of itself when all of it was read.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// How what writes into it was met.
    pub(crate) quiesce: Option<Quiesce>,
    /// What it is that comes back.
    pub(crate) remarks: Vec<String>,
    /// How far its validator has signed.
    pub(crate) signed: Option<Signed>,
    /// The address of that validator.
    pub(crate) signer: Option<String>,
}

/// Figures of one archive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) files: u64,
    pub(crate) folders: u64,
    pub(crate) links: u64,
    pub(crate) specials: u64,
    /// Of all files, holes included.
    pub(crate) bytes: u64,
    /// Really read in this run.
    pub(crate) read_bytes: u64,
    /// New in the repository by this run, sealed.
    pub(crate) stored_bytes: u64,
    /// Not read, because nothing changed.
    pub(crate) reused_files: u64,
}

/// Why there is no archive.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PipelineError {
    #[error("the source cannot be read")]
    Source(#[from] SourceError),
    #[error("a segment could not be sent")]
    Upload(#[source] Failure),
    #[error("it was cancelled")]
    Cancelled,
}

/// A neighbour ended; the reason is its to tell.
#[derive(Debug)]
struct Stopped;

/// How a stage ends before its time.
#[derive(Debug)]
enum StageEnd {
    Neighbour,
    Failed(PipelineError),
}

impl From<Stopped> for StageEnd {
    fn from(_: Stopped) -> Self {
        StageEnd::Neighbour
    }
}

/// What is read, and what judges the files that are really read.
pub(crate) struct Input {
    pub(crate) source: Box<dyn Source>,
    pub(crate) check: Option<Box<dyn ContentCheck>>,
}

/// Makes the archive of all that `input` yields. Blocks; uses a thread for each core and a few more.
pub(crate) fn run(
    job: &ArchiveJob,
    input: Input,
    caches: Caches,
    known: KnownBlobs,
    uplink: &dyn Uplink,
    progress: &ArchiveProgress,
    cancel: &CancellationToken,
) -> Result<Archived, PipelineError> {
    let cores = || thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let workers = job.threads.unwrap_or_else(cores).get();
    let buffers = workers + SPARE_BUFFERS;
    let ledger = Ledger::new(known);
    let (orders_in, orders_out) = sync_channel(ORDERS);
    let (jobs_in, jobs_out) = sync_channel(workers);
    let (empty_in, empty_out) = sync_channel(buffers);
    for _ in 0..buffers {
        empty_in.send(Vec::new()).expect("the channel has room for every buffer");
    }
    let (segments_in, segments_out) = sync_channel(0);
    let (jobs_out, segments_out) = (Mutex::new(jobs_out), Mutex::new(segments_out));
    let Caches { old, new } = caches;
    let stop = cancel.child_token();

    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| worker::work(&jobs_out, &job.id_key, &ledger));
        }
        let uploaders: Vec<_> = (0..uploader::UPLOADS)
            .map(|_| scope.spawn(|| uploader::upload(&segments_out, uplink, progress, &stop)))
            .collect();
        let sealer = sealer::Sealer::new(job, &ledger, segments_in);
        let packer = packer::Packer::new(job, sealer, empty_in, new);
        let packer = scope.spawn(move || packer.run(orders_out));
        let links = reader::Links { orders: orders_in, jobs: jobs_in, empty: empty_out };
        let read = reader::Reader::new(job, &ledger, old, links, progress, &stop).run(input);

        let packed = packer.join().expect("the packer does not panic");
        let sent = uploaders.into_iter().map(|uploader| uploader.join().expect("an uploader does not panic"));
        let sent: Vec<_> = sent.collect();
        // Cancelling makes uploads fail, too: what was asked for is what is told.
        if cancel.is_cancelled() {
            return Err(PipelineError::Cancelled);
        }
        let stored_bytes = sent.into_iter().sum::<Result<u64, Failure>>().map_err(PipelineError::Upload)?;
        let read = read.map_err(failed)?;
        let mut archived = packed.expect("a packer whose neighbours all ended well ends well");
        archived.counts.read_bytes = read.read_bytes;
        archived.counts.reused_files = read.reused_files;
        archived.counts.stored_bytes = stored_bytes;
        archived.told = read.told;
        Ok(archived)
    })
}

fn failed(end: StageEnd) -> PipelineError {
    match end {
        StageEnd::Failed(error) => error,
        StageEnd::Neighbour => unreachable!("the reader's neighbour ended without telling why"),
    }
}
