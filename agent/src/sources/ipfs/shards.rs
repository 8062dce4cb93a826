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
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use tokio_util::sync::CancellationToken;

use super::spec::Flat;
use crate::sources::blockchain::HeldFolder;
use crate::sources::blockchain::hold::{Hold, is_file, link, names};
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
    /// What is neither a folder nor a file where one should be: how many, and the first one.
    odd: Option<(u64, EntryPath)>,
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
        let mut shards = Self { hold, path: path.clone(), live, linked: BTreeMap::new(), odd: None };
        shards.link_new(cancel)?;
        Ok(shards)
    }

    /// Links those that have come since.
    pub(super) fn link_new(&mut self, cancel: &CancellationToken) -> io::Result<()> {
        let above = self.hold.handle()?;
        self.odd = None;
        for name in names(self.live.as_fd())? {
            if cancel.is_cancelled() {
                return Err(io::Error::other("it was cancelled"));
            }
            // `.temp` is where blocks are written.
            if name.to_bytes().starts_with(b".") {
                continue;
            }
            if !is_folder(&self.live, &name) {
                if !is_file(&self.live, &name) && is_there(&self.live, &name) {
                    self.is_odd(&name, None);
                }
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
                if there.binary_search(block).is_ok() {
                    continue;
                }
                if is_file(&live, block) {
                    link(&live, &held, block)?;
                } else if is_there(&live, block) {
                    self.is_odd(&name, Some(block));
                }
            }
        }
        Ok(())
    }

    pub(super) fn path(&self) -> &EntryPath {
        &self.path
    }

    fn is_odd(&mut self, folder: &CStr, block: Option<&CStr>) {
        let folder = self.path.join(folder.to_bytes()).unwrap_or_default();
        let path = block.and_then(|block| folder.join(block.to_bytes()).ok()).unwrap_or(folder);
        let (count, _) = self.odd.get_or_insert((0, path));
        *count += 1;
    }

    /// What is to be told of what is a link where a block, or a folder of them, should be.
    pub(super) fn oddities(&self) -> Option<Problem> {
        let (count, path) = self.odd.clone()?;
        let cause = format!(
            "it is no file, or no folder, of blocks but a link to elsewhere or the like, as {} others: what it leads \
             to is not in the backup",
            count - 1
        );
        Some(Problem { path, kind: ProblemKind::Unreadable, cause })
    }

    /// True if this block is linked. What cannot be looked at is not.
    pub(super) fn has(&self, folder: &str, file: &str) -> bool {
        let at = CString::new(folder).ok().and_then(|folder| self.linked.get(&folder));
        let path = at.map(|at| format!("{}/{file}", at.to_string_lossy()));
        self.hold.handle().is_ok_and(|above| path.is_some_and(|path| is_block_at(&above, &path)))
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

/// True if there is something at this path below the folder.
pub(super) fn is_there(folder: &OwnedFd, path: impl rustix::path::Arg) -> bool {
    rustix::fs::statat(folder, path, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

/// True if there is a file at this path below the folder.
pub(super) fn is_block_at(folder: &OwnedFd, path: &str) -> bool {
    let stat = rustix::fs::statat(folder, path, AtFlags::SYMLINK_NOFOLLOW);
    stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
}

fn is_block(name: &CStr) -> bool {
    name.to_bytes().ends_with(b".data")
}
