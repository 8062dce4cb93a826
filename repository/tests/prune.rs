//! Retiring and pruning as people see it: space comes back, and every backup that is kept opens to its last
//! byte.

mod scene;
mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::SignedDuration;
use repository::backup::manifest::BackupRecord;
use repository::error::RepositoryError;
use repository::ingest::PackVerdict;
use repository::layout;
use repository::parity::Strength;
use repository::prune::{PruneError, PruneOrder, PruneSettings, PruneStep, Watch};
use repository::read::ArchiveReader;
use repository::repo::Repository;
use repository::store::lease::LeaseError;
use repository::store::local::LocalStore;
use repository::store::{ObjectPath, Store};
use repository::verify::Depth;
use repository::work::WorkKind;
use scene::*;
use support::*;

#[test]
fn what_only_a_retired_backup_needed_goes_in_two_phases_and_all_else_stays() {
    let scene = Scene::new();
    let files: Vec<Files> = (1..=3).map(generation).collect();
    let records: Vec<_> = (1..=3).map(|n| scene.back_up(&files[n as usize - 1], n, n.into())).collect();
    let kept = [(&records[1], &files[1]), (&records[2], &files[2])];
    assert_eq!(scene.retire(&[&records[0]]).retired, [records[0].name.clone()]);
    scene.assert_intact(&kept);

    scene.clock(HOUR);
    let before = scene.packs();
    let marking = scene.prune();
    assert!(marking.marked.packs > 0 && marking.swept.packs == 0, "{marking:?}");
    assert!(scene.packs() >= before, "a mark takes nothing away");
    scene.clock(2 * HOUR);
    let waiting = scene.prune().waiting.expect("its grace has not passed");
    assert_eq!(waiting.not_before, at(25 * HOUR));

    scene.clock(26 * HOUR);
    let sweeping = scene.prune();
    assert_eq!(sweeping.swept.packs, marking.marked.packs);
    assert_eq!(scene.trash() as u64, sweeping.swept.packs);
    scene.assert_intact(&kept);

    scene.clock(9 * DAY);
    let used = scene.disk.used();
    let deleting = scene.prune();
    assert_eq!(deleting.deleted, sweeping.swept);
    assert!(scene.disk.used() < used);
    assert_eq!((scene.trash(), deleting.brought_back), (0, 0));
    scene.assert_intact(&kept);
    let again = scene.prune();
    assert_eq!((again.marked.packs, again.plan.dead.packs), (0, 0), "{again:?}");
    let left = scene.disk.list(Some(&layout::gc())).expect("listed");
    assert!(left.iter().all(|listed| listed.name == "clock"), "{left:?}");
}

#[test]
fn a_retired_backup_is_no_finding_and_a_lost_one_stops_everything_until_it_is_retired_too() {
    let scene = Scene::new();
    let files = generation(1);
    let records: Vec<_> = (1..=3).map(|n| scene.back_up(&files, n, n.into())).collect();
    scene.retire(&[&records[0]]);
    let listing = scene.repository.list().expect("listed");
    assert_eq!((listing.lost, listing.legacy.len(), listing.backups.len()), (vec![], 0, 2));
    let notes = scene.repository.retired().expect("read");
    assert_eq!((notes.len(), &notes[0].name, notes[0].rule.as_str()), (1, &records[0].name, "a test"));

    scene.disk.delete_folder(&layout::backup(&records[1].name)).expect("lost");
    assert_eq!(scene.repository.list().expect("listed").lost, [records[1].name.clone()]);
    let stopped = scene.try_prune();
    let Err(RepositoryError::Prune(PruneError::Missing { backup })) = &stopped else { panic!("{stopped:?}") };
    assert_eq!(*backup, records[1].name);
    scene.retire(&[&records[1]]);
    scene.prune();
    scene.assert_intact(&[(&records[2], &files)]);
}

#[test]
fn a_forged_note_retires_nothing() {
    let scene = Scene::new();
    let files = generation(1);
    let record = scene.back_up(&files, 1, 1);
    scene.disk.create(&layout::retired(1), b"{}\n").expect("forged");
    assert_eq!(scene.repository.finish_retiring(&scene.eye).expect("looked"), []);
    scene.assert_intact(&[(&record, &files)]);
}

#[test]
fn a_backup_that_cannot_be_read_stops_everything_and_is_named() {
    let scene = Scene::new();
    let records: Vec<_> = (1..=2).map(|n| scene.back_up(&generation(n), n, n.into())).collect();
    scene.retire(&[&records[0]]);
    let refs = layout::refs(&layout::backup(&records[1].name), &source());
    scene.disk.replace(&refs, b"rot").expect("damaged");
    let packs = scene.packs();
    let stopped = scene.try_prune();
    assert!(
        matches!(&stopped, Err(RepositoryError::Prune(PruneError::Unreadable { backup, .. })) if *backup == records[1].name),
        "{stopped:?}"
    );
    assert_eq!(scene.packs(), packs);
}

#[test]
fn more_than_a_fifth_needs_a_persons_word_and_the_plan_says_so() {
    let scene = Scene::new();
    let records: Vec<_> = (1..=2).map(|n| scene.back_up(&generation(10 * n), n, n.into())).collect();
    let order = PruneOrder { approved: false, without: vec![records[0].name.clone()], ..scene.order() };
    let asked = scene.repository.plan_prune(&order, &scene.eye).expect("planned");
    scene.retire(&[&records[0]]);
    let order = PruneOrder { approved: false, ..scene.order() };
    let plan = scene.repository.plan_prune(&order, &scene.eye).expect("planned");
    assert_eq!(asked, plan, "the plan was asked for as if the backup were retired already");
    let brake = plan.brake.expect("half of it would go");
    assert!((40..=60).contains(&brake.bytes_percent), "{brake:?}");
    let held = scene.repository.prune(&order, &scene.eye).expect("held");
    assert_eq!((held.held, held.marked.packs), (Some(brake), 0));
    assert!(scene.prune().marked.packs > 0, "with a person's word");
}

#[test]
fn clocks_that_differ_stop_a_sweep() {
    let scene = Scene::new();
    let records: Vec<_> = (1..=2).map(|n| scene.back_up(&generation(n), n, n.into())).collect();
    scene.retire(&[&records[0]]);
    scene.prune();
    scene.clock(30 * HOUR);
    scene.disk.set_time(at(29 * HOUR));
    assert!(matches!(scene.try_prune(), Err(RepositoryError::Prune(PruneError::ClocksDiffer { .. }))));
    assert_eq!(scene.trash(), 0);
    scene.clock(-HOUR);
    assert!(matches!(scene.try_prune(), Err(RepositoryError::Prune(PruneError::ClockWentBack { .. }))));
    scene.clock(30 * HOUR);
    assert!(scene.prune().swept.packs > 0);
}

#[test]
fn young_garbage_is_left_for_the_next_attempt_of_the_backup_that_made_it() {
    let mut scene = Scene::new();
    scene.settings.young = PruneSettings::default().young;
    scene.back_up(&generation(1), 1, 1);
    let domain = scene.keys.domain_keys(&source());
    let orphans = archive(&scene.repository, &domain, &generation(9), 4);
    send(&scene.repository, &domain, &orphans.segments).expect("sent");
    let report = scene.prune();
    assert_eq!((report.plan.dead.packs, report.marked.packs), (0, 0));
    assert_eq!(report.plan.young.packs as usize, orphans.segments.len());
    scene.clock(4 * DAY);
    assert_eq!(scene.prune().marked.packs as usize, orphans.segments.len());
}

#[test]
fn a_running_backup_goes_on_with_what_it_was_told_of_and_the_mark_waits_for_it() {
    let scene = Scene::new();
    let (old, new) = (generation(1), generation(2));
    let first = scene.back_up(&old, 1, 1);
    let second = scene.back_up(&generation(50), 2, 2);
    let domain = scene.keys.domain_keys(&source());
    let running = scene.work("job-3", WorkKind::Backup, &[]);
    let archive = archive_reusing(&scene.repository, &domain, &old, 4).expect("planned");
    assert!(archive.segments.is_empty(), "everything is there already");

    scene.retire(&[&first]);
    assert!(scene.prune().marked.packs > 0);
    let refs = archive.draft.refs.clone().expect("not failed");
    let missing = scene.repository.resolve(&refs.domain(), &refs).expect("resolved");
    assert!(!missing.is_empty(), "for others it is not there");
    let missing = scene.repository.resolve_for(running.id(), &refs.domain(), &refs).expect("resolved");
    assert!(missing.is_empty(), "for the running backup it is");

    scene.clock(48 * HOUR);
    let waiting = scene.prune().waiting.expect("it waits");
    assert_eq!(waiting.waits_for.iter().map(|work| work.id.to_string()).collect::<Vec<_>>(), ["job-3"]);
    let name = scene.repository.reserve_name(at(3), &Default::default()).expect("a name");
    let third = scene
        .repository
        .commit(&draft(name, "job-3", archive.draft), &scene.keys, at(3), &Unfenced)
        .expect("committed");
    running.end();
    let report = scene.prune();
    assert_eq!(report.swept.packs, 0, "all of it is needed again: {report:?}");
    scene.assert_intact(&[(&third, &old), (&second, &generation(50))]);

    // Who begins after a mark does not see it at all.
    scene.retire(&[&third]);
    scene.clock(96 * HOUR);
    assert!(scene.prune().marked.packs > 0);
    let fourth = scene.back_up(&new, 4, 4);
    scene.clock(144 * HOUR);
    assert!(scene.prune().swept.packs > 0);
    scene.clock(30 * DAY);
    assert!(scene.prune().deleted.packs > 0);
    scene.assert_intact(&[(&fourth, &new), (&second, &generation(50))]);
}

/// Does something as soon as every backup was read.
struct Meanwhile<'a, F: Fn()>(&'a Eye, F);

impl<F: Fn()> Watch for Meanwhile<'_, F> {
    fn now(&self) -> jiff::Timestamp {
        self.0.now()
    }

    fn may_write(&self) -> Result<(), LeaseError> {
        self.0.may_write()
    }

    fn done(&self, step: PruneStep) {
        if step == PruneStep::Walked {
            self.1();
        }
    }
}

#[test]
fn a_backup_that_was_committed_a_moment_ago_keeps_its_blobs_though_no_list_shows_it() {
    let scene = Scene::new();
    let old = generation(1);
    let first = scene.back_up(&old, 1, 1);
    let second = scene.back_up(&generation(50), 2, 2);
    let domain = scene.keys.domain_keys(&source());
    let running = std::cell::RefCell::new(Some(scene.work("job-3", WorkKind::Backup, &[])));
    let archive = archive_reusing(&scene.repository, &domain, &old, 4).expect("planned");
    let name = scene.repository.reserve_name(at(3), &Default::default()).expect("a name");
    let draft = draft(name, "job-3", archive.draft);
    scene.retire(&[&first]);
    assert!(scene.prune().marked.packs > 0);
    scene.clock(26 * HOUR);
    let third = std::cell::RefCell::new(None);
    let meanwhile = Meanwhile(&scene.eye, || {
        scene.disk.set_lag(true);
        let committed = scene.repository.commit(&draft, &scene.keys, at(3), &Unfenced);
        *third.borrow_mut() = Some(committed.expect("committed"));
        running.borrow_mut().take();
    });
    let report = scene.repository.prune(&scene.order(), &meanwhile).expect("pruned");
    assert!(report.waiting.is_none(), "the mark was due: {report:?}");
    scene.disk.set_lag(false);
    let third = third.into_inner().expect("committed");
    scene.assert_intact(&[(&third, &old), (&second, &generation(50))]);
}

#[test]
fn a_backup_that_is_being_read_or_was_pinned_is_not_retired() {
    let scene = Scene::new();
    let records: Vec<_> = (1..=2).map(|n| scene.back_up(&generation(n), n, n.into())).collect();
    let restore = scene.work("job-9", WorkKind::Restore, std::slice::from_ref(&records[0].name));
    scene.repository.set_pin(&records[1].name, Some("keep"), &scene.keys, at(5)).expect("pinned");
    let report = scene.retire(&[&records[0], &records[1]]);
    assert_eq!((report.retired.len(), report.in_use.len(), report.pinned.len()), (0, 1, 1));
    drop(restore);
    assert_eq!(scene.retire(&[&records[0]]).retired.len(), 1);
}

#[test]
fn small_and_mostly_dead_packs_become_few_and_every_blob_keeps_its_address() {
    let scene = Scene::new();
    let files: Vec<Files> = (1..=8).map(generation).collect();
    let records: Vec<_> = (1..=8).map(|n| scene.back_up(&files[n as usize - 1], n, n.into())).collect();
    scene.retire(&records[..6].iter().collect::<Vec<_>>());
    let kept: Vec<_> = records[6..].iter().zip(&files[6..]).collect();
    let addresses = |repository: &Repository| -> Vec<_> {
        kept.iter().map(|(record, _)| repository.refs(record, &source()).expect("read").encode()).collect()
    };
    let (before, refs) = (scene.packs(), addresses(&scene.repository));
    let report = scene.prune_now();
    assert!(report.copied.packs > 0, "{report:?}");
    assert!(scene.packs() * 2 < before, "{} packs are left of {before}", scene.packs());
    assert_eq!(addresses(&scene.reopened()), refs);
    scene.assert_intact(&kept);
    let again = scene.prune_now();
    assert_eq!((again.copied.packs, again.marked.packs), (0, 0), "{again:?}");
    let ninth = scene.back_up(&generation(9), 9, 9);
    let mut all = kept.clone();
    let files = generation(9);
    all.push((&ninth, &files));
    scene.assert_intact(&all);
}

#[test]
fn a_pack_that_is_copied_together_has_parity_and_none_stays_behind_without_its_pack() {
    let mut scene = Scene::new();
    Arc::get_mut(&mut scene.repository).expect("nobody else has it").set_parity(Strength::percent(10));
    let files: Vec<Files> = (1..=8).map(generation).collect();
    let records: Vec<_> = (1..=8).map(|n| scene.back_up(&files[n as usize - 1], n, n.into())).collect();
    scene.retire(&records[..6].iter().collect::<Vec<_>>());
    assert!(scene.prune_now().copied.packs > 0);
    let mut beside = (Vec::new(), Vec::new());
    for folder in scene.disk.list(Some(&layout::packs())).expect("listed") {
        for listed in scene.disk.list(Some(&layout::packs().join(&folder.name))).expect("listed") {
            match listed.name.strip_suffix(".par") {
                Some(pack) => beside.1.push(pack.to_owned()),
                None => beside.0.push(listed.name),
            }
        }
    }
    assert!(!beside.0.is_empty());
    assert_eq!(beside.0, beside.1, "a parity file beside each pack, and no other");
}

/// Two backups are left of eight, and what they need was copied together an hour later.
struct Merged {
    scene: Scene,
    kept: [(BackupRecord, Files); 2],
    /// The packs that it was copied to.
    merged: Vec<ObjectPath>,
}

fn merged() -> Merged {
    let scene = Scene::new();
    let mut all: Vec<(BackupRecord, Files)> =
        (1..=8).map(|n| (scene.back_up(&generation(n), n, n.into()), generation(n))).collect();
    let kept = all.split_off(6).try_into().expect("two");
    scene.retire(&all.iter().map(|(record, _)| record).collect::<Vec<_>>());
    let before = packs_in(&scene, &layout::packs());
    scene.clock(HOUR);
    assert!(scene.prune().copied.packs > 0);
    let mut merged = packs_in(&scene, &layout::packs());
    merged.retain(|pack| !before.contains(pack));
    assert!(!merged.is_empty());
    Merged { scene, kept, merged }
}

#[test]
fn what_lies_sound_in_the_trash_comes_back_when_the_pack_that_took_it_over_rots() {
    for is_whole in [true, false] {
        let Merged { scene, kept, merged } = merged();
        scene.clock(26 * HOUR);
        scene.prune();
        assert!(scene.trash() > 0);
        // The merged packs rot, and somebody notices.
        let rot = |path: &ObjectPath| {
            let mut bytes = scene.disk.read(path, 1 << 20).expect("read");
            *bytes.last_mut().expect("not empty") ^= 1;
            scene.disk.replace(path, &bytes).expect("damaged");
        };
        merged.iter().for_each(rot);
        let verdict = |path: &ObjectPath| PackVerdict {
            pack: path.as_str().rsplit('/').next().expect("a name").parse().expect("a pack's"),
            is_sound: false,
        };
        scene.repository.keep_verdicts(&merged.iter().map(verdict).collect::<Vec<_>>()).expect("kept");
        if !is_whole {
            packs_in(&scene, &layout::trash()).iter().for_each(rot);
        }
        scene.clock(12 * DAY);
        let report = scene.prune();
        assert_eq!(report.brought_back > 0, is_whole, "{report:?}");
        if is_whole {
            scene.assert_intact(&kept.each_ref().map(|(record, files)| (record, files)));
        }
    }
}

#[test]
fn a_pack_that_rots_before_anybody_notices_is_read_around_while_its_sources_are_there() {
    let Merged { scene, kept, merged } = merged();
    for path in &merged {
        let length = scene.disk.size(path).expect("there");
        scene.disk.replace(path, &vec![0; length as usize]).expect("damaged");
    }
    for repository in [&scene.repository, &scene.reopened()] {
        for (record, files) in &kept {
            assert_holds(repository, &scene.keys, record, files);
        }
    }
}

/// The packs in the folders below this one.
fn packs_in(scene: &Scene, folder: &ObjectPath) -> Vec<ObjectPath> {
    let mut found = Vec::new();
    for below in scene.disk.list(Some(folder)).expect("listed") {
        let below = folder.join(&below.name);
        let listed = scene.disk.list(Some(&below)).expect("listed");
        found.extend(listed.iter().map(|listed| below.join(&listed.name)));
    }
    found
}

#[test]
fn a_damaged_pack_is_not_copied_from() {
    let scene = Scene::new();
    let records: Vec<_> = (1..=6).map(|n| scene.back_up(&generation(n), n, n.into())).collect();
    let folder = scene.disk.list(Some(&layout::packs())).expect("listed").remove(0).name;
    let folder = layout::packs().join(folder);
    let damaged = folder.join(&scene.disk.list(Some(&folder)).expect("listed")[0].name);
    let mut bytes = scene.disk.read(&damaged, 1 << 20).expect("read");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    scene.disk.replace(&damaged, &bytes).expect("damaged");
    for _ in 0..3 {
        scene.prune_now();
    }
    assert_eq!(scene.disk.read(&damaged, 1 << 20).expect("still there"), bytes);
    let marks = scene.disk.list(Some(&layout::quarantine())).expect("listed");
    assert_eq!(marks.len(), 1);
    let told: usize = records
        .iter()
        .map(|record| findings(&scene.repository, Some(&scene.keys), record, Depth::Opened).len())
        .sum();
    assert!(told > 0, "the damage is found as before, and not copied under a right name");
}

#[test]
fn a_restore_without_a_lease_finds_what_moved_since_it_looked_it_up() {
    let scene = Scene::new();
    let files: Vec<Files> = (1..=6).map(generation).collect();
    let records: Vec<_> = (1..=6).map(|n| scene.back_up(&files[n as usize - 1], n, n.into())).collect();
    let open =
        || ArchiveReader::open(&scene.repository, &scene.keys, &records[5], &source()).expect("opened");
    let (mut during, mut after) = (open(), open());
    scene.retire(&records[..5].iter().collect::<Vec<_>>());
    scene.prune();
    scene.clock(26 * HOUR);
    assert!(scene.prune().swept.packs > 0);
    let expected: Vec<_> = files[5].iter().map(|(path, bytes)| ((*path).to_owned(), bytes.clone())).collect();
    assert_eq!(read_with(&mut during), expected, "from the trash");
    scene.clock(20 * DAY);
    assert!(scene.prune().deleted.packs > 0);
    assert_eq!(read_with(&mut after), expected, "from where the index of now says");
}

fn read_with(reader: &mut ArchiveReader) -> Vec<(String, Vec<u8>)> {
    use repository::archive::entry::EntryKind;
    let entries: Vec<_> = reader.entries().expect("listed").collect::<Result<_, _>>().expect("read");
    let mut files = Vec::new();
    for entry in entries {
        let EntryKind::File(content) = &entry.kind else { continue };
        let pieces = reader.pieces(&content.pieces).expect("read");
        let bytes = pieces.iter().flat_map(|piece| reader.piece(piece).expect("read").to_vec()).collect();
        files.push((entry.path.to_string(), bytes));
    }
    files
}

#[test]
fn what_a_writer_that_overslept_committed_is_brought_back_from_the_trash() {
    let scene = Scene::new();
    let files: Vec<Files> = (1..=2).map(|n| generation(20 * n)).collect();
    let records: Vec<_> = (1..=2).map(|n| scene.back_up(&files[n as usize - 1], n, n.into())).collect();
    let folder = layout::backup(&records[0].name);
    let names = ["backup.json", "SHA256SUMS", "RESTORE.md", "models/models.json", "models/models.refs"];
    let object = |name: &str| ObjectPath::new(format!("{folder}/{name}"));
    let kept: Vec<_> =
        names.iter().map(|name| (*name, scene.disk.read(&object(name), 1 << 20).expect("read"))).collect();
    scene.retire(&[&records[0]]);
    scene.prune();
    scene.clock(26 * HOUR);
    assert!(scene.prune().swept.packs > 0);
    // As if it had been committed only now.
    scene.disk.delete(&layout::retired(1)).expect("deleted");
    kept.iter().for_each(|(name, bytes)| scene.disk.create(&object(name), bytes).expect("written"));
    let scene = Scene { repository: scene.reopened(), ..scene };
    let report = scene.prune();
    assert!(report.brought_back > 0, "{report:?}");
    scene.clock(30 * DAY);
    scene.prune();
    scene.assert_intact(&[(&records[0], &files[0]), (&records[1], &files[1])]);
}

#[test]
fn on_a_full_disk_the_ballast_makes_room_and_comes_back() {
    let mut scene = Scene::new();
    scene.settings.ballast = 4_000;
    let files: Vec<Files> = (1..=4).map(generation).collect();
    let records: Vec<_> = (1..=4).map(|n| scene.back_up(&files[n as usize - 1], n, n.into())).collect();
    scene.disk.set_capacity(1 << 20);
    scene.prune();
    assert_eq!(scene.disk.size(&layout::ballast()).expect("made"), 4_000);

    scene.disk.set_capacity(scene.disk.used());
    assert!(scene.disk.create(&ObjectPath::new("one-more"), b"x").is_err());
    scene.retire(&[&records[0], &records[1]]);
    let steps = scene.eye.steps.lock().expect("not poisoned").clone();
    assert!(steps.contains(&PruneStep::BallastReleased));
    let report = scene.prune_now();
    assert!(report.deleted.packs > 0, "{report:?}");
    scene.assert_intact(&[(&records[2], &files[2]), (&records[3], &files[3])]);
    scene.disk.set_capacity(1 << 20);
    scene.prune();
    assert_eq!(scene.disk.size(&layout::ballast()).expect("made again"), 4_000);
}

#[test]
fn without_a_byte_and_without_ballast_dead_packs_go_before_anything_is_written() {
    let scene = Scene::new();
    let files = generation(1);
    let record = scene.back_up(&files, 1, 1);
    let domain = scene.keys.domain_keys(&source());
    let orphans = archive(&scene.repository, &domain, &generation(9), 4);
    send(&scene.repository, &domain, &orphans.segments).expect("sent");
    let second = scene.back_up(&files, 2, 2);
    scene.disk.set_capacity(scene.disk.used());
    let report = scene.prune_now();
    assert_eq!(report.deleted.packs as usize, orphans.segments.len());
    assert!(scene.disk.free_space().expect("told").expect("limited") > 1_000);
    scene.assert_intact(&[(&record, &files), (&second, &files)]);
}

#[test]
fn on_a_real_disk_folders_and_packs_are_gone_and_every_name_is_still_the_sha256_of_its_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let (repository, keys) = init(LocalStore::open_or_make(folder.path()).expect("a store"));
    let files: Vec<Files> = (1..=6).map(generation).collect();
    let back_up =
        |n: u32| back_up_reusing(&repository, &keys, &files[n as usize - 1], n, n.into()).expect("committed");
    let records: Vec<_> = (1..=6).map(back_up).collect();
    let which: Vec<_> = records[..5].iter().map(|record| retirement(&record.name)).collect();
    let eye = Eye::at(at(HOUR));
    repository.retire(&which, &keys, &eye).expect("retired");
    let order = PruneOrder { now: true, approved: true, ..PruneOrder::default() };
    let report = repository.prune(&order, &eye).expect("pruned");
    assert!(report.deleted.packs > 5, "{report:?}");
    assert!(!folder.path().join(records[0].name.as_str()).exists());
    let listed = std::process::Command::new("find")
        .args(["repository/packs", "repository/trash", "-type", "f"])
        .current_dir(folder.path())
        .output()
        .expect("find runs");
    let names = String::from_utf8(listed.stdout).expect("ASCII");
    assert_eq!(
        names.lines().count() as u64,
        report.plan.total.packs - report.deleted.packs + report.copied.packs
    );
    for name in names.lines() {
        let sum =
            std::process::Command::new("sha256sum").arg(folder.path().join(name)).output().expect("runs");
        assert!(name.ends_with(&String::from_utf8_lossy(&sum.stdout)[..64]), "{name}");
    }
    let store = LocalStore::open(folder.path()).expect("a store");
    let reopened = Arc::new(Repository::open(Arc::new(store)).expect("opens"));
    assert_eq!(findings(&reopened, Some(&keys), &records[5], Depth::Opened), Vec::<String>::new());
    assert_holds(&reopened, &keys, &records[5], &files[5]);
}

#[test]
fn who_lost_the_right_to_write_takes_nothing_away() {
    let scene = Scene::new();
    let records: Vec<_> = (1..=2).map(|n| scene.back_up(&generation(n), n, n.into())).collect();
    scene.retire(&[&records[0]]);
    scene.prune();
    scene.clock(30 * HOUR);
    scene.eye.is_fenced.store(true, Ordering::SeqCst);
    let packs = scene.packs();
    assert!(matches!(scene.try_prune(), Err(RepositoryError::Fenced(_))));
    let which = [retirement(&records[1].name)];
    let refused = scene.repository.retire(&which, &scene.keys, &scene.eye);
    assert!(matches!(refused, Err(RepositoryError::Fenced(_))), "{refused:?}");
    assert_eq!((scene.packs(), scene.trash()), (packs, 0));
    assert_eq!(scene.repository.list().expect("listed").backups.len(), 1);
}

#[test]
fn a_second_run_at_the_same_time_is_refused() {
    struct Nosy<'a>(&'a Scene, std::cell::RefCell<Vec<String>>);
    impl Watch for Nosy<'_> {
        fn now(&self) -> jiff::Timestamp {
            self.0.eye.now()
        }
        fn may_write(&self) -> Result<(), LeaseError> {
            Ok(())
        }
        fn done(&self, _step: PruneStep) {
            let second = self.0.try_prune().expect_err("one at a time").to_string();
            self.1.borrow_mut().push(second);
        }
    }
    let scene = Scene::new();
    scene.back_up(&generation(1), 1, 1);
    let nosy = Nosy(&scene, Default::default());
    scene.repository.prune(&scene.order(), &nosy).expect("the first goes on");
    assert_eq!(nosy.1.into_inner(), ["backups are being retired or pruned already"]);
}

#[test]
fn a_lease_of_a_process_that_died_holds_a_mark_until_it_expires() {
    let scene = Scene::new();
    let records: Vec<_> = (1..=2).map(|n| scene.back_up(&generation(n), n, n.into())).collect();
    std::mem::forget(scene.work("job-7", WorkKind::Restore, &[]));
    let scene = Scene { repository: scene.reopened(), ..scene };
    scene.retire(&[&records[0]]);
    let order = PruneOrder { now: true, ..scene.order() };
    let report = scene.repository.prune(&order, &scene.eye).expect("marked");
    assert_eq!(report.waiting.expect("it waits").waits_for.len(), 1);
    assert_eq!(report.deleted.packs, 0);
    scene.clock(SignedDuration::from_hours(25).as_secs());
    assert!(scene.prune_now().deleted.packs > 0);
}
