//! Real power cuts: ext4 and xfs on loop devices, ended by the file systems' shutdown call in the midst of a
//! controller's life. What was in no journal and on no disk by then is gone; after the next mount everything
//! that was told is true, and nothing needs a hand.
//!
//! Needs root, loop devices, `mkfs.ext4` and `mkfs.xfs`; without them it fails. `NEURASHIELD_CUTS=…` says
//! how many cuts each file system gets, `NEURASHIELD_FIRST_SEED=…` which.

mod story;
mod support;
mod watchers;

use std::cell::Cell;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use repository::store::calls::watch::watched;
use story::{Step, Told, World, local, story, survives};
use support::Dice;
use tempfile::TempDir;
use watchers::{Cut, Forgetful, Forgets};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ext4,
    Xfs,
}

/// What becomes of the journal when the power goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Journal {
    /// What it has not written is gone.
    Lost = 2,
    /// All names are there, and the bytes of files may be missing.
    Written = 1,
}

/// A file system in a file.
struct Disk {
    scratch: TempDir,
    kind: Kind,
    mounted: Option<Mounted>,
}

struct Mounted {
    at: PathBuf,
    root: File,
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("power cuts need {program}: {error}"));
    assert!(
        output.status.success(),
        "power cuts need root and loop devices; {program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

impl Disk {
    fn new(kind: Kind) -> Self {
        let scratch = tempfile::tempdir().expect("a folder");
        let disk = Self { scratch, kind, mounted: None };
        let image = File::create(disk.image()).expect("made");
        // mkfs.xfs makes none smaller; the file has holes.
        image.set_len(if kind == Kind::Xfs { 300 << 20 } else { 64 << 20 }).expect("grown");
        std::fs::create_dir(disk.mount_point()).expect("made");
        let program = if kind == Kind::Xfs { "mkfs.xfs" } else { "mkfs.ext4" };
        run(program, &["-q", text(&disk.image())]);
        disk
    }

    fn image(&self) -> PathBuf {
        self.scratch.path().join("image")
    }

    fn mount_point(&self) -> PathBuf {
        self.scratch.path().join("disk")
    }

    fn mount(&mut self) {
        let at = self.mount_point();
        run("mount", &["-o", "loop", text(&self.image()), text(&at)]);
        let root = File::open(&at).expect("opened");
        self.mounted = Some(Mounted { at, root });
    }

    fn unmount(&mut self) {
        if let Some(Mounted { at, root }) = self.mounted.take() {
            drop(root);
            run("umount", &[text(&at)]);
        }
    }

    /// An empty folder whose name is durable.
    fn folder(&self, name: &str) -> PathBuf {
        let mounted = self.mounted.as_ref().expect("mounted");
        let folder = mounted.at.join(name);
        std::fs::create_dir(&folder).expect("made");
        mounted.root.sync_all().expect("synced");
        folder
    }
}

/// Cuts the power once. From there on the disk answers with errors.
struct Switch {
    root: File,
    journal: Journal,
    is_cut: Cell<bool>,
}

impl Switch {
    fn cut(&self) {
        const SHUTDOWN: rustix::ioctl::Opcode = rustix::ioctl::opcode::read::<u32>(b'X', 125);
        if self.is_cut.replace(true) {
            return;
        }
        #[expect(unsafe_code, reason = "FS_IOC_SHUTDOWN has no safe name; it only reads the number given")]
        let answer = unsafe {
            let how = rustix::ioctl::Setter::<SHUTDOWN, u32>::new(self.journal as u32);
            rustix::ioctl::ioctl(&self.root, how)
        };
        answer.expect("the file system can be shut down");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(Mounted { at, root }) = self.mounted.take() {
            drop(root);
            Command::new("umount").arg(at).status().ok();
        }
    }
}

/// When the power goes.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// Before this call, counted from 1.
    Call(usize),
    /// Right after the answer to this step, counted from 0.
    Answer(usize),
}

/// Lives through `steps` until the power goes, then looks at what is left.
fn cut(
    disk: &mut Disk,
    name: &str,
    steps: &[Step],
    moment: Moment,
    journal: Journal,
    forgets: Forgets,
) -> Result<(), String> {
    disk.mount();
    let root = disk.folder(name);
    let handle = disk.mounted.as_ref().expect("mounted").root.try_clone().expect("a second handle");
    let switch = Rc::new(Switch { root: handle, journal, is_cut: Cell::new(false) });
    let nth = if let Moment::Call(nth) = moment { nth } else { usize::MAX };
    let mut world = World::default();
    let mut told = world.told.clone();
    let cut = switch.clone();
    watched(Cut::before(nth, forgets, move || cut.cut()), || {
        for (number, step) in steps.iter().enumerate() {
            // What is said without power is said to nobody: xfs takes a folder's sync that comes after the
            // shutdown for done, once it has dropped what was to be written.
            let mut tell = |now: &Told| {
                if !switch.is_cut.get() {
                    told = now.clone();
                }
            };
            if world.take(&local(&root), step, &mut tell).is_err() || switch.is_cut.get() {
                break;
            }
            if matches!(moment, Moment::Answer(answer) if answer == number) {
                switch.cut();
            }
        }
    });
    switch.cut();
    drop(switch);
    drop(world);
    disk.unmount();
    disk.mount();
    let answer = watched(Rc::new(Forgetful(Forgets::Syncs)), || survives(&local(&root), &told));
    std::fs::remove_dir_all(&root).expect("removed");
    disk.unmount();
    answer.map_err(|wrong| format!("{:?}, {moment:?}, journal {journal:?}: {wrong}", disk.kind))
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

fn calls_of(steps: &[Step]) -> usize {
    let root = tempfile::tempdir().expect("a folder");
    let counted = Cut::before(usize::MAX, Forgets::Syncs, || {});
    watched(counted.clone(), || {
        let mut world = World::default();
        for step in steps {
            world.take(&local(root.path()), step, &mut |_| {}).expect("nothing fails here");
        }
    });
    counted.seen()
}

fn cuts_on(kind: Kind) {
    let steps = story();
    let calls = calls_of(&steps);
    let mut disk = Disk::new(kind);
    let (first, count) = (number("NEURASHIELD_FIRST_SEED", 1), number("NEURASHIELD_CUTS", 10));
    let mut wrong = Vec::new();
    for seed in first..first + count {
        let mut dice = Dice::new(seed);
        // Half of them in the middle of something, half right after an answer.
        let moment = match dice.below(2) {
            0 => Moment::Call(1 + dice.below(calls)),
            _ => Moment::Answer(dice.below(steps.len())),
        };
        let journal = if dice.below(3) == 0 { Journal::Written } else { Journal::Lost };
        let answer = cut(&mut disk, &format!("seed{seed}"), &steps, moment, journal, Forgets::Nothing);
        wrong.extend(answer.err().map(|wrong| format!("seed {seed}: {wrong}")));
    }
    println!("{count} cuts on {kind:?}");
    assert!(wrong.is_empty(), "{} cuts are not survived:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn what_was_acknowledged_outlives_power_cuts_on_ext4() {
    cuts_on(Kind::Ext4);
}

#[test]
fn what_was_acknowledged_outlives_power_cuts_on_xfs() {
    cuts_on(Kind::Xfs);
}

/// The controls: what a cut right after the answer takes from a program that forgets to sync.
fn lost_without(kind: Kind, forgets: Forgets, last: &Step) -> String {
    let steps: Vec<Step> = story();
    let last = steps.iter().position(|step| step == last).expect("it is in the story");
    let answer =
        cut(&mut Disk::new(kind), "control", &steps[..=last], Moment::Answer(last), Journal::Lost, forgets);
    answer.expect_err("something is lost")
}

#[test]
fn without_the_syncs_of_folders_the_last_name_that_was_acknowledged_is_lost() {
    for kind in [Kind::Ext4, Kind::Xfs] {
        let lost = lost_without(kind, Forgets::FolderSyncs, &Step::Confirm);
        assert!(lost.contains("the confirmation of the recovery key is lost"), "{lost}");
    }
}

#[test]
fn without_any_sync_the_commit_that_was_acknowledged_is_lost() {
    let backup = story().into_iter().rfind(|step| matches!(step, Step::BackUp(..))).expect("one is there");
    for kind in [Kind::Ext4, Kind::Xfs] {
        let lost = lost_without(kind, Forgets::Syncs, &backup);
        assert!(!lost.is_empty());
    }
}
