//! What describes a backup: `backup.json`, the manifests, and the files that are for people.

use super::bytes::with_one_byte_right;
use super::{Repair, Repaired};
use crate::backup::listing::restore_md;
use crate::backup::manifest::BackupRecord;
use crate::error::RepositoryError;
use crate::layout;
use crate::signed::{MAX_JSON, Sha256};
use crate::store::ObjectPath;

impl Repair<'_> {
    pub(super) fn descriptions(&self, repaired: &mut Repaired) -> Result<(), RepositoryError> {
        let chain = self.repository.chain()?;
        for line in &chain.lines {
            let path = layout::backup(&line.name).join(layout::BACKUP_JSON);
            self.mend_by_sum(&path, line.backup, repaired)?;
        }
        for record in self.records()? {
            let folder = layout::backup(&record.name);
            for archive in &record.archives {
                self.mend_by_sum(&layout::manifest(&folder, &archive.source), archive.manifest, repaired)?;
            }
        }
        Ok(())
    }

    fn mend_by_sum(
        &self,
        path: &ObjectPath,
        sum: Sha256,
        repaired: &mut Repaired,
    ) -> Result<(), RepositoryError> {
        let Some(file) = self.read(path, MAX_JSON)? else { return Ok(()) };
        if Sha256::of(&file) == sum {
            return Ok(());
        }
        if let Some(right) = with_one_byte_right(&file, sum) {
            self.put(path, &right)?;
            repaired.mended.push(format!("{path}: one byte was wrong"));
        }
        Ok(())
    }

    /// Every backup whose record is sound.
    pub(super) fn records(&self) -> Result<Vec<BackupRecord>, RepositoryError> {
        let mut records = Vec::new();
        for name in self.backup_names()? {
            match self.repository.backup(&name) {
                Ok(record) => records.push(record),
                Err(error) if error.is_of_one_object() || error.is_foreign() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(records)
    }

    /// `SHA256SUMS` and `RESTORE.md` say what the record says.
    pub(super) fn pages_for_people(&self, repaired: &mut Repaired) -> Result<(), RepositoryError> {
        for record in self.records()? {
            let folder = layout::backup(&record.name);
            let (sums_path, page_path) = (folder.join(layout::SHA256SUMS), folder.join(layout::RESTORE_MD));
            let (sums, page) = (self.read(&sums_path, MAX_JSON)?, self.read(&page_path, MAX_JSON)?);
            let (_, digest) = self.repository.backup_with_digest(&record.name)?;
            let sums_with = |page: &[u8]| sums_of(&record, digest, page).into_bytes();
            if page.as_deref().map(sums_with).is_some() && page.as_deref().map(sums_with) == sums {
                continue;
            }
            let right = restore_md(&record).into_bytes();
            let right_sums = sums_with(&right);
            for (path, found, right) in [(page_path, page, right), (sums_path, sums, right_sums)] {
                if found.as_ref() != Some(&right) {
                    self.put(&path, &right)?;
                    repaired.mended.push(format!("{path} was written anew"));
                }
            }
        }
        Ok(())
    }
}

fn sums_of(record: &BackupRecord, digest: Sha256, page: &[u8]) -> String {
    let root = ObjectPath::new("x");
    let within = |path: ObjectPath| path.as_str()["x/".len()..].to_owned();
    let mut sums = Vec::new();
    for archive in &record.archives {
        sums.extend(archive.refs.map(|sum| (within(layout::refs(&root, &archive.source)), sum)));
        sums.push((within(layout::manifest(&root, &archive.source)), archive.manifest));
    }
    sums.push((layout::BACKUP_JSON.to_owned(), digest));
    sums.push((layout::RESTORE_MD.to_owned(), Sha256::of(page)));
    sums.iter().map(|(name, sum)| format!("{sum}  {name}\n")).collect()
}
