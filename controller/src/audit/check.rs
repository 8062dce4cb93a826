//! Reads the whole log and finds the first thing that is wrong with it.
//!
//! Must stay true: nothing in a log file is believed before its proof; a finding never stops the reading, so
//! that whoever writes on knows where the log ends.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::line::{self, AuditKey, Hash, Head, MAX_LINE};
use super::{DAMAGE, ROTATED};

const ENDING: &str = "jsonl";

/// One file of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LogFile {
    /// The sequence of its first line: its name.
    pub(super) first: u64,
    pub(super) path: PathBuf,
    pub(super) bytes: u64,
}

/// The files of the log, the oldest first. What does not have a name of ours is not ours.
pub(super) fn files(folder: &Path) -> io::Result<Vec<LogFile>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        if let Some(first) = number.filter(|first| path == file_path(folder, *first)) {
            let bytes = fs::metadata(&path)?.len();
            files.push(LogFile { first, path, bytes });
        }
    }
    files.sort_by_key(|file| file.first);
    Ok(files)
}

/// The file whose first line has this sequence.
pub(super) fn file_path(folder: &Path, first: u64) -> PathBuf {
    folder.join(format!("{first:020}.{ENDING}"))
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// How many lines there are.
    pub lines: u64,
    /// The sequence of the oldest; 0: there is none.
    pub first: u64,
    /// The sequence of the newest; 0: there is none.
    pub last: u64,
    /// The SHA-256 of the newest.
    pub hash: Hash,
    /// The first thing that is wrong and that no line tells of yet.
    pub finding: Option<String>,
    /// The first thing that was wrong at an earlier start, as far as it is still there to be seen.
    pub known: Option<String>,
    /// Bytes at the very end that are no whole line.
    pub(super) torn: u64,
}

struct Reading<'a> {
    key: &'a AuditKey,
    head: Option<&'a Head>,
    report: Report,
    /// The newest line that a rotation of ours has removed.
    removed: u64,
    has_head: bool,
}

/// Reads the log in `folder`, which should end at `head`. Lines after it were written right before a crash;
/// they are proven all the same.
pub(super) fn check(folder: &Path, key: &AuditKey, head: Option<&Head>) -> io::Result<Report> {
    let mut reading = Reading { key, head, report: Report::default(), removed: 0, has_head: head.is_none() };
    for file in files(folder)? {
        reading.file(&file)?;
    }
    Ok(reading.end())
}

impl Reading<'_> {
    fn wrong(&mut self, finding: String) {
        self.report.finding.get_or_insert(finding);
    }

    fn file(&mut self, file: &LogFile) -> io::Result<()> {
        if self.report.torn > 0 {
            self.wrong(format!("the file before {} ends in the middle of a line", name(&file.path)));
        }
        self.report.torn = 0;
        let mut reader = BufReader::new(File::open(&file.path)?);
        let mut number = 0;
        loop {
            let mut bytes = Vec::new();
            // A line of any length is no reason to run out of memory.
            let read = (&mut reader).take(MAX_LINE as u64 + 2).read_until(b'\n', &mut bytes)?;
            if read == 0 {
                return Ok(());
            }
            if bytes.pop_if(|last| *last == b'\n').is_none() {
                let rest = io::copy(&mut reader, &mut io::sink())?;
                self.report.torn = read as u64 + rest;
                return Ok(());
            }
            number += 1;
            self.line(&bytes, number, file);
        }
    }

    fn line(&mut self, bytes: &[u8], number: u64, file: &LogFile) {
        let place = format!("line {number} of {}", name(&file.path));
        let expected = self.report.last + 1;
        self.report.lines += 1;
        let Some(proven) = line::read(bytes, self.key) else {
            self.wrong(format!("{place} was changed, or not written by this controller"));
            (self.report.last, self.report.hash) = (expected, line::hash_of(bytes));
            return;
        };
        let sequence = proven.entry.sequence;
        let is_first = self.report.lines == 1;
        if is_first {
            self.report.first = sequence;
        } else if sequence > expected {
            self.wrong(format!("before {place} the lines {expected} to {} are missing", sequence - 1));
        } else if sequence < expected {
            self.wrong(format!("{place} (sequence {sequence}) does not belong there"));
        } else if proven.prev != self.report.hash {
            self.wrong(format!("{place} does not follow the line before it: that one was replaced"));
        }
        if number == 1 && sequence != file.first {
            self.wrong(format!("{} does not begin with the line that it is named after", name(&file.path)));
        }
        if proven.entry.call == ROTATED {
            self.removed = self.removed.max(proven.entry.of);
        }
        if proven.entry.call == DAMAGE {
            let found = self.report.finding.take();
            let told = format!("{place} tells of damage at a start: {}", proven.entry.about);
            self.report.known.get_or_insert(found.unwrap_or(told));
        }
        if let Some(head) = self.head.filter(|head| head.sequence == sequence) {
            self.has_head = head.hash == proven.hash;
        }
        (self.report.last, self.report.hash) = (sequence, proven.hash);
    }

    fn end(mut self) -> Report {
        let (first, last, removed) = (self.report.first, self.report.last, self.removed);
        if first > removed + 1 && self.report.known.is_none() {
            self.wrong(format!("the oldest lines, {} to {}, are missing", removed + 1, first - 1));
        }
        match self.head {
            Some(head) if !self.key.proves_head(head) => {
                self.wrong("the catalog's note of where the log ends was changed".to_owned());
            }
            Some(head) if last < head.sequence => {
                self.wrong(format!("the newest lines, {} to {}, are missing", last + 1, head.sequence));
            }
            Some(head) if !self.has_head => {
                self.wrong(format!("line {} is not the one that the catalog knows", head.sequence));
            }
            _ => {}
        }
        self.report
    }
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}
