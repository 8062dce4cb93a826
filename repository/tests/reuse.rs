//! What new backups build on: only what is there and sound.

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use repository::check::Checks;
use repository::ids::BlobId;
use repository::ingest::PackVerdict;
use repository::keys::KeyRing;
use repository::progress::{CancelFlag, Silent};
use repository::repo::Repository;
use repository::store::local::LocalStore;
use repository::verify::{Depth, Verification};
use repository::work::WorkId;
use support::*;

fn files() -> Files {
    Files::from([("one", noise("one", 3_000)), ("sub/two", noise("two", 2_000))])
}

struct Scene {
    folder: tempfile::TempDir,
    repository: Arc<Repository>,
    keys: KeyRing,
}

fn scene() -> Scene {
    let folder = tempfile::tempdir().expect("a folder");
    let (repository, keys) = init(LocalStore::open_or_make(folder.path()).expect("a store"));
    back_up(&repository, &keys, &files(), "job-1", 0).expect("committed");
    Scene { folder, repository, keys }
}

impl Scene {
    fn data_pack(&self) -> PathBuf {
        let packs = self.folder.path().join("repository/packs");
        let folders = std::fs::read_dir(packs).expect("listed").map(|folder| folder.expect("read").path());
        let packs = folders.flat_map(|folder| std::fs::read_dir(folder).expect("listed"));
        let size = |path: &PathBuf| std::fs::metadata(path).expect("there").len();
        packs.map(|pack| pack.expect("read").path()).max_by_key(size).expect("two packs")
    }

    fn offered(&self) -> Vec<BlobId> {
        let tables = self.repository.blob_tables(&self.keys.domain_keys(&source()).domain).expect("listed");
        tables.into_iter().flat_map(|table| table.blobs).map(|line| line.id).collect()
    }

    fn verdicts(&self) -> Vec<PackVerdict> {
        let record = &self.repository.list().expect("listed").backups[0];
        let (progress, cancel, depth) = (&Silent, &CancelFlag::new(), Depth::Hashed);
        let check = Verification {
            repository: &self.repository,
            keys: None,
            depth,
            checks: Checks::NONE,
            progress,
            cancel,
        };
        let report = check.run(record, |_| true).expect("carried out");
        report.archives.into_iter().flat_map(|archive| archive.packs).collect()
    }
}

fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).expect("read");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(path, bytes).expect("damaged");
}

#[test]
fn no_backup_builds_on_a_pack_that_was_found_damaged_until_it_is_found_sound_again() {
    let scene = scene();
    let all = scene.offered().len();
    flip(&scene.data_pack());
    scene.repository.keep_verdicts(&scene.verdicts()).expect("kept");
    assert_eq!(scene.offered().len(), all - 2, "the two data blobs are not offered");
    let again = back_up(&scene.repository, &scene.keys, &files(), "job-2", 10).expect("sends them again");
    assert_holds(&scene.repository, &scene.keys, &again, &files());

    flip(&scene.data_pack());
    let reopened = Repository::open(scene.repository.store().clone()).expect("opens");
    assert_eq!(reopened.blob_tables(&scene.keys.domain_keys(&source()).domain).expect("listed").len(), 3);
}

#[test]
fn a_pack_that_is_gone_does_not_resolve_and_is_not_offered_again_until_it_is_back() {
    let scene = scene();
    let record = scene.repository.list().expect("listed").backups.remove(0);
    let refs = scene.repository.refs(&record, &source()).expect("read");
    let all = scene.offered().len();
    assert_eq!(scene.repository.resolve(&refs.domain(), &refs).expect("resolved"), []);
    let (pack, elsewhere) = (scene.data_pack(), scene.folder.path().join("elsewhere"));
    std::fs::rename(&pack, &elsewhere).expect("taken away");
    assert_eq!(scene.repository.resolve(&refs.domain(), &refs).expect("resolved").len(), 2);
    assert_eq!(scene.offered().len(), all - 2);
    let restarted = Repository::open(scene.repository.store().clone()).expect("opens");
    restarted.find_unindexed().expect("searched");
    assert_eq!(restarted.blob_tables(&refs.domain()).expect("listed").len(), 1, "noticed at the start");
    std::fs::rename(&elsewhere, &pack).expect("brought back");
    assert_eq!(scene.offered().len(), all);
}

#[test]
fn who_has_a_list_is_told_what_is_new_until_something_on_it_is_no_longer_offered() {
    let scene = scene();
    let domain = scene.keys.domain_keys(&source()).domain;
    let work: WorkId = "job-0".parse().expect("an id");
    let since = |mark| scene.repository.blob_tables_for(&work, &domain, Some(mark)).expect("listed");
    let first = scene.repository.blob_tables_for(&work, &domain, None).expect("listed");
    assert_eq!((first.goes_on, first.tables.len()), (false, 2));
    let more = Files::from([("three", noise("three", 1_000))]);
    let record = back_up(&scene.repository, &scene.keys, &more, "job-2", 10).expect("committed");
    let second = since(&first.mark);
    assert_eq!((second.goes_on, second.tables.len()), (true, 2));
    assert_eq!((since(&second.mark).goes_on, since(&second.mark).tables.len()), (true, 0));
    let restarted = Repository::open(scene.repository.store().clone()).expect("opens");
    let anew = restarted.blob_tables_for(&work, &domain, Some(&second.mark)).expect("listed");
    assert_eq!((anew.goes_on, anew.tables.len()), (false, 4), "another process has another index");

    let oldest = scene.repository.list().expect("listed").backups.remove(1);
    assert_ne!(oldest.name, record.name);
    let refs = scene.repository.refs(&oldest, &source()).expect("read");
    let (pack, elsewhere) = (scene.data_pack(), scene.folder.path().join("elsewhere"));
    std::fs::rename(&pack, &elsewhere).expect("taken away");
    assert_eq!(scene.repository.resolve(&domain, &refs).expect("resolved").len(), 2);
    let without = since(&second.mark);
    assert_eq!((without.goes_on, without.tables.len()), (false, 3));
    assert_eq!((since(&without.mark).goes_on, since(&without.mark).tables.len()), (true, 0));
    std::fs::rename(&elsewhere, &pack).expect("brought back");
    assert_eq!((since(&without.mark).goes_on, since(&without.mark).tables.len()), (false, 4));
}

#[test]
fn a_pack_that_was_mended_is_used_again() {
    let scene = scene();
    let (all, pack) = (scene.offered().len(), scene.data_pack());
    flip(&pack);
    scene.repository.keep_verdicts(&scene.verdicts()).expect("kept");
    flip(&pack);
    scene.repository.keep_verdicts(&scene.verdicts()).expect("kept");
    assert_eq!(scene.offered().len(), all);
}

#[test]
fn strange_things_in_the_root_and_in_the_chain_stop_nothing() {
    let scene = scene();
    let root = scene.folder.path();
    std::fs::write(root.join("20200101_000000"), "a file").expect("written");
    std::os::unix::fs::symlink("/", root.join("20200101_000001")).expect("linked");
    for place in ["repository/chain/@eaDir", "repository/packs/@eaDir", "repository/index/Thumbs \u{e9}"] {
        std::fs::create_dir(root.join(place)).expect("made");
    }
    std::fs::write(root.join("repository/keys/slots/\u{e9}.1.json"), "{}").expect("written");
    let repository = Arc::new(Repository::open(scene.repository.store().clone()).expect("opens"));
    repository.find_unindexed().expect("searched");
    let record = back_up(&repository, &scene.keys, &files(), "job-2", 10).expect("committed");
    assert_holds(&repository, &scene.keys, &record, &files());
    repository.unlock(&secret()).expect("unlocks");
    assert_eq!(repository.list().expect("listed").backups.len(), 2);
}
