//! Tries for real what a restore will need: to make, write, make durable, rename and remove in the folders
//! that it goes to.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use super::area::staging_name;
use super::disk::{Disk, Steps, Subject};
use super::handles::open_named;
use super::plan::Facts;
use super::remove::remove_tree;
use crate::sources::files::metadata::mtime;
use crate::steps::Step;

/// Everything that would make a restore fail, one line each with what to do; empty if nothing was found.
/// Nothing is left behind.
pub fn preflight(facts: &Facts, restore_id: &str, steps: &dyn Steps) -> Vec<String> {
    let disk = Disk::new(steps);
    let mut troubles = super::plan::plan(facts).conflicts;
    for folder in &facts.folders {
        if let Err(error) = attempt(&disk, folder, restore_id) {
            troubles.push(advice(folder, &error));
        }
    }
    troubles
}

fn attempt(disk: &Disk<'_>, folder: &Path, restore_id: &str) -> Result<(), io::Error> {
    let root = open_named(folder)?.handle;
    let before = mtime(&rustix::fs::fstat(&root)?);
    let name = staging_name(restore_id, Some("preflight"));
    // From an earlier attempt that was interrupted.
    remove_tree(disk, &root, &name)?;
    let tried = (|| {
        let staging = disk.make_folder(&root, &name)?;
        let file = disk.make_file(&staging, b"file")?;
        disk.write_at(&file, b"preflight", 0)?;
        disk.sync(&file)?;
        let below = disk.make_folder(&staging, b"below")?;
        disk.move_to(&staging, &below, b"file")?;
        disk.done(Step::TrialMade)
    })();
    let removed = remove_tree(disk, &root, &name);
    // Not ours to set where we do not own the folder; no harm then.
    let _ = disk.set_mtime(Subject::Handle(root.as_fd()), before);
    tried.and(removed)
}

fn advice(folder: &Path, error: &io::Error) -> String {
    let what_to_do = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "give the agent's user write access to it, or run the agent as root"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "mount it read-write for the agent, or restore to another folder"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room in its file system",
        io::ErrorKind::NotFound => "make the folder, or restore to another one",
        _ => "see to its file system, or restore to another folder",
    };
    format!("cannot write in {}: {error}; {what_to_do}", folder.display())
}
