//! What the agent's state knows of servers that it has locked.
//!
//! Must stay true: a record is durable before anything is locked, and goes only once that is unlocked. Who unlocks has
//! it to themselves meanwhile: an unlock that comes twice would be somebody else's.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Records lie in the agent's state folder under this and a number.
const NAMED: &str = "locked-";

/// What is locked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    /// Whose server it is, as the agent's own files are called.
    pub(super) source: String,
    pub(super) member: String,
    pub(super) process: String,
}

impl Record {
    /// Writes it durably; returns where.
    pub(super) fn write(&self, state: &Path) -> io::Result<PathBuf> {
        let path = state.join(format!("{NAMED}{:016x}", crate::chance()));
        let mut file = File::create_new(&path)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        File::open(state)?.sync_all()?;
        Ok(path)
    }

    /// All that are there. One that cannot be read is told.
    pub(super) fn all(state: &Path) -> Vec<(PathBuf, Self)> {
        let Ok(listed) = fs::read_dir(state) else { return Vec::new() };
        let named = listed.flatten().filter(|file| file.file_name().to_string_lossy().starts_with(NAMED));
        let read = |path: PathBuf| {
            let record = fs::read(&path).and_then(|text| Ok(serde_json::from_slice(&text)?));
            match record {
                Ok(record) => Some((path, record)),
                // It was not written to its end: nothing was locked.
                Err(error) => {
                    tracing::warn!(file = %path.display(), %error, "the record of a lock cannot be read; it goes");
                    let _ = fs::remove_file(&path);
                    None
                }
            }
        };
        named.filter_map(|file| read(file.path())).collect()
    }
}

/// A record that nobody else looks after.
pub(super) struct Owned {
    path: PathBuf,
    _file: File,
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
        // Who had it before may have ended it.
        Ok(path.exists().then(|| Self { path: path.to_owned(), _file: file }))
    }

    /// It is unlocked.
    pub(super) fn end(self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(file = %self.path.display(), %error, "the record of a lock stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_task_s_at_a_time_and_one_that_is_torn_goes() {
        let state = tempfile::tempdir().expect("a folder");
        let record = Record { source: "a+b".into(), member: "h:1".into(), process: String::new() };
        let path = record.write(state.path()).expect("written");
        fs::write(state.path().join("locked-torn"), "{\"source\":").expect("written");
        let all = Record::all(state.path());
        assert!(all.len() == 1 && all[0].0 == path && all[0].1.member == "h:1", "{all:?}");
        assert!(!state.path().join("locked-torn").exists());
        let mine = Owned::take(&path).expect("free").expect("there");
        assert!(Owned::take(&path).is_err());
        mine.end();
        assert!(Owned::take(&path).expect("gone").is_none());
    }
}
