//! Folders that appear whole, where nothing can be moved: the folder's objects are written in their place,
//! and the put of the last one makes it exist.
//!
//! A claim in the staging folder says who writes there, from before the first object until after the last
//! one: it hides what is unfinished, and keeps two writers out of one name. Whoever finds an old claim may
//! end it for good by taking the last object's name: then a writer that was only asleep cannot publish what
//! has been cleared away.

use jiff::Timestamp;

use super::put::fresh_mark;
use super::upload::LEFT;
use super::{S3Store, below};
use crate::store::{ABANDONED, CLAIM, ObjectPath, Store, StoreError};

const MAX_CLAIM: u64 = 4096;
/// A last object: `backup.json` is the largest one.
const MAX_LAST: u64 = 16 << 20;

impl S3Store {
    pub(super) fn begin_folder(
        &self,
        from: &ObjectPath,
        to: &ObjectPath,
        last: &str,
        owner: &str,
    ) -> Result<ObjectPath, StoreError> {
        let taken = || StoreError::AlreadyExists { path: to.clone() };
        if self.look(&to.join(last))?.is_some() {
            return Err(taken());
        }
        match self.create(&from.join(CLAIM), owner.as_bytes()) {
            Ok(()) => {}
            Err(StoreError::AlreadyExists { .. }) => {
                if self.read(&from.join(CLAIM), MAX_CLAIM)? != owner.as_bytes() {
                    return Err(taken());
                }
                // An earlier attempt of the same work: what it wrote makes way.
                self.delete(&from.join(last))?;
                self.delete_folder(to)?;
            }
            Err(error) => return Err(error),
        }
        Ok(to.clone())
    }

    pub(super) fn end_folder(
        &self,
        from: &ObjectPath,
        to: &ObjectPath,
        last: &str,
    ) -> Result<(), StoreError> {
        let (staged, place) = (from.join(last), to.join(last));
        let bytes = match self.read(&staged, MAX_LAST) {
            Err(error) if error.is_not_found() => {
                return Err(match self.look(&place)? {
                    Some(_) => StoreError::AlreadyExists { path: to.clone() },
                    None => error,
                });
            }
            answer => answer?,
        };
        self.put_new(&place, bytes.into())?;
        // It is there. What is left of the way to it hides nothing, and is cleared away at the next start.
        if let Err(error) = self.delete_all(vec![staged, from.join(CLAIM)]) {
            tracing::warn!(%error, "the claim of a published folder stays for now");
        }
        Ok(())
    }

    pub(super) fn abandon_folder(
        &self,
        from: &ObjectPath,
        to: &ObjectPath,
        last: &str,
    ) -> Result<bool, StoreError> {
        let claim = from.join(CLAIM);
        let Some(begun) = self.look(&claim)? else { return Ok(true) };
        let place = to.join(last);
        match self.look(&place)? {
            Some(_) => {
                let is_over = self.read(&place, MAX_LAST)? == ABANDONED;
                if is_over {
                    self.clear(to, last)?;
                }
            }
            None if self.server_time()?.duration_since(begun.written) <= LEFT
                || !self.keeps_conditions()? =>
            {
                return Ok(false);
            }
            None => {
                match self.create(&place, ABANDONED) {
                    Ok(()) => self.clear(to, last)?,
                    // It was published at this very moment.
                    Err(StoreError::AlreadyExists { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        self.delete_all(vec![from.join(last), claim])?;
        Ok(true)
    }

    /// Deletes everything of a folder but its last object.
    fn clear(&self, folder: &ObjectPath, last: &str) -> Result<(), StoreError> {
        let names = self.list_all(folder)?.into_iter().filter(|(name, _)| name != last);
        self.delete_all(names.filter_map(|(name, _)| below(folder, &name)).collect())
    }

    /// The time as the server has it: what it stamps on a new object.
    pub(super) fn server_time(&self) -> Result<Timestamp, StoreError> {
        let path = ObjectPath::new(format!(".neurashield-time-{}", fresh_mark()));
        self.replace(&path, b"")?;
        let time = self.modified(&path);
        self.delete(&path)?;
        time
    }
}
