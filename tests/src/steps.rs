//! Holds the built programs at named steps, through the files of `runtime::steps`.

use std::fs;
use std::path::{Path, PathBuf};

/// A step as a program's table has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedStep {
    /// Whose it is: `controller` or `agent`.
    pub program: &'static str,
    /// Its name.
    pub name: String,
    /// What has been done when it is reached.
    pub what: String,
}

/// The folder through which steps are held.
#[derive(Debug, Clone)]
pub struct Steps {
    folder: PathBuf,
}

impl Steps {
    /// The environment variable that tells a program of the folder.
    pub const FOLDER: &str = "NEURASHIELD_STEPS";

    /// Makes the folder.
    pub fn make(folder: &Path) -> Self {
        fs::create_dir(folder).expect("made");
        Self { folder: folder.to_owned() }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The table of a program that has been started.
    pub fn table(&self, program: &'static str) -> Vec<NamedStep> {
        let text = fs::read_to_string(self.folder.join(format!("{program}.steps"))).expect("a table");
        let step = |line: &str| {
            let (name, what) = line.split_once('\t').expect("a name and what it says");
            NamedStep { program, name: name.to_owned(), what: what.to_owned() }
        };
        text.lines().map(step).collect()
    }

    /// The next to reach `step` is held.
    pub fn ask(&self, step: &str) {
        self.order(step, "hold");
    }

    /// The next to reach `step` fails there.
    pub fn ask_to_fail(&self, step: &str) {
        self.order(step, "fail");
    }

    fn order(&self, step: &str, order: &str) {
        self.clear(step);
        let beside = self.folder.join(format!(".{step}.asked"));
        fs::write(&beside, order).expect("written");
        fs::rename(beside, self.file(step, "asked")).expect("renamed");
    }

    /// The process that is or was held at `step` since it was asked for.
    pub fn reached(&self, step: &str) -> Option<u32> {
        let text = fs::read_to_string(self.file(step, "reached")).ok()?;
        Some(text.parse().expect("a process id"))
    }

    /// True once the step is over and the program has gone on.
    pub fn is_passed(&self, step: &str) -> bool {
        self.file(step, "passed").exists()
    }

    /// True once nobody is held any more: who was has passed, or was given up.
    pub fn is_over(&self, step: &str) -> bool {
        self.is_passed(step) || self.file(step, "left").exists()
    }

    /// Lets go who is held.
    pub fn let_go(&self, step: &str) {
        fs::write(self.file(step, "go"), "").expect("written");
    }

    /// Nobody is held at `step` any more, nor will be, and nothing is known.
    pub fn give_up(&self, step: &str) {
        // Already claimed or never asked for, if it is not there.
        let _ = fs::remove_file(self.file(step, "asked"));
        // Who has claimed it says so before anything else.
        self.let_go(step);
        if self.reached(step).is_some() {
            // A process that was killed there is never over.
            let alive = |process: &u32| Path::new(&format!("/proc/{process}")).exists();
            crate::wait_for("the step to end", 30, || {
                let waits = !self.is_over(step) && self.reached(step).filter(alive).is_some();
                (!waits).then_some(())
            });
        }
        self.clear(step);
    }

    /// Nothing is asked for any more, and nothing known.
    pub fn clear(&self, step: &str) {
        for ending in ["asked", "reached", "go", "passed", "left"] {
            // Most of them are not there.
            let _ = fs::remove_file(self.file(step, ending));
        }
    }

    fn file(&self, step: &str, ending: &str) -> PathBuf {
        self.folder.join(format!("{step}.{ending}"))
    }
}
