//! A watcher of the calls that one thread makes: it sees each, and may have it fail.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use rustix::io::Errno;

use super::Call;

/// What is to become of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is made.
    Make,
    /// It is not made; this error is the answer.
    Refuse(Errno),
    /// It is made; this error is the answer all the same.
    LoseAnswer(Errno),
    /// It is not made, and success is the answer: a program that forgot it. For syncs alone.
    Forget,
}

/// Sees the calls of the thread that it watches.
pub trait Watcher {
    /// Asked before each.
    fn verdict(&self, call: &Call<'_>) -> Verdict;

    /// Told of each that was made and succeeded.
    fn made(&self, call: &Call<'_>);
}

thread_local! {
    static WATCHER: RefCell<Option<Rc<dyn Watcher>>> = const { RefCell::new(None) };
}

/// Runs `act` with `watcher` watching this thread.
pub fn watched<T>(watcher: Rc<dyn Watcher>, act: impl FnOnce() -> T) -> T {
    struct Restored(Option<Rc<dyn Watcher>>);
    impl Drop for Restored {
        fn drop(&mut self) {
            WATCHER.set(self.0.take());
        }
    }
    let _restored = Restored(WATCHER.replace(Some(watcher)));
    act()
}

pub(super) fn seen<T>(call: Call<'_>, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    through_watcher(&call, act, || panic!("{call:?} cannot be forgotten: it has an answer"))
}

pub(super) fn seen_sync(call: Call<'_>, act: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    through_watcher(&call, act, || ())
}

fn through_watcher<T>(
    call: &Call<'_>,
    act: impl FnOnce() -> io::Result<T>,
    forget: impl FnOnce() -> T,
) -> io::Result<T> {
    let Some(watcher) = WATCHER.with_borrow(Option::clone) else { return act() };
    let verdict = watcher.verdict(call);
    match verdict {
        Verdict::Refuse(error) => return Err(error.into()),
        Verdict::Forget => return Ok(forget()),
        Verdict::Make | Verdict::LoseAnswer(_) => {}
    }
    let answer = act()?;
    watcher.made(call);
    match verdict {
        Verdict::LoseAnswer(error) => Err(error.into()),
        _ => Ok(answer),
    }
}
