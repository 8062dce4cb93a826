//! Whatever is damaged in a repository is found, named, and hides nothing else; wrong bytes never come
//! out of it.

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use repository::keys::KeyRing;
use repository::pack::blob::{BlobKind, blob_id};
use repository::repo::Repository;
use repository::store::local::LocalStore;
use repository::verify::Depth;
use support::*;

struct Sound {
    folder: tempfile::TempDir,
    keys: KeyRing,
}

fn files() -> Files {
    Files::from([
        ("one", noise("one", 3_000)),
        ("sub/two", noise("two", 2_000)),
        ("three", noise("three", 100)),
    ])
}

fn sound() -> Sound {
    let folder = tempfile::tempdir().expect("a folder");
    let (repository, keys) = init(LocalStore::open_or_make(folder.path()).expect("a store"));
    back_up(&repository, &keys, &files(), "job-1", 0).expect("committed");
    Sound { folder, keys }
}

fn tree(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root).expect("listed") {
        let path = entry.expect("an entry").path();
        if path.is_dir() { found.extend(tree(&path)) } else { found.push(path) }
    }
    found
}

/// What a verification says: findings, or that the backup cannot even be opened.
fn verdict(sound: &Sound, depth: Depth) -> Vec<String> {
    let store = Arc::new(LocalStore::open(sound.folder.path()).expect("a store"));
    let repository = match Repository::open(store) {
        Ok(repository) => Arc::new(repository),
        Err(error) => return vec![error.to_string()],
    };
    let listing = match repository.list() {
        Ok(listing) => listing,
        Err(error) => return vec![error.to_string()],
    };
    let mut findings: Vec<String> = listing.damaged.iter().map(|(_, error)| error.to_string()).collect();
    findings.extend(listing.lost.iter().map(|name| format!("{name} is gone")));
    findings.extend(listing.chain.iter().cloned());
    for record in &listing.backups {
        findings.extend(support::findings(&repository, Some(&sound.keys), record, depth));
    }
    findings
}

/// Files that a backup can be restored without: they are for people, for the writer, or a second copy.
fn is_spare(path: &Path) -> bool {
    let text = path.to_string_lossy();
    ["RESTORE.md", "SHA256SUMS", "/config.", "/keys/", "/lease/", "/rescue/"]
        .iter()
        .any(|spare| text.contains(spare))
}

/// A backup of [`files`], cut into pieces, by whoever seals lies under the ids of truths.
fn lied(piece: usize, lies: &[(&[u8], &[u8])]) -> Sound {
    let folder = tempfile::tempdir().expect("a folder");
    let (repository, keys) = init(LocalStore::open_or_make(folder.path()).expect("a store"));
    let domain = keys.domain_keys(&source());
    let archive = archive_with_lies(&repository, &domain, &files(), piece, lies);
    send(&repository, &domain, &archive.segments).expect("sent");
    let name = repository.reserve_name(at(0), &Default::default()).expect("free");
    let now = name.time();
    repository.commit(&draft(name, "job-1", archive.draft), &keys, now, &Unfenced).expect("committed");
    Sound { folder, keys }
}

fn id_of(sound: &Sound, plain: &[u8]) -> String {
    blob_id(&sound.keys.domain_keys(&source()).id_key, BlobKind::Data, plain).to_string()
}

#[test]
fn what_was_sealed_under_the_id_of_other_bytes_is_found_and_blamed() {
    let truth = &files()["one"];
    let sound = lied(usize::MAX, &[(truth, &noise("a lie", truth.len()))]);
    assert_eq!(verdict(&sound, Depth::Hashed), Vec::<String>::new());
    let found = verdict(&sound, Depth::Opened);
    assert!(found.iter().any(|line| line.contains("one")), "the file is named: {found:?}");
    assert!(found.iter().any(|line| line.contains(&id_of(&sound, truth))), "so is the blob: {found:?}");
}

#[test]
fn a_lie_is_blamed_also_where_the_next_piece_of_its_file_does_not_open() {
    let file = &files()["one"];
    let (first, second) = file.split_at(file.len() / 2);
    let lies: [(&[u8], &[u8]); 2] = [(first, &noise("a lie", first.len())), (second, &second[1..])];
    let sound = lied(first.len(), &lies);
    assert_eq!(verdict(&sound, Depth::Hashed), Vec::<String>::new());
    let found = verdict(&sound, Depth::Opened);
    assert!(found.iter().any(|line| line.contains("one")), "the file is named: {found:?}");
    for piece in [first, second] {
        let id = id_of(&sound, piece);
        assert!(found.iter().any(|line| line.contains(&id)), "{id} is named: {found:?}");
    }
}

#[test]
fn every_lost_file_is_noticed() {
    let sound = sound();
    assert_eq!(verdict(&sound, Depth::Opened), Vec::<String>::new());
    for path in tree(sound.folder.path()).iter().filter(|path| !is_spare(path)) {
        let bytes = std::fs::read(path).expect("read");
        std::fs::remove_file(path).expect("removed");
        assert!(!verdict(&sound, Depth::Listed).is_empty(), "{}", path.display());
        std::fs::write(path, bytes).expect("put back");
    }
    assert_eq!(verdict(&sound, Depth::Opened), Vec::<String>::new());
}

#[test]
fn every_flipped_bit_is_noticed_and_no_wrong_byte_comes_out() {
    let sound = sound();
    let expected: Vec<_> = files().into_iter().map(|(path, bytes)| (path.to_owned(), bytes)).collect();
    let mut flips = 0;
    for path in tree(sound.folder.path()).iter().filter(|path| !is_spare(path)) {
        let bytes = std::fs::read(path).expect("read");
        for at in (0..bytes.len()).step_by(1 + bytes.len() / 40) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            std::fs::write(path, damaged).expect("damaged");
            let is_one_of_two_copies = path.extension().is_some_and(|end| end == "refs");
            let noticed = !verdict(&sound, Depth::Opened).is_empty();
            assert!(noticed || is_one_of_two_copies, "{} at {at}", path.display());
            let store = Arc::new(LocalStore::open(sound.folder.path()).expect("a store"));
            if let Ok(repository) = Repository::open(store)
                && let Ok(record) = repository.backup(&"20260101_010000".parse().expect("valid"))
                && let Ok(found) = read_back(&Arc::new(repository), &sound.keys, &record)
            {
                assert_eq!(found, expected, "{} at {at}", path.display());
            }
            flips += 1;
        }
        std::fs::write(path, bytes).expect("put back");
    }
    assert!(flips > 200, "{flips}");
}

#[test]
fn a_damaged_pack_is_named_with_the_entries_that_it_costs() {
    let sound = sound();
    let packs = tree(&sound.folder.path().join("repository/packs"));
    let data =
        packs.iter().max_by_key(|path| std::fs::metadata(path).expect("there").len()).expect("two packs");
    let mut bytes = std::fs::read(data).expect("read");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(data, bytes).expect("damaged");
    let name = data.file_name().expect("named").to_string_lossy().into_owned();
    assert_eq!(verdict(&sound, Depth::Listed), Vec::<String>::new(), "`listed` does not read packs");
    assert_eq!(
        verdict(&sound, Depth::Hashed),
        [format!("pack {name} is damaged: its SHA-256 is not its name")]
    );
    let opened = verdict(&sound, Depth::Opened);
    assert_eq!(opened[1..], ["1 entry cannot be restored: three".to_owned()], "{opened:?}");
}

#[test]
fn a_backup_that_was_deleted_by_hand_is_missed_and_a_rotten_chain_line_stops_no_new_one() {
    let sound = sound();
    let store = || Arc::new(LocalStore::open(sound.folder.path()).expect("a store"));
    let repository = Arc::new(Repository::open(store()).expect("opens"));
    let second = back_up(&repository, &sound.keys, &files(), "job-2", 10).expect("committed");
    std::fs::remove_dir_all(sound.folder.path().join("20260101_010000")).expect("removed");
    assert_eq!(verdict(&sound, Depth::Listed), ["20260101_010000 is gone"]);

    let line = repository::layout::chain_line(1);
    std::fs::write(sound.folder.path().join(line.as_str()), b"").expect("damaged");
    let third = back_up(&repository, &sound.keys, &files(), "job-3", 20).expect("committed all the same");
    assert_eq!(third.sequence, 3);
    for record in [&second, &third] {
        assert_eq!(support::findings(&repository, None, record, Depth::Listed), Vec::<String>::new());
        assert_holds(&repository, &sound.keys, record, &files());
    }
    assert!(!verdict(&sound, Depth::Listed).is_empty(), "and it is told");
}

#[test]
fn a_lost_chain_gives_no_sequence_twice() {
    let sound = sound();
    let store = Arc::new(LocalStore::open(sound.folder.path()).expect("a store"));
    let repository = Arc::new(Repository::open(store).expect("opens"));
    back_up(&repository, &sound.keys, &files(), "job-2", 10).expect("committed");
    std::fs::remove_dir_all(sound.folder.path().join("repository/chain")).expect("lost");
    let third = back_up(&repository, &sound.keys, &files(), "job-3", 20).expect("committed");
    assert_eq!(third.sequence, 3);
    assert_eq!(repository.list().expect("listed").backups[0].name, third.name, "the newest is the newest");
}
