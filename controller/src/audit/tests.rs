//! What is done to the log behind the controller's back is found.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use runtime::clock::SystemClock;
use tempfile::TempDir;

use super::check::{Report, files};
use super::line::{AuditKey, Entry, Head};
use super::log::{Limits, Log, noted};
use super::{Audit, Kind, Outcome, Who};
use crate::catalog::Catalog;

const SMALL: Limits = Limits { file: 1_500, all: 1 << 30 };

/// A log of twelve lines in several files, closed.
struct Written {
    folder: TempDir,
    head: Head,
}

fn key() -> AuditKey {
    AuditKey::new(&[7; 32])
}

fn open(folder: &Path, head: Option<&Head>, limits: Limits) -> Log {
    Log::open(folder, key(), head, limits, Timestamp::UNIX_EPOCH).expect("opened")
}

fn append(log: &mut Log, text: &str) -> Head {
    log.append(&noted(text, text.to_owned(), 0, Timestamp::UNIX_EPOCH)).expect("appended")
}

impl Written {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut log = open(folder.path(), None, SMALL);
        let heads: Vec<Head> = (1..=12).map(|number| append(&mut log, &format!("call {number}"))).collect();
        Self { folder, head: heads[11] }
    }

    fn files(&self) -> Vec<PathBuf> {
        files(self.folder.path()).expect("listed").into_iter().map(|file| file.path).collect()
    }

    fn report(&self) -> Report {
        super::check::check(self.folder.path(), &key(), Some(&self.head)).expect("read")
    }

    fn finding(&self) -> String {
        self.report().finding.expect("it is found")
    }

    fn change(&self, file: usize, change: impl FnOnce(&mut Vec<String>)) {
        let path = &self.files()[file];
        let text = fs::read_to_string(path).expect("read");
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        change(&mut lines);
        fs::write(path, lines.into_iter().map(|line| line + "\n").collect::<String>()).expect("written");
    }
}

#[test]
fn an_untouched_log_is_whole() {
    let written = Written::new();
    assert!(written.files().len() >= 3, "{:?}", written.files());
    let report = written.report();
    assert_eq!((report.finding, report.lines, report.first, report.last), (None, 12, 1, 12));
}

#[test]
fn every_single_byte_counts() {
    let written = Written::new();
    let path = &written.files()[1];
    let bytes = fs::read(path).expect("read");
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        fs::write(path, changed).expect("written");
        assert!(written.report().finding.is_some(), "byte {at}");
    }
    fs::write(path, bytes).expect("written");
    assert_eq!(written.report().finding, None);
}

#[test]
fn the_first_changed_line_is_named() {
    let written = Written::new();
    written.change(1, |lines| {
        for line in lines.iter_mut().skip(1) {
            *line = line.replace("noted", "begun");
        }
    });
    let name = written.files()[1].file_name().expect("a name").to_string_lossy().into_owned();
    assert!(written.finding().contains(&format!("line 2 of {name} was changed")), "{}", written.finding());
}

#[test]
fn a_line_that_is_gone_doubled_or_moved_is_found() {
    for file in 0..3 {
        let written = Written::new();
        written.change(file, |lines| drop(lines.remove(1)));
        assert!(written.finding().contains("missing"), "{}", written.finding());
        let written = Written::new();
        written.change(file, |lines| lines.insert(1, lines[0].clone()));
        assert!(written.finding().contains("does not belong there"), "{}", written.finding());
        let written = Written::new();
        written.change(file, |lines| lines.swap(0, 1));
        written.finding();
    }
}

#[test]
fn a_line_of_another_log_is_found() {
    let written = Written::new();
    let other = tempfile::tempdir().expect("a folder");
    let mut log =
        Log::open(other.path(), AuditKey::new(&[8; 32]), None, SMALL, Timestamp::UNIX_EPOCH).expect("opened");
    append(&mut log, "call 1");
    let foreign = fs::read_to_string(&files(other.path()).expect("listed")[0].path).expect("read");
    written.change(0, |lines| lines[0] = foreign.trim().to_owned());
    assert!(written.finding().contains("not written by this controller"));
    // A log of the same key that says something else: each line is proven, the chain is not.
    let fork = Written::new();
    let path = &fork.files()[0];
    let own = fs::read_to_string(path).expect("read");
    let another = noted("another", "another".to_owned(), 0, Timestamp::UNIX_EPOCH);
    let replaced = super::line::write(&Entry { sequence: 1, ..another }, &[0; 32], &key());
    let replaced = String::from_utf8(replaced).expect("text");
    fs::write(path, own.replacen(own.lines().next().expect("a line"), &replaced, 1)).expect("written");
    assert!(fork.finding().contains("line 2 of"), "{}", fork.finding());
    assert!(fork.finding().contains("does not follow"), "{}", fork.finding());
}

#[test]
fn a_log_that_was_cut_at_either_end_or_between_is_found() {
    let written = Written::new();
    let last = written.files().len() - 1;
    written.change(last, |lines| drop(lines.pop()));
    assert!(written.finding().contains("the newest lines, 12 to 12, are missing"), "{}", written.finding());

    for gone in 0..=last {
        let written = Written::new();
        fs::remove_file(&written.files()[gone]).expect("removed");
        assert!(written.finding().contains("missing"), "{gone}: {}", written.finding());
    }
    let written = Written::new();
    written.files().iter().for_each(|file| fs::remove_file(file).expect("removed"));
    assert!(written.finding().contains("1 to 12, are missing"));
}

#[test]
fn files_that_changed_places_are_found() {
    let written = Written::new();
    let [one, two] = [written.files()[0].clone(), written.files()[1].clone()];
    let aside = one.with_extension("aside");
    for (from, to) in [(&one, &aside), (&two, &one), (&aside, &two)] {
        fs::rename(from, to).expect("renamed");
    }
    written.finding();
}

#[test]
fn a_note_of_the_end_that_somebody_else_wrote_is_found() {
    let mut written = Written::new();
    let last = written.files().len() - 1;
    written.change(last, |lines| drop(lines.pop()));
    written.head.sequence = 11;
    assert!(written.finding().contains("note of where the log ends"), "{}", written.finding());
}

#[test]
fn a_torn_last_line_is_removed_told_and_gone_on_from() {
    let written = Written::new();
    let newest = written.files().pop().expect("a file");
    let whole = fs::read(&newest).expect("read");
    let torn = [&whole[..], b"{\"seq\":13,\"at\":\"19"].concat();
    fs::write(&newest, torn).expect("written");
    let mut log = open(written.folder.path(), Some(&written.head), SMALL);
    assert_eq!(log.damage(), None);
    append(&mut log, "after the crash");
    let told = log.newest(None, 2).expect("read");
    assert_eq!((told[0].sequence, told[0].call.as_str()), (14, "after the crash"));
    assert!(told[1].about.contains("18 bytes"), "{}", told[1].about);
    let report = log.check().expect("read");
    assert_eq!((report.finding, report.lines), (None, 14));
}

#[test]
fn a_line_that_the_catalog_was_not_told_of_any_more_counts() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut log = open(folder.path(), None, SMALL);
    let head = append(&mut log, "known");
    append(&mut log, "right before the crash");
    drop(log);
    let log = open(folder.path(), Some(&head), SMALL);
    assert_eq!((log.damage(), log.head().sequence), (None, 2));
}

#[test]
fn a_log_that_outlives_its_catalog_says_that_its_end_was_not_known() {
    let written = Written::new();
    let mut log = open(written.folder.path(), None, SMALL);
    append(&mut log, "after");
    let told = log.newest(None, 2).expect("read");
    assert_eq!((told[1].sequence, told[1].call.as_str()), (13, "end not known"));
    assert_eq!((log.damage(), log.check().expect("read").finding), (None, None));
}

#[test]
fn after_damage_it_goes_on_beside_the_evidence_and_tells_for_ever() {
    let written = Written::new();
    let last = written.files().len() - 1;
    written.change(last, |lines| drop(lines.pop()));
    let evidence = fs::read(&written.files()[last]).expect("read");
    let mut log = open(written.folder.path(), Some(&written.head), SMALL);
    assert!(
        log.damage().is_some_and(|damage| damage.contains("12 to 12, are missing")),
        "{:?}",
        log.damage()
    );
    let head = append(&mut log, "after");
    assert_eq!(head.sequence, 14, "13 tells of the damage; no sequence is given twice");
    assert_eq!(fs::read(&written.files()[last]).expect("read"), evidence);
    drop(log);
    let count = written.files().len();
    let log = open(written.folder.path(), Some(&head), SMALL);
    assert!(log.damage().is_some());
    assert_eq!((log.head().sequence, written.files().len()), (14, count), "it is told once");
    let report = log.check().expect("read");
    assert!(report.known.is_some_and(|known| known.contains("12 to 12 are missing")));
}

#[test]
fn the_oldest_files_go_and_the_chain_still_holds() {
    let folder = tempfile::tempdir().expect("a folder");
    let limits = Limits { file: 1_500, all: 6_000 };
    let mut log = open(folder.path(), None, limits);
    for number in 0..200 {
        append(&mut log, &format!("call {number}"));
    }
    let bytes: u64 = files(folder.path()).expect("listed").iter().map(|file| file.bytes).sum();
    assert!(bytes < limits.all + 2 * limits.file, "{bytes}");
    let report = log.check().expect("read");
    assert_eq!(report.finding, None);
    assert!(report.first > 100 && report.lines < 50, "{report:?}");
    let head = log.head();
    drop(log);
    fs::remove_file(&files(folder.path()).expect("listed")[0].path).expect("removed");
    let report = super::check::check(folder.path(), &key(), Some(&head)).expect("read");
    assert!(report.finding.is_some_and(|finding| finding.contains("the oldest lines")), "not by us");
}

#[test]
fn a_failed_append_leaves_no_gap() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut log = open(folder.path(), None, SMALL);
    append(&mut log, "one");
    // The next file cannot be made: something has its name.
    let full = Limits { file: 1, all: 1 << 30 };
    let head = log.head();
    drop(log);
    let mut log = open(folder.path(), Some(&head), full);
    let obstacle = super::check::file_path(folder.path(), 2);
    fs::create_dir(&obstacle).expect("made");
    let entry = noted("two", String::new(), 0, Timestamp::UNIX_EPOCH);
    assert!(log.append(&entry).is_err());
    fs::remove_dir(&obstacle).expect("removed");
    assert_eq!(append(&mut log, "two").sequence, 2);
    assert_eq!(log.check().expect("read").finding, None);
}

#[tokio::test]
async fn a_caller_who_hangs_up_leaves_the_denial_and_the_end_of_the_log_as_they_should_be() {
    let home = tempfile::tempdir().expect("a folder");
    let catalog = Catalog::open(&home.path().join("catalog.sqlite")).await.expect("a catalog");
    let folder = home.path().join("audit");
    fs::create_dir(&folder).expect("made");
    let audit = Audit::open(&folder, key(), catalog, Arc::new(SystemClock)).await.expect("opened");
    let who =
        |from: &str| Who { kind: Kind::Nobody, id: String::new(), name: String::new(), from: from.into() };
    let hang_up = |from: &'static str| {
        let (audit, who) = (&audit, who(from));
        async move {
            let denied = audit.denied(&who, "Jobs/StartBackup", "DENIED");
            tokio::time::timeout(Duration::ZERO, denied).await.is_err()
        }
    };

    // While another line is being written, and while its own is.
    let busy = audit.log.lock().await;
    assert!(hang_up("10.0.0.1").await, "it was not waited for");
    tokio::task::yield_now().await;
    drop(busy);
    // A thread that is quick may have written it before the first look.
    hang_up("10.0.0.2").await;
    tokio::task::yield_now().await;
    let entries = audit.list(None, 10).await.expect("listed");
    let told: Vec<_> = entries.iter().map(|entry| (entry.from.as_str(), entry.result)).collect();
    assert_eq!(told, [("10.0.0.2", Outcome::Denied), ("10.0.0.1", Outcome::Denied)]);
    assert_eq!(audit.check().await.expect("read").finding, None);
}
