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
use std::time::{Duration, Instant};

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
/// A lease, 30 seconds in which a member may be looked for, 30 for a change that was sent, and some to spare.
const STALE: Duration = Duration::from_secs(90);
/// How often somebody looks who waits.
const LOOK: Duration = Duration::from_secs(1);

/// What an owner knows of its counting.
#[derive(Debug, Default)]
struct Heard {
    /// When the last count was sent that the server has confirmed, since the machine's start.
    confirmed: Option<Duration>,
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
    fn told(&mut self, sent: Option<Duration>, answer: Option<&Document>) {
        match answer.map(|answer| answer.get_i32("n")) {
            Some(Ok(1)) => self.confirmed = sent.or(self.confirmed),
            Some(Ok(0)) => self.is_lost = true,
            _ => {}
        }
    }

    fn stands(&self, now: Option<Duration>) -> Stands {
        match (self.is_lost, now, self.confirmed) {
            (true, ..) => Stands::Lost,
            (false, Some(now), Some(then)) if now.saturating_sub(then) < LEASE => Stands::Good,
            _ => Stands::RunOut,
        }
    }
}

/// A journal's owner counts for as long as this lives.
pub(super) struct Lease {
    heard: Arc<(Mutex<Heard>, Condvar)>,
    id: String,
    owner: String,
    _counting: AbortOnDropHandle<()>,
}

impl Lease {
    pub(super) fn begin(server: &Server, id: &str, owner: &str) -> Self {
        let heard = Arc::new((Mutex::new(Heard::default()), Condvar::new()));
        let count = doc! { "q": { "_id": HEAD, OWNER: owner }, "u": { "$inc": { BEAT: 1_i64 } } };
        // Of one member: whoever looks asks the same one, and nobody waits here for the others.
        let most = i32::try_from(ANSWER.as_millis()).expect("it is short");
        let command =
            doc! { "update": id, "updates": [count], "maxTimeMS": most, "writeConcern": { "w": 1 } };
        let shared = Arc::clone(&heard);
        let counting = server.repeat((EVERY, ANSWER), JOURNALS, command, since_start, move |sent, answer| {
            shared.0.lock().unwrap_or_else(PoisonError::into_inner).told(sent, answer);
            shared.1.notify_all();
        });
        Self { heard, id: id.to_owned(), owner: owner.to_owned(), _counting: counting }
    }

    /// Returns if the owner may rename now. One that could not count for a while waits until it can.
    pub(super) fn check(&self, server: &Server) -> Result<(), RestoreError> {
        let head = head(server, &self.id)?;
        if head.as_ref().and_then(of).as_deref() != Some(&self.owner) {
            return Err(lost());
        }
        let heard = self.heard.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self
            .heard
            .1
            .wait_timeout_while(heard, LEASE, |heard| heard.stands(since_start()) == Stands::RunOut);
        match waited.unwrap_or_else(PoisonError::into_inner).0.stands(since_start()) {
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

fn lost() -> RestoreError {
    RestoreError::Refused(
        "another agent has taken the restore over, since this one stood still or did not reach the server: that one \
         ends it, and nothing more is renamed here"
            .to_owned(),
    )
}

/// How long the machine has run, times included in which it slept.
fn since_start() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/uptime").ok()?;
    Duration::try_from_secs_f64(text.split_ascii_whitespace().next()?.parse().ok()?).ok()
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
fn head(server: &Server, id: &str) -> Result<Option<Document>, RestoreError> {
    let find = doc! { "find": id, "filter": { "_id": HEAD }, "limit": 1 };
    let heads = server.list(JOURNALS, find).map_err(failed("look whose the restore is"))?;
    Ok(heads.first().and_then(|head| Document::try_from(&**head).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_as_old_as_the_last_count_that_was_confirmed_and_is_lost_with_the_journal() {
        let at = |seconds| Some(Duration::from_secs(seconds));
        let mut heard = Heard::default();
        assert_eq!(heard.stands(at(100)), Stands::RunOut);
        heard.told(at(100), Some(&doc! { "n": 1 }));
        assert_eq!((heard.stands(at(119)), heard.stands(at(120))), (Stands::Good, Stands::RunOut));
        // No answer, and one that says nothing, confirm nothing.
        heard.told(at(110), None);
        heard.told(at(110), Some(&doc! { "ok": 1 }));
        assert_eq!((heard.stands(at(120)), heard.stands(None)), (Stands::RunOut, Stands::RunOut));
        heard.told(at(125), Some(&doc! { "n": 1 }));
        assert_eq!(heard.stands(at(130)), Stands::Good);
        heard.told(at(131), Some(&doc! { "n": 0 }));
        assert_eq!(heard.stands(at(131)), Stands::Lost);
        assert!(since_start().is_some_and(|now| now > Duration::ZERO));
        // Whoever takes over waits for longer than what was sent under a lease may take.
        assert!(STALE >= LEASE + 2 * crate::sources::mongodb::server::CHANGE);
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
