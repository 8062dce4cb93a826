//! The files of the audit log: lines are appended, files begun, the oldest removed.
//!
//! Must stay true: a line is durable when [`Log::append`] returns; a sequence is given once; what was found
//! wrong is never written over: the log goes on in a new file.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use runtime::append_file::AppendFile;
use runtime::atomic_file::{PRIVATE, WriteError};

use super::check::{LogFile, Report, check, file_path, files};
use super::line::{self, AuditKey, Entry, Hash, Head, Kind, Outcome};
use super::{DAMAGE, ROTATED, TORN, UNKNOWN};

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// A file that has reached this size is followed by a new one.
    pub(super) file: u64,
    /// The oldest files are removed once all together are larger than this.
    pub(super) all: u64,
}

/// Some 300,000 lines.
pub(super) const LIMITS: Limits = Limits { file: 4 << 20, all: 128 << 20 };

/// The audit log cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A line cannot be made durable.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The folder or a file cannot be read, or an old file not removed.
    #[error("the folder of the audit log cannot be used")]
    Folder(#[from] io::Error),
}

/// The log, open for writing.
#[derive(Debug)]
pub(super) struct Log {
    folder: PathBuf,
    key: AuditKey,
    limits: Limits,
    current: Option<AppendFile>,
    files: VecDeque<LogFile>,
    last: u64,
    hash: Hash,
    damage: Option<String>,
}

impl Log {
    /// The log in `folder`, which exists. `head` is where it ended as far as the catalog knows. Blocks.
    pub(super) fn open(
        folder: &Path,
        key: AuditKey,
        head: Option<&Head>,
        limits: Limits,
        now: Timestamp,
    ) -> Result<Self, LogError> {
        for empty in files(folder)?.iter().filter(|file| file.bytes == 0) {
            // A crash came between the making of a file and its first line.
            std::fs::remove_file(&empty.path)?;
        }
        let report = check(folder, &key, head)?;
        let files: VecDeque<LogFile> = files(folder)?.into();
        let mut log = Self {
            folder: folder.to_owned(),
            key,
            limits,
            current: None,
            files,
            last: report.last,
            hash: report.hash,
            damage: report.known.clone().or(report.finding.clone()),
        };
        match &report.finding {
            Some(finding) => log.go_on_after_damage(finding, head, now)?,
            None => log.go_on(&report, head.is_none(), now)?,
        }
        Ok(log)
    }

    fn go_on(&mut self, report: &Report, is_end_unknown: bool, now: Timestamp) -> Result<(), LogError> {
        let Some(newest) = self.files.back_mut() else { return Ok(()) };
        newest.bytes -= report.torn;
        self.current = Some(AppendFile::open(&newest.path, newest.bytes)?);
        if report.torn > 0 {
            let about = format!("{} bytes of a line that a crash had cut off were removed", report.torn);
            self.append(&noted(TORN, about, 0, now))?;
        }
        if is_end_unknown {
            let about =
                "the catalog was made anew: whether lines right before this one were cut off cannot be told";
            self.append(&noted(UNKNOWN, about.to_owned(), 0, now))?;
        }
        Ok(())
    }

    /// The evidence stays as it is, and no sequence is given twice.
    fn go_on_after_damage(
        &mut self,
        finding: &str,
        head: Option<&Head>,
        now: Timestamp,
    ) -> Result<(), LogError> {
        if let Some(head) = head.filter(|head| self.key.proves_head(head) && head.sequence > self.last) {
            (self.last, self.hash) = (head.sequence, head.hash);
        }
        self.last = self.files.iter().map(|file| file.first).fold(self.last, u64::max);
        self.append(&noted(DAMAGE, finding.to_owned(), 0, now))?;
        Ok(())
    }

    /// What was wrong with it when it was opened.
    pub(super) fn damage(&self) -> Option<&str> {
        self.damage.as_deref()
    }

    /// Where it ends.
    pub(super) fn head(&self) -> Head {
        self.key.head(self.last, self.hash)
    }

    /// Appends `entry` with the next sequence, durably. Blocks.
    pub(super) fn append(&mut self, entry: &Entry) -> Result<Head, LogError> {
        self.begin_file_if_due(entry.at)?;
        self.write(entry)
    }

    fn write(&mut self, entry: &Entry) -> Result<Head, LogError> {
        let sequence = self.last + 1;
        let mut line = line::write(&Entry { sequence, ..entry.clone() }, &self.hash, &self.key);
        let hash = line::hash_of(&line);
        line.push(b'\n');
        let file = self.current.as_mut().expect("a file was begun before");
        file.append(&line)?;
        self.files.back_mut().expect("the current file is the newest").bytes = file.length();
        (self.last, self.hash) = (sequence, hash);
        Ok(self.head())
    }

    fn begin_file_if_due(&mut self, now: Timestamp) -> Result<(), LogError> {
        let is_full = |file: &AppendFile| file.is_broken() || file.length() >= self.limits.file;
        if !self.current.as_ref().is_none_or(is_full) {
            return Ok(());
        }
        let first = self.last + 1;
        let path = file_path(&self.folder, first);
        if self.files.back().is_some_and(|newest| newest.first == first) {
            // Nothing was ever written to it: its first append failed.
            std::fs::remove_file(&path)?;
            self.files.pop_back();
        }
        self.current = Some(AppendFile::create(&path, PRIVATE)?);
        self.files.push_back(LogFile { first, path, bytes: 0 });
        self.remove_oldest(now)
    }

    /// The line that tells of it first: without it the gap would be a finding.
    fn remove_oldest(&mut self, now: Timestamp) -> Result<(), LogError> {
        let mut bytes: u64 = self.files.iter().map(|file| file.bytes).sum();
        let mut remove = 0;
        // The newest is never among them.
        while bytes > self.limits.all && remove + 1 < self.files.len() {
            bytes -= self.files[remove].bytes;
            remove += 1;
        }
        if remove == 0 {
            return Ok(());
        }
        let removed = self.files[remove].first - 1;
        let about = format!("the lines up to {removed} were removed: the log has reached its limit");
        self.write(&noted(ROTATED, about, removed, now))?;
        for file in self.files.drain(..remove) {
            std::fs::remove_file(&file.path)?;
        }
        Ok(())
    }

    /// Proves the whole log, as far as it is known here. Blocks.
    pub(super) fn check(&self) -> Result<Report, LogError> {
        let head = self.head();
        let known = (self.last > 0).then_some(&head);
        let mut report = check(&self.folder, &self.key, known)?;
        if report.last > self.last {
            let finding = format!("the lines after {} were not written by this controller", self.last);
            report.finding.get_or_insert(finding);
        }
        if report.torn > 0 {
            let finding = format!("{} bytes at the end are no line", report.torn);
            report.finding.get_or_insert(finding);
        }
        Ok(report)
    }

    /// The newest entries, at most `limit`, none older than `since`; the newest first. Not proven. Blocks.
    pub(super) fn newest(&self, since: Option<Timestamp>, limit: usize) -> Result<Vec<Entry>, LogError> {
        let mut entries = Vec::new();
        for file in self.files.iter().rev() {
            let text = std::fs::read(&file.path)?;
            for line in text.split(|byte| *byte == b'\n').rev() {
                let Some(entry) = line::look_at(line) else { continue };
                if entries.len() >= limit || since.is_some_and(|since| entry.at < since) {
                    return Ok(entries);
                }
                entries.push(entry);
            }
        }
        Ok(entries)
    }
}

/// Something that the controller itself has noticed.
pub(super) fn noted(call: &str, about: String, of: u64, at: Timestamp) -> Entry {
    Entry {
        sequence: 0,
        at,
        kind: Kind::Controller,
        id: String::new(),
        name: String::new(),
        from: String::new(),
        call: call.to_owned(),
        about: line::text(&about),
        result: Outcome::Noted,
        reason: String::new(),
        of,
        times: 0,
    }
}
