//! Room for prune on a full disk: a file that is only there to be deleted.
//!
//! Must stay true: it goes only when retiring or pruning finds no space, and is made again once there is
//! plenty.

use super::{PruneStep, Watch};
use crate::error::RepositoryError;
use crate::layout;
use crate::random;
use crate::repo::Repository;
use crate::store::{StoreError, Upload};

/// So many times its own length must be free before it is made.
const PLENTY: u64 = 8;

impl Repository {
    /// Does `act`; where no space is left for it, once more without the ballast.
    pub(super) fn with_room<T>(
        &self,
        watch: &dyn Watch,
        mut act: impl FnMut() -> Result<T, RepositoryError>,
    ) -> Result<T, RepositoryError> {
        match act() {
            Err(RepositoryError::Store(StoreError::Full { .. })) => {
                self.store.delete(&layout::ballast())?;
                watch.done(PruneStep::BallastReleased);
                act()
            }
            other => other,
        }
    }

    /// Makes the ballast where it is missing and there is plenty of space.
    pub(super) fn keep_ballast(&self, length: u64, watch: &dyn Watch) -> Result<(), RepositoryError> {
        let path = layout::ballast();
        let is_there = match self.store.size(&path) {
            Ok(size) => size >= length,
            Err(error) if error.is_not_found() => false,
            Err(error) => return Err(error.into()),
        };
        let has_plenty = self.store.free_space()?.is_some_and(|free| free / PLENTY >= length);
        if length == 0 || is_there || !has_plenty {
            return Ok(());
        }
        // Random, so that no file system makes it smaller than it is.
        self.store.delete(&path)?;
        let mut upload = self.store.upload()?;
        let mut left = length;
        while left > 0 {
            let piece = random::bytes::<{ 64 << 10 }>();
            let taken = left.min(piece.len() as u64);
            upload.write(&piece[..taken as usize])?;
            left -= taken;
        }
        match Upload::finish(upload, &path) {
            Ok(()) | Err(StoreError::AlreadyExists { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        watch.done(PruneStep::BallastMade);
        Ok(())
    }
}
