//! Whose restore a journal is of, where several agents serve one server.
//!
//! Must stay true: a restore that goes on at another agent is not ended by this one, and one that was taken over renames
//! nothing more. A journal says whose it is and has a number that its owner counts up. Each count that the server
//! confirms is a lease: before each rename the owner sees that the last one is younger than [`LEASE`] by a clock that
//! runs on while the machine sleeps, and that the journal is still its own. Where the number stands still for [`STALE`],
//! by the clock of who looks, the lease has run out and what was sent under it has ended: one agent alone takes the
//! journal over then, in one step. What was sent later all the same finds its name taken ([`super::fence`]).

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use mongodb::bson::{Document, doc};
use tokio_util::task::AbortOnDropHandle;

use super::error::{RestoreError, failed};
use crate::sources::mongodb::names::{HEAD, JOURNALS};
use crate::sources::mongodb::server::Server;

/// The keys of a journal's head.
pub(super) const OWNER: &str = "owner";
const BEAT: &str = "beat";
/// It was taken over, and nothing has followed from that yet: whoever finds it so waits once more, since the claim may
/// have been undone with the member that took it.
pub(super) const CLAIMED: &str = "claimed";
/// How often an owner counts, and how long it waits for an answer to that.
const EVERY: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(5);
/// So long a count is good for renames: some may be lost.
const LEASE: Duration = Duration::from_secs(20);
/// A lease, 45 seconds in which a change may be on its way to a member, 30 in which that works on it, and some to spare.
const STALE: Duration = Duration::from_secs(120);
/// How often somebody looks who waits.
const LOOK: Duration = Duration::from_secs(1);

/// What an owner knows of its counting.
#[derive(Debug, Default)]
struct Heard {
    /// When the last count was sent that the server has confirmed.
    confirmed: Option<Moment>,
    /// The journal has gone, or is another agent's.
    is_lost: bool,
}

/// How a lease stands.
#[derive(Debug, PartialEq)]
enum Stands {
    Good,
    RunOut,
    Lost,
}

impl Heard {
    /// What the server said to a count that was sent at `sent`; none: nothing, in time.
    fn told(&mut self, sent: Moment, answer: Option<&Document>) {
        // One that is refused says nothing of whose the journal is.
        let answer = answer.filter(|answer| !answer.contains_key("writeErrors"));
        match answer.map(|answer| answer.get_i32("n")) {
            Some(Ok(1)) => self.confirmed = Some(sent),
            Some(Ok(0)) => self.is_lost = true,
            _ => {}
        }
    }

    fn stands(&self, now: Moment) -> Stands {
        match (self.is_lost, self.confirmed) {
            (true, _) => Stands::Lost,
            (false, Some(then)) if now.since(then) < LEASE => Stands::Good,
            _ => Stands::RunOut,
        }
    }
}

/// How a lease stands, once it has been waited for so long, at the longest, that it is good.
fn awaited((heard, changed): &(Mutex<Heard>, Condvar), longest: Duration) -> Stands {
    let heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
    let runs_out = |heard: &mut Heard| heard.stands(Moment::now()) == Stands::RunOut;
    let waited = changed.wait_timeout_while(heard, longest, runs_out);
    waited.unwrap_or_else(PoisonError::into_inner).0.stands(Moment::now())
}

/// A journal's owner counts for as long as this lives.
pub(super) struct Lease {
    heard: Arc<(Mutex<Heard>, Condvar)>,
    id: String,
    owner: String,
    _counting: AbortOnDropHandle<()>,
}

impl Lease {
    /// Begins to count, and returns once the first count was answered or might have been.
    pub(super) fn begin(server: &Server, id: &str, owner: &str) -> Self {
        let heard = Arc::new((Mutex::new(Heard::default()), Condvar::new()));
        let count = doc! { "q": { "_id": HEAD, OWNER: owner }, "u": { "$inc": { BEAT: 1_i64 } } };
        // Of one member: whoever looks asks the same one, and nobody waits here for the others.
        let most = i32::try_from(ANSWER.as_millis()).expect("it is short");
        let command =
            doc! { "update": id, "updates": [count], "maxTimeMS": most, "writeConcern": { "w": 1 } };
        let shared = Arc::clone(&heard);
        let counting = server.repeat((EVERY, ANSWER), JOURNALS, command, Moment::now, move |sent, answer| {
            shared.0.lock().unwrap_or_else(PoisonError::into_inner).told(sent, answer);
            shared.1.notify_all();
        });
        // A journal that is ended at once is not counted up any more by what was sent before: that would make it anew where
        // a server makes a collection of what finds nothing to change.
        awaited(&heard, ANSWER);
        Self { heard, id: id.to_owned(), owner: owner.to_owned(), _counting: counting }
    }

    /// True if the journal is still that of its owner.
    pub(super) fn is_ours(&self, server: &Server) -> Result<bool, RestoreError> {
        Ok(head(server, &self.id)?.as_ref().and_then(of).as_deref() == Some(&self.owner))
    }

    /// Returns if the owner may rename now. One that could not count for a while waits until it can.
    pub(super) fn check(&self, server: &Server) -> Result<(), RestoreError> {
        if !self.is_ours(server)? {
            return Err(lost());
        }
        match awaited(&self.heard, LEASE) {
            Stands::Good => Ok(()),
            Stands::Lost => Err(lost()),
            Stands::RunOut => Err(RestoreError::Refused(
                "the server has not confirmed for a while that this agent still restores there, so another one may \
                 take over: nothing more is renamed"
                    .to_owned(),
            )),
        }
    }
}

pub(super) fn lost() -> RestoreError {
    RestoreError::Lost(
        "another agent has taken the restore over, since this one stood still or did not reach the server: that one \
         ends it, and nothing more is renamed here",
    )
}

/// A moment, by clocks that go on while the machine sleeps.
#[derive(Debug, Clone, Copy)]
struct Moment {
    /// Since the machine's start; none where the system does not say.
    uptime: Option<Duration>,
    /// Stands still while the machine sleeps.
    steady: Instant,
    /// May be set.
    wall: SystemTime,
}

impl Moment {
    #[expect(
        clippy::disallowed_methods,
        reason = "what passes while the machine sleeps is measured, not what time it is"
    )]
    fn now() -> Self {
        let read = || {
            let text = std::fs::read_to_string("/proc/uptime").ok()?;
            Duration::try_from_secs_f64(text.split_ascii_whitespace().next()?.parse().ok()?).ok()
        };
        Self { uptime: read(), steady: Instant::now(), wall: SystemTime::now() }
    }

    /// How long ago `then` was. Where no clock says it alone: by the one that says more.
    fn since(self, then: Self) -> Duration {
        match (self.uptime, then.uptime) {
            (Some(now), Some(then)) => now.saturating_sub(then),
            _ => {
                let steady = self.steady.saturating_duration_since(then.steady);
                steady.max(self.wall.duration_since(then.wall).unwrap_or_default())
            }
        }
    }
}

/// What a journal's head says of its owner; none: an earlier release has written it.
pub(super) fn of(head: &Document) -> Option<String> {
    head.get_str(OWNER).ok().map(str::to_owned)
}

/// Makes the journal `id` that of `us`, once it has been seen that its `owner` is gone; an error: it goes on. True if it
/// was not: then it is to be fenced first ([`super::journal::Journal::fence`]). Blocks.
#[expect(clippy::disallowed_methods, reason = "a stop makes it no safer to decide earlier; it has an end")]
pub(super) fn take_over(server: &Server, id: &str, owner: &str, us: &str) -> Result<bool, RestoreError> {
    let goes_on = || {
        RestoreError::Refused(format!(
            "another agent restores there ({id}): wait for its end; if that agent has died, try again in two minutes"
        ))
    };
    let first = head(server, id)?.ok_or_else(goes_on)?;
    if owner == us && !first.contains_key(CLAIMED) {
        return Ok(false);
    }
    let (beat, began) = (beat(&first), Instant::now());
    while began.elapsed() < STALE {
        thread::sleep(LOOK);
        let now = head(server, id)?.ok_or_else(goes_on)?;
        if self::beat(&now) != beat || of(&now).as_deref() != Some(owner) {
            return Err(goes_on());
        }
    }
    tracing::warn!(restore = id, owner, "the agent that restores there is gone: its restore is ended here");
    let told = server.change(JOURNALS, doc! { "update": id, "updates": [claim(owner, beat, us)] }, None);
    let told = told.map_err(failed("take over the restore of another agent"))?;
    if told.get_i32("n").ok() == Some(1) { Ok(true) } else { Err(goes_on()) }
}

/// The one step that makes it ours: only while the owner has not counted since.
fn claim(owner: &str, beat: Option<i64>, us: &str) -> Document {
    let mut query = doc! { "_id": HEAD, OWNER: owner };
    match beat {
        Some(beat) => query.insert(BEAT, beat),
        None => query.insert(BEAT, doc! { "$exists": false }),
    };
    doc! { "q": query, "u": { "$set": { OWNER: us, CLAIMED: true } } }
}

/// How far its owner has counted; none: it has not begun.
fn beat(head: &Document) -> Option<i64> {
    head.get_i64(BEAT).ok()
}

/// The head of a journal; none: it has gone.
pub(super) fn head(server: &Server, id: &str) -> Result<Option<Document>, RestoreError> {
    let find = doc! { "find": id, "filter": { "_id": HEAD }, "limit": 1 };
    let heads = server.list(JOURNALS, find).map_err(failed("look whose the restore is"))?;
    Ok(heads.first().and_then(|head| Document::try_from(&**head).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::mongodb::server::{ANSWER as ON_ITS_WAY, CHANGE};

    /// So many seconds after `start`, by the machine's time; or by the others alone.
    fn at(start: Moment, seconds: u64) -> Moment {
        let later = Duration::from_secs(seconds);
        let uptime = start.uptime.map(|uptime| uptime + later);
        Moment { uptime, steady: start.steady + later, wall: start.wall + later }
    }

    #[test]
    fn a_lease_is_as_old_as_the_last_count_that_was_confirmed_and_is_lost_with_the_journal() {
        let known = Moment::now();
        assert!(known.uptime.is_some_and(|uptime| uptime > Duration::ZERO));
        for start in [known, Moment { uptime: None, ..known }] {
            let mut heard = Heard::default();
            assert_eq!(heard.stands(at(start, 100)), Stands::RunOut);
            heard.told(at(start, 100), Some(&doc! { "n": 1 }));
            assert_eq!(heard.stands(at(start, 119)), Stands::Good);
            assert_eq!(heard.stands(at(start, 120)), Stands::RunOut);
            // No answer, and one that says nothing, confirm nothing.
            heard.told(at(start, 110), None);
            heard.told(at(start, 110), Some(&doc! { "ok": 1 }));
            heard.told(at(start, 110), Some(&doc! { "n": 0, "writeErrors": [{ "code": 14 }] }));
            assert_eq!(heard.stands(at(start, 120)), Stands::RunOut);
            heard.told(at(start, 125), Some(&doc! { "n": 1 }));
            assert_eq!(heard.stands(at(start, 130)), Stands::Good);
            heard.told(at(start, 131), Some(&doc! { "n": 0 }));
            assert_eq!(heard.stands(at(start, 131)), Stands::Lost);
        }
        // Whoever takes over waits for longer than what was sent under a lease may take.
        assert!(STALE >= LEASE + ON_ITS_WAY + CHANGE + Duration::from_secs(20));
    }

    #[test]
    fn without_the_machine_s_time_no_sleep_and_no_clock_that_is_set_makes_a_lease_younger() {
        let start = Moment { uptime: None, ..Moment::now() };
        // It has slept for a minute; its clock was set back by an hour, and forward.
        let hour = Duration::from_secs(3_600);
        let slept = Moment { steady: start.steady, ..at(start, 60) };
        let back = Moment { wall: start.wall - hour, ..at(start, 60) };
        let forward = Moment { wall: start.wall + hour, ..at(start, 60) };
        for (now, expected) in [(slept, 60), (back, 60), (forward, 3_600)] {
            assert_eq!(now.since(start).as_secs(), expected);
        }
    }

    #[test]
    fn whoever_has_not_been_confirmed_waits_until_it_is_and_no_longer_than_it_may() {
        let heard = (Mutex::new(Heard::default()), Condvar::new());
        let (short, long) = (Duration::from_millis(50), Duration::from_secs(60));
        assert_eq!(awaited(&heard, short), Stands::RunOut);
        thread::scope(|scope| {
            scope.spawn(|| {
                tests_pause();
                heard.0.lock().expect("free").told(Moment::now(), Some(&doc! { "n": 1 }));
                heard.1.notify_all();
            });
            let began = Instant::now();
            assert_eq!(awaited(&heard, long), Stands::Good);
            assert!(began.elapsed() >= short / 2 && began.elapsed() < long / 2);
        });
        heard.0.lock().expect("free").told(Moment::now(), Some(&doc! { "n": 0 }));
        assert_eq!(awaited(&heard, long), Stands::Lost);
    }

    #[expect(clippy::disallowed_methods, reason = "something happens later")]
    fn tests_pause() {
        thread::sleep(Duration::from_millis(50));
    }

    #[test]
    fn a_claim_fails_if_its_owner_has_counted_since_and_says_that_it_is_not_sure() {
        let query = |beat| claim("o", beat, "u").get_document("q").expect("there").clone();
        assert_eq!(query(Some(7)), doc! { "_id": HEAD, OWNER: "o", BEAT: 7_i64 });
        assert_eq!(query(None), doc! { "_id": HEAD, OWNER: "o", BEAT: { "$exists": false } });
        let change = claim("o", None, "u").get_document("u").expect("there").clone();
        assert_eq!(change, doc! { "$set": { OWNER: "u", CLAIMED: true } });
    }
}
