//! What writers left that did not come to their end, where storage cannot hide it by itself.
//!
//! Must stay true: nothing that somebody may still publish is taken away before it is made sure that he
//! cannot; the storage sees to that (`Store::abandon`).

use crate::error::RepositoryError;
use crate::layout;
use crate::names::BackupName;
use crate::repo::Repository;
use crate::store::ABANDONED;

impl Repository {
    /// Ends unfinished backups that nobody works on any more, and uploads that were never ended. For the one
    /// writer, at its start. Returns how many backups it ended.
    pub fn end_left_overs(&self) -> Result<usize, RepositoryError> {
        let mut ended = 0;
        for listed in self.store.list(Some(&layout::staging()))? {
            let Ok(name) = listed.name.parse::<BackupName>() else { continue };
            let (staged, place) = (layout::staged(&name), layout::backup(&name));
            ended += usize::from(self.store.abandon(&staged, &place, layout::BACKUP_JSON)?);
        }
        self.store.sweep()?;
        Ok(ended)
    }

    /// True if a timestamp folder without a backup is what a writer of this repository left, and no older
    /// system's.
    pub(super) fn is_left_over(&self, name: &BackupName) -> Result<bool, RepositoryError> {
        match self.store.size(&layout::claim(name)) {
            Ok(_) => return Ok(true),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
        let last = layout::backup(name).join(layout::BACKUP_JSON);
        match self.store.read(&last, ABANDONED.len() as u64) {
            Ok(bytes) => Ok(bytes == ABANDONED),
            // Longer, or not for us to read: not this mark.
            Err(_) => Ok(false),
        }
    }
}
