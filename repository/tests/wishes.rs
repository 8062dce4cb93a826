//! What people want kept outlives the catalog, and damage to it keeps more, never less.

mod scene;
mod support;

use std::fs;

use repository::error::RepositoryError;
use repository::keys::KeyRing;
use repository::names::BackupName;
use repository::repo::Repository;
use repository::retention::Rules;
use repository::store::local::LocalStore;
use repository::store::memory::MemoryStore;
use scene::{Eye, retirement};
use support::*;

struct Made {
    folder: tempfile::TempDir,
    repository: std::sync::Arc<Repository>,
    keys: KeyRing,
    name: BackupName,
}

fn made() -> Made {
    let folder = tempfile::tempdir().expect("a folder");
    let (repository, keys) = init(LocalStore::open_or_make(folder.path()).expect("a store"));
    let files = Files::from([("a", noise("a", 1_000))]);
    let name = back_up(&repository, &keys, &files, "job-1", 0).expect("committed").name;
    Made { folder, repository, keys, name }
}

impl Made {
    fn pin(&self, reason: Option<&str>) {
        self.repository.set_pin(&self.name, reason, &self.keys, at(9)).expect("kept");
    }

    /// As whoever opens the repository anew sees it.
    fn pinned(&self) -> Option<String> {
        let store = LocalStore::open(self.folder.path()).expect("a store");
        let listing = Repository::open(std::sync::Arc::new(store)).expect("opens").list().expect("listed");
        listing.backups[0].pin.clone()
    }

    fn notes(&self, of: &str) -> Vec<std::path::PathBuf> {
        let folder = self.folder.path().join("repository").join(of);
        let listed = fs::read_dir(folder).map(|notes| notes.map(|note| note.expect("read").path()).collect());
        let mut notes: Vec<_> = listed.unwrap_or_default();
        notes.sort();
        notes
    }
}

fn keep_the_last(count: u32) -> Rules {
    Rules {
        keep_within_seconds: None,
        keep_last: Some(count),
        keep_hourly: None,
        keep_daily: None,
        keep_weekly: None,
        keep_monthly: None,
        keep_yearly: None,
        keep_complete: 3,
    }
}

#[test]
fn where_lists_lag_a_pin_and_rules_count_from_the_moment_at_which_they_are_set() {
    let store = MemoryStore::new();
    let (repository, keys) = init(store.clone());
    let files = Files::from([("a", noise("a", 1_000))]);
    let records: Vec<_> = (0..3)
        .map(|nth| back_up(&repository, &keys, &files, &format!("job-{nth}"), nth * 10).expect("committed"))
        .collect();
    let rules = keep_the_last;
    repository.set_rules(&rules(1), &keys, at(100)).expect("set");
    store.set_lag(true);
    for reason in [Some("first"), None, Some("to stay")] {
        repository.set_pin(&records[0].name, reason, &keys, at(100)).expect("kept");
    }
    for days in [2, 3] {
        repository.set_rules(&rules(days), &keys, at(100)).expect("set");
    }
    assert_eq!(repository.rules().expect("read"), Some(rules(3)));
    let both: Vec<_> = records[..2].iter().map(|record| retirement(&record.name)).collect();
    let report = repository.retire(&both, &keys, &Eye::at(at(200))).expect("retired");
    assert_eq!(report.pinned, [records[0].name.clone()], "{report:?}");
    assert_eq!(report.retired, [records[1].name.clone()], "{report:?}");
}

#[test]
fn a_pin_is_set_and_taken_back_as_often_as_people_like() {
    let made = made();
    assert_eq!(made.pinned(), None);
    for reason in [Some("before the migration"), Some("before the audit"), None, Some("again")] {
        made.pin(reason);
        assert_eq!(made.pinned().as_deref(), reason);
    }
    made.pin(Some("again"));
    assert_eq!(made.notes("pins").len(), 4, "what is so already needs no note");
    let unknown =
        made.repository.set_pin(&"20200101_000000".parse().expect("a name"), None, &made.keys, at(0));
    assert!(matches!(unknown, Err(RepositoryError::NoBackup { .. })));
}

#[test]
fn a_pin_note_that_cannot_be_read_pins() {
    let made = made();
    made.pin(Some("wanted"));
    made.pin(None);
    let newest = made.notes("pins").pop().expect("a note");
    let mut bytes = fs::read(&newest).expect("read");
    bytes[20] ^= 1;
    fs::write(&newest, bytes).expect("written");
    assert!(made.pinned().expect("pinned").contains("cannot be read"));
    made.pin(None);
    assert_eq!(made.pinned(), None, "a new note puts it right");
    fs::write(made.notes("pins")[0].with_file_name("notes.txt"), "left by a person").expect("written");
    assert_eq!(made.pinned(), None);
}

#[test]
fn rules_that_cannot_be_read_are_no_older_rules() {
    let made = made();
    assert_eq!(made.repository.rules().expect("none yet"), None);
    let rules = keep_the_last;
    for keep_last in [5, 90] {
        made.repository.set_rules(&rules(keep_last), &made.keys, at(0)).expect("kept");
        assert_eq!(made.repository.rules().expect("read"), Some(rules(keep_last)));
    }
    let newest = made.notes("retention").pop().expect("a note");
    let length = fs::metadata(&newest).expect("there").len();
    fs::File::options().write(true).open(&newest).and_then(|file| file.set_len(length / 2)).expect("cut");
    let error = made.repository.rules().expect_err("the newest is cut off");
    assert!(matches!(error, RepositoryError::Signature { .. }), "{error}");
    made.repository.set_rules(&rules(7), &made.keys, at(0)).expect("kept");
    assert_eq!(made.repository.rules().expect("read"), Some(rules(7)));
}
