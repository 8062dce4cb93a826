//! One segment on its way into a pack of its own.
//!
//! Must stay true: the pack is durable, and what it says of itself was checked, before anybody hears of it.

use std::sync::{Arc, Mutex};

use aws_lc_rs::digest;

use crate::codec::Decoder;
use crate::error::RepositoryError;
use crate::ids::{DomainId, PackId, RepositoryId, SegmentId};
use crate::index::IndexedPack;
use crate::ingest::{DomainState, lock};
use crate::layout;
use crate::pack::blob::BlobLine;
use crate::pack::file::{self, PlacedSegment};
use crate::pack::segment::{SegmentHeader, SegmentTable};
use crate::parity::{Strength, keep_parity};
use crate::store::{Store, StoreError, Upload};

/// The segment as it was announced.
pub(super) struct Expected {
    pub(super) repository: RepositoryId,
    pub(super) domain: DomainId,
    pub(super) segment: SegmentId,
    pub(super) length: u64,
}

/// Writes one segment into a pack of its own as its bytes arrive. Dropped, it leaves nothing.
pub struct SegmentReceiver {
    expected: Expected,
    upload: Box<dyn Upload>,
    hash: digest::Context,
    head: Vec<u8>,
    head_length: usize,
    received: u64,
    state: Arc<Mutex<DomainState>>,
    parity: Option<Box<NewParity>>,
}

/// What the pack gets when it is durable.
struct NewParity {
    store: Arc<dyn Store>,
    strength: Strength,
}

impl SegmentReceiver {
    pub(super) fn begin(
        store: &Arc<dyn Store>,
        expected: Expected,
        state: Arc<Mutex<DomainState>>,
        parity: Option<Strength>,
    ) -> Result<Self, RepositoryError> {
        let mut receiver = Self {
            expected,
            upload: store.upload()?,
            hash: digest::Context::new(&digest::SHA256),
            head: Vec::new(),
            head_length: SegmentHeader::LEN,
            received: 0,
            state,
            parity: parity.map(|strength| Box::new(NewParity { store: store.clone(), strength })),
        };
        receiver.store(&file::header(1))?;
        Ok(receiver)
    }

    /// The next bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), RepositoryError> {
        self.received += bytes.len() as u64;
        if self.received > self.expected.length {
            return Err(self.rejected("it is longer than was announced"));
        }
        self.collect_head(bytes)?;
        self.store(bytes)
    }

    /// Makes the pack durable. The segment must be whole, well-formed and in its place.
    pub fn finish(self) -> Result<PackId, RepositoryError> {
        let table = self.check()?;
        let pack = PackId::try_from(self.hash.finish().as_ref()).expect("SHA-256 has 32 bytes");
        match self.upload.finish(&layout::pack(&pack)) {
            // The same bytes under the same name: an earlier answer was lost.
            Ok(()) | Err(StoreError::AlreadyExists { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        if let Some(parity) = &self.parity {
            keep_parity(&*parity.store, &pack, parity.strength)?;
        }
        let offset = file::HEADER as u64;
        let segments = vec![PlacedSegment { offset, table }];
        let indexed = IndexedPack { id: pack, length: offset + self.received, segments };
        let mut state = lock(&self.state);
        state.gone.remove(&pack);
        if state.index.segment(&self.expected.segment).is_none() {
            state.index.add(indexed.clone());
            state.unindexed.push(indexed);
        }
        Ok(pack)
    }

    fn rejected(&self, why: &'static str) -> RepositoryError {
        RepositoryError::Rejected { segment: self.expected.segment, why }
    }

    fn store(&mut self, bytes: &[u8]) -> Result<(), RepositoryError> {
        self.hash.update(bytes);
        Ok(self.upload.write(bytes)?)
    }

    /// Keeps the bytes of header and table; once the header is there, it tells how long the table is.
    fn collect_head(&mut self, bytes: &[u8]) -> Result<(), RepositoryError> {
        let mut rest = bytes;
        while !rest.is_empty() && self.head.len() < self.head_length {
            let (taken, left) = rest.split_at(rest.len().min(self.head_length - self.head.len()));
            self.head.extend_from_slice(taken);
            rest = left;
            if self.head.len() == SegmentHeader::LEN && self.head_length == SegmentHeader::LEN {
                let header = SegmentHeader::decode(&mut Decoder::new("segment", &self.head));
                let header = header.map_err(|_| self.rejected("its header is malformed"))?;
                self.head_length += header.blobs as usize * BlobLine::LEN;
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<SegmentTable, RepositoryError> {
        if self.received != self.expected.length {
            return Err(self.rejected("it is shorter than was announced"));
        }
        let table = SegmentTable::decode(&mut Decoder::new("segment", &self.head));
        let table = table.map_err(|_| self.rejected("its table is malformed"))?;
        let context = &table.header.context;
        if context.repository != self.expected.repository {
            return Err(self.rejected("it belongs to another repository"));
        }
        if context.domain != self.expected.domain || context.segment != self.expected.segment {
            return Err(self.rejected("it is not the segment that was announced"));
        }
        if table.segment_length() != self.expected.length {
            return Err(self.rejected("its length is not what its header says"));
        }
        if table.lines.iter().any(|line| line.absent) {
            return Err(self.rejected("a fresh segment cannot lack blobs"));
        }
        Ok(table)
    }
}
