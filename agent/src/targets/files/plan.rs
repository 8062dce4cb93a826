//! What a restore would do: facts about the archive and about what is live, and the plan that follows.
//!
//! [`survey`] looks, [`plan`] decides and touches nothing.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use repository::archive::entry::{Entry, EntryKind};
use repository::archive::path::EntryPath;
use rustix::fs::FileType;

use super::area::is_staging;
use super::error::{RestoreError, failed};
use super::ground::{Ground, LOST_AND_FOUND, is_mount_point};
use super::handles::{kind_of, open_below};
use super::incoming::Incoming;
use super::remove::names_in;
use super::request::{RestoreRequest, Selection};

/// More names than this are counted and not listed.
pub const MAX_NAMED: usize = 10_000;

/// What there is before a restore.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// What is swapped as a whole, and how much data it brings: the names at the top for a whole
    /// restore, else each outermost selected path.
    pub outermost: BTreeMap<EntryPath, u64>,
    /// Entries that are selected.
    pub entries: u64,
    /// Bytes of content that are selected, holes not counted.
    pub bytes: u64,
    /// Live entries at the place: those of `outermost` that exist, and all at the top if it is whole.
    pub live: BTreeMap<EntryPath, LiveEntry>,
    /// Whether live entries that the archive lacks are moved away.
    pub whole: bool,
    /// Bytes free for us in the target's file system.
    pub free_space: u64,
    /// The folders that a restore writes in.
    pub folders: Vec<PathBuf>,
}

/// A live entry that is in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LiveEntry {
    /// It can be moved.
    Movable,
    /// Something is mounted on it.
    MountPoint,
    /// It lies below something that is no folder.
    Unreachable,
}

/// What a restore would do. Lists name at most [`MAX_NAMED`] entries; the counts beside them count all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RestorePlan {
    /// Live entries (with all below them) whose place is taken.
    pub overwritten: Vec<EntryPath>,
    /// How many those are.
    pub overwritten_count: u64,
    /// Entries that have no live one.
    pub created: Vec<EntryPath>,
    /// How many those are.
    pub created_count: u64,
    /// Live entries that are moved away since the archive has none of that name.
    pub removed: Vec<EntryPath>,
    /// How many those are.
    pub removed_count: u64,
    /// Entries that are written.
    pub entries: u64,
    /// Bytes of content that are written.
    pub bytes_to_write: u64,
    /// Bytes free for us in the target's file system.
    pub free_space: u64,
    /// Why the restore would fail, one line each with what to do. Empty: nothing speaks against it.
    pub conflicts: Vec<String>,
}

/// The plan that follows from the facts.
pub fn plan(facts: &Facts) -> RestorePlan {
    let mut plan = RestorePlan {
        entries: facts.entries,
        bytes_to_write: facts.bytes,
        free_space: facts.free_space,
        ..RestorePlan::default()
    };
    for path in facts.outermost.keys() {
        match facts.live.get(path) {
            None => name(&mut plan.created, &mut plan.created_count, path),
            Some(live) => {
                name(&mut plan.overwritten, &mut plan.overwritten_count, path);
                conflict(&mut plan.conflicts, path, *live);
            }
        }
    }
    if facts.whole {
        for (path, live) in facts.live.iter().filter(|(path, _)| !facts.outermost.contains_key(*path)) {
            name(&mut plan.removed, &mut plan.removed_count, path);
            conflict(&mut plan.conflicts, path, *live);
        }
    }
    if facts.outermost.is_empty() {
        plan.conflicts.push("nothing in the archive matches; look at its paths with `nsctl ls`".to_owned());
    }
    if facts.bytes > facts.free_space {
        plan.conflicts.push(format!(
            "{} bytes are written beside the live state and {} are free; make room, or restore fewer paths",
            facts.bytes, facts.free_space
        ));
    }
    plan
}

fn name(list: &mut Vec<EntryPath>, count: &mut u64, path: &EntryPath) {
    *count += 1;
    if list.len() < MAX_NAMED {
        list.push(path.clone());
    }
}

fn conflict(conflicts: &mut Vec<String>, path: &EntryPath, live: LiveEntry) {
    match live {
        LiveEntry::Movable => {}
        LiveEntry::MountPoint => conflicts.push(format!(
            "{path} is a mount point and cannot be replaced; restore what is in it by path, or unmount it"
        )),
        LiveEntry::Unreachable => conflicts.push(format!(
            "{path} lies below something that is no folder; restore the folder above it as a whole"
        )),
    }
}

/// Looks at the archive's `entries` and at the place that the request names. Changes nothing.
pub fn survey<I, E>(request: &RestoreRequest, entries: I) -> Result<Facts, RestoreError>
where
    I: Iterator<Item = Result<Entry, E>>,
    E: std::error::Error + Send + Sync + 'static,
{
    let ground = Ground::find(&request.place)?;
    let mut facts = Facts::default();
    let is_whole = matches!(request.selection, Selection::Whole);
    facts.whole = is_whole && matches!(ground, Ground::Live { .. });
    let mut outermost: Option<EntryPath> = None;
    let mut incoming = Incoming::new(entries);
    while let Some(entry) = incoming.next()? {
        let below = outermost.as_ref().is_some_and(|outer| entry.path.is_within(outer));
        if !below && !request.selection.names(&entry.path) {
            continue;
        }
        facts.entries += 1;
        if !below {
            let folder_that_stays = match &ground {
                Ground::New { .. } => false,
                Ground::Live { .. } => entry.path.is_root(),
                Ground::Spread { .. } => {
                    entry.kind == EntryKind::Folder && is_live_folder(&ground, &entry.path)
                }
            };
            // With listed files a selected folder that stays still selects what is in it.
            if folder_that_stays && is_whole {
                continue;
            }
            outermost = Some(entry.path.clone());
            facts.outermost.insert(entry.path.clone(), 0);
        }
        if let EntryKind::File(content) = &entry.kind {
            let bytes = content.data_length();
            facts.bytes += bytes;
            *facts.outermost.get_mut(outermost.as_ref().expect("it is set")).expect("it is listed") += bytes;
        }
    }
    look(&ground, &mut facts)?;
    Ok(facts)
}

fn is_live_folder(ground: &Ground, path: &EntryPath) -> bool {
    open_below(ground.handle(), path, ground.mounts()).is_ok()
}

fn look(ground: &Ground, facts: &mut Facts) -> Result<(), RestoreError> {
    let root = ground.handle();
    facts.free_space = free_space(root).map_err(failed("look at", ground.root().display()))?;
    if let Ground::New { parent, missing, .. } = ground {
        facts.folders = parent.ancestors().nth(missing.len()).map(Path::to_owned).into_iter().collect();
        return Ok(());
    }
    let mut folders = vec![ground.root().to_owned()];
    for path in facts.outermost.keys() {
        let Some(name) = path.name() else { continue };
        let parent = path.parent().unwrap_or_default();
        match open_below(root, &parent, ground.mounts()) {
            Ok(folder) => {
                if let Some(live) = live_entry(&folder, name).map_err(failed("look at", path))? {
                    facts.live.insert(path.clone(), live);
                }
                if matches!(ground, Ground::Spread { .. }) {
                    folders.push(ground.shown(&parent));
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(_) => {
                facts.live.insert(path.clone(), LiveEntry::Unreachable);
            }
        }
    }
    if facts.whole {
        for name in names_in(root).map_err(failed("read the folder", ground.root().display()))? {
            let Ok(path) = EntryPath::new(&name) else { continue };
            if *name == *LOST_AND_FOUND {
                facts.outermost.remove(&path);
                facts.live.remove(&path);
            } else if !is_staging(&name)
                && let Some(live) = live_entry(root, &name).map_err(failed("look at", &path))?
            {
                facts.live.insert(path, live);
            }
        }
    }
    if matches!(ground, Ground::Spread { .. }) && folders.len() > 1 {
        folders.remove(0);
    }
    folders.sort_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
    folders.dedup();
    facts.folders = folders;
    Ok(())
}

fn live_entry(folder: &std::os::fd::OwnedFd, name: &[u8]) -> std::io::Result<Option<LiveEntry>> {
    Ok(match kind_of(folder, name)? {
        None => None,
        Some(FileType::Directory | FileType::RegularFile) if is_mount_point(folder, name) => {
            Some(LiveEntry::MountPoint)
        }
        Some(_) => Some(LiveEntry::Movable),
    })
}

/// Bytes that we may still write, in the file system that `folder` lies in.
pub(super) fn free_space(folder: impl std::os::fd::AsFd) -> std::io::Result<u64> {
    let stat = rustix::fs::fstatvfs(folder)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> EntryPath {
        EntryPath::new(text.as_bytes()).expect(text)
    }

    fn facts(outermost: &[&str], live: &[(&str, LiveEntry)]) -> Facts {
        Facts {
            outermost: outermost.iter().map(|name| (path(name), 1)).collect(),
            live: live.iter().map(|(name, live)| (path(name), *live)).collect(),
            whole: true,
            bytes: 10,
            free_space: 10,
            ..Facts::default()
        }
    }

    #[test]
    fn a_whole_restore_overwrites_creates_and_removes() {
        let plan = plan(&facts(&["a", "b"], &[("b", LiveEntry::Movable), ("c", LiveEntry::Movable)]));
        assert_eq!(
            (plan.created, plan.overwritten, plan.removed),
            (vec![path("a")], vec![path("b")], vec![path("c")])
        );
        assert_eq!(plan.conflicts, Vec::<String>::new());
    }

    #[test]
    fn more_entries_than_are_named_are_counted_all() {
        let names: Vec<String> = (0..=MAX_NAMED).map(|n| format!("{n:06}")).collect();
        let all: Vec<&str> = names.iter().map(String::as_str).collect();
        let live: Vec<_> = all.iter().map(|name| (*name, LiveEntry::Movable)).collect();
        for (facts, counts) in [
            (facts(&all, &[]), (1, 0, 0)),
            (facts(&all, &live), (0, 1, 0)),
            (facts(&["x"], &live), (0, 0, 1)),
        ] {
            let plan = plan(&facts);
            let all = MAX_NAMED as u64 + 1;
            let found = (plan.created_count / all, plan.overwritten_count / all, plan.removed_count / all);
            assert_eq!(found, counts);
            assert!([&plan.created, &plan.overwritten, &plan.removed].iter().all(|l| l.len() <= MAX_NAMED));
        }
    }

    #[test]
    fn a_restore_of_paths_removes_nothing() {
        let facts = Facts { whole: false, ..facts(&["a"], &[("c", LiveEntry::Movable)]) };
        assert_eq!(plan(&facts).removed, []);
    }

    #[test]
    fn mount_points_missing_space_and_an_empty_selection_are_conflicts() {
        assert_eq!(plan(&facts(&["a"], &[("a", LiveEntry::MountPoint)])).conflicts.len(), 1);
        assert_eq!(plan(&facts(&["a"], &[("b", LiveEntry::MountPoint)])).conflicts.len(), 1);
        assert_eq!(plan(&facts(&["a"], &[("a", LiveEntry::Unreachable)])).conflicts.len(), 1);
        assert_eq!(plan(&facts(&[], &[])).conflicts.len(), 1);
        let full = Facts { free_space: 9, ..facts(&["a"], &[]) };
        assert!(plan(&full).conflicts[0].contains("10 bytes are written"), "{:?}", plan(&full));
    }
}
