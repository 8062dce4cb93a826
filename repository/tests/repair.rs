//! Repair, healing, parity and the memory of verifications, each by what its user sees.

mod support;

use std::cell::RefCell;
use std::sync::Arc;

use repository::archive::path::EntryPath;
use repository::backup::manifest::BackupRecord;
use repository::check::Checks;
use repository::error::RepositoryError;
use repository::ids::{BlobId, PackId};
use repository::keys::KeyRing;
use repository::layout;
use repository::parity::Strength;
use repository::progress::{CancelFlag, Progress, Silent};
use repository::repair::{Repair, Repaired};
use repository::repo::Repository;
use repository::store::faulty::{Effect, Fault, FaultyStore, Operation};
use repository::store::memory::MemoryStore;
use repository::store::{ListedKind, ObjectPath, Store};
use repository::verify::{Depth, Lost, Memory, PackProof, Proofs, Verification, VerifyReport, Witness};
use support::*;

fn files() -> Files {
    Files::from([
        ("one", noise("one", 3_000)),
        ("sub/two", noise("two", 2_000)),
        ("three", noise("three", 100)),
    ])
}

struct Scene {
    store: MemoryStore,
    repository: Arc<Repository>,
    keys: KeyRing,
    record: BackupRecord,
}

fn scene() -> Scene {
    scene_with(None)
}

fn scene_with(parity: Option<u8>) -> Scene {
    let store = MemoryStore::new();
    let (repository, keys) = init(store.clone());
    let mut repository = Arc::into_inner(repository).expect("nobody else has it");
    repository.set_parity(parity.map(|percent| Strength::percent(percent).expect("in range")));
    let repository = Arc::new(repository);
    let record = back_up(&repository, &keys, &files(), "job-1", 0).expect("committed");
    Scene { store, repository, keys, record }
}

impl Scene {
    fn packs(&self) -> Vec<(ObjectPath, u64)> {
        let mut packs = Vec::new();
        for folder in self.store.list(Some(&layout::packs())).expect("listed") {
            let folder = layout::packs().join(folder.name);
            for listed in self.store.list(Some(&folder)).expect("listed") {
                let ListedKind::Object { size } = listed.kind else { continue };
                if listed.name.parse::<PackId>().is_ok() {
                    packs.push((folder.join(listed.name), size));
                }
            }
        }
        packs
    }

    fn data_pack(&self) -> ObjectPath {
        self.packs().into_iter().max_by_key(|(_, size)| *size).expect("two packs").0
    }

    /// Flips the last byte: it belongs to the last file of the pack, `three` being sorted after `sub/two`.
    fn flip_last(&self, path: &ObjectPath) {
        let mut bytes = self.store.read(path, 1 << 20).expect("read");
        *bytes.last_mut().expect("not empty") ^= 1;
        self.store.replace(path, &bytes).expect("damaged");
    }

    fn repair(&self, keys: bool) -> Repaired {
        repair(&self.repository, keys.then_some(&self.keys)).expect("carried out")
    }

    fn opened(&self) -> (Vec<String>, Vec<String>) {
        let report = self.verify(&Memory::none(), &Silent).expect("carried out");
        let [archive] = report.archives.try_into().expect("one archive");
        let Lost { entries, .. } = archive.lost;
        (archive.findings, entries.iter().map(EntryPath::to_string).collect())
    }

    fn verify(&self, memory: &Memory<'_>, progress: &dyn Progress) -> Result<VerifyReport, RepositoryError> {
        let (keys, cancel) = (Some(&self.keys), &CancelFlag::new());
        let repository = &self.repository;
        Verification { repository, keys, depth: Depth::Opened, checks: Checks::NONE, progress, cancel }
            .run_with(&self.record, |_| true, memory)
    }

    fn objects(&self) -> Vec<(String, Vec<u8>)> {
        fn walk(store: &MemoryStore, folder: Option<&ObjectPath>, found: &mut Vec<(String, Vec<u8>)>) {
            for listed in store.list(folder).expect("listed") {
                let path = folder.map_or_else(|| ObjectPath::new(&listed.name), |at| at.join(&listed.name));
                match listed.kind {
                    ListedKind::Object { size } => {
                        found.push((path.as_str().to_owned(), store.read(&path, size).expect("read")));
                    }
                    _ => walk(store, Some(&path), found),
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.store, None, &mut found);
        found
    }
}

fn repair(repository: &Arc<Repository>, keys: Option<&KeyRing>) -> Result<Repaired, RepositoryError> {
    let may_write = || Ok(());
    let (progress, cancel, now) = (&Silent, &CancelFlag::new(), at(1_000));
    let secret = keys.map(|_| secret());
    let secret = secret.as_ref();
    Repair {
        repository,
        keys,
        secret,
        may_write: Some(&may_write),
        give_up: &[],
        reads_packs: true,
        progress,
        cancel,
        now,
    }
    .run()
}

#[test]
fn what_still_opens_of_a_damaged_pack_is_saved_and_the_next_backup_heals_the_rest() {
    let scene = scene();
    let pack = scene.data_pack();
    scene.flip_last(&pack);
    let repaired = scene.repair(true);
    assert!(repaired.mended[0].contains("1 of its 3 blobs are lost"), "{repaired:?}");
    assert_eq!(
        scene.opened(),
        (
            vec!["1 blobs are in no pack".to_owned(), "1 entry cannot be restored: three".to_owned()],
            vec!["three".to_owned()],
        )
    );
    let kept = layout::quarantine().join("packs").join(pack.name());
    assert!(scene.store.size(&kept).is_ok(), "the damaged pack is kept");
    assert!(scene.store.size(&pack).is_err(), "and out of the way");

    let again = back_up(&scene.repository, &scene.keys, &files(), "job-2", 10).expect("committed");
    assert_eq!(scene.opened(), (Vec::new(), Vec::new()), "the old backup is whole");
    for record in [&scene.record, &again] {
        assert_holds(&scene.repository, &scene.keys, record, &files());
    }
}

#[test]
fn a_pack_that_is_gone_is_made_up_for_by_the_next_backup_without_any_repair() {
    let scene = scene();
    scene.store.delete(&scene.data_pack()).expect("gone");
    assert_eq!(scene.opened().1.len(), 3);
    back_up(&scene.repository, &scene.keys, &files(), "job-2", 10).expect("committed");
    assert_eq!(scene.opened(), (Vec::new(), Vec::new()));
    assert_holds(&scene.repository, &scene.keys, &scene.record, &files());
}

#[test]
fn what_a_lost_pack_held_outlives_a_new_index_so_that_it_can_still_heal() {
    let scene = scene();
    scene.store.delete(&scene.data_pack()).expect("gone");
    scene.repair(false);
    assert_eq!(scene.opened().0[0], "3 blobs are in no pack");
    scene.repository.rebuild_index().expect("made anew");
    back_up(&scene.repository, &scene.keys, &files(), "job-2", 10).expect("committed");
    assert_eq!(scene.opened(), (Vec::new(), Vec::new()));
}

#[test]
fn without_the_key_a_damaged_pack_is_marked_and_stays_where_it_is() {
    let scene = scene();
    let pack = scene.data_pack();
    scene.flip_last(&pack);
    let repaired = scene.repair(false);
    assert!(repaired.left[0].contains("can be saved with the key"), "{repaired:?}");
    assert!(scene.store.size(&layout::quarantine().join(pack.name())).is_ok());
    assert_eq!(scene.opened().1, ["three"], "its other blobs are read from it");
    back_up(&scene.repository, &scene.keys, &files(), "job-2", 10).expect("committed");
    assert_eq!(scene.opened(), (Vec::new(), Vec::new()));
}

#[test]
fn a_plan_changes_nothing_and_says_what_the_repair_then_does() {
    let scene = scene();
    scene.flip_last(&scene.data_pack());
    scene.store.delete(&layout::chain_line(1)).expect("gone");
    let before = scene.objects();
    let (progress, cancel, now) = (&Silent, &CancelFlag::new(), at(1_000));
    let (repository, keys, secret) = (&scene.repository, Some(&scene.keys), Some(&secret()));
    let planned = Repair {
        repository,
        keys,
        secret,
        may_write: None,
        give_up: &[],
        reads_packs: true,
        progress,
        cancel,
        now,
    }
    .run();
    assert_eq!(scene.objects(), before);
    assert_eq!(planned.expect("planned").mended, scene.repair(true).mended);
}

#[test]
fn wherever_a_repair_is_cut_off_the_next_one_finishes_and_nothing_more_is_lost() {
    let damaged = || {
        let scene = scene();
        scene.flip_last(&scene.data_pack());
        scene
    };
    let rehearsal = damaged();
    let calls = {
        let faulty = FaultyStore::new(rehearsal.store.clone());
        let repository = Arc::new(Repository::open(Arc::new(faulty.clone())).expect("opens"));
        faulty.take_calls();
        repair(&repository, Some(&rehearsal.keys)).expect("carried out");
        faulty.take_calls().len() as u64
    };
    for effect in [Effect::Refused, Effect::AnswerLost] {
        for nth in 1..=calls {
            let scene = damaged();
            let faulty = FaultyStore::new(scene.store.clone());
            let repository = Arc::new(Repository::open(Arc::new(faulty.clone())).expect("opens"));
            faulty.take_calls();
            faulty.fail(Fault::new(effect).nth(nth));
            let _cut_off = repair(&repository, Some(&scene.keys));
            let reopened = Repository::open(Arc::new(scene.store.clone())).expect("opens");
            let scene = Scene { repository: Arc::new(reopened), ..scene };
            assert_eq!(scene.opened().1, ["three"], "{effect:?} {nth}");
            scene.repair(true);
            assert_eq!(scene.opened().1, ["three"], "{effect:?} {nth}");
            assert_eq!(scene.repair(true).mended, Vec::<String>::new(), "{effect:?} {nth}");
        }
    }
}

#[test]
fn two_packs_under_each_others_names_are_both_brought_back() {
    let scene = scene();
    let before = scene.objects();
    let [(one, _), (two, _)] = scene.packs().try_into().expect("two packs");
    let (first, second) =
        (scene.store.read(&one, 1 << 20).unwrap(), scene.store.read(&two, 1 << 20).unwrap());
    scene.store.replace(&one, &second).expect("swapped");
    scene.store.replace(&two, &first).expect("swapped");
    scene.repair(false);
    assert_eq!(scene.objects(), before);
}

#[test]
fn a_lost_line_of_the_chain_is_written_anew_and_says_for_what_it_stands() {
    let scene = scene();
    back_up(&scene.repository, &scene.keys, &files(), "job-2", 10).expect("committed");
    scene.store.delete(&layout::chain_line(1)).expect("gone");
    assert_eq!(scene.repository.list().expect("listed").chain, ["the chain has no line 1"]);
    scene.repair(true);
    assert_eq!(scene.repository.list().expect("listed").chain, Vec::<String>::new());
    let line = String::from_utf8(scene.store.read(&layout::chain_line(1), 9_999).unwrap()).unwrap();
    assert!(line.contains("stands_for"), "{line}");
    let third = back_up(&scene.repository, &scene.keys, &files(), "job-3", 20).expect("committed");
    assert_eq!((third.sequence, scene.repository.list().expect("listed").chain.len()), (3, 0));
}

#[test]
fn refs_are_made_anew_from_the_pages_as_they_were() {
    let scene = scene();
    let path = layout::refs(&layout::backup(&scene.record.name), &source());
    let before = scene.objects();
    scene.store.delete(&path).expect("gone");
    let repaired = scene.repair(false);
    assert!(repaired.left[0].contains("with the key"), "{repaired:?}");
    scene.repair(true);
    assert_eq!(scene.objects(), before);
}

#[test]
fn a_key_file_is_written_again_from_the_copy_that_the_secret_opens() {
    let scene = scene();
    let before = scene.objects();
    let paths: Vec<ObjectPath> = before
        .iter()
        .filter(|(path, _)| path.contains("/keys/"))
        .map(|(path, _)| ObjectPath::new(path))
        .collect();
    assert_eq!(paths.len(), 6);
    for path in paths {
        scene.store.delete(&path).expect("gone");
        scene.repair(true);
        assert_eq!(scene.objects(), before, "{path}");
    }
    // Still JSON, and wrong: only the secret tells.
    let keyring = layout::keyring(1);
    let text = String::from_utf8(scene.store.read(&keyring, 99_999).unwrap()).unwrap();
    let digit = text.rfind(|c: char| c.is_ascii_digit()).unwrap();
    let mut bytes = text.into_bytes();
    bytes[digit] = if bytes[digit] == b'0' { b'1' } else { b'0' };
    scene.store.replace(&keyring, &bytes).expect("damaged");
    scene.repair(true);
    assert_eq!(scene.objects(), before);
}

/// Remembers as a catalog does.
#[derive(Default)]
struct Notebook(RefCell<Proofs>, i64);

impl Witness for Notebook {
    fn hashed(&self, pack: &PackId) {
        self.0.borrow_mut().packs.insert(*pack, PackProof { hashed: at(self.1), opened: None });
    }
    fn opened(&self, pack: &PackId) {
        self.0.borrow_mut().packs.get_mut(pack).expect("hashed first").opened = Some(at(self.1));
    }
    fn page(&self, page: &BlobId) {
        self.0.borrow_mut().pages.insert(*page, at(self.1));
    }
}

#[test]
fn what_was_proven_is_not_read_again_and_the_report_says_how_old_the_proof_is() {
    let scene = scene();
    let notebook = Notebook(RefCell::default(), 100);
    let proofs = Proofs::default();
    let first = Memory { earlier: &proofs, witness: &notebook, ..Memory::none() };
    let report = scene.verify(&first, &Silent).expect("carried out");
    let total: u64 = scene.packs().iter().map(|(_, size)| size).sum();
    assert_eq!((report.archives[0].coverage.now, report.archives[0].coverage.earlier), (total, 0));

    let proofs = notebook.0.borrow().clone();
    let mut store_reads = 0;
    let second = Memory { earlier: &proofs, ..Memory::none() };
    let faulty = FaultyStore::new(scene.store.clone());
    let repository = Arc::new(Repository::open(Arc::new(faulty.clone())).expect("opens"));
    faulty.take_calls();
    let again = Scene {
        repository,
        store: scene.store.clone(),
        keys: scene.keys.clone(),
        record: scene.record.clone(),
    };
    let report = again.verify(&second, &Silent).expect("carried out");
    let coverage = report.archives[0].coverage;
    assert_eq!((coverage.now, coverage.earlier, coverage.oldest), (0, total, Some(at(100))));
    assert_eq!(report.archives[0].entries, 4, "the entries are counted all the same");
    let data = scene.data_pack();
    for call in faulty.take_calls() {
        store_reads += usize::from(
            format!("{call:?}").contains(data.name()) && format!("{call:?}").contains("ReadRange"),
        );
    }
    assert_eq!(store_reads, 0, "no byte of the data was read");

    // Gone is gone, whatever was proven; and the entries are named.
    scene.store.delete(&data).expect("gone");
    let report = scene.verify(&second, &Silent).expect("carried out");
    let named: Vec<String> = report.archives[0].lost.entries.iter().map(EntryPath::to_string).collect();
    assert_eq!(named, ["one", "sub/two", "three"], "{report:?}");
}

#[test]
fn only_what_is_lost_is_looked_for_and_named_when_that_is_asked() {
    let scene = scene();
    scene.flip_last(&scene.data_pack());
    assert!(scene.verify(&Memory::losses(), &Silent).expect("carried out").is_intact(), "it proves nothing");
    scene.repair(true);
    let report = scene.verify(&Memory::losses(), &Silent).expect("carried out");
    let named: Vec<String> = report.archives[0].lost.entries.iter().map(EntryPath::to_string).collect();
    assert_eq!(named, ["three"]);
}

#[test]
fn a_read_that_fails_once_or_a_few_times_costs_no_pack_that_its_parity_makes_whole() {
    let scene = scene_with(Some(20));
    let pack = scene.data_pack();
    scene.flip_last(&pack);
    let objects = scene.objects();
    // Each call of the repair in turn fails, and then those around it too.
    for nth in 1.. {
        for times in [1, 4] {
            let copy = MemoryStore::new();
            for (path, bytes) in &objects {
                copy.create(&ObjectPath::new(path), bytes).expect("copied");
            }
            let disk = FaultyStore::new(copy);
            let repository = Arc::new(Repository::open(Arc::new(disk.clone())).expect("opened"));
            let keys = repository.unlock(&secret()).expect("unlocked");
            (0..times).for_each(|more| disk.fail(Fault::new(Effect::Refused).nth(nth + more)));
            let answer = repair(&repository, Some(&keys));
            let is_past_the_end = disk.unfired() == times as usize;
            disk.heal();
            if !is_past_the_end {
                repair(&repository, Some(&keys)).expect("carried out");
            }
            let found = findings(&repository, Some(&keys), &scene.record, Depth::Opened);
            assert_eq!(found, Vec::<String>::new(), "{times} calls from the {nth}th on fail: {answer:?}");
            if is_past_the_end {
                assert!(nth > 20, "a repair reads more than that");
                return;
            }
        }
    }
}

#[test]
fn one_read_that_fails_makes_no_verification_call_a_sound_pack_damaged() {
    let scene = scene();
    for nth in 1..=6 {
        let disk = FaultyStore::new(scene.store.clone());
        let repository = Arc::new(Repository::open(Arc::new(disk.clone())).expect("opened"));
        disk.fail(Fault::new(Effect::Refused).on(Operation::ReadRange).nth(nth));
        let found = findings(&repository, Some(&scene.keys), &scene.record, Depth::Hashed);
        assert_eq!(found, Vec::<String>::new(), "the {nth}th read fails");
    }
}

#[test]
fn a_pack_that_was_given_up_comes_back_once_its_bytes_can_be_read_again() {
    let scene = scene_with(Some(20));
    let pack = scene.data_pack();
    scene.flip_last(&pack);
    let whole = scene.store.read(&pack, 1 << 20).expect("read");
    // A disk that gives nothing of it any more.
    let gone = ObjectPath::new(format!("{}.par", pack.as_str()));
    scene.store.replace(&pack, &vec![0; whole.len()]).expect("damaged");
    let given_up = scene.repair(true);
    assert!(given_up.mended.iter().any(|line| line.contains("blobs are lost")), "{given_up:?}");
    assert!(!scene.opened().1.is_empty() && scene.store.size(&gone).is_err());
    let name = pack.as_str().rsplit('/').next().expect("a name");
    let aside = ObjectPath::new(format!("repository/quarantine/packs/{name}"));
    scene.store.replace(&aside, &whole).expect("readable again, but for the byte that rotted first");
    let back = scene.repair(true);
    assert!(back.mended[0].contains("put aside as damaged; its bytes lay in"), "{back:?}");
    assert_eq!(scene.opened(), (vec![], vec![]));
    assert!(scene.store.size(&gone).is_ok() && scene.store.size(&aside).is_err());
    assert_eq!(scene.repair(true).mended, Vec::<String>::new());
}

#[test]
fn a_pack_gets_parity_as_it_comes_in_and_one_that_has_none_gets_some_when_it_is_verified() {
    let scene = scene_with(Some(5));
    let before = scene.objects();
    let parity: Vec<&String> =
        before.iter().map(|(path, _)| path).filter(|path| path.ends_with(".par")).collect();
    assert_eq!(parity.len(), 2);
    scene.store.delete(&ObjectPath::new(parity[0])).expect("gone");
    let report = scene.verify(&Memory { may_mend: true, ..Memory::none() }, &Silent).expect("carried out");
    assert!(report.is_intact() && report.archives[0].mended.len() == 1, "{report:?}");
    assert_eq!(scene.objects(), before);
}
