//! Pausing who writes into a chain's folder: SIGSTOP, and SIGCONT moments later.
//!
//! Must stay true: whoever was paused goes on: by us; by a guard, a process of its own, after [`GUARD`] or if the
//! agent dies; by the agent's next start if both died. Only a process that has one of the held files open for writing
//! is paused, under whatever path it sees it; where one is stopped by somebody else, nobody is. A number is taken for
//! the process that it meant only while that process's start is the same.

use std::collections::HashSet;
use std::ffi::{CStr, OsString};
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use runtime::steps;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use tokio::signal::unix::{SignalKind, signal};

use super::containers::Container;
use crate::platform::writers_of;
use crate::steps::Step;

/// A pause that took longer does not count: what was held meanwhile is given up.
pub(super) const LONGEST: Duration = Duration::from_secs(2);
/// Who cannot be told to go on is told again after so long, for so long; a guard tries it so often.
const INSIST: Duration = Duration::from_secs(1);
const INSISTED: Duration = Duration::from_secs(24 * 3_600);
const GUARD_TRIES: u32 = 60;
/// For so long a pause whose answer was lost may still come.
const DOUBT: Duration = Duration::from_secs(60);
/// The guard does not wait for longer.
const GUARD: Duration = Duration::from_secs(3);
/// How long a process has to stop: one that waits for a disk takes a moment.
const TO_STOP: Duration = Duration::from_millis(500);
/// The guard's hidden verb.
const VERB: &str = "guard-pause";
const READY: &[u8] = b"ready\n";
/// Records lie in the agent's state folder under this and a number.
const RECORD: &str = "paused-";
/// More writers than these are no node.
const MAX: usize = 9;
/// Nor are more files that may be written: a freezer has a hundred or two, and a process may open a thousand.
const MAX_FILES: usize = 500;

/// A process, and not the next one of that number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    id: u32,
    /// In ticks since the system's start.
    started: u64,
}

impl Process {
    fn of(id: u32) -> Option<Self> {
        look(id).map(|(_, started)| Self { id, started })
    }

    fn parse(text: &str) -> Option<Self> {
        let (id, started) = text.split_once(':')?;
        Some(Self { id: id.parse().ok()?, started: started.parse().ok()? })
    }

    /// As `/proc` says it; none if it is gone.
    fn state(self) -> Option<char> {
        look(self.id).and_then(|(state, started)| (started == self.started).then_some(state))
    }

    fn is_stopped(self) -> bool {
        self.state() == Some('T')
    }

    fn signal(self, signal: Signal) -> io::Result<()> {
        let id = i32::try_from(self.id).ok().and_then(Pid::from_raw);
        match (self.state(), id) {
            (Some(_), Some(id)) => Ok(kill_process(id, signal)?),
            _ => Err(io::Error::from(io::ErrorKind::NotFound)),
        }
    }

    /// Lets it go on; one that is gone needs nothing.
    fn go_on(self) -> bool {
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
    guard: Option<Child>,
    record: PathBuf,
    began: Instant,
    is_over: bool,
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
        let record = noted(state, &words)?;
        steps::reach(Step::PauseNoted);
        let mut paused =
            Self { processes, watched, guard: None, record, began: Instant::now(), is_over: false };
        paused.guard = Some(guarded(&words)?);
        steps::reach(Step::PauseGuarded);
        paused.began = Instant::now();
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
    pub(super) fn end(mut self) -> Duration {
        self.thaw();
        self.began.elapsed()
    }

    fn thaw(&mut self) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        self.processes.iter().for_each(|process| {
            let _ = process.go_on();
        });
        steps::reach(Step::PauseTold);
        if let Some(mut guard) = self.guard.take() {
            drop(guard.stdin.take());
            let _ = guard.wait();
        }
        if let Err(error) = fs::remove_file(&self.record) {
            tracing::warn!(file = %self.record.display(), %error, "the record of a pause stays");
        }
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

/// Writes down in the agent's folder who is about to be paused.
pub(super) fn noted(state: &Path, words: &[String]) -> io::Result<PathBuf> {
    let record = state.join(format!("{RECORD}{:016x}", crate::chance()));
    write_durable(&record, &words.join("\n"))?;
    Ok(record)
}

/// Lets go on what a word says was paused; false: it could not be told.
fn let_go_on(word: &str) -> bool {
    if let Some(container) = Container::parse(word) {
        return container.go_on();
    }
    Process::parse(word).is_none_or(Process::go_on)
}

/// Lets all go on that `text`, a record, names, and takes the record away once that is done: where it is not, or where
/// the answer to a pause is still out, it is tried on in a thread of its own, and the record stays meanwhile for the
/// agent's next start.
pub(super) fn release(record: PathBuf, text: String, is_doubtful: bool) {
    let all = move || text.lines().filter(|word| !let_go_on(word)).count() == 0;
    let gone = move || {
        if let Err(error) = fs::remove_file(&record) {
            tracing::warn!(file = %record.display(), %error, "the record of a pause stays");
        }
    };
    if all() && !is_doubtful {
        return gone();
    }
    thread::spawn(move || {
        let doubt = Instant::now();
        let (_never, pause) = std::sync::mpsc::sync_channel::<()>(0);
        while doubt.elapsed() < INSISTED {
            let _ = pause.recv_timeout(INSIST);
            if all() && (!is_doubtful || doubt.elapsed() > DOUBT) {
                return gone();
            }
        }
    });
}

/// Starts a guard over who is about to be paused.
pub(super) fn guarded(words: &[String]) -> io::Result<Child> {
    let mut guard = Command::new("/proc/self/exe")
        .arg(VERB)
        .args(words)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()?;
    let mut said = [0; READY.len()];
    let told = guard.stdout.take().expect("piped").read_exact(&mut said);
    if told.is_err() || said != READY {
        let _ = guard.kill();
        let _ = guard.wait();
        return Err(io::Error::other("the guard of the pause does not start"));
    }
    Ok(guard)
}

/// Is this process a guard? Then it waits for the agent's end, or for too long a time, and lets them go on.
pub(crate) fn guard(words: &[OsString]) -> Option<ExitCode> {
    let [_, verb, paused @ ..] = words else { return None };
    (verb == VERB).then(|| {
        // Whatever ends it early, they go on all the same.
        if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
            runtime.block_on(until_the_end());
            runtime.shutdown_background();
        }
        // An engine that starts anew answers later.
        let (_never, pause) = std::sync::mpsc::sync_channel::<()>(0);
        for _ in 0..GUARD_TRIES {
            if paused.iter().filter_map(|word| word.to_str()).filter(|word| !let_go_on(word)).count() == 0 {
                break;
            }
            let _ = pause.recv_timeout(INSIST);
        }
        ExitCode::SUCCESS
    })
}

/// Until the agent's end of the pipe is closed, a signal asks for an end, or it has been too long.
async fn until_the_end() {
    let asked = |kind| async move {
        match signal(kind) {
            Ok(mut asked) => drop(asked.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    let (ended, end) = tokio::sync::oneshot::channel();
    thread::spawn(move || {
        // Nobody ever writes there: whatever comes, it is the end.
        let _ = io::stdin().read(&mut [0]);
        let _ = ended.send(());
    });
    // The handlers of the signals are there before anybody relies on this process.
    let told = async {
        let told = io::stdout().write_all(READY).and_then(|()| io::stdout().flush());
        if told.is_ok() {
            let _ = end.await;
        }
    };
    tokio::select! {
        biased;
        () = asked(SignalKind::terminate()) => {}
        () = asked(SignalKind::interrupt()) => {}
        () = asked(SignalKind::hangup()) => {}
        () = tokio::time::sleep(GUARD) => {}
        () = told => {}
    }
}

/// Lets go on what an earlier run of the agent has left paused.
pub(crate) fn thaw_left(state: &Path) {
    let Ok(listed) = fs::read_dir(state) else { return };
    let records = listed.flatten().filter(|file| file.file_name().to_string_lossy().starts_with(RECORD));
    for record in records.map(|file| file.path()) {
        let text = match fs::read_to_string(&record) {
            Ok(text) => text,
            Err(error) => {
                tracing::error!(file = %record.display(), %error, "what an earlier run has paused cannot be read");
                continue;
            }
        };
        for word in text.lines() {
            if Process::parse(word).is_some_and(Process::is_stopped) {
                tracing::warn!(process = word, "an earlier run has left it paused; it goes on");
            }
        }
        // Also one that was told to stop and has not come to it yet.
        release(record, text, false);
    }
}

fn write_durable(path: &Path, text: &str) -> io::Result<()> {
    let mut file = fs::File::create_new(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

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
        write_durable(&record, &other.to_string()).expect("written");
        thaw_left(state.path());
        assert!(stopped() && !record.exists());
        write_durable(&record, &process.to_string()).expect("written");
        thaw_left(state.path());
        assert!(!process.is_stopped() && process.state().is_some() && !record.exists());
        child.kill().expect("killed");
        child.wait().expect("reaped");
        assert_eq!(process.state(), None);
    }
}
