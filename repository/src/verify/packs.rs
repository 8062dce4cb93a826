//! Which packs there are to be verified, and what they are needed for.

use std::collections::BTreeSet;

use crate::backup::manifest::BackupRecord;
use crate::error::RepositoryError;
use crate::ids::{DomainId, PackId};
use crate::names::SourceId;
use crate::repo::Repository;

/// The packs that a domain's index names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainPacks {
    /// Which domain.
    pub domain: DomainId,
    /// Each pack with its length in bytes.
    pub packs: Vec<(PackId, u64)>,
}

impl Repository {
    /// The packs of all domains.
    pub fn indexed_packs(&self) -> Result<Vec<DomainPacks>, RepositoryError> {
        let of = |domain: DomainId| {
            let index = self.load_index(&domain)?.index;
            let packs = index.packs().iter().map(|pack| (pack.id, pack.length)).collect();
            Ok(DomainPacks { domain, packs })
        };
        self.domains_on_disk()?.into_iter().map(of).collect()
    }

    /// The packs that carry a mark: they were found damaged, and what was proven of them no longer holds.
    pub fn marked_packs(&self) -> Result<BTreeSet<PackId>, RepositoryError> {
        Ok(self.quarantined()?.into_iter().collect())
    }

    /// The packs that an archive is read from: what others hold as well is not read from marked ones. None
    /// where its refs are damaged, which a verification of the archive tells.
    pub fn needed_packs(
        &self,
        record: &BackupRecord,
        source: &SourceId,
    ) -> Result<BTreeSet<PackId>, RepositoryError> {
        if record.archive(source).is_none_or(|archive| archive.refs.is_none()) {
            return Ok(BTreeSet::new());
        }
        let packs = self.refs(record, source).and_then(|refs| {
            let index = self.index_for(&refs)?.index;
            Ok(index.packs_of(&refs).into_keys().collect())
        });
        match packs {
            Err(error) if error.is_of_one_object() => Ok(BTreeSet::new()),
            other => other,
        }
    }
}
