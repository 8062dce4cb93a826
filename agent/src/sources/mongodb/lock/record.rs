//! What the agent's state knows of servers that it has locked.
//!
//! Must stay true: a record is durable before anything is locked, says how far that went, and goes only once nothing of
//! it can be locked any more. Who unlocks has it to themselves meanwhile: an unlock that comes twice would be somebody
//! else's. A record is there whole or not at all.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

/// Records lie in the agent's state folder under this and a number.
const NAMED: &str = "locked-";
/// So long after it was asked for a lock may still come: longer than a system goes on sending for a connection that its
/// process has left, some 15 minutes.
const UNANSWERED: Duration = Duration::from_secs(20 * 60);
/// A record that has been written for so long has no writer any more.
const TORN: Duration = Duration::from_secs(60 * 60);

/// How far a lock is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Stage {
    /// Nothing was asked for: what is locked is somebody else's.
    Intended,
    /// It was asked for at this second since 1970, and there is no answer: it may still come to the server.
    Asked(u64),
    /// The server has said that it is locked, by us alone.
    Held,
    /// The server has said that somebody else has locked it, too.
    Shared,
    /// An unlock was sent, and there is no answer yet.
    Unlocking,
    /// An unlock was carried out, ours as far as anybody can know, and it is locked all the same: another unlock might be
    /// somebody else's.
    Doubtful,
}

/// What is locked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    /// Whose server it is, as the agent's own files are called.
    pub(super) source: String,
    pub(super) member: String,
    pub(super) process: String,
    /// An earlier release did not write it.
    #[serde(default = "long_ago")]
    pub(super) stage: Stage,
    /// How many unlocks the server had carried out before it was asked to lock, or right before it was asked to unlock.
    /// An earlier release did not write it.
    #[serde(default)]
    pub(super) unlocks: Option<i64>,
    /// What is unlocked was asked for at this second since 1970, and there was no answer: it may still come.
    #[serde(default)]
    pub(super) unanswered: Option<u64>,
}

fn long_ago() -> Stage {
    Stage::Asked(0)
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_secs()
}

impl Record {
    /// Where the next one lies.
    pub(super) fn place(state: &Path) -> PathBuf {
        state.join(format!("{NAMED}{:016x}", crate::chance()))
    }

    /// Writes it durably, in the place of what is there. Returns the file, locked.
    pub(super) fn write(&self, path: &Path) -> io::Result<File> {
        let next = beside(path);
        let mut file = File::create(&next)?;
        file.try_lock()?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        fs::rename(&next, path)?;
        if let Some(state) = path.parent() {
            File::open(state)?.sync_all()?;
        }
        Ok(file)
    }

    /// All that are there. One that cannot be understood, and one that cannot be read now, is told; the first goes.
    pub(super) fn all(state: &Path) -> Vec<(PathBuf, Self)> {
        let listed = match fs::read_dir(state) {
            Ok(listed) => listed,
            Err(error) => {
                tracing::error!(folder = %state.display(), %error, "the records of locks cannot be listed");
                return Vec::new();
            }
        };
        let (mut named, mut torn) = (Vec::new(), Vec::new());
        for file in listed.flatten() {
            let name = file.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(NAMED) {
                named.push(file);
            } else if name.strip_prefix('.').is_some_and(|name| name.starts_with(NAMED)) {
                torn.push(file.path());
            }
        }
        // One that never got its name: nothing was locked by it.
        for path in torn.iter().filter(|path| is_torn(path)) {
            let _ = fs::remove_file(path);
        }
        let read = |path: PathBuf| match fs::read(&path) {
            Ok(text) => match serde_json::from_slice(&text) {
                Ok(record) => Some((path, record)),
                // An earlier release did not write it to its end: nothing was locked.
                Err(error) => {
                    tracing::warn!(file = %path.display(), %error, "the record of a lock is none; it goes");
                    let _ = fs::remove_file(&path);
                    None
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                tracing::error!(file = %path.display(), %error, "the record of a lock cannot be read; it stays");
                None
            }
        };
        named.into_iter().filter_map(|file| read(file.path())).collect()
    }
}

/// True if whoever wrote it was cut off.
fn is_torn(path: &Path) -> bool {
    let written = fs::metadata(path).and_then(|there| there.modified());
    let is_old = written.is_ok_and(|then| then.elapsed().is_ok_and(|age| age > TORN));
    is_old && File::open(path).is_ok_and(|file| file.try_lock().is_ok())
}

/// Where a record is written before it has its name.
fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    path.with_file_name(name)
}

/// A record that nobody else looks after.
pub(super) struct Owned {
    path: PathBuf,
    record: Record,
    /// As it lies there. Whoever has opened an earlier one sees that it is another one.
    file: File,
    /// When a lock was asked for, if that was done here: a clock that is set does not change it.
    asked: Option<Instant>,
}

impl Owned {
    /// Takes it; none: it has gone. An error: somebody else has it.
    pub(super) fn take(path: &Path) -> io::Result<Option<Self>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        file.try_lock()?;
        // Who had it before may have ended it, or written it anew.
        let there = match fs::metadata(path) {
            Ok(there) => there,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if there.ino() != file.metadata()?.ino() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let record = serde_json::from_slice(&fs::read(path)?)?;
        Ok(Some(Self { path: path.to_owned(), record, file, asked: None }))
    }

    pub(super) fn record(&self) -> &Record {
        &self.record
    }

    /// From now on a lock may come, durably. The server has carried out so many unlocks until now.
    pub(super) fn ask(&mut self, unlocks: i64) -> io::Result<()> {
        self.put(Record { stage: Stage::Asked(now()), unlocks: Some(unlocks), ..self.record.clone() })?;
        self.asked = Some(Instant::now());
        Ok(())
    }

    /// Since which second a lock is asked for without an answer, if it is not for so long that it cannot come any more.
    pub(super) fn may_come(&self) -> Option<u64> {
        let age = |at| {
            self.asked.map_or_else(|| Duration::from_secs(now().saturating_sub(at)), |asked| asked.elapsed())
        };
        self.unanswered().filter(|at| age(*at) < UNANSWERED)
    }

    fn unanswered(&self) -> Option<u64> {
        match self.record.stage {
            Stage::Asked(at) => Some(at),
            _ => self.record.unanswered,
        }
    }

    /// An unlock is sent from now on, durably. The server has carried out so many until now, if that is known.
    pub(super) fn unlock(&mut self, unlocks: Option<i64>) -> io::Result<()> {
        let unanswered = self.unanswered();
        self.put(Record { stage: Stage::Unlocking, unlocks, unanswered, ..self.record.clone() })
    }

    /// What was asked for at this second may come still, whatever was unlocked: that was one more, if it was carried out.
    pub(super) fn ask_on(&mut self, at: u64, is_carried_out: bool) -> io::Result<()> {
        let unlocks = self.record.unlocks.map(|unlocks| unlocks + i64::from(is_carried_out));
        if self.record.stage == Stage::Asked(at) && unlocks == self.record.unlocks {
            return Ok(());
        }
        self.put(Record { stage: Stage::Asked(at), unlocks, ..self.record.clone() })
    }

    /// It is that far from now on, durably.
    pub(super) fn set(&mut self, stage: Stage) -> io::Result<()> {
        if stage == self.record.stage { Ok(()) } else { self.put(Record { stage, ..self.record.clone() }) }
    }

    fn put(&mut self, record: Record) -> io::Result<()> {
        let file = record.write(&self.path)?;
        // Only now: the new one has its name.
        drop(std::mem::replace(&mut self.file, file));
        self.record = record;
        Ok(())
    }

    /// Nothing of it can be locked any more.
    pub(super) fn end(self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(file = %self.path.display(), %error, "the record of a lock stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            source: "a+b".into(),
            member: "h:1".into(),
            process: String::new(),
            stage: Stage::Intended,
            unlocks: None,
            unanswered: None,
        }
    }

    #[test]
    fn a_record_is_one_task_s_at_a_time_also_while_it_is_written_anew() {
        let state = tempfile::tempdir().expect("a folder");
        let path = Record::place(state.path());
        drop(record().write(&path).expect("written"));
        let opened = File::open(&path).expect("there");
        let mut mine = Owned::take(&path).expect("free").expect("there");
        assert!(Owned::take(&path).is_err());
        assert!(opened.try_lock().is_err());
        let files = || {
            let all = fs::read_dir("/proc/self/fd").expect("there").flatten();
            all.filter(|one| fs::read_link(one.path()).is_ok_and(|to| to.starts_with(state.path()))).count()
        };
        let before = files();
        for stage in [Stage::Asked(7), Stage::Held, Stage::Shared, Stage::Unlocking, Stage::Doubtful] {
            mine.set(stage).expect("written");
            assert!(Owned::take(&path).is_err());
            assert_eq!(files(), before, "it may be written for as long as somebody tries");
            let all = Record::all(state.path());
            assert!(all.len() == 1 && all[0].0 == path && all[0].1.stage == stage, "{all:?}");
        }
        mine.end();
        assert!(Owned::take(&path).expect("gone").is_none());
        assert_eq!(fs::read_dir(state.path()).expect("a folder").count(), 0);
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the age of a file is told by the system's clock")]
    fn a_record_goes_only_if_it_is_none_and_one_of_an_earlier_release_may_be_a_lock() {
        let state = tempfile::tempdir().expect("a folder");
        let at = |name: &str| state.path().join(name);
        fs::write(at("locked-torn"), "{\"source\":").expect("written");
        // What is a folder cannot be read.
        fs::create_dir(at("locked-unread")).expect("made");
        fs::write(at("locked-old"), r#"{"source":"s","member":"m","process":"p"}"#).expect("written");
        // One that was never written to its end, and one that may be being written.
        for (name, age) in [(".locked-old", 2 * TORN), (".locked-new", Duration::ZERO)] {
            let file = File::create(at(name)).expect("made");
            file.set_modified(SystemTime::now() - age).expect("set");
        }
        let all = Record::all(state.path());
        assert!(all.len() == 1 && all[0].1.stage == Stage::Asked(0) && all[0].1.unlocks.is_none(), "{all:?}");
        assert!(!at("locked-torn").exists() && at("locked-unread").exists());
        assert!(!at(".locked-old").exists() && at(".locked-new").exists());
    }

    #[test]
    fn a_clock_that_is_set_forward_makes_no_lock_that_was_asked_for_here_old() {
        let state = tempfile::tempdir().expect("a folder");
        let path = Record::place(state.path());
        drop(record().write(&path).expect("written"));
        let mut owned = Owned::take(&path).expect("free").expect("there");
        owned.ask(3).expect("written");
        owned.set(Stage::Asked(7)).expect("written");
        assert_eq!((owned.record().unlocks, owned.may_come()), (Some(3), Some(7)));
        // That it was not answered stays known while it is unlocked, and is forgotten with nothing but the record.
        owned.unlock(Some(4)).expect("written");
        assert_eq!((owned.record().unlocks, owned.may_come()), (Some(4), Some(7)));
        drop(owned);
        let mut found = Owned::take(&path).expect("free").expect("there");
        assert_eq!((found.record().unlocks, found.record().stage), (Some(4), Stage::Unlocking));
        assert_eq!(found.may_come(), None, "it was asked for in 1970");
        let lately = now() - 60;
        found.set(Stage::Asked(lately)).expect("written");
        found.unlock(None).expect("written");
        drop(found);
        let found = Owned::take(&path).expect("free").expect("there");
        assert_eq!((found.record().unlocks, found.may_come()), (None, Some(lately)));
        drop(found);
        // One that was answered does not come later.
        fs::remove_file(&path).expect("there");
        drop(record().write(&path).expect("written"));
        let mut owned = Owned::take(&path).expect("free").expect("there");
        owned.ask(3).expect("written");
        owned.set(Stage::Held).expect("written");
        owned.unlock(Some(3)).expect("written");
        assert_eq!(owned.may_come(), None);
        // What was unlocked is counted: the next one is told from it.
        owned.ask_on(9, true).expect("written");
        assert_eq!((owned.record().unlocks, owned.record().stage), (Some(4), Stage::Asked(9)));
        owned.ask_on(9, false).expect("written");
        assert_eq!(owned.record().unlocks, Some(4));
    }
}
