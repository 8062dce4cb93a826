//! A file that only grows, durably: what was appended survives a power cut once `append` has returned.
//!
//! Must stay true: after a failed write or fsync nobody knows what the disk has, so the file is cut back to
//! what was durable before, as far as that works, and takes nothing more: whoever writes on begins a new one.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::atomic_file::WriteError;

/// An open file that only grows.
#[derive(Debug)]
pub struct AppendFile {
    file: File,
    path: PathBuf,
    durable: u64,
    is_broken: bool,
}

impl AppendFile {
    /// A new, empty file with exactly the permissions of `mode`, in a folder that exists.
    pub fn create(path: &Path, mode: u32) -> Result<Self, WriteError> {
        let fail = failed(path);
        let opened = OpenOptions::new().append(true).create_new(true).mode(mode).open(path);
        let file = opened.map_err(fail("create"))?;
        file.set_permissions(Permissions::from_mode(mode)).map_err(fail("set its mode"))?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(fail("fsync its folder"))?;
        Ok(Self { file, path: path.to_owned(), durable: 0, is_broken: false })
    }

    /// The file that is there, cut to its first `length` bytes: what a crash left behind them goes.
    pub fn open(path: &Path, length: u64) -> Result<Self, WriteError> {
        let fail = failed(path);
        let file = OpenOptions::new().append(true).open(path).map_err(fail("open"))?;
        if file.metadata().map_err(fail("look at"))?.len() != length {
            file.set_len(length).map_err(fail("cut"))?;
        }
        file.sync_all().map_err(fail("fsync"))?;
        Ok(Self { file, path: path.to_owned(), durable: length, is_broken: false })
    }

    /// Appends `bytes`.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        let fail = failed(&self.path);
        if self.is_broken {
            return Err(fail("append after a failure")(io::Error::from(io::ErrorKind::Other)));
        }
        let written = self
            .file
            .write_all(bytes)
            .map_err(fail("append"))
            .and_then(|()| self.file.sync_data().map_err(fail("fsync")));
        match written {
            Ok(()) => self.durable += bytes.len() as u64,
            Err(_) => {
                self.is_broken = true;
                // Best effort: the error to tell is the first one.
                let _ = self.file.set_len(self.durable).and_then(|()| self.file.sync_all());
            }
        }
        written
    }

    /// True once an append has failed.
    pub fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// How many bytes it holds.
    pub fn length(&self) -> u64 {
        self.durable
    }
}

fn failed<'a>(path: &'a Path) -> impl Fn(&'static str) -> Box<dyn Fn(io::Error) -> WriteError + 'a> + 'a {
    move |step| Box::new(move |source| WriteError { file: path.to_owned(), step, source })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::atomic_file::PRIVATE;

    #[test]
    fn it_grows_and_goes_on_where_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut file = AppendFile::create(&path, PRIVATE).unwrap();
        file.append(b"one\n").unwrap();
        drop(file);
        fs::write(&path, b"one\ntw").unwrap();
        let mut file = AppendFile::open(&path, 4).unwrap();
        file.append(b"two\n").unwrap();
        assert_eq!((fs::read(&path).unwrap(), file.length()), (b"one\ntwo\n".to_vec(), 8));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, PRIVATE);
        assert!(AppendFile::create(&path, PRIVATE).is_err(), "nothing is ever replaced");
    }

    #[test]
    fn after_a_failure_it_takes_nothing_more() {
        // Every write to this device fails for want of room.
        let full = OpenOptions::new().append(true).open("/dev/full").unwrap();
        let mut file = AppendFile { file: full, path: "/dev/full".into(), durable: 0, is_broken: false };
        let error = file.append(b"x").unwrap_err();
        assert_eq!((error.step, error.source.raw_os_error()), ("append", Some(28)));
        assert!(file.is_broken() && file.length() == 0);
        assert_eq!(file.append(b"x").unwrap_err().step, "append after a failure");
    }
}
