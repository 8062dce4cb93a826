//! Places: how much of each kind of work is under way at once.
//!
//! Must stay true: a place is held by the thread that does the work and goes with it, not by the call: a
//! caller who hangs up, or who does not read its answers, gets nothing more under way than one who stays.
//! One agent can neither hold all places of all agents nor fill the controller's threads or memory.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A kind of work that holds a thread, and memory, for as long as it lasts.
#[derive(Debug, Clone, Copy)]
pub enum Work {
    /// A segment on its way into a pack.
    Upload,
    /// A list of the blobs of a domain: its tables are in memory.
    List,
    /// The end of an archive: its refs are in memory.
    End,
    /// An archive on its way back: it reads as it is asked.
    Read,
}

/// One of them, until it is dropped.
pub type Place = OwnedSemaphorePermit;

/// The places of one agent, or of all together.
#[derive(Debug)]
pub struct Places {
    uploads: Arc<Semaphore>,
    lists: Arc<Semaphore>,
    ends: Arc<Semaphore>,
    reads: Arc<Semaphore>,
}

impl Places {
    /// An agent works at two tasks at a time, each with two uploads or three streams back; as much again may
    /// still be ending when it has connected anew.
    pub fn of_an_agent() -> Self {
        Self::new(4, 2, 2, 12)
    }

    /// Uploads hold up to 4 MiB each, and 24 MiB more where the repository is in a bucket; ends up to 128 MiB.
    pub fn of_all() -> Self {
        Self::new(16, 8, 4, 96)
    }

    fn new(uploads: usize, lists: usize, ends: usize, reads: usize) -> Self {
        let [uploads, lists, ends, reads] =
            [uploads, lists, ends, reads].map(|places| Arc::new(Semaphore::new(places)));
        Self { uploads, lists, ends, reads }
    }

    /// Waits for a place.
    pub async fn take(&self, work: Work) -> Place {
        let places = match work {
            Work::Upload => &self.uploads,
            Work::List => &self.lists,
            Work::End => &self.ends,
            Work::Read => &self.reads,
        };
        places.clone().acquire_owned().await.expect("the semaphores are never closed")
    }
}
