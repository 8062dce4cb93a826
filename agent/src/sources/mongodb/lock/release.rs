//! How a lock is let go: one try, and tries until it is.
//!
//! Must stay true: what nobody here has asked for is not unlocked; an unlock that was answered is not sent again, and
//! where two have locked neither is one that was not. A lock that was asked for and not answered may come yet: its
//! record stays for longer than what was sent can live, and what comes is unlocked.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::member::{self, Is};
use super::record::{Owned, Stage, now};
use crate::sources::mongodb::server::{Server, Trouble};

/// How long after a try in vain the next one comes.
pub(super) const AGAIN: Duration = Duration::from_secs(1);
/// So long after it was asked for a lock may still come: longer than a system goes on sending for a connection that its
/// process has left, some 15 minutes.
const UNANSWERED: u64 = 20 * 60;

/// What came of a try.
#[derive(Debug, PartialEq)]
pub(super) enum Came {
    /// It was locked until now, by us as far as anybody can know. True: it stays locked by somebody else.
    Released(bool),
    /// It was not locked by us any more: why.
    Lost(&'static str),
    /// It is not locked, and may be yet.
    Waits,
    /// Nobody but a person can say what is to be done.
    Person(String),
}

/// Lets it go, if that is ours to do.
pub(super) fn once(server: &Server, owned: &mut Owned) -> Result<Came, Trouble> {
    let stage = owned.record().stage;
    if stage == Stage::Intended {
        return Ok(Came::Lost("it was never asked to lock"));
    }
    match (member::look(server, &owned.record().process)?, stage) {
        (Is::Another, _) => Ok(Came::Lost("it was started anew")),
        (Is::Free, Stage::Asked(at)) if now().saturating_sub(at) < UNANSWERED => Ok(Came::Waits),
        (Is::Free, _) => Ok(Came::Lost("somebody else has unlocked it")),
        (Is::Locked, Stage::Doubtful) => Ok(doubtful()),
        (Is::Locked, Stage::Shared) => {
            let unwritten = |error: std::io::Error| Trouble::unfit(&format!("its record: {error}"));
            owned.set(Stage::Doubtful).map_err(unwritten)?;
            match member::unlock(server) {
                Err(trouble) if trouble.code.is_none() => Ok(doubtful()),
                answered => {
                    if answered.is_err() {
                        owned.set(Stage::Shared).map_err(unwritten)?;
                    }
                    came_of(answered)
                }
            }
        }
        (Is::Locked, _) => came_of(member::unlock(server)),
    }
}

fn came_of(answered: Result<bool, Trouble>) -> Result<Came, Trouble> {
    match answered {
        Ok(stays) => Ok(Came::Released(stays)),
        Err(trouble) if trouble.code == Some(member::NOT_LOCKED) => {
            Ok(Came::Lost("somebody else has unlocked it"))
        }
        Err(trouble) if trouble.code == Some(member::FORBIDDEN) => Ok(Came::Person(
            "the user may not unlock it (any more): run db.fsyncUnlock() there, and give the user the role `hostManager`"
                .to_owned(),
        )),
        Err(trouble) => Err(trouble),
    }
}

fn doubtful() -> Came {
    Came::Person(
        "two had locked it, and the answer to our unlock was lost: see whether anybody else needs it locked, else run \
         db.fsyncUnlock() there"
            .to_owned(),
    )
}

/// Until it is let go, or that was tried for so long; none: in vain. `tell` hears of what does not work. The record ends
/// if nothing can be locked any more. What may come yet is not waited for once `is_over`.
#[expect(clippy::disallowed_methods, reason = "a thread that does nothing else; it has an end")]
pub(super) fn until(
    server: &Server,
    mut owned: Owned,
    longest: Duration,
    tell: &dyn Fn(&str),
    is_over: &dyn Fn() -> bool,
) -> Option<Came> {
    let began = Instant::now();
    loop {
        match once(server, &mut owned) {
            Ok(came @ (Came::Released(_) | Came::Lost(_))) => {
                owned.end();
                return Some(came);
            }
            Ok(came @ Came::Person(_)) => return Some(came),
            Ok(Came::Waits) if is_over() => return Some(Came::Waits),
            Ok(Came::Waits) => {}
            Err(trouble) => tell(&format!("tries to unlock it: {trouble}")),
        }
        if began.elapsed() > longest {
            return None;
        }
        thread::sleep(AGAIN);
    }
}

/// The same once nobody else looks after the record.
#[expect(clippy::disallowed_methods, reason = "a thread that does nothing else; it has an end")]
pub(super) fn after(server: &Server, record: &Path, longest: Duration, tell: &dyn Fn(&str)) -> Option<Came> {
    let began = Instant::now();
    loop {
        match Owned::take(record) {
            Ok(None) => return Some(Came::Lost("it was let go meanwhile")),
            Ok(Some(owned)) => return until(server, owned, longest, tell, &|| false),
            // Its guard is at it.
            Err(_) if began.elapsed() > longest => return None,
            Err(_) => thread::sleep(AGAIN),
        }
    }
}
