//! The golden repository: made once by the first release of a format version and never again. Every later
//! build lists it, verifies it `opened` and restores it equal, and so does rescue.py.
//!
//! `NEURASHIELD_GOLDEN=FOLDER cargo test … --test golden` makes one by the programs as they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use tests::{Answer, System, programs, project};

const COMPONENT: &str = "golden";
/// One folder for each version of the format that must be read.
const VERSIONS: [&str; 1] = ["v1"];

fn run(command: &mut Command) -> Answer {
    Answer::of(&command.output().expect("it starts"))
}

fn tree(verb: &str, folder: &Path) -> String {
    run(Command::new("python3").arg(project().join("tests/golden/tree")).arg(verb).arg(folder)).expect(0).out
}

fn make(to: &Path) {
    let folder = tempfile::tempdir().expect("a folder");
    let source = folder.path().join("source");
    tree("make", &source);
    let mut system = System::start(&[(COMPONENT, &source)]);
    fs::create_dir_all(to).expect("made");
    for (name, verb) in [("first.txt", None), ("second.txt", Some("change"))] {
        if let Some(verb) = verb {
            tree(verb, &source);
        }
        system.run(&["backup"]);
        fs::write(to.join(name), tree("describe", &source)).expect("written");
    }
    system.kill_agent();
    system.kill_controller();
    let copy = to.join("repository");
    run(Command::new("cp").arg("-r").arg(system.repository()).arg(&copy)).expect(0);
    // What every release writes anew, and what only a running controller needs.
    for left_out in ["rescue", "lease", "staging"] {
        let left_out = copy.join("repository").join(left_out);
        if left_out.exists() {
            fs::remove_dir_all(left_out).expect("removed");
        }
    }
    fs::copy(system.recovery_key(), to.join("recovery-key.txt")).expect("copied");
}

struct Golden {
    folder: PathBuf,
    /// The programs get a copy: nothing may ever change the golden one.
    copy: TempDir,
}

impl Golden {
    fn of(version: &str) -> Self {
        let folder = project().join("tests/golden").join(version);
        let copy = tempfile::tempdir().expect("a folder");
        run(Command::new("cp").arg("-r").arg(folder.join("repository")).arg(copy.path())).expect(0);
        Self { folder, copy }
    }

    fn repository(&self) -> PathBuf {
        self.copy.path().join("repository")
    }

    fn key(&self) -> PathBuf {
        self.folder.join("recovery-key.txt")
    }

    /// The names of its backups, oldest first.
    fn backups(&self) -> [String; 2] {
        let entries = fs::read_dir(self.repository()).expect("listed");
        let names = entries.map(|entry| entry.expect("read").file_name().into_string().expect("text"));
        let mut names: Vec<_> = names.filter(|name| name != "repository").collect();
        names.sort();
        names.try_into().expect("two backups")
    }

    fn nsctl(&self, verb: &str, arguments: &[&str]) -> Answer {
        let mut command = Command::new(programs().join("nsctl"));
        command.args(["repository", verb, "--repository"]).arg(self.repository()).args(arguments);
        run(&mut command)
    }

    fn expected(&self, number: usize) -> String {
        fs::read_to_string(self.folder.join(["first.txt", "second.txt"][number])).expect("read")
    }
}

#[test]
fn the_golden_repository_is_listed_verified_and_restored_by_this_build() {
    if let Some(to) = std::env::var_os("NEURASHIELD_GOLDEN") {
        return make(Path::new(&to));
    }
    for version in VERSIONS {
        let golden = Golden::of(version);
        let key = golden.key();
        let key = ["--recovery-key-file", key.to_str().expect("text")];
        let listed = golden.nsctl("list", &[]).expect(0).out;
        golden.nsctl("check", &[&key[..], &["--depth", "opened"]].concat()).expect(0);
        for (number, backup) in golden.backups().iter().enumerate() {
            assert!(listed.contains(backup), "{version}: {backup} is not in {listed}");
            let to = golden.copy.path().join(backup);
            let arguments = ["--timestamp", backup, "--to", to.to_str().expect("text")];
            golden.nsctl("restore", &[&key[..], &arguments].concat()).expect(0);
            assert_eq!(tree("describe", &to.join(COMPONENT)), golden.expected(number), "{version}: {backup}");
        }
    }
}

#[test]
fn the_golden_repository_is_checked_and_restored_by_the_second_reader() {
    if std::env::var_os("NEURASHIELD_GOLDEN").is_some() {
        return;
    }
    let [python, program] = ["tests/rescue-python", "docs/rescue/rescue.py"].map(|path| project().join(path));
    let rescue = |arguments: &[&Path]| run(Command::new(&python).arg("-B").arg(&program).args(arguments));
    for version in VERSIONS {
        let golden = Golden::of(version);
        let (repository, key) = (golden.repository(), golden.key());
        let checked = rescue(&[Path::new("check"), &repository, &key]).expect(0);
        assert!(checked.out.ends_with("\ncheck: 0 findings\n"), "{checked:?}");
        for (number, backup) in golden.backups().iter().enumerate() {
            let to = golden.copy.path().join(backup);
            rescue(&[Path::new("restore"), &repository, &key, Path::new(backup), &to]).expect(0);
            let restored = tree("describe", &to.join(COMPONENT).join(COMPONENT));
            assert_eq!(restored, golden.expected(number), "{version}: {backup}");
        }
    }
}
