//! Whether a validator's key is another one after a restore in place. A state says what one key has signed, and nothing
//! of any other.
//!
//! Must stay true: a key that comes is the one that is live only if it is so byte by byte; what cannot be read or
//! compared counts as another, and so does a link that may lead into the folder. A key that stays where it is need not be
//! read. However large an archive's keys are, little of them is kept.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use repository::archive::entry::{Entry, EntryKind, FileContent, Layout};
use repository::archive::path::EntryPath;
use repository::content::{ContentHasher, IdKey};
use repository::ids::ContentId;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::ground::Ground;
use super::handles::{kind_of, open_below};
use super::request::{Place, RestoreRequest};
use super::signer::{self, KEY, read};
use super::stays::selects;
use crate::signed::MAX_STATE;

/// So many keys of an archive are looked at: more than any test network has in one folder.
const MAX_KEYS: usize = 100;
/// A plain file of [`MAX_STATE`] has no more parts between holes, on blocks of a KiB.
const MAX_EXTENTS: usize = 64;
/// Longer is no path that a link may lead to.
const MAX_TARGET: usize = 4_096;

/// The keys of an archive.
#[derive(Debug, Default)]
pub(super) struct Keys {
    archived: BTreeMap<EntryPath, Archived>,
    /// There are more than are looked at.
    is_more: bool,
    /// It has a state that somebody may go by, selected or not.
    pub(super) has_state: bool,
}

#[derive(Debug)]
struct Archived {
    what: What,
    /// It is selected.
    comes: bool,
}

#[derive(Debug)]
enum What {
    File {
        size: u64,
        id: ContentId,
        layout: Layout,
    },
    Link(Vec<u8>),
    /// What is not compared: it is no key that a node reads, or would take much memory.
    Other,
}

impl What {
    fn of(kind: &EntryKind) -> Self {
        match kind {
            EntryKind::File(FileContent { size, id, layout, .. }) if *size < MAX_STATE => match layout {
                Layout::Sparse(extents) if extents.len() > MAX_EXTENTS => Self::Other,
                _ => Self::File { size: *size, id: *id, layout: layout.clone() },
            },
            EntryKind::Symlink { target } if target.len() <= MAX_TARGET => Self::Link(target.clone()),
            _ => Self::Other,
        }
    }
}

impl Keys {
    /// An entry of the archive goes by.
    pub(super) fn note(&mut self, entry: &Entry, comes: bool) {
        self.has_state |= signer::is_state(&entry.path);
        if entry.path.name() != Some(KEY) || formats::chains::is_set_aside(entry.path.as_bytes()) {
            return;
        }
        if self.archived.len() == MAX_KEYS {
            self.is_more = true;
            return;
        }
        self.archived.insert(entry.path.clone(), Archived { what: What::of(&entry.kind), comes });
    }

    /// True if one of the archive's is restored.
    pub(super) fn come(&self) -> bool {
        self.is_more || self.archived.values().any(|key| key.comes)
    }

    /// The first key that will be another one in its place: one that comes, or one that goes. Beside those of the archive
    /// it looks where CometBFT has them, by the `states` that are restored.
    pub(super) fn other<'p>(
        &self,
        ground: &Ground,
        request: &RestoreRequest,
        id_key: &IdKey,
        states: impl Iterator<Item = &'p EntryPath>,
    ) -> Option<EntryPath> {
        // A copy has no live key, also where it goes into an empty mount.
        if matches!(ground, Ground::New { .. }) || matches!(request.place, Place::NewFolder { .. }) {
            return None;
        }
        let of_archive = match self.is_more {
            true => self.archived.keys().next(),
            false => {
                let is_other = |path, key: &Archived| key.comes && !stays(&key.what, ground, path, id_key);
                self.archived.iter().find(|(path, key)| is_other(path, key)).map(|(path, _)| path)
            }
        };
        let beside = || {
            let places = states.flat_map(usual_places);
            places.filter(|path| !self.archived.contains_key(path)).find(|path| goes(ground, request, path))
        };
        of_archive.cloned().or_else(beside)
    }
}

/// Where the key of a state is looked for: beside it, and in the folder `config` beside its own.
fn usual_places(state: &EntryPath) -> Vec<EntryPath> {
    let folder = state.parent().unwrap_or_default();
    let home = folder.parent().unwrap_or_default();
    let config = home.join(b"config").and_then(|config| config.join(KEY));
    [folder.join(KEY), config].into_iter().flatten().collect()
}

/// True if what is live at `path` is just what comes there.
fn stays(comes: &What, ground: &Ground, path: &EntryPath, id_key: &IdKey) -> bool {
    match (comes, live(ground, path)) {
        (What::File { size, id, layout }, Ok(Live::File(bytes))) => {
            content_id((*size, layout), &bytes, id_key).as_ref() == Some(id)
        }
        (What::Link(comes), Ok(Live::Link(live))) => {
            *comes == live && leads_out(ground, Path::new(OsStr::from_bytes(&live)))
        }
        _ => false,
    }
}

/// True if the absolute link leads to something that is seen from here and lies outside of the folder: what lies in that
/// may be restored, too. The node may see the folder by another path than the agent does, so the text tells nothing, and
/// what it leads to has to be there.
fn leads_out(ground: &Ground, target: &Path) -> bool {
    let is_root = |folder: &Path| {
        let (Ok(there), Ok(root)) = (rustix::fs::stat(folder), rustix::fs::fstat(ground.handle())) else {
            return true;
        };
        (there.st_dev, there.st_ino) == (root.st_dev, root.st_ino)
    };
    let Ok(opened) = rustix::fs::open(target, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) else {
        return false;
    };
    let path = std::fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd()));
    target.is_absolute() && path.is_ok_and(|path| path.is_absolute() && !path.ancestors().any(is_root))
}

/// The id of what is live, if that may have this size and these holes.
fn content_id((size, layout): (u64, &Layout), live: &[u8], id_key: &IdKey) -> Option<ContentId> {
    if size != live.len() as u64 {
        return None;
    }
    let mut hasher = ContentHasher::new(id_key);
    for extent in layout.extents(size) {
        let (from, length) = (usize::try_from(extent.offset).ok()?, usize::try_from(extent.length).ok()?);
        hasher.data(live.get(from..from.checked_add(length)?)?);
        hasher.extent_ends(extent);
    }
    Some(hasher.finish(size))
}

/// True if a key that no archive has lies live at `path` and is moved away.
fn goes(ground: &Ground, request: &RestoreRequest, path: &EntryPath) -> bool {
    let mut ways: Vec<EntryPath> = Vec::new();
    let mut at = Some(path.clone());
    while let Some(way) = at.filter(|way| !way.is_root()) {
        at = way.parent();
        ways.push(way);
    }
    let is_selected = ways.iter().any(|way| selects(&request.selection, way));
    if matches!(ground, Ground::Spread { .. }) || !is_selected {
        return false;
    }
    let is_there = !matches!(live(ground, path), Ok(Live::None));
    let excluded = |way: &EntryPath| {
        let (Some(rules), Some(name)) = (&request.stays, way.name()) else { return false };
        let folder = open_below(ground.handle(), &way.parent().unwrap_or_default(), ground.mounts());
        let stat =
            folder.ok().and_then(|folder| rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).ok());
        stat.is_some_and(|stat| rules.leaves_out(way, &stat))
    };
    is_there && !ways.iter().any(excluded)
}

enum Live {
    None,
    File(zeroize::Zeroizing<Vec<u8>>),
    Link(Vec<u8>),
    Other,
}

fn live(ground: &Ground, path: &EntryPath) -> io::Result<Live> {
    let Some(name) = path.name() else { return Ok(Live::None) };
    let folder = match open_below(ground.handle(), &path.parent().unwrap_or_default(), ground.mounts()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Live::None),
        other => other?,
    };
    Ok(match kind_of(&folder, name)? {
        None => Live::None,
        Some(FileType::RegularFile) => Live::File(read(&folder, name)?.into()),
        Some(FileType::Symlink) => {
            Live::Link(rustix::fs::readlinkat(&folder, name, Vec::new())?.into_bytes())
        }
        Some(_) => Live::Other,
    })
}

#[cfg(test)]
mod tests {
    use repository::archive::entry::{Extent, Metadata, Piece, Pieces};
    use repository::ids::BlobId;

    use super::*;

    /// What is kept of a key, in bytes.
    fn kept(size: u64, layout: Layout, pieces: usize) -> usize {
        let blob = BlobId::new([7; 32]);
        let pieces = vec![Piece { blob, offset: 0, length: 1 }; pieces];
        let (id, pieces) = (ContentId::new([7; 32]), Pieces::Inline(pieces));
        match What::of(&EntryKind::File(FileContent { size, id, layout, pieces })) {
            What::File { layout: Layout::Sparse(extents), .. } => extents.capacity() * size_of::<Extent>(),
            What::File { layout: Layout::Dense, .. } | What::Other => 0,
            What::Link(target) => target.capacity(),
        }
    }

    #[test]
    fn little_is_kept_of_an_archive_s_keys_however_large_they_are() {
        let holes =
            |count: u64| Layout::Sparse((0..count).map(|n| Extent { offset: n * 2, length: 1 }).collect());
        assert_eq!(kept(1 << 20, holes(20_000), 1), 0);
        assert_eq!(kept(60_000, holes(20_000), 1), 0);
        assert_eq!(kept(60_000, holes(64), 4_096), 64 * size_of::<Extent>());
        let target = vec![b'a'; 60_000];
        assert!(matches!(What::of(&EntryKind::Symlink { target }), What::Other));

        let mut keys = Keys::default();
        for n in 0..1_000 {
            let path = EntryPath::new(format!("{n:04}/priv_validator_key.json").as_bytes()).expect("a path");
            keys.note(&Entry { path, kind: EntryKind::Fifo, metadata: Metadata::default() }, false);
        }
        assert_eq!(keys.archived.len(), MAX_KEYS);
        assert!(keys.come(), "what is not looked at may come");
    }
}
