//! The folder of a chain's node: its stores ([`crate::leveldb`]), geth's freezer, CometBFT's log.

mod freezer;
mod wal;

use repository::check::{CheckedFile, ContentCheck, Finding, Severity};

use crate::leveldb::LeveldbCheck;
use freezer::Freezers;
use wal::Wal;

/// Looks into a node's folder.
#[derive(Debug, Default)]
pub struct ChainsCheck {
    stores: LeveldbCheck,
    freezers: Freezers,
    reading: Reading,
    /// The last file is of a store.
    is_of_store: bool,
    path: Vec<u8>,
}

#[derive(Debug, Default)]
enum Reading {
    #[default]
    Nothing,
    Store,
    Index,
    Wal(Box<Wal>),
}

impl ContentCheck for ChainsCheck {
    fn file(&mut self, file: CheckedFile<'_>) -> bool {
        self.path = file.path.to_vec();
        self.reading = if self.freezers.file(file) {
            Reading::Index
        } else if wal::is_wal(file.path) {
            match file.is_proven {
                true => Reading::Nothing,
                false => Reading::Wal(Box::default()),
            }
        } else if self.stores.file(file) {
            Reading::Store
        } else {
            Reading::Nothing
        };
        self.is_of_store = matches!(self.reading, Reading::Store);
        !matches!(self.reading, Reading::Nothing)
    }

    fn bytes(&mut self, bytes: &[u8]) -> bool {
        match &mut self.reading {
            Reading::Nothing => false,
            Reading::Store => self.stores.bytes(bytes),
            Reading::Index => self.freezers.bytes(bytes),
            Reading::Wal(wal) => wal.bytes(bytes),
        }
    }

    fn file_end(&mut self) -> Vec<Finding> {
        let what = match std::mem::take(&mut self.reading) {
            Reading::Nothing => None,
            Reading::Store => return self.stores.file_end(),
            Reading::Index => self.freezers.file_end(),
            Reading::Wal(wal) => wal.end(),
        };
        what.map(|what| broken(&self.path, what)).into_iter().collect()
    }

    fn is_undecided(&self) -> bool {
        self.is_of_store && self.stores.is_undecided()
    }

    fn held_back(&mut self) -> Vec<Finding> {
        self.stores.held_back()
    }

    fn end(&mut self) -> Vec<Finding> {
        let mut found = self.freezers.end();
        found.extend(self.stores.end());
        found
    }
}

fn broken(path: &[u8], what: String) -> Finding {
    Finding { path: path.to_vec(), what, severity: Severity::Broken }
}
