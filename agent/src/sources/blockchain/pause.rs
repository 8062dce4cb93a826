//! Pausing who writes into a chain's folder: SIGSTOP, and SIGCONT moments later.
//!
//! Must stay true: whoever was paused goes on, by us or by what [`super::thaw`] has for it. Only a process that has one of the held files open for writing
//! is paused, under whatever path it sees it; where one is stopped by somebody else, nobody is. A number is taken for
//! the process that it meant only while that process's start is the same.

use std::collections::HashSet;
use std::ffi::CStr;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use super::HoldError;
use super::thaw::Safeguard;
use crate::platform::writers_of;

/// A pause that took longer does not count: what was held meanwhile is given up.
pub(super) const LONGEST: Duration = Duration::from_secs(2);
/// How long a process has to stop: one that waits for a disk takes a moment.
const TO_STOP: Duration = Duration::from_millis(500);
/// More writers than these are no node.
const MAX: usize = 9;
/// Nor are more files that may be written: a freezer has a hundred or two, and a process may open a thousand.
const MAX_FILES: usize = 500;

/// A process, and not the next one of that number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    id: u32,
    /// In ticks since the system's start.
    started: u64,
}

impl Process {
    fn of(id: u32) -> Option<Self> {
        look(id).map(|(_, started)| Self { id, started })
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let (id, started) = text.split_once(':')?;
        Some(Self { id: id.parse().ok()?, started: started.parse().ok()? })
    }

    /// As `/proc` says it; none if it is gone.
    fn state(self) -> Option<char> {
        look(self.id).and_then(|(state, started)| (started == self.started).then_some(state))
    }

    pub(super) fn is_stopped(self) -> bool {
        self.state() == Some('T')
    }

    fn signal(self, signal: Signal) -> io::Result<()> {
        let id = i32::try_from(self.id).ok().and_then(Pid::from_raw);
        match (self.state(), id) {
            (Some(_), Some(id)) => Ok(kill_process(id, signal)?),
            _ => Err(io::Error::from(io::ErrorKind::NotFound)),
        }
    }

    /// Lets it go on; one that is gone needs nothing. False: it cannot be told.
    pub(super) fn go_on(self) -> bool {
        match self.signal(Signal::CONT) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::error!(process = self.id, %error, "a paused process cannot be told to go on: send it SIGCONT");
                false
            }
            _ => true,
        }
    }
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.id, self.started)
    }
}

/// The state of a process, and when it was started.
fn look(id: u32) -> Option<(char, u64)> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // Its name may hold anything.
    let mut after = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = after.next()?.chars().next()?;
    Some((state, after.nth(18)?.parse().ok()?))
}

/// Files by which who writes is known. Each is kept open, by its name alone: the number of a file that is gone would
/// soon be another file's, and whoever writes that one would be paused.
#[derive(Default)]
pub(super) struct Watched {
    numbers: HashSet<(u64, u64)>,
    kept: Vec<OwnedFd>,
}

impl Watched {
    /// Adds the file `name`, if it is there and is one.
    pub(super) fn add(&mut self, folder: &OwnedFd, name: &CStr) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(folder, name, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(());
        }
        if self.kept.len() >= MAX_FILES {
            return Err(io::Error::other(format!(
                "more than {MAX_FILES} files may be open for writing in it"
            )));
        }
        self.numbers.insert((stat.st_dev, stat.st_ino));
        self.kept.push(file);
        Ok(())
    }

    fn writers(&self) -> Vec<u32> {
        writers_of(&self.numbers)
    }
}

/// Writers that are paused for as long as this lives.
pub(super) struct Paused {
    processes: Vec<Process>,
    watched: Watched,
    /// None once they went on.
    safeguard: Option<Safeguard>,
    began: Instant,
}

impl Paused {
    /// Pauses who has one of the files open for writing; none if nobody is seen. `state` is the agent's
    /// folder.
    #[expect(clippy::disallowed_methods, reason = "a fifth of a millisecond, while others are held")]
    pub(super) fn begin(watched: Watched, state: &Path) -> io::Result<Option<Self>> {
        let processes = running(&watched)?;
        if processes.is_empty() {
            return Ok(None);
        }
        let words: Vec<String> = processes.iter().map(ToString::to_string).collect();
        let mut safeguard = Safeguard::begin(state, &words)?;
        let is_guarded = safeguard.is_guarded();
        let paused = Self { processes, watched, safeguard: Some(safeguard), began: Instant::now() };
        if !is_guarded {
            return Err(io::Error::other("the guard of the pause has ended"));
        }
        for process in &paused.processes {
            process.signal(Signal::STOP)?;
        }
        while !paused.processes.iter().all(|process| process.is_stopped() || process.state().is_none()) {
            if paused.began.elapsed() > TO_STOP {
                return Err(io::Error::other("it does not stop when it is asked to"));
            }
            thread::sleep(Duration::from_micros(200));
        }
        // One that was started meanwhile.
        if !paused.is_alone()? {
            return Err(io::Error::other("another process writes there meanwhile"));
        }
        Ok(Some(paused))
    }

    /// True if nobody writes but who is paused.
    fn is_alone(&self) -> io::Result<bool> {
        let found = self.watched.writers();
        Ok(found.len() <= MAX
            && found.into_iter().filter_map(Process::of).all(|process| self.processes.contains(&process)))
    }

    /// True if they were held all the time until now, and not for too long, and nobody else has come.
    pub(super) fn still_holds(&self) -> bool {
        self.is_alone().unwrap_or(false)
            && self.began.elapsed() < LONGEST
            && self.processes.iter().all(|process| process.is_stopped() || process.state().is_none())
    }

    /// Lets them go on; returns how long they were held.
    pub(super) fn end(mut self) -> Result<Duration, HoldError> {
        if self.thaw() { Ok(self.began.elapsed()) } else { Err(HoldError::StillPaused) }
    }

    fn thaw(&mut self) -> bool {
        let Some(safeguard) = self.safeguard.take() else { return true };
        safeguard.end(self.processes.iter().map(ToString::to_string).collect(), false)
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        self.thaw();
    }
}

/// Who has one of these files open for writing.
fn running(watched: &Watched) -> io::Result<Vec<Process>> {
    let writers = watched.writers();
    if writers.len() > MAX {
        return Err(io::Error::other(format!("more than {MAX} processes write there")));
    }
    let found: Vec<Process> = writers.into_iter().filter_map(Process::of).collect();
    // Who stopped it lets it go on when they like.
    if found.iter().any(|process| matches!(process.state(), Some('T' | 't'))) {
        return Err(io::Error::other("somebody else has stopped a process that writes there"));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::super::thaw_left;
    use super::*;
    use std::process::Command;

    #[test]
    fn the_number_of_a_watched_file_stays_its_own_when_the_file_is_removed() {
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).expect("a folder");
        let opened = fs::File::open(folder.path()).expect("opened").into();
        let made = |name: &str| fs::File::create(folder.path().join(name)).expect("made");
        let mut watched = Watched::default();
        for round in 0..50 {
            let (old, new) = (format!("old-{round}"), format!("new-{round}"));
            drop(made(&old));
            let name = std::ffi::CString::new(old.clone()).expect("a name");
            watched.add(&opened, &name).expect("watched");
            fs::remove_file(folder.path().join(&old)).expect("removed");
            // A file system gives the number that has become free to the next file, which this process of its own
            // has open for writing.
            let mut other = Command::new("sleep").arg("60").stdout(made(&new)).spawn().expect("it starts");
            let seen = watched.writers();
            other.kill().expect("killed");
            other.wait().expect("reaped");
            assert_eq!(seen, [0; 0], "round {round}");
        }
        watched.add(&opened, c"never-there").expect("nothing to watch");
        watched.add(&opened, c".").expect("no file");
        assert_eq!(watched.kept.len(), 50);
    }

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "a test that waits for a process, for a third of a second at most"
    )]
    fn what_was_left_paused_goes_on_and_another_process_of_that_number_is_left_alone() {
        let state = tempfile::tempdir().expect("a folder");
        let mut child = Command::new("sleep").arg("60").spawn().expect("it starts");
        let process = Process::of(child.id()).expect("it runs");
        process.signal(Signal::STOP).expect("stopped");
        let stopped = || {
            let began = Instant::now();
            while !process.is_stopped() && began.elapsed() < Duration::from_millis(300) {
                thread::sleep(Duration::from_millis(1));
            }
            process.is_stopped()
        };
        assert!(stopped());
        let record = state.path().join("paused-1");
        let other = Process { started: process.started + 1, ..process };
        fs::write(&record, other.to_string()).expect("written");
        thaw_left(state.path());
        assert!(stopped() && !record.exists());
        fs::write(&record, process.to_string()).expect("written");
        thaw_left(state.path());
        assert!(!process.is_stopped() && process.state().is_some() && !record.exists());
        child.kill().expect("killed");
        child.wait().expect("reaped");
        assert_eq!(process.state(), None);
    }
}
