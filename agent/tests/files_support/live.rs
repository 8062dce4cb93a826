//! Folders that are live while something is restored over them, and what happens to them meanwhile.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::{PoisonError, RwLock};

use agent::sources::files::{Excludes, Rules};
use agent::steps::Step;
use agent::targets::files::{
    Allowance, NoFaults, RestoreError, RestorePlan, RestoreReport, RestoreRequest, Steps, Tools, plan,
    restore, survey,
};
use agent::targets::{CancelFlag, Progress};
use repository::archive::path::EntryPath;
use repository::codec::Malformed;

use super::{Archive, Blobs, KEY, look, paths};

/// Takes back a restore of these paths.
pub fn undo(root: &Path, id: &str, patterns: &[&str]) -> RestoreRequest {
    RestoreRequest { keeps_older: true, ..paths(root, id, patterns) }
}

pub fn leaving_out(patterns: &[&str]) -> Rules {
    let patterns: Vec<String> = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
    Rules::from(Excludes::new(&patterns).expect("patterns"))
}

pub fn write(root: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
        fs::write(path, text).expect("a file");
    }
}

pub fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).expect("a file")
}

pub fn planned(archive: &Archive, request: &RestoreRequest) -> RestorePlan {
    let entries = archive.entries.iter().cloned().map(Ok::<_, Malformed>);
    plan(&survey(request, &KEY, entries).expect("it looks"))
}

pub fn names(paths: &[EntryPath]) -> Vec<String> {
    paths.iter().map(ToString::to_string).collect()
}

/// Does this once all is staged, and this once all is swapped, which is then taken back.
pub struct Meanwhile<'a> {
    pub staged: &'a dyn Fn(),
    pub swapped: Option<&'a dyn Fn()>,
}

impl Progress for Meanwhile<'_> {
    fn bytes_written(&self, _count: u64) {}
    fn entry_written(&self) {}
    fn staged(&self) -> Result<(), String> {
        (self.staged)();
        Ok(())
    }
    fn swap_begins(&self) {}
    fn swapped(&self) -> Result<(), String> {
        self.swapped.map_or(Ok(()), |swapped| {
            swapped();
            Err("it does not come up".to_owned())
        })
    }
}

pub fn restore_while(
    archive: &Archive,
    request: &RestoreRequest,
    meanwhile: &Meanwhile<'_>,
) -> Result<RestoreReport, RestoreError> {
    let (cancel, allowance) = (CancelFlag::default(), Allowance::all(&planned(archive, request)));
    let tools = Tools { id_key: &KEY, progress: meanwhile, cancel: &cancel, steps: &NoFaults };
    let mut blobs = Blobs { blobs: &archive.blobs, hinted: Vec::new() };
    let entries = archive.entries.iter().cloned().map(Ok::<_, Malformed>);
    restore(request, allowance, entries, &mut blobs, tools)
}

/// Does this at that step.
pub struct At<'a>(pub Step, pub &'a dyn Fn());

impl Steps for At<'_> {
    fn before(&self, _what: &'static str) -> std::io::Result<()> {
        Ok(())
    }
    fn done(&self, step: Step) -> std::io::Result<()> {
        if step == self.0 {
            (self.1)();
        }
        Ok(())
    }
}

/// All but times: what goes into a folder and comes out of it shows there.
pub fn told(root: &Path) -> Vec<(PathBuf, String, u32, Vec<u8>)> {
    look(root).into_iter().map(|(path, fact)| (path, fact.kind, fact.mode, fact.content)).collect()
}

/// Written while a process is started: until it runs its program it has all handles of this one, with their locks.
static STARTS: RwLock<()> = RwLock::new(());

/// While this lives nobody else holds a lock of a restore that has ended.
pub fn nobody_starts() -> impl Sized {
    STARTS.read().unwrap_or_else(PoisonError::into_inner)
}

pub fn run(command: &mut Command) -> ExitStatus {
    let _started = STARTS.write().unwrap_or_else(PoisonError::into_inner);
    command.status().expect("it runs")
}

/// A file system of its own at this place, for as long as this lives.
pub struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    pub fn tmpfs(place: &'a Path) -> Self {
        fs::create_dir_all(place).expect("a folder");
        Self::by(place, &["-t", "tmpfs", "tmpfs"])
    }

    /// The place bound to itself.
    pub fn bound(place: &'a Path) -> Self {
        Self::by(place, &["--bind", place.to_str().expect("text")])
    }

    pub fn by(place: &'a Path, words: &[&str]) -> Self {
        let status = run(Command::new("mount").args(words).arg(place));
        assert!(status.success(), "it can be mounted");
        Self(place)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        unmount(self.0);
    }
}

pub fn unmount(place: &Path) {
    run(Command::new("umount").arg("--lazy").arg(place));
}
