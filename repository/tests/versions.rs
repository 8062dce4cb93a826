//! A reader refuses what it does not know, and names it: a feature, a version of the format.

mod support;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use repository::error::RepositoryError;
use repository::keys::KeyRing;
use repository::repo::Repository;
use repository::store::local::LocalStore;
use support::*;

/// What `change` makes of a signed file, signed as a newer release with the same keys would.
fn rewrite(path: &Path, keys: &KeyRing, change: impl Fn(&mut serde_json::Value)) {
    let file = fs::read_to_string(path).expect("read");
    let (content, _) = file.trim_end().rsplit_once('\n').expect("a last line with the signature");
    let mut content = serde_json::from_str(content).expect("JSON");
    change(&mut content);
    fs::write(path, keys.signing().sign(&content).bytes()).expect("written");
}

fn refused(answer: Result<Repository, RepositoryError>, named: &str) {
    let error = answer.expect_err("a newer repository");
    assert!(matches!(error, RepositoryError::TooNew { .. }) && error.to_string().contains(named), "{error}");
    assert!(error.hint().contains("newer release"), "{}", error.hint());
}

#[test]
fn an_unknown_feature_or_version_is_refused_by_its_name_whatever_else_the_file_says() {
    let folder = tempfile::tempdir().expect("a folder");
    let open = || Repository::open(Arc::new(LocalStore::open(folder.path()).expect("a store")));
    let (_, keys) = init(LocalStore::open_or_make(folder.path()).expect("a store"));
    let config = folder.path().join("repository/config.json");

    rewrite(&config, &keys, |config| config["required_features"] = serde_json::json!(["time-travel"]));
    refused(open(), "time-travel");
    rewrite(&config, &keys, |config| {
        config["format"] = serde_json::json!(99);
        config.as_object_mut().expect("an object").remove("created_at");
    });
    refused(open(), "format version 99");
}

#[test]
fn a_backup_of_an_unknown_version_is_told_and_hides_no_other() {
    let folder = tempfile::tempdir().expect("a folder");
    let (repository, keys) = init(LocalStore::open_or_make(folder.path()).expect("a store"));
    let files = Files::from([("a", noise("a", 1_000))]);
    let known = back_up(&repository, &keys, &files, "job-1", 0).expect("committed").name;
    let newer = back_up(&repository, &keys, &files, "job-2", 1).expect("committed").name;
    let path = folder.path().join(newer.as_str()).join("backup.json");
    rewrite(&path, &keys, |backup| backup["format"] = serde_json::json!(99));
    let listing = repository.list().expect("listed");
    assert_eq!(listing.backups.iter().map(|backup| &backup.name).collect::<Vec<_>>(), [&known]);
    let [(name, RepositoryError::TooNew { feature })] = &listing.damaged[..] else { panic!("{listing:?}") };
    assert_eq!((name, feature.as_str()), (&newer, "format version 99"));
    assert!(listing.lost.is_empty());
}
