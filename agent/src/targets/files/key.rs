//! Whether a validator's key is another one after a restore in place. A state says what one key has signed, and nothing
//! of any other.
//!
//! Must stay true: a key that comes is the one that is live only if it is so byte by byte; what cannot be read or
//! compared counts as another. A key that stays where it is need not be read.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use repository::archive::entry::{Entry, EntryKind, FileContent};
use repository::archive::path::EntryPath;
use repository::content::{ContentHasher, IdKey};
use rustix::fs::{AtFlags, FileType};

use super::ground::Ground;
use super::handles::{kind_of, open_below};
use super::request::RestoreRequest;
use super::signer::{KEY, STATE, read};
use super::stays::selects;

/// So many keys of an archive are looked at: more than any test network has in one folder.
const MAX_KEYS: usize = 1_000;

/// The keys of an archive.
#[derive(Debug, Default)]
pub(super) struct Keys {
    archived: BTreeMap<EntryPath, Archived>,
    /// There are more than are looked at.
    is_more: bool,
    /// It has a state, selected or not.
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
    File(FileContent),
    Link(Vec<u8>),
    Other,
}

impl Keys {
    /// An entry of the archive goes by.
    pub(super) fn note(&mut self, entry: &Entry, comes: bool) {
        self.has_state |= entry.path.name() == Some(STATE);
        if entry.path.name() != Some(KEY) || formats::chains::is_set_aside(entry.path.as_bytes()) {
            return;
        }
        if self.archived.len() == MAX_KEYS {
            self.is_more = true;
            return;
        }
        let what = match &entry.kind {
            EntryKind::File(content) => What::File(content.clone()),
            EntryKind::Symlink { target } => What::Link(target.to_vec()),
            _ => What::Other,
        };
        self.archived.insert(entry.path.clone(), Archived { what, comes });
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
        if matches!(ground, Ground::New { .. }) {
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
        (What::File(content), Ok(Live::File(bytes))) => is_content(content, &bytes, id_key),
        // What a link leads to in the folder itself may be restored, too.
        (What::Link(comes), Ok(Live::Link(live))) => {
            let target = Path::new(OsStr::from_bytes(&live));
            *comes == live && target.is_absolute() && !target.starts_with(ground.root())
        }
        _ => false,
    }
}

fn is_content(content: &FileContent, live: &[u8], id_key: &IdKey) -> bool {
    if content.size != live.len() as u64 {
        return false;
    }
    let mut hasher = ContentHasher::new(id_key);
    for extent in content.layout.extents(content.size) {
        let (Ok(from), Ok(length)) = (usize::try_from(extent.offset), usize::try_from(extent.length)) else {
            return false;
        };
        let Some(data) = from.checked_add(length).and_then(|to| live.get(from..to)) else { return false };
        hasher.data(data);
        hasher.extent_ends(extent);
    }
    hasher.finish(content.size) == content.id
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
