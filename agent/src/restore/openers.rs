//! Threads that open blobs for a restore: unsealing, decompressing and hashing take longer than writing.
//!
//! Must stay true: a blob's bytes leave here only as proven as was asked for ([`Proven`]); no more blobs wait
//! here than were asked for within the restore's window; the threads end with what they serve.

use std::num::NonZeroUsize;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;

use bytes::Bytes;
use repository::read::{OpenError, Proven};

use super::map::BlobMap;

/// More threads than this would wait for the one that writes.
const MOST: usize = 4;

/// What will come of a blob.
pub(super) type Opening = Receiver<Result<Bytes, OpenError>>;

/// A sealed blob to be opened.
struct Job {
    index: usize,
    sealed: Bytes,
    reply: SyncSender<Result<Bytes, OpenError>>,
}

/// The threads, and the way to them.
pub(super) struct Openers {
    jobs: SyncSender<Job>,
    count: usize,
}

impl Openers {
    /// Starts a thread for each core, up to some.
    pub(super) fn start(map: &Arc<BlobMap>, proven: Proven) -> Self {
        let count = thread::available_parallelism().map_or(1, NonZeroUsize::get).min(MOST);
        let (jobs, taken) = sync_channel(count);
        let taken = Arc::new(Mutex::new(taken));
        for _ in 0..count {
            let (map, taken) = (Arc::clone(map), Arc::clone(&taken));
            thread::spawn(move || open(&map, &taken, proven));
        }
        Self { jobs, count }
    }

    /// As many blobs as are worth having in the works at once.
    pub(super) fn most(&self) -> usize {
        self.count * 2
    }

    /// Gives a blob to the next thread that is free.
    pub(super) fn open(&self, index: usize, sealed: Bytes) -> Opening {
        let (reply, opening) = sync_channel(1);
        self.jobs.send(Job { index, sealed, reply }).expect("the threads end after what sends to them");
        opening
    }
}

fn open(map: &BlobMap, jobs: &Mutex<Receiver<Job>>, proven: Proven) {
    loop {
        let next = jobs.lock().expect("nobody panics while waiting for a blob").recv();
        let Ok(Job { index, sealed, reply }) = next else { return };
        // A restore that has ended wants no answer.
        let _ = reply.send(map.open(index, sealed, proven).map(Bytes::from));
    }
}
