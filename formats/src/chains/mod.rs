//! The folder of a chain's node: its stores ([`crate::leveldb`]), geth's freezer, CometBFT's log; and what must fit
//! together between them.

mod cometbft;
mod freezer;
mod geth;
mod keys;
mod seams;
#[cfg(test)]
mod seams_tests;
mod wal;

use repository::check::{CheckedFile, ContentCheck, Finding, Severity};

use crate::leveldb::LeveldbCheck;
pub use keys::{Tier, is_asked_for, is_set_aside, left_out, tier};

use freezer::Freezers;
use seams::Seams;
use wal::Wal;

/// Linux opens no longer path; an archive may have longer ones.
const MAX_PATH: usize = 4_096;

/// Looks into a node's folder.
#[derive(Debug, Default)]
pub struct ChainsCheck {
    stores: LeveldbCheck,
    freezers: Freezers,
    seams: Seams,
    reading: Reading,
    /// The last file is of a store.
    is_of_store: bool,
    path: Vec<u8>,
    /// So many files were not looked at, whose paths are too long.
    too_long: u64,
}

#[derive(Debug, Default)]
enum Reading {
    #[default]
    Nothing,
    Store,
    Index,
    Wal(Box<Wal>),
    /// Once more, for what must fit together.
    Seam,
}

impl ContentCheck for ChainsCheck {
    fn file(&mut self, file: CheckedFile<'_>) -> bool {
        if file.path.len() > MAX_PATH {
            self.too_long += 1;
            (self.reading, self.is_of_store) = (Reading::Nothing, false);
            return false;
        }
        self.path = file.path.to_vec();
        if self.seams.has_begun() {
            self.is_of_store = false;
            let is_wanted = self.seams.file(file);
            self.reading = if is_wanted { Reading::Seam } else { Reading::Nothing };
            return is_wanted;
        }
        self.seams.see(file.path);
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
            Reading::Seam => self.seams.bytes(bytes),
        }
    }

    fn file_end(&mut self) -> Vec<Finding> {
        let what = match std::mem::take(&mut self.reading) {
            Reading::Nothing => None,
            Reading::Store => return self.stores.file_end(),
            Reading::Index => self.freezers.file_end(),
            Reading::Wal(wal) => wal.end(),
            Reading::Seam => {
                self.seams.file_end();
                None
            }
        };
        what.map(|what| broken(&self.path, what)).into_iter().collect()
    }

    fn is_undecided(&self) -> bool {
        self.is_of_store && self.stores.is_undecided()
    }

    fn held_back(&mut self) -> Vec<Finding> {
        self.stores.held_back()
    }

    fn again(&mut self) -> Vec<Vec<u8>> {
        let stores = self.stores.stores().collect();
        self.seams.begin(&stores, &self.freezers.blocks());
        self.seams.wants()
    }

    fn end(&mut self) -> Vec<Finding> {
        let mut found = self.freezers.end();
        found.extend(self.stores.end());
        if self.too_long > 0 {
            let what = format!(
                "{} files were not looked at: their paths have more than {MAX_PATH} bytes",
                std::mem::take(&mut self.too_long)
            );
            found.push(Finding { path: Vec::new(), what, severity: Severity::Told });
        }
        let is_broken = found.iter().any(|finding| finding.severity == Severity::Broken);
        // Of what is broken it need not be said that it could not be looked at.
        let seams = self.seams.end().into_iter();
        found.extend(seams.filter(|finding| !is_broken || finding.severity == Severity::Broken));
        found
    }
}

fn broken(path: &[u8], what: String) -> Finding {
    Finding { path: path.to_vec(), what, severity: Severity::Broken }
}
