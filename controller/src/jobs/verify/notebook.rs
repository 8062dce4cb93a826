//! Writes down what a verification has proven, as it goes on, so that one that is cut off goes on from there.
//!
//! Must stay true: nothing counts as proven before it is in the catalog; what could not be written down ends
//! the verification.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use repository::ids::{BlobId, DomainId, PackId};
use repository::verify::{Depth, Witness};
use runtime::steps;
use tokio::runtime::Handle;

use crate::catalog::{CatalogError, Note};
use crate::jobs::runner::{Shared, lock};
use crate::steps::Step;

/// So many notes, or this time, are at stake at most. A pack that is proven to the end is written down at
/// once: reading it has cost more.
const MAX_WAITING: usize = 64;
const MAX_WAIT: Duration = Duration::from_secs(1);

/// The proofs of one domain. Blocks.
pub(super) struct Notebook<'a> {
    shared: &'a Shared,
    domain: DomainId,
    depth: Depth,
    waiting: Mutex<Waiting>,
}

struct Waiting {
    notes: Vec<Note>,
    since: Instant,
    failed: Option<CatalogError>,
}

impl<'a> Notebook<'a> {
    pub(super) fn new(shared: &'a Shared, domain: DomainId, depth: Depth) -> Self {
        let waiting = Waiting { notes: Vec::new(), since: Instant::now(), failed: None };
        Self { shared, domain, depth, waiting: Mutex::new(waiting) }
    }

    fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    pub(super) fn note(&self, note: Note) {
        let mut waiting = lock(&self.waiting);
        let is_whole_pack = match note {
            Note::Hashed(..) => self.depth == Depth::Hashed,
            Note::Opened(..) | Note::Unsound(..) => true,
            Note::Page(..) => false,
        };
        waiting.notes.push(note);
        let is_enough = is_whole_pack || waiting.notes.len() >= MAX_WAITING;
        if is_enough || waiting.since.elapsed() >= MAX_WAIT {
            self.write(&mut waiting);
        }
    }

    /// Writes the rest, however the verification ended.
    pub(super) fn finish(self) -> Result<(), CatalogError> {
        let mut waiting = lock(&self.waiting);
        self.write(&mut waiting);
        waiting.failed.take().map_or(Ok(()), Err)
    }

    fn write(&self, waiting: &mut Waiting) {
        // The runtime that ends carries nothing out any more.
        if waiting.notes.is_empty() || self.shared.shutdown.token().is_cancelled() {
            return;
        }
        let added = self.shared.catalog.add_proofs(&self.domain, &waiting.notes);
        match Handle::current().block_on(added) {
            Ok(()) => steps::reach(Step::ProofsKept),
            Err(error) => drop(waiting.failed.get_or_insert(error)),
        }
        waiting.since = Instant::now();
        waiting.notes.clear();
    }
}

impl Witness for Notebook<'_> {
    fn hashed(&self, pack: &PackId) {
        self.note(Note::Hashed(*pack, self.now()));
    }

    fn opened(&self, pack: &PackId) {
        self.note(Note::Opened(*pack, self.now()));
    }

    fn page(&self, page: &BlobId) {
        self.note(Note::Page(*page, self.now()));
    }
}
