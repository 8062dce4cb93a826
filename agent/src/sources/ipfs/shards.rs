//! The blocks of a repository, each a file in one of many folders, kept by links.
//!
//! Must stay true: a block that is there all the time from one look to the next is linked; no more than the names of
//! one folder are in memory.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use formats::ipfs::{Cid, Pinned, block_file, held_by_name};
use repository::archive::path::EntryPath;
use rustix::fs::{AtFlags, Mode, OFlags};
use tokio_util::sync::CancellationToken;

use super::spec::Flat;
use crate::sources::blockchain::HeldFolder;
use crate::sources::blockchain::hold::{Hold, link, names};
use crate::sources::blockchain::look::is_folder;
use crate::sources::{Problem, ProblemKind};

/// Pins of which is told that their first block is not there.
const MOST_TOLD: usize = 100;
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Blocks that are linked.
pub(super) struct Shards {
    hold: Hold,
    path: EntryPath,
    live: OwnedFd,
    /// Where those of each folder are linked, by its name.
    linked: BTreeMap<CString, CString>,
}

impl Shards {
    /// Links the blocks in the open folder `live`, at `path` in `root`.
    pub(super) fn link(
        root: &OwnedFd,
        path: &EntryPath,
        live: OwnedFd,
        cancel: &CancellationToken,
    ) -> io::Result<Self> {
        let hold = Hold::make(root)?;
        let mut shards = Self { hold, path: path.clone(), live, linked: BTreeMap::new() };
        shards.link_new(cancel)?;
        Ok(shards)
    }

    /// Links those that have come since.
    pub(super) fn link_new(&mut self, cancel: &CancellationToken) -> io::Result<()> {
        let above = self.hold.handle()?;
        for name in names(self.live.as_fd())? {
            if cancel.is_cancelled() {
                return Err(io::Error::other("it was cancelled"));
            }
            // `.temp` is where blocks are written.
            if name.to_bytes().starts_with(b".") || !is_folder(&self.live, &name) {
                continue;
            }
            let live = rustix::fs::openat(&self.live, &*name, FOLDER, Mode::empty())?;
            let held = match self.linked.get(&name) {
                Some(at) => rustix::fs::openat(&above, &**at, FOLDER, Mode::empty())?,
                None => {
                    let (at, held) = self.hold.named_folder()?;
                    self.linked.insert(name.clone(), at);
                    held
                }
            };
            let there = names(held.as_fd())?;
            for block in names(live.as_fd())?.iter().filter(|block| is_block(block)) {
                if there.binary_search(block).is_err() {
                    link(&live, &held, block)?;
                }
            }
        }
        Ok(())
    }

    /// True if this block is linked. What cannot be looked at is not.
    pub(super) fn has(&self, folder: &str, file: &str) -> bool {
        let at = CString::new(folder).ok().and_then(|folder| self.linked.get(&folder));
        let path = at.map(|at| format!("{}/{file}", at.to_string_lossy()));
        self.hold.handle().is_ok_and(|above| path.is_some_and(|path| is_there(&above, &path)))
    }

    /// Where the files of each folder are to be read from, for as long as the hold is there.
    pub(super) fn into_held(self) -> io::Result<(Hold, Vec<(EntryPath, HeldFolder)>)> {
        let above = Arc::new(self.hold.handle()?);
        let held = self.linked.into_iter().filter_map(|(name, at)| {
            let path = self.path.join(name.to_bytes()).ok()?;
            Some((path, HeldFolder::Named(Arc::clone(&above), at.into_boxed_c_str())))
        });
        Ok((self.hold, held.collect()))
    }
}

/// What is to be told of pins whose first block is not there, as `has` says of its folder and its file.
pub(super) fn lacking(pinned: &Pinned, flat: &Flat, has: impl Fn(&str, &str) -> bool) -> Vec<Problem> {
    let tell = |kind, cause| Problem { path: flat.path.clone(), kind, cause };
    let Some(sharding) = flat.sharding else {
        let cause =
            "in which folder which block lies is not known here, so it was not looked whether what it keeps \
                     is there"
                .to_owned();
        return vec![tell(ProblemKind::Unreadable, cause)];
    };
    let lacks = |cid: &Cid| {
        let (folder, file) = block_file(cid, sharding);
        !has(&folder, &file)
    };
    let mut lacking: Vec<&Cid> =
        pinned.roots().filter(|cid| held_by_name(cid).is_none()).filter(|cid| lacks(cid)).collect();
    lacking.sort_unstable();
    lacking.dedup();
    let more = lacking.len().saturating_sub(MOST_TOLD);
    let tell = |cause| tell(ProblemKind::Damaged, cause);
    let each = lacking.iter().take(MOST_TOLD);
    let each = each.map(|cid| tell(format!("the node does not have the block {cid}, which it keeps")));
    let more = (more > 0).then(|| tell(format!("{more} more blocks that it keeps are not there")));
    each.chain(more).collect()
}

/// True if there is a file at this path below the folder.
pub(super) fn is_there(folder: &OwnedFd, path: &str) -> bool {
    rustix::fs::statat(folder, path, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

fn is_block(name: &CStr) -> bool {
    name.to_bytes().ends_with(b".data")
}
