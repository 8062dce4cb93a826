//! Thousands of generated hostile archives, restored beside a canary tree, and a thread that swaps folders
//! for links meanwhile: nothing outside of the target ever changes.
//!
//! `NEURASHIELD_ONSLAUGHT=long` runs all 5,000 archives and 10,000 swaps.

mod files_support;
mod hostile_support;

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use agent::targets::files::{
    Allowance, NoFaults, PathPatterns, Place, RestoreError, RestoreReport, RestoreRequest, Selection, Steps,
    Tools, plan, recover, restore, survey,
};
use agent::targets::{BlobReader, CancelFlag};
use files_support::{Archive, KEY, dense, look, request, without_root_time};
use hostile_support::*;
use repository::archive::entry::Entry;
use repository::archive::page::decode_page;
use repository::codec::Malformed;
use repository::content::ContentHasher;
use repository::ids::BlobId;

fn is_long() -> bool {
    std::env::var_os("NEURASHIELD_ONSLAUGHT").is_some_and(|form| form == "long")
}

/// Numbers that are the same for the same seed (SplitMix64).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())].clone()
    }
}

const PATHS: [&str; 20] = [
    "a",
    "a/b",
    "a/b/x",
    "a/x",
    "b",
    "b/x",
    "c",
    "c/x",
    "link",
    "link/x",
    "x",
    "passwd",
    "d0",
    "d0/x",
    "old",
    "lost+found",
    "z",
    "z/z",
    "z/z/z",
    ".neurashield-r",
];
const WRONG_PATHS: [&str; 12] = [
    "..",
    "../canary/x",
    "a/../../canary/x",
    "/etc/passwd",
    "//x",
    "a//x",
    "a/",
    "./a",
    "a/.",
    "a\0b",
    ".neurashield-r/journal",
    ".neurashield-evil/new/x",
];
const MODES: [u64; 12] =
    [0, 0o644, 0o755, 0o4755, 0o2755, 0o6777, 0o7777, 0o1777, 0o10_000, 0o100_644, u32::MAX as u64, u64::MAX];
const XATTRS: [&str; 7] = [
    "user.x",
    "security.capability",
    "security.selinux",
    "trusted.overlay.redirect",
    "system.posix_acl_access",
    "system.posix_acl_default",
    "nonsense",
];

/// A hostile archive: its page as bytes, and blobs that files may name.
struct Hostile {
    /// One, or one for each entry: then it is up to the restore alone to see that they do not fit.
    pages: Vec<Vec<u8>>,
    blobs: Archive,
}

fn content(dice: &mut Dice, blobs: &Archive, ids: &[BlobId]) -> Content {
    let place = dice.below(ids.len());
    let data = &blobs.blobs[&ids[place]];
    let size = data.len() as u64;
    let mut hasher = ContentHasher::new(&KEY);
    hasher.data(data);
    hasher.extent_ends(repository::archive::entry::Extent { offset: 0, length: size });
    let id = *hasher.finish(size).as_bytes();
    let sound = Content { size, id, extents: None, pieces: Pieces::Inline(vec![(place as u64, 0, size)]) };
    match dice.below(100) {
        0 => Content { id: [0; 32], ..sound },
        1 => Content { size: dice.of(&[u64::MAX, 1 << 63, i64::MAX as u64, 1 << 40, size + 1]), ..sound },
        2 => Content { pieces: Pieces::Inline(vec![(99, 0, size)]), ..sound },
        3 => Content { pieces: Pieces::Inline(vec![(place as u64, 1 << 31, size)]), ..sound },
        4 => Content { pieces: Pieces::Inline(vec![(place as u64, 0, u32::MAX.into())]), ..sound },
        5 => Content { pieces: Pieces::Listed(vec![place as u64]), ..sound },
        6 => Content { size: 1 << 62, pieces: Pieces::Listed(vec![place as u64; 3]), ..sound },
        7 => Content { extents: Some(vec![(0, size), (0, 1)]), ..sound },
        8 => Content { extents: Some(vec![(u64::MAX, size)]), ..sound },
        9 => Content { size: 1 << 62, extents: Some(vec![(1 << 61, size)]), ..sound },
        _ => sound,
    }
}

fn raw(dice: &mut Dice, canary: &Path, blobs: &Archive, ids: &[BlobId]) -> Raw {
    let path = if dice.once_in(80) { dice.of(&WRONG_PATHS) } else { dice.of(&PATHS) };
    let outside = canary.to_str().expect("text");
    let body = match dice.below(16) {
        0..=3 => Body::Folder,
        4..=8 => Body::File(content(dice, blobs, ids)),
        9 | 10 => Body::Symlink(
            dice.of(&[outside, "../../canary", "/", "..", "a", "/proc/self/cwd", "/etc/passwd"]).into(),
        ),
        11 => Body::HardLink(if dice.once_in(20) { dice.of(&WRONG_PATHS) } else { dice.of(&PATHS) }.into()),
        12 => Body::Fifo,
        13 => Body::Socket,
        14 => Body::Device { block: dice.once_in(2), major: dice.of(&[1, 8, u64::MAX]), minor: 3 },
        _ if dice.once_in(12) => Body::Unknown(dice.of(&[0, 9, 255])),
        _ => Body::Folder,
    };
    let mut raw = Raw::new(path, body);
    if dice.once_in(3) {
        raw.mode = if dice.once_in(40) { dice.of(&MODES) } else { MODES[dice.below(8)] };
    }
    if dice.once_in(4) {
        raw.owner = (dice.of(&[0, 1000, 65_534]), dice.of(&[0, 1000]));
    }
    if dice.once_in(40) {
        raw.mtime = (dice.of(&[i64::MIN, i64::MAX, -1, 0]), dice.of(&[0, 999_999_999, 1_000_000_000]));
    }
    while dice.once_in(4) {
        let (name, value) = (dice.of(&XATTRS), dice.of(&[&b""[..], b"1", &[1, 0, 0, 2, 0, 0, 0, 0, 0, 0]]));
        raw = raw.xattr(name, value);
    }
    if !dice.once_in(30) {
        raw.xattrs.sort();
        raw.xattrs.dedup_by(|one, other| one.0 == other.0);
    }
    raw
}

fn by_names(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect()
}

fn generate(dice: &mut Dice, canary: &Path) -> Hostile {
    let mut blobs = Archive::default();
    for text in ["one", "two two", "three three three"] {
        dense(&mut blobs, text.as_bytes());
    }
    let mut ids: Vec<BlobId> = blobs.blobs.keys().copied().collect();
    ids.sort();
    let count = 1 + dice.below(10);
    let mut entries: Vec<Raw> = (0..count).map(|_| raw(dice, canary, &blobs, &ids)).collect();
    if !dice.once_in(8) {
        entries.sort_by_key(|entry| by_names(&entry.path));
        if !dice.once_in(6) {
            entries.dedup_by(|one, other| one.path == other.path);
        }
        if !dice.once_in(6) {
            add_folders(&mut entries);
        }
    }
    if !dice.once_in(25) {
        entries.insert(0, Raw::folder(""));
    }
    let claimed = if dice.once_in(40) { dice.of(&[0, 1 << 32, u64::MAX]) } else { entries.len() as u64 };
    let mut pages = vec![page(&ids, &entries, claimed)];
    if dice.once_in(2) {
        pages = entries.iter().map(|entry| page(&ids, std::slice::from_ref(entry), 1)).collect();
    } else if dice.once_in(15) {
        let at = dice.below(pages[0].len());
        pages[0][at] ^= 1 << dice.below(8);
    }
    Hostile { pages, blobs }
}

/// What lies in no folder would be refused at once; most archives should come further.
fn add_folders(entries: &mut Vec<Raw>) {
    let folders: Vec<Vec<u8>> = entries
        .iter()
        .flat_map(|entry| {
            let slashes = entry.path.iter().enumerate().filter(|(_, byte)| **byte == b'/');
            slashes.map(|(at, _)| entry.path[..at].to_vec()).collect::<Vec<_>>()
        })
        .collect();
    for folder in folders {
        match entries.iter_mut().find(|entry| entry.path == folder) {
            Some(entry) => entry.body = Body::Folder,
            None => entries.push(Raw::new(folder, Body::Folder)),
        }
    }
    entries.sort_by_key(|entry| by_names(&entry.path));
}

impl Hostile {
    /// The entries of all pages, as far as they can be read.
    fn entries(&self) -> impl Iterator<Item = Result<Entry, Malformed>> {
        self.pages.iter().flat_map(|page| match decode_page(page) {
            Ok(entries) => entries.into_iter().map(Ok).collect::<Vec<_>>(),
            Err(error) => vec![Err(error)],
        })
    }

    fn restore(&self, request: &RestoreRequest, grants: bool) -> Result<RestoreReport, RestoreError> {
        let plan = plan(&survey(request, &KEY, self.entries())?);
        let allowance = if grants { Allowance::all(&plan) } else { Allowance::without_privileges(&plan) };
        let cancel = CancelFlag::default();
        let tools = Tools { id_key: &KEY, progress: &(), cancel: &cancel, steps: &NoFaults };
        restore(request, allowance, self.entries(), &mut Shelf(&self.blobs), tools)
    }
}

/// The archive's blobs; a hostile order of pieces is its own business.
struct Shelf<'a>(&'a Archive);

impl BlobReader for Shelf<'_> {
    fn hint(&mut self, _upcoming: &[BlobId]) {}

    fn blob(&mut self, id: &BlobId) -> Result<bytes::Bytes, agent::targets::BlobError> {
        self.0.blobs.get(id).cloned().ok_or(agent::targets::BlobError::Missing(*id))
    }
}

/// The live state that archives are let loose on: with links out of it, as a careless user has them.
fn make_live(home: &Path, canary: &Path) -> PathBuf {
    let live = home.join("space/live");
    fs::remove_dir_all(home.join("space")).ok();
    fs::create_dir_all(live.join("a/b")).expect("made");
    fs::create_dir_all(live.join("d0")).expect("made");
    for file in ["a/x", "a/b/x", "x", "d0/x"] {
        fs::write(live.join(file), "live").expect("written");
    }
    symlink(canary, live.join("c")).expect("made");
    symlink(canary.join("a"), live.join("link")).expect("made");
    live
}

/// Staging folders as somebody would plant them who wants to be believed.
fn plant(dice: &mut Dice, live: &Path, canary: &Path) {
    let planted = live.join(dice.of(&[".neurashield-r", ".neurashield-r.2", ".neurashield-p"]));
    if dice.once_in(3) {
        return symlink(canary, planted).expect("made");
    }
    fs::create_dir_all(planted.join("old")).expect("made");
    symlink(canary, planted.join("new")).expect("made");
    symlink(canary, planted.join("old/a")).expect("made");
    let moves = r#"{"move":{"area":0,"path":"a/x","put":true}}"#;
    let journal = format!("{{\"begin\":{{\"format\":1}}}}\n{moves}\n\"swapping\"\n");
    fs::write(planted.join("journal"), journal).expect("written");
    // Even one that is ours alone, and so believed, reaches nothing by its links.
    let mode = if dice.once_in(2) { 0o700 } else { 0o755 };
    fs::set_permissions(&planted, fs::Permissions::from_mode(mode)).expect("set");
}

fn place(dice: &mut Dice, live: &Path) -> Place {
    match dice.below(3) {
        0 => Place::InPlace { root: live.to_owned() },
        1 => Place::Listed { root: live.to_owned() },
        _ => Place::NewFolder { path: live.with_file_name("way").join("deep/new") },
    }
}

#[derive(Debug, Default)]
struct Tally {
    undecodable: u64,
    refused: u64,
    failed: u64,
    restored: u64,
    told: u64,
    planted: u64,
}

#[test]
fn generated_hostile_archives_change_nothing_outside_of_the_target() {
    let home = home();
    let canary = make_canary(home.path());
    let before = fingerprint(&canary);
    let mut tally = Tally::default();
    for seed in 0..if is_long() { 5_000 } else { 600 } {
        let what = format!("seed {seed}");
        let mut dice = Dice(seed);
        let hostile = generate(&mut dice, &canary);
        let live = make_live(home.path(), &canary);
        let is_planted = dice.once_in(8);
        if is_planted {
            plant(&mut dice, &live, &canary);
            tally.planted += 1;
        }
        let was = without_root_time(look(&live));
        let selection = match dice.once_in(4) {
            true => Selection::Paths(
                PathPatterns::new(&[dice.of(&["a/**", "**", "a", "z/z"]).into()]).expect("sound"),
            ),
            false => Selection::Whole,
        };
        let request = RestoreRequest { selection, ..request("r", place(&mut dice, &live)) };
        let ended = hostile.restore(&request, dice.once_in(2));
        match &ended {
            Ok(report) if report.notes.is_empty() => tally.restored += 1,
            Ok(_) => tally.told += 1,
            Err(RestoreError::Entries(_)) => tally.undecodable += 1,
            Err(RestoreError::Archive { .. } | RestoreError::Refused { .. }) => tally.refused += 1,
            Err(_) => tally.failed += 1,
        }
        assert_untouched(&canary, &before, &what);
        if ended.is_err() && !is_planted {
            assert!(
                without_root_time(look(&live)) == was,
                "{what}: {ended:?} and yet the live state changed"
            );
            assert_eq!(files_support::staging(&live), Vec::<String>::new(), "{what}: {ended:?}");
        }
        recover(&live, &NoFaults).ok();
        assert_untouched(&canary, &before, &format!("{what}, recovered"));
    }
    println!("{tally:?}");
    // Each kind of end is met often: the generator is hostile, and not only noise.
    let Tally { undecodable, refused, failed, restored, told, planted } = tally;
    assert!(
        [undecodable, refused, restored, told, planted].iter().all(|count| *count >= 50) && failed >= 10,
        "the generator has lost its teeth: {tally:?}"
    );
}

fn exchange(one: &Path, other: &Path) -> bool {
    let flags = rustix::fs::RenameFlags::EXCHANGE;
    rustix::fs::renameat_with(rustix::fs::CWD, one, rustix::fs::CWD, other, flags).is_ok()
}

/// A link of somebody who may change these folders, and is not whoever restores.
fn make_foreign_link(target: &Path, link: &Path) {
    symlink(target, link).expect("made");
    std::os::unix::fs::lchown(link, Some(12_345), None).expect("only root can restore among strangers");
}

/// Counts the steps of restores, so that the thread that swaps keeps pace with them.
struct Paced<'a>(&'a AtomicU64);

impl Steps for Paced<'_> {
    fn before(&self, _what: &'static str) -> std::io::Result<()> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// Exchanges folders for links to the canary and back, until told to stop; counts each exchange.
fn swap_folders(
    pairs: &[(PathBuf, PathBuf)],
    live: &Path,
    stop: &AtomicBool,
    tries: &AtomicU64,
    steps: &AtomicU64,
) {
    // Until the restore has gone on a little.
    let wait = || {
        let now = steps.load(Ordering::Relaxed);
        for _ in 0..200 {
            if steps.load(Ordering::Relaxed) > now + 1 {
                break;
            }
            std::thread::yield_now();
        }
    };
    let staging_links =
        ["new", "old", "late"].map(|name| (name, live.with_file_name(format!("link-{name}"))));
    while !stop.load(Ordering::Relaxed) {
        for (folder, link) in pairs {
            if exchange(folder, link) {
                tries.fetch_add(1, Ordering::Relaxed);
                wait();
                exchange(folder, link);
                wait();
            }
        }
        let Ok(names) = live.read_dir() else { continue };
        let staging = names.flatten().map(|entry| entry.path()).filter(|path| {
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".neurashield-"))
        });
        for staging in staging.collect::<Vec<_>>() {
            for (name, link) in &staging_links {
                if exchange(&staging.join(name), link) {
                    tries.fetch_add(1, Ordering::Relaxed);
                    wait();
                    exchange(&staging.join(name), link);
                }
            }
        }
    }
}

#[test]
fn a_thread_that_swaps_folders_for_links_achieves_nothing() {
    let home = home();
    let canary = make_canary(home.path());
    let before = fingerprint(&canary);
    let space = home.path().join("space");
    let live = space.join("live");
    for folder in ["a/b", "d0/inner", "d1/inner", "z"] {
        fs::create_dir_all(live.join(folder)).expect("made");
        fs::write(live.join(folder).join("x"), "then").expect("written");
    }
    fs::create_dir_all(space.join("way/deep")).expect("made");
    let archive = Archive::of(&live);
    let mut pairs: Vec<(PathBuf, PathBuf)> = Vec::new();
    for (n, (folder, outside)) in [
        ("live/a", "a"),
        ("live/a/b", "b"),
        ("live/d0", "d0"),
        ("live/d0/inner", "d1"),
        ("live", ""),
        ("way", ""),
        ("way/deep", "new"),
    ]
    .into_iter()
    .enumerate()
    {
        let link = space.join(format!("link-{n}"));
        make_foreign_link(&canary.join(outside), &link);
        pairs.push((space.join(folder), link));
    }
    for name in ["new", "old", "late"] {
        make_foreign_link(&canary.join(name), &space.join(format!("link-{name}")));
    }
    let wanted = if is_long() { 10_000 } else { 1_000 };
    let (stop, tries, steps) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let (mut good, mut noticed) = (0u64, 0u64);
    std::thread::scope(|scope| {
        scope.spawn(|| swap_folders(&pairs, &live, &stop, &tries, &steps));
        for round in 0u64.. {
            // How many of them are met is chance.
            let tried = tries.load(Ordering::Relaxed);
            if tried >= wanted && (noticed > 10 || tried >= 20 * wanted) {
                break;
            }
            let paths = |all: &[&str]| {
                let all: Vec<String> = all.iter().map(|path| (*path).to_owned()).collect();
                Selection::Paths(PathPatterns::new(&all).expect("sound"))
            };
            let (place, selection) = match round % 4 {
                0 => (Place::InPlace { root: live.clone() }, paths(&["a/b/x", "d0/inner/x"])),
                1 => (Place::Listed { root: live.clone() }, paths(&["a/b/x", "d0/inner/x", "d1/**"])),
                2 => {
                    (Place::NewFolder { path: space.join(format!("way/deep/new-{round}")) }, Selection::Whole)
                }
                _ => (Place::InPlace { root: live.clone() }, Selection::Whole),
            };
            let request = RestoreRequest { selection, ..request(&format!("s{round}"), place) };
            match archive.restore_with(&request, &Paced(&steps)) {
                Ok(_) => good += 1,
                Err(_) => noticed += 1,
            }
            recover(&live, &NoFaults).ok();
        }
        stop.store(true, Ordering::Relaxed);
    });
    println!("{} swaps: {good} restores went through, {noticed} met one and gave up", tries.into_inner());
    assert_untouched(&canary, &before, "after all swaps");
    assert!(good > 0 && noticed > 10, "the swaps have to be met: {good} and {noticed}");
}

/// Exchanges a folder for a link before one step of a restore, and back before a later one.
struct SwapAt<'a> {
    pair: &'a (PathBuf, PathBuf),
    from: u64,
    to: u64,
    steps: Cell<u64>,
    is_swapped: Cell<bool>,
}

impl SwapAt<'_> {
    fn exchange(&self) {
        let (folder, link) = self.pair;
        if exchange(folder, link) {
            self.is_swapped.set(!self.is_swapped.get());
        }
    }
}

impl Steps for SwapAt<'_> {
    fn before(&self, _what: &'static str) -> std::io::Result<()> {
        let step = self.steps.replace(self.steps.get() + 1);
        if step == self.from || (step == self.to && self.is_swapped.get()) {
            self.exchange();
        }
        Ok(())
    }
}

#[test]
fn a_folder_that_is_swapped_for_a_link_before_any_step_achieves_nothing() {
    let home = home();
    let canary = make_canary(home.path());
    let before = fingerprint(&canary);
    let space = home.path().join("space");
    let live = space.join("live");
    let make = || {
        fs::remove_dir_all(&space).ok();
        for folder in ["live/a/b", "live/d0/inner", "way/deep"] {
            fs::create_dir_all(space.join(folder)).expect("made");
            fs::write(space.join(folder).join("x"), "then").expect("written");
        }
    };
    make();
    let archive = Archive::of(&live);
    let staging = "live/.neurashield-s";
    let folders = [
        ("live", ""),
        ("live/a", "a"),
        ("live/a/b", "b"),
        ("live/d0/inner", "d1"),
        ("way", ""),
        ("way/deep", "new"),
    ];
    let of_staging =
        ["new", "old", "late", "new/a", "new/a/b"].map(|name| (format!("{staging}/{name}"), name));
    let all = folders.map(|(folder, outside)| (folder.to_owned(), outside)).into_iter().chain(of_staging);
    let stride = if is_long() { 1 } else { 9 };
    let (mut tries, mut noticed) = (0u64, 0u64);
    for (nth, (folder, outside)) in all.enumerate() {
        let pair = (space.join(&folder), space.join("link"));
        for kind in 0..4 {
            for from in (nth as u64 % stride..).step_by(stride as usize) {
                make();
                make_foreign_link(&canary.join(outside), &pair.1);
                let paths = PathPatterns::new(&["a/b/x".into(), "d0/inner/x".into()]).expect("sound");
                let (place, selection) = match kind {
                    0 => (Place::InPlace { root: live.clone() }, Selection::Paths(paths)),
                    1 => (Place::Listed { root: live.clone() }, Selection::Paths(paths)),
                    2 => (Place::NewFolder { path: space.join("way/deep/more/new") }, Selection::Whole),
                    _ => (Place::InPlace { root: live.clone() }, Selection::Whole),
                };
                let request = RestoreRequest { selection, ..request("s", place) };
                let to = from + 1 + from % 5;
                let steps =
                    SwapAt { pair: &pair, from, to, steps: Cell::new(0), is_swapped: Cell::new(false) };
                noticed += u64::from(archive.restore_with(&request, &steps).is_err());
                if steps.steps.get() <= from {
                    break;
                }
                tries += 1;
                if steps.is_swapped.get() {
                    steps.exchange();
                }
                recover(&live, &NoFaults).ok();
                assert_untouched(
                    &canary,
                    &before,
                    &format!("{folder} swapped before step {from}, kind {kind}"),
                );
            }
        }
    }
    println!("{tries} restores, each with a swap in it: {noticed} met it and gave up");
    assert!(tries > 50 && noticed > 2, "the swaps have to be met: {tries} and {noticed}");
}
