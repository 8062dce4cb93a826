//! `docs/rescue/rescue.py`, which shares no code with the programs, brings back what they wrote: byte for
//! byte, from the folder or from a copy of a bucket, with and without the index, and as much as can be had
//! when something is damaged.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tests::{Answer, Process, System, differences_between_folders, project};

const FAILED: i32 = 1;
const INCOMPLETE: i32 = 3;
const DAMAGED: i32 = 4;

/// Random trees of `tests/random-tree` that hold sparse files, hard links, fifos and attributes.
const SEEDS: [u32; 4] = [3, 5, 7, 8];

/// A repository with two backups that the programs made, the recovery key and the sources.
struct Scene {
    folder: PathBuf,
    backups: [String; 2],
}

/// Made once and only read: whoever damages it takes a copy.
fn scene() -> &'static Scene {
    static SCENE: OnceLock<Scene> = OnceLock::new();
    SCENE.get_or_init(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("rescue");
        if folder.exists() {
            fs::remove_dir_all(&folder).expect("the folder of the run before is gone");
        }
        let trees = folder.join("trees");
        fs::create_dir_all(&trees).expect("made");
        let names: Vec<_> =
            SEEDS.iter().map(|seed| format!("seed{seed}")).chain(["pages".to_owned()]).collect();
        let random = project().join("tests/random-tree");
        let seeds = SEEDS.map(|seed| seed.to_string());
        run(Command::new("python3").arg(random).arg("make").arg(&trees).args(seeds)).expect(0);
        make_pages(&trees.join("pages"));

        let paths: Vec<_> = names.iter().map(|name| (name.clone(), trees.join(name))).collect();
        let sources: Vec<_> = paths.iter().map(|(name, path)| (name.as_str(), path.as_path())).collect();
        let mut system = System::start(&sources);
        let backups =
            [(); 2].map(|()| system.run(&["backup"])["backup"].as_str().expect("a name").to_owned());
        system.kill_agent();
        system.kill_controller();
        copy(&system.repository(), &folder.join("repository"));
        fs::copy(system.recovery_key(), folder.join("key")).expect("copied");
        Scene { folder, backups }
    })
}

/// Enough for several pages (a page ends at 1 MiB) and several pieces, and names that are no text.
fn make_pages(folder: &Path) {
    fs::create_dir(folder).expect("made");
    for number in 0..600 {
        symlink("t".repeat(4000), folder.join(format!("link-{number:04}"))).expect("made");
    }
    let bytes = (0..1_500_000_u32).flat_map(|number| (number.wrapping_mul(2_654_435_761) >> 7).to_le_bytes());
    fs::write(folder.join("large"), bytes.collect::<Vec<_>>()).expect("written");
    fs::write(folder.join(OsString::from_vec(b"\xff\xfe no text".to_vec())), "small").expect("written");
}

fn run(command: &mut Command) -> Answer {
    Answer::of(&command.output().expect("it starts"))
}

fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").args(["-a", "--"]).args([from, to])).expect(0);
}

fn rescue(arguments: &[&str]) -> Answer {
    let [python, program] = ["tests/rescue-python", "docs/rescue/rescue.py"].map(|path| project().join(path));
    run(Command::new(python).arg("-B").arg(program).args(arguments))
}

impl Scene {
    /// A place for one test.
    fn place(&self, name: &str) -> PathBuf {
        let place = self.folder.join(name);
        fs::create_dir(&place).expect("made");
        place
    }

    /// A copy of the repository for one test.
    fn copy(&self, name: &str) -> PathBuf {
        let place = self.place(name).join("repository");
        copy(&self.folder.join("repository"), &place);
        place
    }

    fn restore(&self, repository: &Path, to: &str, what: &[&str]) -> (Answer, PathBuf) {
        let target = repository.parent().expect("in a folder").join(to);
        let key = self.folder.join("key");
        let mut arguments = vec!["restore", text(repository), text(&key), "latest", text(&target)];
        arguments.extend(what);
        (rescue(&arguments), target)
    }

    fn check(&self, repository: &Path) -> Answer {
        rescue(&["check", text(repository), text(&self.folder.join("key"))])
    }

    /// What differs between a source and what was restored of it.
    fn difference(&self, target: &Path, source: &str) -> Option<String> {
        let (left, right) = (self.folder.join("trees").join(source), target.join(source).join(source));
        differences_between_folders(&left, &right, &["--sockets-left-out"])
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// The largest pack of a repository: it holds the pieces of `pages/large`.
fn largest_pack(repository: &Path) -> PathBuf {
    let folders = fs::read_dir(repository.join("repository/packs")).expect("listed");
    let packs = folders.flat_map(|folder| fs::read_dir(folder.expect("read").path()).expect("listed"));
    let packs = packs.map(|pack| pack.expect("read").path());
    packs.max_by_key(|pack| pack.metadata().expect("there").len()).expect("a pack")
}

/// What lies in the repository after a year: backups retired and pruned, packs with parity, one of them damaged and
/// repaired, one damaged and left so.
#[test]
fn a_repository_that_was_pruned_and_repaired_comes_back_too_and_its_parity_disturbs_nobody() {
    let place = scene().place("lived-in");
    let data = place.join("data");
    fs::create_dir(&data).expect("made");
    fs::write(data.join("same"), vec![7; 90_000]).expect("written");
    let mut system = System::prepare(&[("models", &data)]);
    system.configure_controller("parity: 10%\n");
    system.start_controller();
    system.invite();
    system.start_agent();
    system.await_agent();
    for round in 0_u32..4 {
        let bytes = (0..250_000 + 100_000 * round)
            .flat_map(|number| (number.wrapping_mul(2_654_435_761 + 2 * round)).to_le_bytes());
        fs::write(data.join("weights"), bytes.collect::<Vec<_>>()).expect("written");
        fs::write(data.join(format!("round-{round}")), format!("{round}")).expect("written");
        system.run(&["backup"]);
    }
    system.nsctl(&["retention", "set", "--keep-last", "2", "--keep-complete", "1"]).expect(0);
    system.run(&["verify"]);
    system.run(&["retention", "apply", "--yes", "--approve"]);
    system.run(&["prune", "--now", "--yes", "--approve"]);
    system.kill_agent();
    // Stopped and not killed: it gives its lease back, so that a repair is let in.
    let mut controller = system.take(Process::Controller);
    let pid = rustix::process::Pid::from_child(&controller);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("stopped");
    assert!(controller.wait().expect("reaped").success());
    let repository = place.join("repository");
    copy(&system.repository(), &repository);
    let key = place.join("key");
    fs::copy(system.recovery_key(), &key).expect("copied");
    let parity =
        run(Command::new("find").arg(repository.join("repository")).args(["-path", "*.par", "-type", "f"]));
    assert!(!parity.out.is_empty(), "there is parity");

    let restored = |to: &str| {
        let target = place.join(to);
        rescue(&["restore", text(&repository), text(&key), "latest", text(&target)]).expect(0);
        assert_eq!(differences_between_folders(&data, &target.join("models/models"), &[]), None);
    };
    let check = || rescue(&["check", text(&repository), text(&key)]);
    let listed = rescue(&["list", text(&repository)]).expect(0).out;
    let ends = ["retired", "complete"].map(|end| listed.lines().filter(|line| line.contains(end)).count());
    assert_eq!(ends, [2, 2], "{listed}");
    assert!(check().expect(0).out.ends_with("\ncheck: 0 findings\n"));
    restored("pruned");

    // One byte of rot: told, and mended by who knows parity; rescue.py reads the mended pack.
    let pack = largest_pack(&repository);
    flip(&pack, pack.metadata().expect("there").len() as usize / 2);
    check().expect(DAMAGED);
    let words = ["repository", "check", "--repair", "--repository", text(&repository)];
    let words = [&words[..], &["--recovery-key-file", text(&key)]].concat();
    system.nsctl(&words).expect(0);
    assert!(check().expect(0).out.ends_with("\ncheck: 0 findings\n"));
    restored("mended");

    // Beyond its strength: what opens is saved in new packs, the rest is quarantined, and both readers name the
    // same entry.
    let mut bytes = fs::read(&pack).expect("read");
    let third = bytes.len() / 3;
    bytes[third..2 * third].fill(0);
    fs::write(&pack, bytes).expect("written");
    let repaired = system.nsctl(&words).expect(DAMAGED);
    assert!(repaired.out.contains("weights") || repaired.err.contains("weights"), "{repaired:?}");
    let checked = check().expect(DAMAGED);
    assert!(checked.err.contains("b'weights'"), "{checked:?}");
    let target = place.join("what-is-left");
    rescue(&["restore", text(&repository), text(&key), "latest", text(&target)]).expect(INCOMPLETE);
    assert!(!target.join("models/models/weights").exists(), "no wrong byte is restored");
}

fn flip(path: &Path, offset: usize) {
    let mut bytes = fs::read(path).expect("read");
    bytes[offset] ^= 1;
    fs::write(path, bytes).expect("written");
}

#[test]
fn a_fresh_repository_comes_back_byte_for_byte_and_has_no_findings() {
    let scene = scene();
    let repository = scene.folder.join("repository");
    let list = rescue(&["list", text(&repository)]).expect(0).out;
    for (line, backup) in list.lines().zip(&scene.backups) {
        assert!(line.contains(backup) && line.contains("complete") && line.contains("pages/pages"), "{list}");
    }
    let checked = scene.check(&repository).expect(0);
    assert!(checked.out.ends_with("\ncheck: 0 findings\n"), "{checked:?}");

    let (answer, target) = scene.restore(&repository, "restored", &[]);
    answer.expect(0);
    let sources: Vec<_> = fs::read_dir(scene.folder.join("trees")).expect("listed").collect();
    assert_eq!(sources.len(), SEEDS.len() + 1);
    for source in sources {
        let name = source.expect("read").file_name().into_string().expect("text");
        assert_eq!(scene.difference(&target, &name), None, "{name}");
    }
}

#[test]
fn a_copy_of_a_bucket_is_enough_and_so_are_packs_without_an_index() {
    let scene = scene();
    let repository = scene.place("bucket").join("repository");
    // A bucket keeps bytes and names: no modes, no times, no empty folders.
    let repository_before = scene.folder.join("repository");
    run(Command::new("cp").args(["-r", "--no-preserve=all", "--"]).args([&repository_before, &repository]))
        .expect(0);
    run(Command::new("find").arg(&repository).args(["-type", "d", "-empty", "-delete"])).expect(0);
    let (answer, target) = scene.restore(&repository, "by-index", &["pages", "seed5"]);
    answer.expect(0);
    assert_eq!(scene.difference(&target, "pages"), None);

    fs::remove_dir_all(repository.join("repository/index")).expect("removed");
    let (answer, target) = scene.restore(&repository, "by-packs", &["seed5/seed5"]);
    answer.expect(0);
    assert_eq!(scene.difference(&target, "seed5"), None);
    assert!(!target.join("pages").exists());
}

#[test]
fn one_path_comes_back_alone_and_one_that_is_not_there_is_told() {
    let scene = scene();
    let repository = scene.copy("paths");
    let (answer, target) = scene.restore(&repository, "one", &["pages/pages/large"]);
    answer.expect(0);
    let names: Vec<_> = fs::read_dir(target.join("pages/pages")).expect("listed").collect();
    assert_eq!(names.len(), 1, "{names:?}");
    assert_equal_bytes(&scene.folder.join("trees/pages/large"), &target.join("pages/pages/large"));

    let (answer, _) = scene.restore(&repository, "none", &["pages/pages/nothing"]);
    assert!(answer.err.contains("pages/pages/nothing"), "{answer:?}");
    answer.expect(FAILED);
}

fn assert_equal_bytes(left: &Path, right: &Path) {
    assert!(fs::read(left).expect("read") == fs::read(right).expect("read"), "{} differs", right.display());
}

#[test]
fn a_damaged_pack_costs_what_it_held_which_is_told_by_name_and_nothing_else() {
    let scene = scene();
    let repository = scene.copy("damaged");
    let pack = largest_pack(&repository);
    flip(&pack, pack.metadata().expect("there").len() as usize / 2);
    let checked = scene.check(&repository);
    let name = pack.file_name().expect("a name").to_str().expect("hex");
    for said in [name, "pages/pages: b'large' is damaged: 1 of its pieces"] {
        assert!(checked.err.contains(said), "{said} is not in {}", checked.err);
    }
    checked.expect(DAMAGED);

    let (answer, target) = scene.restore(&repository, "restored", &[]);
    assert!(answer.err.contains("pages/pages: b'large': "), "{answer:?}");
    answer.expect(INCOMPLETE);
    for seed in SEEDS {
        assert_eq!(scene.difference(&target, &format!("seed{seed}")), None);
    }
    let differs = scene.difference(&target, "pages").expect("one file is missing");
    assert!(
        differs.contains("'large': is only on the left") && differs.contains(", 1 differences"),
        "{differs}"
    );
}

#[test]
fn a_wrong_key_opens_nothing_and_a_changed_backup_or_configuration_is_refused() {
    let scene = scene();
    let repository = scene.copy("changed");
    let (key, target) = (repository.with_file_name("key"), repository.with_file_name("restored"));
    for (wrong, said) in [
        ("NSRK-0000-0000-0000-0000-0000-0000-0000-0000-0000-0000-0000-0000-0000-0000", "typing error"),
        ("another secret", "no recovery key"),
    ] {
        fs::write(&key, wrong).expect("written");
        let answer = rescue(&["restore", text(&repository), text(&key), "latest", text(&target)]);
        assert!(answer.err.contains(said), "{answer:?}");
        answer.expect(FAILED);
        assert!(!target.exists());
    }

    let newest = repository.join(&scene.backups[1]).join("backup.json");
    let honest = fs::read_to_string(&newest).expect("read");
    fs::write(&newest, honest.replace("\"complete\"", "\"incomplete\"")).expect("written");
    let checked = rescue(&["check", text(&repository)]);
    assert!(
        checked.err.contains(&format!(
            "backup {0}: {0}/backup.json is missing, damaged or not signed",
            scene.backups[1]
        )),
        "{checked:?}"
    );
    checked.expect(DAMAGED);

    let listed = rescue(&["list", text(&repository)]);
    for (name, opens) in [("config.json", true), ("config.copy.json", false)] {
        let config = repository.join("repository").join(name);
        let honest = fs::read_to_string(&config).expect("read");
        fs::write(&config, honest.replacen("\"required_features\"", "\"features\"", 1)).expect("written");
        let again = rescue(&["list", text(&repository)]);
        if opens {
            assert_eq!(again.out, listed.out, "the copy of config.json is as good");
        } else {
            assert!(again.err.contains("config.copy.json is missing, damaged or not signed"), "{again:?}");
            again.expect(FAILED);
        }
    }
    rescue(&["list"]).expect(2);
}

#[test]
fn hostile_archives_and_foreign_versions_are_refused() {
    let [python, program] = ["tests/rescue-python", "tests/rescue_test.py"].map(|path| project().join(path));
    let answer = run(Command::new(python).arg("-B").arg(program));
    assert!(answer.err.contains("\nOK"), "{}", answer.err);
    answer.expect(0);
}
