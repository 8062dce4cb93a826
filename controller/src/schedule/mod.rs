//! Schedules: what is to happen when, and the loop that sees to it.
//!
//! | module | what |
//! |---|---|
//! | [`times`] | cron texts in time zones, and what becomes of them where a clock leaps |
//! | [`plan`] | what a schedule does now: pure |
//! | [`defined`] | which schedules there are: those of the configuration, and those that were set |
//! | [`target`] | which backup is verified: pure |
//! | [`event`] | what nobody asked for and somebody has to know |
//! | [`keeper`] | the loop: looks at the clock, has jobs ordered, follows what was begun |
//!
//! Must stay true: what a schedule does is decided by [`plan`] alone, from the catalog and the clock, and
//! written down in the same transaction in which the job comes to be.

pub(crate) mod defined;
pub(crate) mod event;
pub(crate) mod keeper;
pub mod plan;
mod target;
pub mod times;

use std::sync::Arc;

use tokio::sync::{Mutex, MutexGuard, Notify};

/// What the loop shares with those who change schedules. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Scheduler {
    /// Wakes the loop: a job has ended, or a schedule was changed.
    wake: Arc<Notify>,
    /// Held while schedules are looked at or changed: a decision is of one state of them.
    turn: Arc<Mutex<()>>,
}

impl Scheduler {
    /// What wakes the loop.
    pub fn wake(&self) -> &Arc<Notify> {
        &self.wake
    }

    /// Keeps the loop, and others who change schedules, away until it is dropped.
    pub(crate) async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }
}
