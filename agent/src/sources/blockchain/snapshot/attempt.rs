//! Tries to make a snapshot of a chain's folder, and says what came of it.
//!
//! Must stay true: a snapshot that stays where it should have gone is counted and told, by every backup until it is gone.

use std::io;
use std::os::fd::OwnedFd;

use tokio_util::sync::CancellationToken;

use super::super::hold::reap_snapshots;
use super::super::look::{Looked, Profile};
use super::super::{Rung, Way};
use super::plan::Why;
use super::{Snapshot, is_btrfs};
use crate::sources::files::Rules;

/// What came of trying to make a snapshot.
#[derive(Default)]
pub(in crate::sources::blockchain) struct Attempt {
    /// The snapshot, and what was found in it.
    pub(in crate::sources::blockchain) taken: Option<(Snapshot, Looked)>,
    /// Why there is none, and whether it has to be told also where another way was had.
    pub(in crate::sources::blockchain) why: Option<(String, bool)>,
    /// Of earlier ones.
    pub(in crate::sources::blockchain) told: Option<String>,
}

impl Attempt {
    pub(in crate::sources::blockchain) fn at(
        folder: &OwnedFd,
        rules: &Rules,
        way: &Way<'_>,
        profile: Profile,
        cancel: &CancellationToken,
    ) -> Self {
        let is_named = way.rungs != Rung::USUAL;
        if !way.rungs.contains(&Rung::Snapshot) {
            return Self::default();
        }
        if !is_btrfs(folder) {
            return Self { why: Some((none(&Why::Elsewhere), is_named)), ..Self::default() };
        }
        // What an earlier one takes may be what this one needs.
        let _ = reap_snapshots(folder);
        let taken = Snapshot::take(way.root, folder, rules, profile, cancel);
        let left = reap_snapshots(folder).unwrap_or_else(|error| vec![error]);
        let told = (!left.is_empty()).then(|| stays(&left));
        match taken {
            Ok(taken) => Self { taken: Some(taken), why: None, told },
            Err(why) => {
                let line = none(&why);
                tracing::info!(folder = %way.root.display(), "{line}");
                Self { taken: None, why: Some((line, is_named || why.is_trouble())), told }
            }
        }
    }
}

fn none(why: &Why) -> String {
    format!("no snapshot was made of it: {why}")
}

/// Tells of snapshots that could not be removed.
pub(in crate::sources::blockchain) fn stays(errors: &[io::Error]) -> String {
    let (count, first) = (errors.len(), &errors[0]);
    format!(
        "{count} of its snapshots could not be removed and keep what the node frees ({first}): each backup tries it \
         again; by hand, as root: btrfs subvolume delete .neurashield-hold-*/*, in its folder"
    )
}
