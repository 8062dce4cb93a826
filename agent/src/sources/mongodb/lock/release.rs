//! How a lock is let go: one try, and tries until it is.
//!
//! Must stay true: what nobody here has asked for is not unlocked. The record says that an unlock is sent before it is
//! sent; one that was answered is not sent again, and one that was not only if the server has carried out none since it
//! was locked, and works on none. Who has locked a server is nowhere to be seen: where it has carried one out and is locked
//! all the same, a person says what is to be done. A lock that was asked for and not answered may come yet: its record
//! stays for longer than what was sent can live, and what comes is unlocked.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use super::member::{self, Is};
use super::record::{Owned, Stage};
use crate::sources::mongodb::server::{Server, Trouble};

/// How long after a try in vain the next one comes.
pub(super) const AGAIN: Duration = Duration::from_secs(1);
/// So long after it was asked for a lock may still come: longer than a system goes on sending for a connection that its
/// process has left, some 15 minutes.
const UNANSWERED: Duration = Duration::from_secs(20 * 60);

/// What came of a try.
#[derive(Debug, PartialEq)]
pub(super) enum Came {
    /// It was locked until now, by us as far as anybody can know. True: it stays locked by somebody else.
    Released(bool),
    /// It was not locked by us any more: why.
    Lost(&'static str),
    /// It is not locked and may be yet, or it works on what we have sent.
    Waits,
    /// Nobody but a person can say what is to be done.
    Person(String),
}

/// Lets it go, if that is ours to do. `tell` hears of what is tried once more.
pub(super) fn once(server: &Server, owned: &mut Owned, tell: &dyn Fn(&str)) -> Result<Came, Trouble> {
    let stage = owned.record().stage;
    if stage == Stage::Intended {
        return Ok(Came::Lost("it was never asked to lock"));
    }
    let seen = member::look(server, &owned.record().process)?;
    match (seen.is, stage) {
        (Is::Another, _) => Ok(Came::Lost("it was started anew")),
        // An unlock that is sent beside it would wait behind it, and might come to somebody else's lock.
        _ if seen.is_busy => Ok(Came::Waits),
        (Is::Free, Stage::Asked(at)) if owned.asked_for(at) < UNANSWERED => Ok(Came::Waits),
        (Is::Free, Stage::Unlocking | Stage::Doubtful) => {
            Ok(Came::Lost("the answer to its unlock was lost, and it is not locked any more"))
        }
        (Is::Free, _) => Ok(Came::Lost("somebody else has unlocked it")),
        (Is::Locked, Stage::Doubtful) => Ok(doubtful()),
        (Is::Locked, Stage::Unlocking) => {
            let carried_out = match owned.record().unlocks {
                Some(before) => member::unlocks(server)? > before,
                // An earlier release did not look.
                None => true,
            };
            if !carried_out {
                tell("unlocks it again: the server has not carried out the first unlock");
                return send(server, owned);
            }
            // It may have been carried out just now.
            if member::look(server, &owned.record().process)?.is == Is::Locked {
                owned.set(Stage::Doubtful).map_err(unwritten)?;
                return Ok(doubtful());
            }
            Ok(Came::Lost("the answer to its unlock was lost, and it is not locked any more"))
        }
        (Is::Locked, _) => send(server, owned),
    }
}

/// Unlocks it. The record says so first.
fn send(server: &Server, owned: &mut Owned) -> Result<Came, Trouble> {
    let before = owned.record().stage;
    owned.set(Stage::Unlocking).map_err(unwritten)?;
    match member::unlock(server) {
        Ok(stays) => Ok(Came::Released(stays)),
        Err(trouble) => match trouble.code {
            Some(member::NOT_LOCKED) => Ok(Came::Lost("somebody else has unlocked it")),
            Some(code) if !member::BROKEN_OFF.contains(&code) => {
                // It was refused: nothing of it can come any more.
                owned.set(before).map_err(unwritten)?;
                if code == member::FORBIDDEN { Ok(forbidden()) } else { Err(trouble) }
            }
            _ => Err(trouble),
        },
    }
}

fn unwritten(error: std::io::Error) -> Trouble {
    Trouble::unfit(&format!("its record: {error}"))
}

fn forbidden() -> Came {
    Came::Person(
        "the user may not unlock it (any more): run db.fsyncUnlock() there, and give the user the role `hostManager`"
            .to_owned(),
    )
}

fn doubtful() -> Came {
    Came::Person(
        "the answer to our unlock was lost, one was carried out, and it is locked all the same, by somebody else as it \
         seems: see whether anybody needs it locked, else run db.fsyncUnlock() there"
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
        match once(server, &mut owned, tell) {
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
