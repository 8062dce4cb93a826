//! Room for segments in the agent's memory, shared by all archives that are made at once.
//!
//! Must stay true: however many archives there are and however slow the wire is, no more segments of data are in
//! memory than there are berths (those of metadata are a hundredth of them); whoever fills one never waits for more
//! room meanwhile, so that a berth is always given back. A segment's memory goes to the next one, since the kernel
//! clears and maps every page of new memory; when nobody has a berth, it is given up.

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
    taken: usize,
    /// Memory of segments that have gone.
    spare: Vec<Vec<u8>>,
}

impl Room {
    /// A berth, when there is one, and memory for a segment. Blocks.
    pub(super) fn berth(self: &Arc<Self>) -> (Berth, Vec<u8>) {
        let state = self.state();
        let mut state = self
            .freed
            .wait_while(state, |state| state.taken == BERTHS)
            .unwrap_or_else(PoisonError::into_inner);
        state.taken += 1;
        (Berth(Arc::clone(self)), state.spare.pop().unwrap_or_default())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One berth; free again when this goes.
#[derive(Debug)]
pub(super) struct Berth(Arc<Room>);

impl Drop for Berth {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.taken -= 1;
        if state.taken == 0 {
            state.spare = Vec::new();
        }
        drop(state);
        self.0.freed.notify_one();
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
            berth.0.state().spare.push(Vec::from(bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{RecvTimeoutError, sync_channel};
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn no_more_are_taken_than_there_are_and_who_waits_gets_what_is_given_back() {
        let room = Arc::new(Room::default());
        let mut taken: Vec<Berth> = (0..BERTHS).map(|_| room.berth().0).collect();
        let (tell, told) = sync_channel(1);
        let of_thread = Arc::clone(&room);
        let waits = thread::spawn(move || tell.send(of_thread.berth().0).expect("somebody hears it"));
        assert_eq!(told.recv_timeout(Duration::from_millis(50)).err(), Some(RecvTimeoutError::Timeout));
        taken.pop();
        let berth = told.recv_timeout(Duration::from_secs(20)).expect("it has its berth");
        waits.join().expect("it has ended");
        assert_eq!(room.state().taken, BERTHS);
        room.state().spare.push(Vec::with_capacity(100));
        drop((taken, berth));
        let state = room.state();
        assert_eq!((state.taken, state.spare.len()), (0, 0), "nothing is kept for nobody");
    }
}
