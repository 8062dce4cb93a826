//! The cache's file: a header, blocks of records, the thin bundles, a tail.
//!
//! ```text
//! header  "NSCACHE1" | repository id, 16 | domain id, 16 | checksum, 16
//! block   length of the payload, u32 | checksum, 16 | payload        (records, in path order; repeated)
//! bundles length of the payload, u32 | checksum, 16 | payload        (ids of thin bundles, sorted)
//! tail    where `bundles` starts, u64 | checksum, 16
//! ```
//! A checksum is BLAKE3, cut to 16 bytes, over the part's position in the file (u64) and its payload: a
//! block that was moved, or a file that was cut short, does not pass.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

use repository::archive::path::EntryPath;
use repository::codec::{Decoder, Encoder, Malformed};
use repository::ids::BlobId;

use super::draft::Draft;
use super::notation::{RecordEncoder, decode_records};
use super::{CacheOwner, Record};

const MAGIC: &[u8; 8] = b"NSCACHE1";
const CHECKSUM: usize = 16;
const HEADER: usize = MAGIC.len() + 32 + CHECKSUM;
const TAIL: usize = 8 + CHECKSUM;
const BLOCK_HEAD: usize = 4 + CHECKSUM;
/// A block is written when it is this long; one record may make it longer.
const BLOCK_BYTES: usize = 128 * 1024;
/// A record longer than this (a file of some 7 TB) is not cached.
const MAX_BLOCK_BYTES: usize = 256 << 20;

fn checksum(position: u64, payload: &[u8]) -> [u8; CHECKSUM] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&position.to_le_bytes());
    hasher.update(payload);
    *hasher.finalize().as_bytes().first_chunk().expect("a BLAKE3 hash is longer than 16 bytes")
}

/// Why a cache is not used, from some point on.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error("it cannot be read")]
    Io(#[from] io::Error),
    #[error("it is damaged")]
    Damaged(#[from] Malformed),
    #[error("it belongs to another repository or domain")]
    Foreign,
}

fn damaged(why: &'static str) -> Unusable {
    Unusable::Damaged(Malformed::new("cache", why))
}

/// Gives the last archive's records, in path order.
#[derive(Debug)]
pub(crate) struct CacheReader {
    source: Option<Blocks>,
    block: std::vec::IntoIter<Record>,
    next: Option<Record>,
    thin: HashSet<BlobId>,
}

#[derive(Debug)]
struct Blocks {
    file: File,
    name: String,
    position: u64,
    end: u64,
}

impl CacheReader {
    /// The cache at `place`, if there is one that `owner` can use; else one without records. Never fails:
    /// what is wrong with it goes to the log.
    pub(crate) fn open(place: &Path, owner: &CacheOwner) -> Self {
        match Blocks::open(place, owner) {
            Ok((blocks, thin)) => Self { source: Some(blocks), thin, ..Self::empty() },
            Err(Unusable::Io(error)) if error.kind() == io::ErrorKind::NotFound => Self::empty(),
            Err(error) => {
                tell_ignored(&place.display().to_string(), &error);
                Self::empty()
            }
        }
    }

    /// A cache without records.
    pub(crate) fn empty() -> Self {
        Self { source: None, block: Vec::new().into_iter(), next: None, thin: HashSet::new() }
    }

    /// The record of `path`, if there is one. Paths must be asked for in rising order.
    pub(crate) fn find(&mut self, path: &EntryPath) -> Option<Record> {
        loop {
            if self.next.is_none() {
                self.next = self.advance();
            }
            match self.next.as_ref()?.path.cmp(path) {
                std::cmp::Ordering::Less => self.next = None,
                std::cmp::Ordering::Equal => return self.next.take(),
                std::cmp::Ordering::Greater => return None,
            }
        }
    }

    /// True for a bundle of which the last archive needed less than half.
    pub(crate) fn is_thin(&self, bundle: &BlobId) -> bool {
        self.thin.contains(bundle)
    }

    fn advance(&mut self) -> Option<Record> {
        loop {
            if let Some(record) = self.block.next() {
                return Some(record);
            }
            let blocks = self.source.as_mut()?;
            match blocks.next() {
                Ok(Some(records)) => self.block = records.into_iter(),
                Ok(None) => self.source = None,
                Err(error) => {
                    tell_ignored(&blocks.name, &error);
                    self.source = None;
                }
            }
        }
    }
}

fn tell_ignored(cache: &str, error: &Unusable) {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    tracing::warn!(
        cache,
        "from here on the no-change cache is ignored and files are read again: {error}{cause}"
    );
}

impl Blocks {
    fn open(place: &Path, owner: &CacheOwner) -> Result<(Self, HashSet<BlobId>), Unusable> {
        let mut file = File::open(place)?;
        let mut found = [0; HEADER];
        file.read_exact(&mut found)?;
        if found != header(owner) {
            return Err(if found[..MAGIC.len()] == *MAGIC {
                Unusable::Foreign
            } else {
                damaged("its header")
            });
        }
        let tail_at = file.seek(SeekFrom::End(-(TAIL as i64)))?;
        let mut tail = [0; TAIL];
        file.read_exact(&mut tail)?;
        let (end, sum) = tail.split_at(8);
        if sum != checksum(tail_at, end) {
            return Err(damaged("it was cut short"));
        }
        let end = u64::from_le_bytes(end.try_into().expect("eight bytes were split off"));
        let mut blocks = Self { file, name: place.display().to_string(), position: end, end: tail_at };
        blocks.file.seek(SeekFrom::Start(end))?;
        let thin = decode_bundles(&blocks.payload()?)?;
        blocks.position = HEADER as u64;
        blocks.end = end;
        blocks.file.seek(SeekFrom::Start(blocks.position))?;
        Ok((blocks, thin))
    }

    fn next(&mut self) -> Result<Option<Vec<Record>>, Unusable> {
        if self.position >= self.end {
            return Ok(None);
        }
        let payload = self.payload()?;
        Ok(Some(decode_records(&payload)?))
    }

    fn payload(&mut self) -> Result<Vec<u8>, Unusable> {
        let mut head = [0; BLOCK_HEAD];
        self.file.read_exact(&mut head)?;
        let (length, sum) = head.split_at(4);
        let length = u32::from_le_bytes(length.try_into().expect("four bytes were split off")) as usize;
        let room = self.end.saturating_sub(self.position + BLOCK_HEAD as u64);
        if length as u64 > room || length > MAX_BLOCK_BYTES {
            return Err(damaged("a block is longer than the file"));
        }
        let mut payload = vec![0; length];
        self.file.read_exact(&mut payload)?;
        if sum != checksum(self.position, &payload) {
            return Err(damaged("a block fails its checksum"));
        }
        self.position += (BLOCK_HEAD + length) as u64;
        Ok(payload)
    }
}

fn header(owner: &CacheOwner) -> [u8; HEADER] {
    let mut bytes = Vec::with_capacity(HEADER);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(owner.repository.as_bytes());
    bytes.extend_from_slice(owner.domain.as_bytes());
    let sum = checksum(0, &bytes);
    bytes.extend_from_slice(&sum);
    bytes.try_into().expect("the header's parts have fixed lengths")
}

fn decode_bundles(payload: &[u8]) -> Result<HashSet<BlobId>, Malformed> {
    let mut decoder = Decoder::new("cache", payload);
    let count = decoder.count(BlobId::LEN)?;
    (0..count).map(|_| Ok(BlobId::new(decoder.array()?))).collect()
}

/// Writes the records of the archive that is being made, in path order.
#[derive(Debug)]
pub(crate) struct CacheWriter {
    draft: Draft,
    block: RecordEncoder,
    position: u64,
}

/// A whole cache that has not taken its place yet.
#[derive(Debug)]
pub(crate) struct PendingCache {
    draft: Draft,
}

impl CacheWriter {
    /// A new cache beside the one at `place`.
    pub(crate) fn begin(place: &Path, owner: &CacheOwner) -> io::Result<Self> {
        let mut draft = Draft::begin(place)?;
        draft.write(&header(owner))?;
        Ok(Self { draft, block: RecordEncoder::default(), position: HEADER as u64 })
    }

    /// Appends.
    pub(crate) fn push(&mut self, record: &Record) -> io::Result<()> {
        self.block.push(record);
        if self.block.len() >= BLOCK_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        let payload = std::mem::take(&mut self.block).finish();
        // What the reader would refuse is left out: its files are read again.
        if payload.is_empty() || payload.len() > MAX_BLOCK_BYTES {
            return Ok(());
        }
        self.part(&payload)
    }

    fn part(&mut self, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
        self.draft.write(&length.to_le_bytes())?;
        self.draft.write(&checksum(self.position, payload))?;
        self.draft.write(payload)?;
        self.position += (BLOCK_HEAD + payload.len()) as u64;
        Ok(())
    }

    /// The whole cache; `thin` are the bundles to be made anew.
    pub(crate) fn finish(mut self, thin: &[BlobId]) -> io::Result<PendingCache> {
        self.flush()?;
        let bundles_at = self.position.to_le_bytes();
        let mut bundles = Encoder::new();
        bundles.varint(thin.len() as u64);
        for bundle in thin {
            bundles.raw(bundle.as_bytes());
        }
        self.part(&bundles.finish())?;
        self.draft.write(&bundles_at)?;
        self.draft.write(&checksum(self.position, &bundles_at))?;
        Ok(PendingCache { draft: self.draft })
    }
}

impl PendingCache {
    /// Takes the old cache's place. Only after the archive was accepted.
    pub(crate) fn commit(self) -> io::Result<()> {
        self.draft.finish()
    }
}
