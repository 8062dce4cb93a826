//! A restore that has ended is taken back by the old state that it has kept, as long as that is there.
//!
//! Must stay true: it goes by the journal of that restore and by no other; where it stops in the middle, the
//! journal says `undoing`, and [`super::recover()`] ends it.

use std::io;
use std::path::{Path, PathBuf};

use repository::archive::path::EntryPath;

use super::area::{Area, is_of, staging_names};
use super::disk::{Disk, Steps};
use super::error::{RestoreError, failed};
use super::handles::{Walked, open_folder, open_named};
use super::journal::{self, Journal, State};
use super::recover::{tidy, with_servants};

/// Takes back every attempt of restore `id` in the folder `root`, the last one first, and returns when the old state
/// is live and durable: the folders in which something was taken back. Must run while nothing else uses `root`. The
/// agent's own state, in the folder `state`, stays.
pub fn take_back_ended(
    root: &Path,
    id: &str,
    steps: &dyn Steps,
    state: Option<&Path>,
) -> Result<Vec<PathBuf>, RestoreError> {
    let disk = Disk::new(steps);
    let Walked { handle, path, .. } = open_named(root).map_err(failed("open the folder", root.display()))?;
    let names = staging_names(&handle).map_err(failed("read the folder", path.display()))?;
    let mut names: Vec<Box<[u8]>> = names.into_iter().filter(|name| is_of(name, id)).collect();
    // The name of a later attempt is longer, or the same in length and later.
    names.sort_by_key(|name| (name.len(), name.clone()));
    let mut taken = Vec::new();
    for name in names.iter().rev() {
        let area = Area::open(&path, &handle, name);
        let Some(area) = area.map_err(failed("open a staging folder in", path.display()))? else { continue };
        let story = journal::read(&area.staging)
            .map_err(failed("read the journal of the restore in", path.display()))?;
        let Some(story) = story.filter(|story| story.serves.is_none() && story.state() == State::Done) else {
            continue;
        };
        let areas = with_servants(area, &story)?;
        for step in story.moves.iter().filter(|step| step.put) {
            let made = make_way(&disk, &areas[step.area], &step.path);
            made.map_err(failed("make a folder for", &step.path))?;
        }
        let mut journal = Journal::resume(disk, &areas[0].staging)
            .map_err(failed("open the journal in", path.display()))?;
        super::take_back(disk, &areas, &mut story.keeping(state), &mut journal)?;
        taken.push(areas[0].path.clone());
        tidy(&disk, &areas)?;
    }
    Ok(taken)
}

/// Makes the folder of `new/` in which the entry at `path` was staged: it went when the restore was tidied up.
fn make_way(disk: &Disk<'_>, area: &Area, path: &EntryPath) -> io::Result<()> {
    let mut at = area.staging.try_clone()?;
    let parent = path.parent().unwrap_or_default();
    for name in std::iter::once(&b"new"[..]).chain(parent.names()) {
        at = match open_folder(&at, name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => disk.make_folder(&at, name)?,
            other => other?,
        };
    }
    Ok(())
}
