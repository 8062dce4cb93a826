//! Watchers of the calls that a local store makes: they forget, fail, or cut the power.
#![allow(unreachable_pub, dead_code)] // each test program compiles this module and uses its part

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use repository::store::calls::Call;
use repository::store::calls::watch::{Verdict, Watcher};
use rustix::io::Errno;

/// What a program forgets: it goes on as if it had been done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forgets {
    Nothing,
    FolderSyncs,
    FileSyncs,
    Syncs,
}

impl Forgets {
    pub fn verdict(self, call: &Call<'_>) -> Verdict {
        let forgotten = match call {
            Call::SyncFolder { .. } => matches!(self, Forgets::FolderSyncs | Forgets::Syncs),
            Call::SyncFile { .. } => matches!(self, Forgets::FileSyncs | Forgets::Syncs),
            _ => false,
        };
        if forgotten { Verdict::Forget } else { Verdict::Make }
    }
}

/// Where nothing needs to outlast the power, syncs only cost time.
pub fn without_syncs() -> Rc<dyn Watcher> {
    Rc::new(Forgetful(Forgets::Syncs))
}

/// Forgets and does nothing else.
#[derive(Debug)]
pub struct Forgetful(pub Forgets);

impl Watcher for Forgetful {
    fn verdict(&self, call: &Call<'_>) -> Verdict {
        self.0.verdict(call)
    }

    fn made(&self, _call: &Call<'_>) {}
}

/// How a disk fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// One call is not made.
    Once,
    /// One call is made, and its answer is an error.
    AnswerLost,
    /// One call is not made or, if it writes, made by half.
    Torn,
    /// From one call on nothing has room.
    Full,
    /// From one call on nothing works.
    Dead,
}

/// A disk that fails from its `nth` call on, counted from 1. Syncs that do not fail are not made.
#[derive(Debug)]
pub struct FailingDisk {
    failure: Failure,
    nth: usize,
    seen: Cell<usize>,
    came_to_pass: Cell<bool>,
}

impl FailingDisk {
    pub fn new(failure: Failure, nth: usize) -> Rc<Self> {
        Rc::new(Self { failure, nth, seen: Cell::new(0), came_to_pass: Cell::new(false) })
    }

    /// False if there were fewer calls.
    pub fn came_to_pass(&self) -> bool {
        self.came_to_pass.get()
    }
}

impl Watcher for FailingDisk {
    fn verdict(&self, call: &Call<'_>) -> Verdict {
        self.seen.set(self.seen.get() + 1);
        let (is_it, is_due) = (self.seen.get() == self.nth, self.seen.get() >= self.nth);
        let takes_room = matches!(
            call,
            Call::CreateFile { .. }
                | Call::Append { .. }
                | Call::MakeFolder { .. }
                | Call::Rename { .. }
                | Call::Link { .. }
        );
        let verdict = match self.failure {
            Failure::Once if is_it => Verdict::Refuse(Errno::IO),
            Failure::AnswerLost if is_it => Verdict::LoseAnswer(Errno::IO),
            Failure::Torn if is_it => {
                if let Call::Append { file, bytes } = call {
                    rustix::io::write(file, &bytes[..bytes.len() / 2]).expect("half of it is written");
                }
                Verdict::Refuse(Errno::IO)
            }
            Failure::Full if is_due && takes_room => Verdict::Refuse(Errno::NOSPC),
            Failure::Dead if is_due => Verdict::Refuse(Errno::IO),
            _ => return Forgets::Syncs.verdict(call),
        };
        self.came_to_pass.set(true);
        verdict
    }

    fn made(&self, _call: &Call<'_>) {}
}

/// Cuts the power before the `nth` call, counted from 1, and lets it be made on what is left.
pub struct Cut<F> {
    nth: usize,
    forgets: Forgets,
    seen: Cell<usize>,
    cut: RefCell<F>,
}

impl<F: FnMut()> Cut<F> {
    pub fn before(nth: usize, forgets: Forgets, cut: F) -> Rc<Self> {
        Rc::new(Self { nth, forgets, seen: Cell::new(0), cut: RefCell::new(cut) })
    }

    /// How many calls there were.
    pub fn seen(&self) -> usize {
        self.seen.get()
    }
}

impl<F: FnMut()> Watcher for Cut<F> {
    fn verdict(&self, call: &Call<'_>) -> Verdict {
        self.seen.set(self.seen.get() + 1);
        if self.seen.get() == self.nth {
            (self.cut.borrow_mut())();
        }
        self.forgets.verdict(call)
    }

    fn made(&self, _call: &Call<'_>) {}
}
