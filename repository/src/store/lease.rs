//! The writer lease: one controller at a time writes a repository, and a newer one fences the older out.
//!
//! Each holding is an object `repository/lease/<fence>.json`, the fence in 20 digits. Fences only grow; the
//! holder of the highest one holds the lease. Making the object is the compare-and-swap: a store creates a
//! name once. It expires, so that a dead controller does not block for ever; the same holder, restarted
//! with its state, takes over at once.
//!
//! Must stay true: the highest object is never deleted (a released lease stays, marked), or a fence could
//! come twice; and nobody's safety rests on clocks. A holder that slept past its expiry finds a higher
//! fence in [`Lease::check`] before it commits. Time is an argument here, never asked for. Nor does safety
//! rest on a fresh list: a list only says where to begin, and the next fences are asked for by name. For
//! that the newest few objects stay. Where the storage cannot decide between two creations of one name,
//! both are looked at after a while: the later one has overwritten the earlier, whose holder sees it.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{ObjectPath, Store, StoreError};

/// How long a holding lasts unless it is renewed. Renew every third of it.
pub const DEFAULT_TTL: SignedDuration = SignedDuration::from_secs(90);

const FOLDER: &str = "repository/lease";
const FENCE_DIGITS: usize = 20;
const MAX_RECORD_BYTES: u64 = 4096;

/// So many of the newest records are kept: as many may come and go between a look at the list and the next
/// request, or before a list shows them.
const KEPT: u64 = 8;

/// Two that start at one moment collide once or twice; who collides more often than this meets a crowd.
const MAX_ATTEMPTS: u32 = 5;

/// Who holds a lease, or wants to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The controller, kept in its state folder: a restart is the same holder.
    pub id: Uuid,
    /// Its host's name, for people.
    pub host: String,
}

/// The lease cannot be had, or is gone.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// Somebody else has it.
    #[error(
        "controller {holder} on {host} writes this repository until {expires}. If it runs, stop it first or use it; \
         if it is dead, try again after that time"
    )]
    Held {
        /// Its id.
        holder: Uuid,
        /// Its host.
        host: String,
        /// Until when, unless it renews.
        expires: Timestamp,
    },
    /// It was ours: fence `fence` is no longer the highest, or its object is gone.
    #[error(
        "another controller took over writing this repository (our lease, fence {fence}, is no longer the newest). \
         This one must stop writing; see to it that only one controller uses the repository"
    )]
    Lost {
        /// Ours.
        fence: u64,
    },
    /// The newest record does not say who holds the lease.
    #[error(
        "{path} in the repository cannot be read as a lease. Make sure that no controller uses the repository, \
         then overwrite that file with: {}",
        released_by_hand(path)
    )]
    Unreadable {
        /// Which.
        path: ObjectPath,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// Every try to take it met somebody else who took it at that moment.
    #[error(
        "several controllers take this repository's lease from each other; stop all but one and try again"
    )]
    Contended,
    /// The fences are used up or a file has been given the last one by hand.
    #[error("the lease in this repository has the highest possible number, which no controller ever gives")]
    Exhausted,
    /// The storage failed.
    #[error("cannot use the repository's writer lease")]
    Store(#[source] StoreError),
}

impl From<StoreError> for LeaseError {
    fn from(source: StoreError) -> Self {
        LeaseError::Store(source)
    }
}

/// What a lease object says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    fence: u64,
    holder: Uuid,
    host: String,
    acquired: Timestamp,
    expires: Timestamp,
    released: bool,
}

impl Record {
    fn blocks(&self, holder: &Holder, now: Timestamp) -> bool {
        !self.released && self.holder != holder.id && now < self.expires
    }
}

/// A held lease. Dropped without [`Lease::release`], it lasts until it expires, as after a crash.
#[derive(Debug)]
pub struct Lease {
    store: Arc<dyn Store>,
    record: Record,
}

impl Lease {
    /// Takes the lease for `holder` from `now` on for `ttl`; [`LeaseError::Held`] if another one has it.
    /// Safe to repeat after any error.
    pub fn acquire(
        store: Arc<dyn Store>,
        holder: &Holder,
        now: Timestamp,
        ttl: SignedDuration,
    ) -> Result<Self, LeaseError> {
        let expires = expiry(now, ttl);
        for _ in 0..MAX_ATTEMPTS {
            let highest = highest_fence(&*store, 0)?;
            if let Some(current) = highest.map(|fence| read(&*store, fence)).transpose()?.flatten()
                && current.blocks(holder, now)
            {
                let Record { holder, host, expires, .. } = current;
                return Err(LeaseError::Held { holder, host, expires });
            }
            let fence = highest.unwrap_or(0).checked_add(1).ok_or(LeaseError::Exhausted)?;
            let host = holder.host.clone();
            let record = Record { fence, holder: holder.id, host, acquired: now, expires, released: false };
            match store.create(&path(fence), &record.to_bytes()) {
                Ok(()) => {}
                Err(StoreError::AlreadyExists { .. }) => continue,
                Err(error) => return Err(error.into()),
            }
            settle(&*store)?;
            // Between our look and our creation others may have come and gone past our fence.
            let lease = Self { store: store.clone(), record };
            match lease.check() {
                Ok(()) => {
                    delete_outdated(&*store, fence);
                    return Ok(lease);
                }
                Err(LeaseError::Lost { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(LeaseError::Contended)
    }

    /// The number that grows with every holding.
    pub fn fence(&self) -> u64 {
        self.record.fence
    }

    /// Until when it lasts unless it is renewed.
    pub fn expires(&self) -> Timestamp {
        self.record.expires
    }

    /// Makes it last until `ttl` after `now`. [`LeaseError::Lost`] is final; after other errors it may be
    /// tried again.
    pub fn renew(&mut self, now: Timestamp, ttl: SignedDuration) -> Result<(), LeaseError> {
        self.check()?;
        let renewed = Record { expires: expiry(now, ttl), ..self.record.clone() };
        self.store.replace(&path(self.fence()), &renewed.to_bytes())?;
        self.record = renewed;
        // Who took over meanwhile has won; what was just written is garbage below the newer fence.
        self.check()
    }

    /// Makes sure that nobody has taken over: to be called before each commit.
    pub fn check(&self) -> Result<(), LeaseError> {
        let lost = || LeaseError::Lost { fence: self.fence() };
        if highest_fence(&*self.store, self.fence())? != Some(self.fence()) {
            return Err(lost());
        }
        // The number alone could be another's, had somebody emptied the folder by hand.
        let current = read(&*self.store, self.fence())?.ok_or_else(lost)?;
        if (current.holder, current.acquired) != (self.record.holder, self.record.acquired) {
            return Err(lost());
        }
        Ok(())
    }

    /// Gives it back, so that another controller need not wait. Fine if it was lost already.
    pub fn release(self) -> Result<(), LeaseError> {
        match self.check() {
            Ok(()) => {}
            Err(LeaseError::Lost { .. }) => return Ok(()),
            Err(error) => return Err(error),
        }
        let released = Record { released: true, ..self.record.clone() };
        Ok(self.store.replace(&path(self.fence()), &released.to_bytes())?)
    }
}

impl Record {
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("a record of numbers and texts is JSON");
        bytes.push(b'\n');
        bytes
    }
}

/// What a person writes over an unreadable record: the fence stays used, nobody holds it.
fn released_by_hand(path: &ObjectPath) -> String {
    let record = Record {
        fence: fence_of(path.name()).unwrap_or_default(),
        holder: Uuid::nil(),
        host: String::new(),
        acquired: Timestamp::UNIX_EPOCH,
        expires: Timestamp::UNIX_EPOCH,
        released: true,
    };
    serde_json::to_string(&record).expect("a record of numbers and texts is JSON")
}

fn expiry(now: Timestamp, ttl: SignedDuration) -> Timestamp {
    now.checked_add(ttl).unwrap_or(Timestamp::MAX)
}

fn path(fence: u64) -> ObjectPath {
    ObjectPath::new(format!("{FOLDER}/{fence:0FENCE_DIGITS$}.json"))
}

fn fence_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".json")?;
    let all_digits = digits.len() == FENCE_DIGITS && digits.bytes().all(|c| c.is_ascii_digit());
    digits.parse().ok().filter(|_| all_digits)
}

/// The fences in the store, lowest first. Other names in the folder are not ours.
fn fences(store: &dyn Store) -> Result<Vec<u64>, StoreError> {
    let listed = store.list(Some(&ObjectPath::new(FOLDER)))?;
    Ok(listed.iter().filter_map(|listed| fence_of(&listed.name)).collect())
}

/// The highest fence there is, `at_least` this one if it is not 0.
fn highest_fence(store: &dyn Store, at_least: u64) -> Result<Option<u64>, StoreError> {
    let mut highest = fences(store)?.last().copied().unwrap_or(0).max(at_least);
    while let Some(next) = highest.checked_add(1) {
        match store.size(&path(next)) {
            Ok(_) => highest = next,
            Err(error) if error.is_not_found() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(Some(highest).filter(|highest| *highest > 0))
}

#[expect(
    clippy::disallowed_methods,
    reason = "two seconds, once at a start, on storage that decides nothing"
)]
fn settle(store: &dyn Store) -> Result<(), StoreError> {
    let time = store.settling()?;
    if !time.is_zero() {
        std::thread::sleep(time);
    }
    Ok(())
}

/// The record of this fence; `None` if its object is gone.
fn read(store: &dyn Store, fence: u64) -> Result<Option<Record>, LeaseError> {
    let path = path(fence);
    let bytes = match store.read(&path, MAX_RECORD_BYTES) {
        Err(error) if error.is_not_found() => return Ok(None),
        answer => answer?,
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|source| LeaseError::Unreadable { path, source })
}

/// Old records are garbage whatever they say; what cannot be deleted now is deleted by the next holder.
/// The oldest goes first: whose record is still there finds the next one, too.
fn delete_outdated(store: &dyn Store, fence: u64) {
    let is_outdated = |older: &u64| older.saturating_add(KEPT) <= fence;
    let deleted = fences(store).and_then(|fences| {
        fences.into_iter().filter(is_outdated).try_for_each(|older| store.delete(&path(older)))
    });
    if let Err(error) = deleted {
        tracing::warn!(%error, "cannot delete outdated lease records; they do no harm");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::faulty::{Effect, Fault, FaultyStore, Operation};
    use crate::store::memory::MemoryStore;

    const TTL: SignedDuration = DEFAULT_TTL;

    fn holder(number: u128) -> Holder {
        Holder { id: Uuid::from_u128(number), host: format!("host-{number}") }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn acquire(store: &MemoryStore, number: u128, second: i64) -> Result<Lease, LeaseError> {
        Lease::acquire(Arc::new(store.clone()), &holder(number), at(second), TTL)
    }

    fn names(store: &MemoryStore) -> Vec<String> {
        store.list(Some(&ObjectPath::new(FOLDER))).unwrap().into_iter().map(|listed| listed.name).collect()
    }

    #[test]
    fn a_held_lease_names_its_holder_until_it_expires() {
        let store = MemoryStore::new();
        let first = acquire(&store, 1, 0).unwrap();
        assert_eq!((first.fence(), first.expires()), (1, at(90)));
        let refused = acquire(&store, 2, 89).unwrap_err();
        assert!(
            matches!(&refused, LeaseError::Held { holder, .. } if *holder == Uuid::from_u128(1)),
            "{refused:?}"
        );
        assert!(refused.to_string().contains("host-1"), "{refused}");
        let second = acquire(&store, 2, 90).unwrap();
        assert_eq!(second.fence(), 2);
        second.check().unwrap();
    }

    #[test]
    fn a_holder_that_overslept_finds_out_before_it_commits() {
        let store = MemoryStore::new();
        let mut slow = acquire(&store, 1, 0).unwrap();
        slow.check().unwrap();
        let new = acquire(&store, 2, 100).unwrap();
        assert!(matches!(slow.check(), Err(LeaseError::Lost { fence: 1 })));
        assert!(matches!(slow.renew(at(101), TTL), Err(LeaseError::Lost { fence: 1 })));
        slow.release().unwrap();
        new.check().unwrap();
    }

    #[test]
    fn renewing_keeps_others_out_and_works_after_expiry_if_nobody_came() {
        let store = MemoryStore::new();
        let mut lease = acquire(&store, 1, 0).unwrap();
        lease.renew(at(60), TTL).unwrap();
        assert!(matches!(acquire(&store, 2, 149), Err(LeaseError::Held { .. })));
        lease.renew(at(1000), TTL).unwrap();
        assert!(matches!(acquire(&store, 2, 1089), Err(LeaseError::Held { .. })));
    }

    #[test]
    fn the_same_holder_restarted_takes_over_at_once_and_fences_its_former_self() {
        let store = MemoryStore::new();
        let former = acquire(&store, 1, 0).unwrap();
        let restarted = acquire(&store, 1, 1).unwrap();
        assert_eq!(restarted.fence(), 2);
        assert!(matches!(former.check(), Err(LeaseError::Lost { fence: 1 })));
    }

    #[test]
    fn a_released_lease_is_free_at_once_and_its_fence_is_not_used_again() {
        let store = MemoryStore::new();
        acquire(&store, 1, 0).unwrap().release().unwrap();
        assert_eq!(names(&store), ["00000000000000000001.json"]);
        // Even by a clock that runs behind.
        assert_eq!(acquire(&store, 2, -1000).unwrap().fence(), 2);
    }

    #[test]
    fn the_newest_records_stay_and_older_ones_go() {
        let store = MemoryStore::new();
        for second in 0..20 {
            acquire(&store, 1, second).unwrap();
        }
        let kept: Vec<u64> = names(&store).iter().filter_map(|name| fence_of(name)).collect();
        assert_eq!(kept, (13..=20).collect::<Vec<u64>>());
    }

    #[test]
    fn an_unreadable_record_stops_only_as_the_newest_and_the_advice_works() {
        let store = MemoryStore::new();
        store.create(&path(7), b"{torn").unwrap();
        let refused = acquire(&store, 1, 0).unwrap_err();
        let LeaseError::Unreadable { path: named, .. } = &refused else { panic!("{refused:?}") };
        assert_eq!(named, &path(7));
        let advice = refused.to_string();
        let record = advice.split_once("with: ").unwrap().1;
        store.replace(named, record.as_bytes()).unwrap();
        assert_eq!(acquire(&store, 1, 0).unwrap().fence(), 8);

        store.create(&path(3), b"{torn").unwrap();
        assert_eq!(acquire(&store, 1, 1).unwrap().fence(), 9);
    }

    #[test]
    fn a_folder_emptied_by_hand_does_not_make_a_former_holder_current_again() {
        let store = MemoryStore::new();
        let former = acquire(&store, 1, 0).unwrap();
        store.delete_folder(&ObjectPath::new(FOLDER)).unwrap();
        assert!(matches!(former.check(), Err(LeaseError::Lost { .. })));
        let new = acquire(&store, 2, 0).unwrap();
        assert_eq!(new.fence(), former.fence());
        assert!(matches!(former.check(), Err(LeaseError::Lost { .. })));
    }

    #[test]
    fn foreign_files_in_the_folder_are_left_alone() {
        let store = MemoryStore::new();
        let foreign = ["+0000000000000000005.json", "5.json", "99999999999999999999.json", "notes.txt"];
        for name in foreign {
            store.create(&ObjectPath::new(FOLDER).join(name), b"x").unwrap();
        }
        assert_eq!(acquire(&store, 1, 0).unwrap().fence(), 1);
        assert_eq!(names(&store).len(), foreign.len() + 1);
    }

    #[test]
    fn the_last_possible_fence_is_an_error_and_not_an_overflow() {
        let store = MemoryStore::new();
        let record = released_by_hand(&path(u64::MAX));
        store.create(&path(u64::MAX), record.as_bytes()).unwrap();
        assert!(matches!(acquire(&store, 1, 0), Err(LeaseError::Exhausted)));
    }

    /// Every call of taking, renewing and releasing fails in turn, in every way; then the same holder comes
    /// again and must get a lease, and nobody else may have been let in.
    #[test]
    fn after_any_single_failure_the_same_holder_gets_the_lease_again_and_others_do_not() {
        let whole_life = |store: Arc<dyn Store>| -> Result<(), LeaseError> {
            let mut lease = Lease::acquire(store, &holder(1), at(10), TTL)?;
            lease.renew(at(20), TTL)?;
            lease.check()
        };
        let rehearsal = FaultyStore::new(MemoryStore::new());
        whole_life(Arc::new(rehearsal.clone())).unwrap();
        let calls = rehearsal.take_calls().len() as u64;
        assert!(calls >= 9, "{calls}");
        for effect in [Effect::Refused, Effect::AnswerLost] {
            for nth in 1..=calls {
                let inner = MemoryStore::new();
                let faulty = FaultyStore::new(inner.clone());
                faulty.fail(Fault::new(effect).nth(nth));
                let answer = whole_life(Arc::new(faulty.clone()));
                assert_eq!(faulty.unfired(), 0);
                let had_begun = !names(&inner).is_empty();
                if had_begun {
                    let other = acquire(&inner, 2, 30);
                    assert!(matches!(other, Err(LeaseError::Held { .. })), "{effect:?} {nth}: {other:?}");
                }
                let again =
                    acquire(&inner, 1, 30).unwrap_or_else(|error| panic!("{effect:?} {nth}: {error:?}"));
                again.check().unwrap();
                assert!(names(&inner).len() <= 3, "{effect:?} {nth} {answer:?}");
            }
        }
    }

    #[test]
    fn an_answer_lost_while_creating_is_no_obstacle_to_trying_again() {
        let faulty = FaultyStore::new(MemoryStore::new());
        faulty.fail(Fault::new(Effect::AnswerLost).on(Operation::Create));
        let store: Arc<dyn Store> = Arc::new(faulty.clone());
        let lost = Lease::acquire(Arc::clone(&store), &holder(1), at(0), TTL);
        assert!(matches!(lost, Err(LeaseError::Store(_))), "{lost:?}");
        assert_eq!(Lease::acquire(store, &holder(1), at(1), TTL).unwrap().fence(), 2);
        assert_eq!(faulty.unfired(), 0);
    }

    #[test]
    fn of_many_that_want_it_at_once_one_gets_it() {
        for _ in 0..50 {
            let store = MemoryStore::new();
            let start = std::sync::Barrier::new(8);
            let winners: Vec<Lease> = std::thread::scope(|scope| {
                let (store, start) = (&store, &start);
                let want = move |number| {
                    start.wait();
                    acquire(store, number, 0)
                };
                let threads: Vec<_> = (0..8).map(|number| scope.spawn(move || want(number))).collect();
                threads.into_iter().filter_map(|thread| thread.join().unwrap().ok()).collect()
            });
            let [winner] = &winners[..] else { panic!("{} hold the lease", winners.len()) };
            winner.check().unwrap();
        }
    }
}
