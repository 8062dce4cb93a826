//! How far each restore has come, from before the first program is stopped to its end; and how it ended.
//!
//! Must stay true: what is about to be stopped is on record before it is stopped; a record goes only when
//! everything on it runs again or was tried for a day, and when how the restore ended is on record itself, so
//! that a repeated order is answered and not carried out twice.

use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use runtime::atomic_file;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::restores::list;
use crate::platform::Application;

/// So many ends are remembered: more than a controller has restores under way.
const MAX_ENDS: usize = 256;

/// A restore that has stopped something, or is about to change what is live.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Run {
    /// What was planned, as the report of a restore whose process died.
    pub(crate) report: Report,
    /// What ran, in the order in which it is started.
    pub(crate) stopped: Vec<Stopped>,
    /// The source of the server at which it swaps; none: it swaps in folders.
    #[serde(default)]
    pub(crate) server: Option<String>,
    /// One thing after the other is being applied there: nothing but the same order once more ends that.
    #[serde(default)]
    pub(crate) applying: bool,
    /// It is over, and nothing is left to do but to start what could not be started again.
    #[serde(default)]
    pub(crate) is_over: bool,
    /// When that was: so long it is tried from then on.
    #[serde(default)]
    pub(crate) left_at: Option<Timestamp>,
}

impl Run {
    /// What it has stopped.
    pub(crate) fn names(&self) -> impl Iterator<Item = String> + '_ {
        self.stopped.iter().map(|one| one.application.name.clone())
    }
}

/// A program that ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stopped {
    pub(crate) application: Application,
    pub(crate) state: Stopping,
}

/// How far a program is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Stopping {
    /// It has not been told.
    Untouched,
    /// It was told, or is just about to be.
    Told,
    /// It is stopped.
    Stopped,
}

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    pub(crate) replaced: u64,
    pub(crate) created: u64,
    pub(crate) removed: u64,
    /// What was replaced and removed, by name, where it has names at a server.
    #[serde(default)]
    pub(crate) names: Vec<String>,
    /// Where the replaced state lies.
    pub(crate) old: Vec<PathBuf>,
    pub(crate) notes: Vec<String>,
    pub(crate) steps: Vec<Done>,
    /// Why all of it was taken back.
    pub(crate) undone: Option<String>,
}

/// A step that was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Done {
    pub(crate) step: String,
    pub(crate) at: Timestamp,
    pub(crate) detail: String,
}

impl Report {
    /// One more step was done.
    pub(crate) fn did(&mut self, step: &str, at: Timestamp, detail: impl Into<String>) {
        self.steps.push(Done { step: step.to_owned(), at, detail: detail.into() });
    }
}

/// The folder of these records.
#[derive(Debug, Clone)]
pub(crate) struct Runs {
    running: PathBuf,
    ended: PathBuf,
}

impl Runs {
    pub(super) const RUNNING: &'static str = "runs";
    pub(super) const ENDED: &'static str = "ends";

    pub(super) fn new(state: &Path) -> Self {
        Self { running: state.join(Self::RUNNING), ended: state.join(Self::ENDED) }
    }

    /// Puts the run of restore `id` on record; durable when it returns.
    pub(crate) fn keep(&self, id: &str, run: &Run) -> io::Result<()> {
        write(&self.running.join(id), run)
    }

    /// What is on record of restore `id`.
    pub(crate) fn of(&self, id: &str) -> io::Result<Option<Run>> {
        read(&self.running.join(id))
    }

    /// All that are not over, with their ids.
    pub(crate) fn all(&self) -> io::Result<Vec<(String, Run)>> {
        let mut all = Vec::new();
        for file in list(&self.running)? {
            let id = file.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            if let Some(run) = read(&file)? {
                all.push((id, run));
            }
        }
        Ok(all)
    }

    /// The restore is over, and this is how.
    pub(crate) fn end(&self, id: &str, report: &Report) -> io::Result<()> {
        write(&self.ended.join(id), report)?;
        self.forget_oldest();
        self.drop(id)
    }

    /// The same, and what `run` says to be stopped is still to be started.
    pub(crate) fn end_and_start_later(&self, id: &str, report: &Report, run: &Run) -> io::Result<()> {
        self.keep(id, run)?;
        write(&self.ended.join(id), report)?;
        self.forget_oldest();
        Ok(())
    }

    /// The restore is over and has changed nothing: it may be tried again.
    pub(crate) fn drop(&self, id: &str) -> io::Result<()> {
        match std::fs::remove_file(self.running.join(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// How restore `id` has ended.
    pub(crate) fn ended(&self, id: &str) -> io::Result<Option<Report>> {
        read(&self.ended.join(id))
    }

    fn forget_oldest(&self) {
        let Ok(mut files) = list(&self.ended) else { return };
        let age = |file: &PathBuf| file.metadata().and_then(|stat| stat.modified()).ok();
        files.sort_by_key(age);
        for file in files.iter().take(files.len().saturating_sub(MAX_ENDS)) {
            super::restores::remove(file);
        }
    }
}

fn write(file: &Path, what: &impl Serialize) -> io::Result<()> {
    let json = serde_json::to_vec(what)?;
    atomic_file::write(file, &json, atomic_file::PRIVATE).map_err(io::Error::other)
}

fn read<T: DeserializeOwned>(file: &Path) -> io::Result<Option<T>> {
    match std::fs::read(file) {
        Ok(json) => Ok(Some(serde_json::from_slice(&json)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_ends_are_remembered_and_the_oldest_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let runs = Runs::new(folder.path());
        for name in [Runs::RUNNING, Runs::ENDED] {
            std::fs::create_dir(folder.path().join(name)).expect("made");
        }
        let run = Run::default();
        runs.keep("r-0", &run).expect("kept");
        assert_eq!(runs.all().expect("listed"), [("r-0".to_owned(), run)]);
        let report = |entries| Report { entries, ..Report::default() };
        for n in 0..=MAX_ENDS as u64 {
            runs.end(&format!("r-{n}"), &report(n)).expect("ended");
            let file = folder.path().join(Runs::ENDED).join(format!("r-{n}"));
            let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(n);
            std::fs::File::open(file).and_then(|file| file.set_modified(at)).expect("set");
        }
        assert_eq!(runs.all().expect("listed"), []);
        runs.end("r-last", &report(9)).expect("ended");
        assert_eq!(runs.ended("r-0").expect("read"), None);
        assert_eq!(runs.ended("r-last").expect("read"), Some(report(9)));
    }
}
