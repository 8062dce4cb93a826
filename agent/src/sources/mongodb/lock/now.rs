//! How far a lock is, as its guard tells it and who reads hears it.
//!
//! Must stay true: nothing is called held to the end that is not known to have been.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How far a lock is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Now {
    Beginning,
    Refused(String),
    Held,
    /// For so long, and to the end; or not.
    Over(Result<Duration, Lost>),
    /// It is not known to be unlocked.
    Stuck,
}

/// Why a lock did not hold to the end.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Lost {
    /// It took too long.
    Late,
    /// Somebody else has unlocked it.
    Foreign,
    /// What may not be so the next time, or is not known.
    Once(String),
}

/// How a lock has ended.
pub(crate) enum Ended {
    /// It was held to the end, for so long.
    Held(Duration),
    /// Somebody may have written since.
    Lost(Lost),
    /// It held as long as all was read, and may be locked still: what to do.
    Stuck(String),
}

/// Told by the guard, heard by who reads.
pub(super) struct Shared {
    now: Mutex<Now>,
    changed: Condvar,
    /// What is known does not say that it was locked all the time.
    is_unsure: AtomicBool,
}

impl Shared {
    pub(super) fn new() -> Self {
        let (now, changed) = (Mutex::new(Now::Beginning), Condvar::new());
        Self { now, changed, is_unsure: AtomicBool::new(false) }
    }

    /// From now on nothing is known any more but what is counted.
    pub(super) fn be_unsure(&self) {
        self.is_unsure.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_unsure(&self) -> bool {
        self.is_unsure.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, now: Now) {
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = now;
        self.changed.notify_all();
    }

    pub(super) fn get(&self) -> Now {
        self.now.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What it is once `is_awaited` says so, or after so long.
    pub(super) fn await_that(&self, longest: Duration, is_awaited: impl Fn(&Now) -> bool) -> Now {
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(now, longest, |now| !is_awaited(now));
        waited.unwrap_or_else(PoisonError::into_inner).0.clone()
    }
}

/// Nobody can say.
pub(super) fn unsure() -> Lost {
    Lost::Once("whether it was locked all the time is not known".to_owned())
}
