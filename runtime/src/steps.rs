//! Named steps, at which a test of failures holds a program so that a kill lands where it is meant to.
//!
//! A program has one table of its steps, made with [`named_steps!`](crate::named_steps). Its code says
//! [`reach`] at the end of each: the work of the step is done, and nothing that follows from it is. Only
//! if the environment names a folder in [`FOLDER`] does that mean anything; it is for tests and never set
//! in production. In that folder, for the step `s`:
//!
//! | file | by | what it says |
//! |---|---|---|
//! | `<program>.steps` | the program | its table, a line each |
//! | `s.asked` | the test | hold there; with the content `fail`: fail there instead |
//! | `s.reached` | the program | it is held there; the content is its process id |
//! | `s.go` | the test | go on |
//! | `s.passed` | the program | the step is over, and the program goes on |
//! | `s.left` | the program | who was held has been given up: whoever asked for its work has gone |
//!
//! Must stay true: where no folder is named, a step costs one relaxed load and can neither wait nor fail; a
//! request holds one thread, once; a process that nobody lets go goes on by itself after a while; `reached`
//! is durable before the wait and `passed` after it, so that a kill in between is proven by the files.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::atomic_file::{self, PRIVATE};

/// The environment variable that names the folder.
pub const FOLDER: &str = "NEURASHIELD_STEPS";

/// A test that let nobody go for this long has died.
const LONGEST: Duration = Duration::from_secs(120);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

static IS_ON: AtomicBool = AtomicBool::new(false);
static PLACE: OnceLock<PathBuf> = OnceLock::new();

/// A step of a program's table.
pub trait Named: Copy + 'static {
    /// The whole table.
    const ALL: &'static [Self];

    /// A name that can be a file's: small letters and `-`.
    fn name(self) -> &'static str;

    /// What has been done when it is reached.
    fn what(self) -> &'static str;
}

/// Makes a table of steps: an enum whose comments say what has been done when a step is reached.
#[macro_export]
macro_rules! named_steps {
    ($(#[$outer:meta])* $visibility:vis enum $Table:ident {
        $(#[doc = $what:literal] $Step:ident = $name:literal,)+
    }) => {
        $(#[$outer])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        $visibility enum $Table { $(#[doc = $what] $Step,)+ }

        impl $crate::steps::Named for $Table {
            const ALL: &'static [Self] = &[$(Self::$Step),+];

            fn name(self) -> &'static str {
                match self { $(Self::$Step => $name),+ }
            }

            fn what(self) -> &'static str {
                match self { $(Self::$Step => $what),+ }
            }
        }
    };
}

/// Makes `program`'s table known, and its steps able to hold it, if the environment names a folder. To be
/// called once, at the start.
pub fn offer<S: Named>(program: &str) -> io::Result<()> {
    let Some(folder) = std::env::var_os(FOLDER) else { return Ok(()) };
    let folder = PathBuf::from(folder);
    let line = |step: &S| format!("{}\t{}\n", step.name(), step.what().trim());
    let table: String = S::ALL.iter().map(line).collect();
    note(&folder.join(format!("{program}.steps")), &table)?;
    tracing::warn!(folder = %folder.display(), "steps can be held: this process serves a test of failures");
    if PLACE.set(folder).is_ok() {
        IS_ON.store(true, Ordering::Release);
    }
    Ok(())
}

/// The step's work is done. Blocks where a test holds it, and panics where a test lets it fail: for
/// threads of their own.
pub fn reach<S: Named>(step: S) {
    if let Some(held) = claimed(step) {
        held.keep().unwrap_or_else(|error| panic!("{error}"));
    }
}

/// As [`reach`], where a step that fails has an error to give.
pub fn try_reach<S: Named>(step: S) -> io::Result<()> {
    claimed(step).map_or(Ok(()), Held::keep)
}

/// As [`reach`], in asynchronous code.
pub async fn reached<S: Named>(step: S) {
    let Some(held) = claimed(step) else { return };
    held.begin().unwrap_or_else(|error| panic!("{error}"));
    let mut held = Dropped { held, is_over: false };
    while held.held.waits() {
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    held.is_over = true;
    held.held.end();
}

/// Who is held in asynchronous code, and may be dropped there.
struct Dropped {
    held: Held,
    is_over: bool,
}

impl Drop for Dropped {
    fn drop(&mut self) {
        if !self.is_over {
            self.held.note("left");
        }
    }
}

fn claimed<S: Named>(step: S) -> Option<Held> {
    if !IS_ON.load(Ordering::Relaxed) {
        return None;
    }
    Held::claim(PLACE.get()?, step.name())
}

/// A step that a test has asked for.
struct Held {
    folder: PathBuf,
    name: &'static str,
    fails: bool,
    since: Instant,
}

impl Held {
    /// `None` if nobody has asked for it, or another thread was the first.
    fn claim(folder: &Path, name: &'static str) -> Option<Self> {
        let asked = folder.join(format!("{name}.asked"));
        let order = fs::read_to_string(&asked).ok()?;
        fs::remove_file(&asked).ok()?;
        Some(Self { folder: folder.to_owned(), name, fails: order == "fail", since: Instant::now() })
    }

    fn keep(self) -> io::Result<()> {
        self.begin()?;
        while self.waits() {
            std::thread::park_timeout(LOOK_AGAIN);
        }
        self.end();
        Ok(())
    }

    fn begin(&self) -> io::Result<()> {
        self.note("reached");
        if self.fails {
            return Err(io::Error::other(format!("a test lets the step {} fail", self.name)));
        }
        Ok(())
    }

    fn waits(&self) -> bool {
        !self.file("go").exists() && self.since.elapsed() < LONGEST
    }

    fn end(&self) {
        self.note("passed");
    }

    fn file(&self, ending: &str) -> PathBuf {
        self.folder.join(format!("{}.{ending}", self.name))
    }

    fn note(&self, ending: &str) {
        if let Err(error) = note(&self.file(ending), &std::process::id().to_string()) {
            tracing::error!(%error, step = self.name, "the test of failures does not hear of a step");
        }
    }
}

fn note(file: &Path, text: &str) -> io::Result<()> {
    atomic_file::write(file, text.as_bytes(), PRIVATE).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    named_steps! {
        enum Step {
            /// The first thing is done.
            First = "first",
            /// The second one too.
            Second = "second",
        }
    }

    fn ask(folder: &Path, order: &str) {
        fs::write(folder.join("first.asked"), order).unwrap();
    }

    #[test]
    fn a_table_has_every_step_with_its_words() {
        assert_eq!(Step::ALL.iter().map(|step| step.name()).collect::<Vec<_>>(), ["first", "second"]);
        assert_eq!(Step::Second.what().trim(), "The second one too.");
    }

    #[test]
    fn nobody_is_held_where_no_folder_is_named() {
        reach(Step::First);
        try_reach(Step::First).unwrap();
    }

    #[test]
    fn a_held_step_is_reached_and_not_passed_until_it_is_let_go() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Held::claim(folder.path(), "first").is_none());
        ask(folder.path(), "");
        let held = Held::claim(folder.path(), "first").unwrap();
        assert!(Held::claim(folder.path(), "first").is_none(), "it holds one thread");
        let thread = std::thread::spawn(|| held.keep());
        let file = |ending: &str| folder.path().join(format!("first.{ending}"));
        while !file("reached").exists() {
            std::thread::yield_now();
        }
        assert_eq!(fs::read_to_string(file("reached")).unwrap(), std::process::id().to_string());
        assert!(!file("passed").exists());
        fs::write(file("go"), "").unwrap();
        thread.join().unwrap().unwrap();
        assert!(file("passed").exists());
    }

    #[tokio::test]
    async fn who_is_given_up_while_held_leaves_the_step_without_passing_it() {
        let folder = tempfile::tempdir().unwrap();
        ask(folder.path(), "");
        let held = Held::claim(folder.path(), "first").unwrap();
        held.begin().unwrap();
        drop(Dropped { held, is_over: false });
        assert!(folder.path().join("first.left").exists());
        assert!(!folder.path().join("first.passed").exists());
    }

    #[test]
    fn a_step_fails_where_a_test_wants_it_to() {
        let folder = tempfile::tempdir().unwrap();
        ask(folder.path(), "fail");
        assert!(Held::claim(folder.path(), "first").unwrap().keep().is_err());
        assert!(!folder.path().join("first.passed").exists());
    }
}
