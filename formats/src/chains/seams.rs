//! What must fit together between the stores and files of a node, by a few keys of its stores.
//!
//! Must stay true: only what the node itself would refuse is broken; what cannot be known is told. Few files are
//! read for it, whatever the chain's length: see [`crate::leveldb`]'s look for keys.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use repository::check::{CheckedFile, Finding, Severity};

use crate::leveldb::{Seek, StoreFiles};

use super::cometbft::Cometbft;
use super::freezer::FrozenBlocks;
use super::geth::Geth;

/// So many nodes of one archive are looked at.
const MAX_NODES: usize = 32;
/// So many signers' states, and so many parts of logs, are remembered.
const MAX_SEEN: usize = 1_000;
/// So much of their paths, in bytes.
const MAX_SEEN_BYTES: usize = 1 << 20;
/// What is kept of the values of all nodes together, in bytes.
const MAX_VALUES: usize = 4 << 20;

/// What one node wants, and what is found of it.
pub(super) trait Seam: Debug + Send {
    /// The files that are to be given next; none once all is known.
    fn wants(&mut self) -> Vec<Vec<u8>>;
    /// A file that one of the nodes has asked for; false if it was not this one, or its bytes are not wanted.
    fn file(&mut self, path: &[u8], length: u64) -> bool;
    fn bytes(&mut self, bytes: &[u8]) -> bool;
    fn file_end(&mut self);
    /// How many bytes of values it keeps.
    fn held(&self) -> usize;
    /// It keeps none any more; what it was looking for is not known.
    fn give_up(&mut self, why: &str);
    /// What does not fit together.
    fn judge(&self) -> Vec<Finding>;
}

/// The seams of all nodes.
#[derive(Debug, Default)]
pub(super) struct Seams {
    /// Files of CometBFT that say a height: its logs and its signer's state.
    seen: BTreeSet<Vec<u8>>,
    /// Bytes of their paths.
    seen_bytes: usize,
    /// How many of each are remembered, states first, and how many more there are.
    counts: [usize; 2],
    left: [usize; 2],
    nodes: Vec<Box<dyn Seam>>,
    has_begun: bool,
    reading: Option<usize>,
    more: usize,
}

/// A store's files, by its folder.
pub(super) type Stores<'a> = BTreeMap<&'a [u8], StoreFiles>;

impl Seams {
    /// A file goes by in the first look.
    pub(super) fn see(&mut self, path: &[u8]) {
        let kind = match path.ends_with(b"priv_validator_state.json") {
            true => 0,
            false if super::wal::is_wal(path) => 1,
            false => return,
        };
        let bytes = self.seen_bytes + path.len();
        if self.counts[kind] == MAX_SEEN || bytes > MAX_SEEN_BYTES {
            self.left[kind] += 1;
            return;
        }
        self.counts[kind] += 1;
        self.seen_bytes = bytes;
        self.seen.insert(path.to_vec());
    }

    /// All files were given once: the nodes are these.
    pub(super) fn begin(&mut self, stores: &Stores<'_>, freezers: &[FrozenBlocks]) {
        if std::mem::replace(&mut self.has_begun, true) {
            return;
        }
        let geths = freezers.iter().filter_map(|frozen| {
            let node = Geth::of(frozen, stores)?;
            Some(Box::new(node) as Box<dyn Seam>)
        });
        let cometbfts = stores.keys().filter_map(|folder| {
            let node = Cometbft::of(folder.strip_suffix(b"blockstore.db/")?, stores, &self.seen)?;
            Some(Box::new(node) as Box<dyn Seam>)
        });
        let mut all = geths.chain(cometbfts);
        self.nodes.extend(all.by_ref().take(MAX_NODES));
        self.more = all.count();
    }

    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }

    pub(super) fn wants(&mut self) -> Vec<Vec<u8>> {
        self.nodes.iter_mut().flat_map(|node| node.wants()).collect()
    }

    pub(super) fn file(&mut self, file: CheckedFile<'_>) -> bool {
        self.reading = self.nodes.iter_mut().position(|node| node.file(file.path, file.length));
        self.reading.is_some()
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> bool {
        self.reading.is_some_and(|node| self.nodes[node].bytes(bytes))
    }

    pub(super) fn file_end(&mut self) {
        if let Some(node) = self.reading.take() {
            self.nodes[node].file_end();
            if self.nodes.iter().map(|node| node.held()).sum::<usize>() > MAX_VALUES {
                self.nodes[node].give_up("the values of all nodes take too much memory");
            }
        }
    }

    pub(super) fn end(&mut self) -> Vec<Finding> {
        let mut found: Vec<_> =
            std::mem::take(&mut self.nodes).iter().flat_map(|node| node.judge()).collect();
        let kinds = ["signers' states", "parts of cs.wal"];
        for (what, left) in kinds.into_iter().zip(self.left).filter(|(_, left)| *left > 0) {
            let what = format!("{left} more {what} lie in it than are looked at, and were not compared");
            found.push(Finding { path: Vec::new(), what, severity: Severity::Told });
        }
        if self.more > 0 {
            let what = format!("{} more nodes lie in it, whose heights were not compared", self.more);
            found.push(Finding { path: Vec::new(), what, severity: Severity::Told });
        }
        found
    }
}

/// Something of the node in this folder.
pub(super) fn told(folder: &[u8], what: String) -> Finding {
    Finding { path: folder.strip_suffix(b"/").unwrap_or(folder).to_vec(), what, severity: Severity::Told }
}

/// Looks for keys in the store that lies in this folder, if it can be followed.
pub(super) fn seek<const N: usize>(folder: &[u8], stores: &Stores<'_>, keys: [Vec<u8>; N]) -> Option<Seek> {
    Some(Seek::new(folder, stores.get(folder)?, keys))
}
