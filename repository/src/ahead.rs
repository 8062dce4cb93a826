//! Threads that open blobs before they are asked for: reading, unsealing and decompressing take longer than whatever
//! is done with the bytes.
//!
//! Must stay true: nothing depends on it. A blob that does not come from here, for whatever reason, is opened
//! by whoever wants it, and he tells what is wrong with it. The id of data is left to whoever recomputes the id of
//! the whole content ([`Proven::ByContent`]). Never more than `most` blobs, none of them
//! larger than [`MAX_PLAIN`], are under way or wait to be asked for; when it is dropped, its threads have ended.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use crate::content::IdKey;
use crate::ids::BlobId;
use crate::index::BlobPlace;
use crate::ingest::lock;
use crate::layout;
use crate::pack::seal::{BlobCipher, SegmentContext};
use crate::read::{Proven, open_blob};
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
    /// Of which round of expectations it is.
    round: u64,
    reply: SyncSender<Option<Vec<u8>>>,
}

/// The blobs that will be asked for, in this order, and those that are being opened.
pub(crate) struct Ahead {
    /// Gone once no more come.
    jobs: Option<SyncSender<Job>>,
    threads: Vec<JoinHandle<()>>,
    expected: VecDeque<BlobId>,
    known: HashSet<BlobId>,
    under_way: HashMap<BlobId, Receiver<Option<Vec<u8>>>>,
    most: usize,
    /// Grows when what was expected is forgotten: the threads drop what is of an earlier one.
    round: Arc<AtomicU64>,
}

impl Ahead {
    /// Starts the threads.
    pub(crate) fn start(store: &Arc<dyn Store>, id_key: &IdKey) -> Self {
        let count = workers();
        let most = count + count / 2;
        let (jobs, taken) = sync_channel(most);
        let taken = Arc::new(Mutex::new(taken));
        let round = Arc::new(AtomicU64::new(0));
        let start = |_| {
            let (store, id_key, taken) = (Arc::clone(store), id_key.clone(), Arc::clone(&taken));
            let round = Arc::clone(&round);
            thread::spawn(move || open(&*store, &id_key, &taken, &round))
        };
        Self {
            jobs: Some(jobs),
            threads: (0..count).map(start).collect(),
            expected: VecDeque::new(),
            known: HashSet::new(),
            under_way: HashMap::new(),
            most,
            round,
        }
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
        let jobs = self.jobs.as_ref().expect("it goes only when this does");
        let round = self.round.load(Ordering::Relaxed);
        jobs.send(Job { order, round, reply }).expect("the threads end after what sends to them");
        self.under_way.insert(id, answer);
    }

    /// The plaintext of a blob, if it was begun and opens.
    pub(crate) fn take(&mut self, blob: &BlobId) -> Option<Vec<u8>> {
        self.under_way.remove(blob)?.recv().ok()?
    }

    /// What was expected is not asked for any more.
    pub(crate) fn forget(&mut self) {
        self.round.fetch_add(1, Ordering::Relaxed);
        self.expected.clear();
        self.known.clear();
        self.under_way.clear();
    }
}

/// Whoever is done with the store may unmount it: no thread goes on with it.
impl Drop for Ahead {
    fn drop(&mut self) {
        self.forget();
        drop(self.jobs.take());
        for thread in self.threads.drain(..) {
            // One that has panicked gave no answer, and the blob was opened elsewhere.
            let _ = thread.join();
        }
    }
}

fn open(store: &dyn Store, id_key: &IdKey, jobs: &Mutex<Receiver<Job>>, now: &AtomicU64) {
    loop {
        let next = lock(jobs).recv();
        let Ok(Job { order: Order { place, context, cipher }, round, reply }) = next else { return };
        if round != now.load(Ordering::Relaxed) {
            continue;
        }
        let length = u64::from(place.line.stored_length);
        let sealed = store.read_range(&layout::pack(&place.pack), place.offset, length).ok();
        let opened = sealed.and_then(|sealed| {
            let ordinal = place.address.ordinal;
            open_blob(&context, &cipher, ordinal, &place.line, sealed, id_key, Proven::ByContent).ok()
        });
        // Whoever asked may have forgotten it.
        let _ = reply.send(opened);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{DomainId, PackId, RepositoryId, SegmentId};
    use crate::pack::blob::{BlobKind, BlobLine, Codec, TAG, blob_id};
    use crate::pack::seal::SegmentKey;
    use crate::refs::BlobAddress;
    use crate::store::memory::MemoryStore;

    const ID_KEY: IdKey = IdKey::new([7; 32]);

    /// A pack of ten blobs, of which the fourth is damaged.
    fn pack() -> (Arc<dyn Store>, Vec<BlobPlace>, impl Fn(BlobPlace) -> Order) {
        let context = SegmentContext {
            repository: RepositoryId::new([1; 16]),
            domain: DomainId::new([2; 16]),
            segment: SegmentId::new([3; 16]),
        };
        let cipher = Arc::new(BlobCipher::new(&SegmentKey::new([4; 32])));
        let (pack, mut body, mut places) = (PackId::new([5; 32]), Vec::new(), Vec::new());
        for ordinal in 0..10 {
            let plain = content(ordinal);
            let line = BlobLine {
                id: blob_id(&ID_KEY, BlobKind::Data, &plain),
                kind: BlobKind::Data,
                codec: Codec::Raw,
                absent: false,
                plain_length: plain.len() as u32,
                stored_length: plain.len() as u32 + TAG,
            };
            let address = BlobAddress { segment: context.segment, ordinal };
            places.push(BlobPlace { address, pack, offset: body.len() as u64, line });
            context.seal(&cipher, ordinal, &line, &plain, &mut body);
        }
        body[places[3].offset as usize] ^= 1;
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        store.create(&layout::pack(&pack), &body).expect("written");
        (store, places, move |place| Order { place, context, cipher: Arc::clone(&cipher) })
    }

    fn content(ordinal: u32) -> Vec<u8> {
        vec![ordinal as u8; 1000 + ordinal as usize]
    }

    #[test]
    fn what_opens_is_given_once_and_what_does_not_is_left_to_whoever_asks() {
        let (store, places, order) = pack();
        let mut ahead = Ahead::start(&store, &ID_KEY);
        ahead.expect(places.iter().map(|place| place.line.id));
        for (place, ordinal) in places.iter().zip(0..) {
            while let Some(next) = ahead.next() {
                ahead.begin(order(*places.iter().find(|place| place.line.id == next).expect("expected")));
            }
            let expected = (ordinal != 3).then(|| content(ordinal));
            assert_eq!(ahead.take(&place.line.id), expected, "{ordinal}");
            assert_eq!(ahead.take(&place.line.id), None, "it is given once");
        }
        drop(ahead);
        assert_eq!(Arc::strong_count(&store), 1, "no thread goes on with it");
    }

    #[test]
    fn a_bounded_number_is_under_way_in_the_order_in_which_they_are_wanted() {
        let (store, places, order) = pack();
        let ids: Vec<BlobId> = places.iter().map(|place| place.line.id).collect();
        let mut ahead = Ahead::start(&store, &ID_KEY);
        ahead.most = 3;
        ahead.expect([ids[4], ids[5], ids[4]].into_iter());
        ahead.expect([ids[8], ids[9], ids[5]].into_iter());
        let mut begun = Vec::new();
        while let Some(next) = ahead.next() {
            begun.push(next);
            ahead.begin(order(*places.iter().find(|place| place.line.id == next).expect("expected")));
        }
        assert_eq!(begun, [ids[8], ids[9], ids[4]]);
        assert_eq!(ahead.take(&ids[5]), None, "it was not begun");
        ahead.forget();
        assert_eq!((ahead.next(), ahead.take(&ids[8])), (None, None));
    }
}
