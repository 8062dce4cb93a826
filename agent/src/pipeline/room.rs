//! Room for segments in the agent's memory, shared by all archives that are made at once.
//!
//! Must stay true: however many archives there are and however slow the wire is, no more segments of data are in
//! memory than there are berths (those of metadata are a hundredth of them); whoever fills one never waits for more
//! room meanwhile, so that a berth is always given back. A segment's memory goes to the next one, since the kernel
//! clears and maps every page of new memory; when nobody has a berth, it is given up.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use repository::pack::segment::SealedSegment;

/// So many: while one is sent and another one is answered for, two archives go on filling theirs.
const BERTHS: usize = 4;

/// The berths of one agent.
#[derive(Debug, Default)]
pub(crate) struct Room {
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    archives: usize,
    taken: usize,
    /// Memory of segments that have gone.
    spare: Vec<Vec<u8>>,
}

impl Room {
    /// What an archive that begins may have of it.
    pub(super) fn share(self: &Arc<Self>) -> Share {
        self.state().archives += 1;
        Share { room: Arc::clone(self), taken: Arc::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One archive's share: as many berths as any other archive's, so that one whose wire is slow or slowed leaves the
/// others theirs.
#[derive(Debug)]
pub(super) struct Share {
    room: Arc<Room>,
    /// Changed under the room's lock.
    taken: Arc<AtomicUsize>,
}

impl Share {
    /// A berth, when there is one, and memory for a segment. Blocks.
    pub(super) fn berth(&self) -> (Berth, Vec<u8>) {
        let is_none_free = |state: &mut State| {
            let most = (BERTHS / state.archives.max(1)).max(1);
            state.taken == BERTHS || self.taken.load(Ordering::Relaxed) >= most
        };
        let state = self.room.freed.wait_while(self.room.state(), is_none_free);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        state.taken += 1;
        self.taken.fetch_add(1, Ordering::Relaxed);
        let berth = Berth { room: Arc::clone(&self.room), of: Arc::clone(&self.taken) };
        (berth, state.spare.pop().unwrap_or_default())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.room.state().archives -= 1;
        self.room.freed.notify_all();
    }
}

/// One berth; free again when this goes.
#[derive(Debug)]
pub(super) struct Berth {
    room: Arc<Room>,
    of: Arc<AtomicUsize>,
}

impl Drop for Berth {
    fn drop(&mut self) {
        let mut state = self.room.state();
        state.taken -= 1;
        self.of.fetch_sub(1, Ordering::Relaxed);
        if state.taken == 0 {
            state.spare = Vec::new();
        }
        drop(state);
        self.room.freed.notify_all();
    }
}

/// A segment on its way, and the berth that it takes: that of metadata takes none.
#[derive(Debug)]
pub(super) struct OnItsWay {
    pub(super) segment: SealedSegment,
    pub(super) berth: Option<Berth>,
}

impl OnItsWay {
    /// It is where it has to be.
    pub(super) fn has_gone(self) {
        // Nobody else has its bytes any more, unless an attempt to send it is still being cleaned up.
        if let (Some(berth), Ok(mut bytes)) = (self.berth, self.segment.body.try_into_mut()) {
            bytes.clear();
            berth.room.state().spare.push(Vec::from(bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// A thread that waits for a berth of `share`, and where it tells that it has it.
    fn waits(share: &Arc<Share>) -> Receiver<Berth> {
        let (tell, told) = sync_channel(1);
        let share = Arc::clone(share);
        thread::spawn(move || tell.send(share.berth().0));
        told
    }

    fn has_none(told: &Receiver<Berth>) {
        assert_eq!(told.recv_timeout(Duration::from_millis(50)).err(), Some(RecvTimeoutError::Timeout));
    }

    fn has_one(told: &Receiver<Berth>) -> Berth {
        told.recv_timeout(Duration::from_secs(20)).expect("it has its berth")
    }

    #[test]
    fn no_more_are_taken_than_there_are_and_who_waits_gets_what_is_given_back() {
        let room = Arc::new(Room::default());
        let share = Arc::new(room.share());
        let mut taken: Vec<Berth> = (0..BERTHS).map(|_| share.berth().0).collect();
        let waiting = waits(&share);
        has_none(&waiting);
        taken.pop();
        let berth = has_one(&waiting);
        assert_eq!(room.state().taken, BERTHS);
        room.state().spare.push(Vec::with_capacity(100));
        drop((taken, berth));
        let state = room.state();
        assert_eq!((state.taken, state.spare.len()), (0, 0), "nothing is kept for nobody");
    }

    #[test]
    fn an_archive_that_gives_nothing_back_leaves_the_others_theirs() {
        let room = Arc::new(Room::default());
        let (slow, other) = (Arc::new(room.share()), Arc::new(room.share()));
        let mut held: Vec<Berth> = (0..BERTHS / 2).map(|_| slow.berth().0).collect();
        let waiting = waits(&slow);
        has_none(&waiting);
        held.extend((0..BERTHS / 2).map(|_| other.berth().0));
        // Where the others have ended, it may have all.
        held.truncate(BERTHS / 2);
        has_none(&waiting);
        drop(other);
        held.push(has_one(&waiting));
    }
}
