//! Threads that open blobs before they are asked for: reading, unsealing, decompressing and hashing take longer
//! than whatever is done with the bytes.
//!
//! Must stay true: nothing depends on it. A blob that does not come from here, for whatever reason, is opened
//! by whoever wants it, and he tells what is wrong with it. Never more than [`Ahead::most`] blobs, none of them
//! larger than [`MAX_PLAIN`], are under way or wait to be asked for.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::content::IdKey;
use crate::ids::BlobId;
use crate::index::BlobPlace;
use crate::ingest::lock;
use crate::layout;
use crate::pack::seal::{BlobCipher, SegmentContext};
use crate::read::open_blob;
use crate::side_by_side::workers;
use crate::store::Store;

/// A blob that is larger is not opened here: usual ones have a few MiB at most.
pub(crate) const MAX_PLAIN: u32 = 8 << 20;

/// What is needed to open a blob.
pub(crate) struct Order {
    pub(crate) place: BlobPlace,
    pub(crate) context: SegmentContext,
    pub(crate) cipher: Arc<BlobCipher>,
}

struct Job {
    order: Order,
    reply: SyncSender<Option<Vec<u8>>>,
}

/// The blobs that will be asked for, in this order, and those that are being opened.
pub(crate) struct Ahead {
    jobs: SyncSender<Job>,
    expected: VecDeque<BlobId>,
    known: HashSet<BlobId>,
    under_way: HashMap<BlobId, Receiver<Option<Vec<u8>>>>,
    most: usize,
}

impl Ahead {
    /// Starts the threads. They end after it does.
    pub(crate) fn start(store: &Arc<dyn Store>, id_key: &IdKey) -> Self {
        let count = workers();
        let most = count + count / 2;
        let (jobs, taken) = sync_channel(most);
        let taken = Arc::new(Mutex::new(taken));
        for _ in 0..count {
            let (store, id_key, taken) = (Arc::clone(store), id_key.clone(), Arc::clone(&taken));
            thread::spawn(move || open(&*store, &id_key, &taken));
        }
        Self { jobs, expected: VecDeque::new(), known: HashSet::new(), under_way: HashMap::new(), most }
    }

    /// These will be asked for next, before what was expected so far.
    pub(crate) fn expect(&mut self, blobs: impl Iterator<Item = BlobId>) {
        let new: Vec<BlobId> = blobs.filter(|blob| self.known.insert(*blob)).collect();
        new.into_iter().rev().for_each(|blob| self.expected.push_front(blob));
    }

    /// The next blob that may be begun.
    pub(crate) fn next(&mut self) -> Option<BlobId> {
        if self.under_way.len() < self.most { self.expected.pop_front() } else { None }
    }

    /// Begins to open a blob that [`Self::next`] has named.
    pub(crate) fn begin(&mut self, order: Order) {
        let (reply, answer) = sync_channel(1);
        let id = order.place.line.id;
        self.jobs.send(Job { order, reply }).expect("the threads end after what sends to them");
        self.under_way.insert(id, answer);
    }

    /// The plaintext of a blob, if it was begun and opens.
    pub(crate) fn take(&mut self, blob: &BlobId) -> Option<Vec<u8>> {
        self.under_way.remove(blob)?.recv().ok()?
    }

    /// What was expected is not asked for any more.
    pub(crate) fn forget(&mut self) {
        self.expected.clear();
        self.known.clear();
        self.under_way.clear();
    }
}

fn open(store: &dyn Store, id_key: &IdKey, jobs: &Mutex<Receiver<Job>>) {
    loop {
        let next = lock(jobs).recv();
        let Ok(Job { order: Order { place, context, cipher }, reply }) = next else { return };
        let length = u64::from(place.line.stored_length);
        let sealed = store.read_range(&layout::pack(&place.pack), place.offset, length).ok();
        let opened = sealed.and_then(|sealed| {
            open_blob(&context, &cipher, place.address.ordinal, &place.line, sealed, id_key).ok()
        });
        // Whoever asked may have forgotten it.
        let _ = reply.send(opened);
    }
}
