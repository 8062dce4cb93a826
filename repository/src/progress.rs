//! How long work tells how far it is, and how it is told to stop.

use std::sync::atomic::{AtomicBool, Ordering};

/// Hears how far work is. Called often; an implementation thins it out itself.
pub trait Progress: Send + Sync {
    /// `done` of `total` bytes.
    fn bytes(&self, done: u64, total: u64);
}

/// Nobody listens.
pub struct Silent;

impl Progress for Silent {
    fn bytes(&self, _done: u64, _total: u64) {}
}

/// Set once, from anywhere, to make work stop at its next step.
#[derive(Debug, Default)]
pub struct CancelFlag(AtomicBool);

impl CancelFlag {
    /// A flag that is not set.
    pub const fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Sets it.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// True once it was set.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
